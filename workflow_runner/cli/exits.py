"""The exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Every exit code there is: sysexits.h where it has a name, ``timeout(1)`` for the deadline.

    A run that was interrupted has none: the process dies of the signal, so that a shell, cron or systemd sees it.
    """

    DONE = 0  # also what was done before under its key, and what was skipped because another process is at it
    FAILED = 1
    PARTIAL = 3  # a step failed that was allowed to
    USAGE = 64
    PARAMETERS = 65
    NOT_FOUND = 66  # a flow, a run, a partition
    STORE = 69
    BUG = 70
    TEMPORARY = 75  # the same command may do it later: locked, taken over, or interrupted after a checkpoint
    CONFIGURATION = 78
    TIMEOUT = 124


class CommandError(Exception):
    """What is wrong with a command, in words for the person who gave it.

    Args:
        code: what the process exits with.
        message: what is wrong, in one line.
        hint: what to do instead, if anybody knows.
    """

    def __init__(self, code: Exit, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
