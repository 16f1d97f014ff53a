"""The command ``workflow-runner``."""

from __future__ import annotations

import sys

from workflow_runner import __version__
from workflow_runner.cli.streams import lost, open_all

TYPE_CHECKING = False  # the version and a skipped run cost little more than the interpreter's start
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after the command's name; default: those of this process.

    Returns:
        The exit code. After an interrupted run it does not return: the process dies of the signal.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    open_all()
    if words == ["--version"]:
        return _show_version()
    try:
        return _enter(words)
    except KeyboardInterrupt:  # also while the command is imported
        import signal

        from workflow_runner.cli.signals import die_of

        return die_of(signal.SIGINT)


def _show_version() -> int:
    try:
        print(__version__, flush=True)
    except OSError as error:
        return lost(error, sys.stdout)
    return 0


def _enter(words: Sequence[str]) -> int:
    from workflow_runner.cli import early

    door = early.enter(words)
    if isinstance(door, int):
        return door
    early.held = door
    try:
        return _dispatch(words)
    finally:
        lock, early.held = early.held, None  # `run` may have taken it
        if lock is not None:
            lock.release()


def _dispatch(words: Sequence[str]) -> int:
    import gc
    import importlib.util

    from workflow_runner.cli import NAME
    from workflow_runner.cli.exits import Exit

    if any(importlib.util.find_spec(needed) is None for needed in ("cyclopts", "rich")):
        print(f"{NAME} needs more packages: pip install 'workflow-runner[cli]'", file=sys.stderr)
        return Exit.CONFIGURATION
    # Nothing of what is made while modules are imported is garbage; looking for some takes a tenth of the time.
    gc.disable()
    from workflow_runner.cli.dispatch import dispatch

    gc.freeze()
    gc.enable()
    return dispatch(words)
