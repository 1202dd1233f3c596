"""All measurements, one after the other (about ten minutes; everything is simulated)."""

from rich.console import Console

from . import goals, steps, tools

if __name__ == "__main__":
    console = Console()
    goals.main(console)
    steps.main(console)
    tools.main(console)
