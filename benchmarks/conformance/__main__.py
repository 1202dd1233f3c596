"""`python -m benchmarks.conformance`: millions of outputs against every framework."""

import sys

from systolith.summary import terminal

from .table import conformance

if __name__ == "__main__":
    console = terminal()
    with console.status("measuring") as status:
        result = conformance(3_000_000, images=16, slow_outputs=1_000_000, progress=status.update)
    result.show(console)
    sys.exit(f"{len(result.broken)} cells lie outside of the contract" if result.broken else 0)
