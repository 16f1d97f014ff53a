"""Where the answer of a command goes: one reply, for people or for programs, on a stdout that nobody else spoils."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any

import attrs

from workflow_runner.cli.exits import Exit


@attrs.frozen(kw_only=True)
class Reply:
    """What a command has to say. Whatever is not asked for is not made.

    Attributes:
        code: what the process exits with.
        document: makes the data of the JSON document.
        show: prints the same for people, to stdout.
        complain: prints what went wrong, to stderr.
        signal: what the process dies of, instead of exiting.
    """

    code: Exit
    document: Callable[[], Mapping[str, Any]]
    show: Callable[[], object]
    complain: Callable[[], object]
    signal: signal.Signals | None = None


def give(reply: Reply, stdout: IO[str], *, as_json: bool) -> None:
    """Print a reply.

    Args:
        reply: what there is to say.
        stdout: where a document goes.
        as_json: one JSON document instead of what people read: in one line, or indented on a terminal.
    """
    try:
        if as_json:
            # In ASCII, which is right in every encoding that stdout may have.
            stdout.write(json.dumps(reply.document(), indent=2 if stdout.isatty() else None) + "\n")
        else:
            reply.show()
        stdout.flush()
    except BrokenPipeError:  # the reader has seen enough; that changes nothing in how the command ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    reply.complain()


@contextmanager
def stdout_for(*, only_us: bool) -> Iterator[IO[str]]:
    """Give stdout.

    Args:
        only_us: what anybody else prints there, this process or one that it starts, goes to stderr. That stays so while
            there are other threads, which might go on printing after the document.
    """
    ours = sys.stdout
    if not isinstance(ours, io.TextIOWrapper) or ours is not sys.__stdout__:  # somebody captures it
        with redirect_stdout(sys.stderr if only_us else ours):
            yield ours
        return
    # A result may hold characters that the terminal's encoding has not.
    ours.reconfigure(errors="backslashreplace")
    if not only_us:
        yield ours
        return
    ours.flush()
    number, kept = ours.fileno(), os.dup(ours.fileno())
    os.dup2(sys.stderr.fileno(), number)
    sys.stdout = sys.stderr
    try:
        with open(kept, "w", closefd=False) as file:
            yield file
    finally:
        if threading.active_count() == 1:
            os.dup2(kept, number)
            sys.stdout = ours
