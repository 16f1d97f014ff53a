"""Where the answer of a command goes: one reply, for people or for programs, on a stdout that nobody else spoils."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

import attrs

from workflow_runner._core import secrets
from workflow_runner.cli.streams import lost


def nothing() -> None:
    """Say nothing."""


@attrs.frozen(kw_only=True)
class Reply:
    """What a command has to say. Whatever is not asked for is not made.

    Attributes:
        code: what the process exits with.
        document: makes the data of the JSON document.
        show: prints the same for people, to stdout.
        complain: prints what went wrong, to stderr.
        lines: gives documents as they come, a line each, instead of the one.
        signal: what the process dies of, instead of exiting.
        abrupt: threads may have been left behind; nobody waits for them.
    """

    code: int
    document: Callable[[], Mapping[str, Any]]
    show: Callable[[], object]
    complain: Callable[[], object] = nothing
    lines: Callable[[], Iterable[Mapping[str, Any]]] | None = None
    signal: signal.Signals | None = None
    abrupt: bool = False


def give(reply: Reply, stdout: IO[str], *, as_json: bool) -> int:
    """Print a reply.

    Args:
        reply: what there is to say.
        stdout: where a document goes.
        as_json: one JSON document instead of what people read: in one line, or indented on a terminal.

    Returns:
        The exit code: that of the reply, unless that is 0 and stdout could not take it all.
    """
    code = reply.code
    try:
        if as_json and reply.lines is not None:
            for line in reply.lines():
                stdout.write(json.dumps(secrets.mask_data(line)) + "\n")
                stdout.flush()
        elif as_json:
            # In ASCII, which is right in every encoding that stdout may have.
            document = secrets.mask_data(reply.document())
            stdout.write(json.dumps(document, indent=2 if stdout.isatty() else None) + "\n")
        else:
            with redirect_stdout(stdout):
                reply.show()
        stdout.flush()
    except OSError as error:
        code = max(code, lost(error, stdout))
    reply.complain()
    return code


class Printed(io.StringIO):
    """A stdout whose lines are logged, so that they are there when a quiet run fails."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()  # two threads that print at once print two lines

    def write(self, text: str) -> int:
        *lines, self._thread.rest = (getattr(self._thread, "rest", "") + text).split("\n")
        for line in lines:
            logging.getLogger("stdout").info("%s", line)
        return len(text)


@contextmanager
def stdout_for(*, only_us: bool, quiet: bool = False) -> Iterator[IO[str]]:
    """Give stdout.

    Args:
        only_us: what anybody else prints there, this process or one that it starts, goes to stderr. That stays so while
            there are other threads, which might go on printing after the document.
        quiet: what anybody else prints there is logged instead, and dropped if another process prints it.
    """
    ours = sys.stdout
    others: IO[str] = Printed() if quiet else sys.stderr
    if not isinstance(ours, io.TextIOWrapper) or ours is not sys.__stdout__:  # somebody captures it
        with redirect_stdout(others if only_us or quiet else ours):
            yield ours
        return
    # A result may hold characters that the terminal's encoding has not.
    ours.reconfigure(errors="backslashreplace")
    if not (only_us or quiet):
        yield ours
        return
    ours.flush()
    number, kept = ours.fileno(), os.dup(ours.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY) if quiet else sys.stderr.fileno(), number)
    sys.stdout = others
    try:
        with open(kept, "w", closefd=False) as file:
            yield file
    finally:
        if threading.active_count() == 1:
            os.dup2(kept, number)
            sys.stdout = ours
