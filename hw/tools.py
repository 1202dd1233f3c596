"""Other programs that systolith runs: none without a deadline, none that fails unnoticed."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from systolith.errors import BuildError

__all__ = ["DEADLINE", "run_tool"]

DEADLINE = 3600.0
"""Seconds that a tool may take. The longest that is known, the C++ compiler's on the largest
simulator, takes minutes."""


def run_tool(command: Sequence[str], tool: str, *, text: str | None = None,
             folder: Path | None = None, environment: Mapping[str, str] | None = None,
             deadline: float = DEADLINE) -> str:
    """What a program writes to its standard output.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    tool : str
        What messages call it.
    text : str, optional
        Its standard input.
    folder, environment : optional
        Where it runs, and its environment variables; by default the caller's.
    deadline : float
        Seconds after which it is stopped.

    Raises `BuildError` when it cannot be started, takes too long, or fails: then with its first
    line about an error, or its last line.
    """
    try:
        result = subprocess.run(command, text=True, input=text, cwd=folder, env=environment,
                                capture_output=True, check=False, timeout=deadline)
    except OSError as error:
        raise BuildError(f"{tool} could not be started ({error}): install it") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{tool} was stopped after {deadline:.0f} s: look for what else keeps the "
                         "machine busy, or choose a smaller configuration") from None
    if result.returncode:
        lines = (result.stderr + result.stdout).strip().splitlines() or ["no message"]
        detail = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise BuildError(f"{tool} failed with status {result.returncode}: {detail}")
    return result.stdout
