"""Pictures in the form that somebody asks for, and where they go."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from workflow_runner.cli.exits import CommandError, Exit

# Characters that the pictures of text are made of.
_DRAWN = "█▚▞\u2573░▒═─│┊├└·\xd7…"
# As wide as a picture in a file is, unless COLUMNS says otherwise.
_COLUMNS = 100


def format_of(chosen: str | None, output: Path | None, suffixes: Mapping[str, str]) -> str:
    """The form of a picture: the one that was asked for, or what the file's name says.

    Args:
        chosen: ``--format``.
        output: ``--output``.
        suffixes: which form files with these suffixes have; the first form is the default.

    Raises:
        CommandError: the file's name says nothing.
    """
    if chosen is not None:
        return chosen
    if output is None:
        return next(iter(suffixes.values()))
    if output.suffix.lower() not in suffixes:
        hint = f"such as --format {next(iter(suffixes.values()))}; {', '.join(suffixes)} need none"
        raise CommandError(Exit.USAGE, f"--output {output} does not say which format", hint=hint)
    return suffixes[output.suffix.lower()]


def columns() -> int:
    """How wide the terminal is, or a picture in a file."""
    return max(40, shutil.get_terminal_size((_COLUMNS, 24)).columns)


def ascii_only(output: Path | None) -> bool:
    """Whether the characters that pictures are drawn with do not exist where they go."""
    if output is not None:  # is UTF-8
        return False
    try:
        _DRAWN.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def write(output: Path, text: Callable[[], str]) -> None:
    """Write a file, whole or not at all; one that is there is replaced.

    Args:
        output: where. What is no regular file, such as /dev/stdout or a pipe, is written to.
        text: makes what is in it; called first.

    Raises:
        CommandError: it cannot be written.
    """
    content = text().encode("utf-8", "backslashreplace")
    try:
        if output.exists() and not output.is_file():
            output.write_bytes(content)
            return
        target = output.resolve()  # a link stays one
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            beside.write_bytes(content)
            if mode is not None:
                beside.chmod(mode)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise CommandError(Exit.USAGE, f"--output {output} cannot be written: {why}") from error
