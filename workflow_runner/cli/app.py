"""The command ``workflow-runner``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from workflow_runner import __version__
from workflow_runner.cli import NAME
from workflow_runner.cli.exits import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after the command's name; default: those of this process.

    Returns:
        The exit code. After an interrupted run it does not return: the process dies of the signal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:  # the one question that needs nothing else
        print(__version__)
        return Exit.DONE
    if any(importlib.util.find_spec(needed) is None for needed in ("cyclopts", "rich")):
        print(f"{NAME} needs more packages: pip install 'workflow-runner[cli]'", file=sys.stderr)
        return Exit.CONFIGURATION
    from workflow_runner.cli.dispatch import dispatch

    return dispatch(words)
