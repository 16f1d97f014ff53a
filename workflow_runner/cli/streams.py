"""stdin, stdout and stderr as a daemon, a pipe and a full disk leave them. Needs nothing that takes time to import."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO


def open_all() -> None:
    """Open those that are closed, on nothing: else the next file that is opened gets their numbers, and the output."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            file = os.open(os.devnull, os.O_RDWR)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def lost(error: OSError, stdout: IO[str]) -> int:
    """Give up on a stdout that could not be written; what is still to come goes nowhere.

    Args:
        error: why.
        stdout: a real file.

    Returns:
        The exit code of what was done otherwise: 0 if the reader has seen enough, else 1, and stderr says why.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stdout.fileno())
    os.close(nothing)
    if isinstance(error, BrokenPipeError):
        return 0
    print(f"error: stdout cannot be written: {error.strerror}", file=sys.stderr)
    return 1
