"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from workflow_runner import PartitionKey, open_store
from workflow_runner._core.clock import seconds
from workflow_runner.cli import NAME, params
from workflow_runner.cli.early import business_date
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.logs import LogFormat, LogLevel
from workflow_runner.cli.run import GRACE
from workflow_runner.errors import (
    IdempotencyConflict,
    InputError,
    JournalMismatch,
    OwnershipLost,
    RunNotFound,
    RunOwned,
    SerializationError,
    StoreError,
)
from workflow_runner.store import sqlite_path
from workflow_runner.store.base import Store

StoreUrl = Annotated[
    str | None, Parameter(name="--store", metavar="URL", help="Where runs are recorded, such as sqlite:///runs.db.")
]


def convert_date(type_: Any, tokens: Any) -> Any:
    """A business date, or what ``business_date`` knows; a converter for cyclopts."""
    return business_date(tokens[-1].value) or params.convert(type_, tokens)


AsOfDate = Annotated[
    dt.date | None,
    Parameter(converter=convert_date, help="The business date, such as 2013-02-28; or today, or yesterday."),
]
Partitions = Annotated[
    list[str] | None,
    Parameter(
        name="--partition", negative=(), metavar="NAME=VALUE", help="A coordinate of the partition; may be repeated."
    ),
]
Seconds = Annotated[float | None, Parameter(converter=params.convert, metavar="SECONDS")]
Json = Annotated[bool, Parameter(negative=(), show_default=False, help="Print one JSON document, no tables.")]
Debug = Annotated[bool, Parameter(negative=(), show_default=False, help="Print tracebacks.")]
Tags = Annotated[
    list[str] | None,
    Parameter(name="--tag", negative=(), metavar="NAME=VALUE", help="A text to find the run by; may be repeated."),
]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Here:
    """How runs are executed in this process: the options of every command that executes some."""

    grace: Annotated[
        float,
        Parameter(
            converter=params.convert,
            metavar="SECONDS",
            help="How long steps may finish after Ctrl-C or SIGTERM; a second one ends that, a third all.",
        ),
    ] = GRACE
    max_workers: Annotated[
        int | None, Parameter(converter=params.convert, help="How many executions make progress at once.")
    ] = None
    exit_on_interrupt: Annotated[
        int | None,
        Parameter(converter=params.convert, metavar="CODE", help="Exit with it instead of dying of the signal."),
    ] = None
    progress: Annotated[
        bool | None, Parameter(help="Show how far the run is: bars on a terminal (the default there), or lines.")
    ] = None
    quiet: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Print nothing unless the run fails; then why, and its last log lines.",
        ),
    ] = False
    ping: Annotated[
        str | None,
        Parameter(
            metavar="URL",
            help="Tell healthchecks.io or Cronitor of the beginning and the end. The host says which; of a server of "
            "your own say it: cronitor+https://...",
        ),
    ] = None
    log_format: Annotated[
        LogFormat | None, Parameter(help="How log lines look; default: console on a terminal, logfmt elsewhere.")
    ] = None
    log_level: Annotated[
        LogLevel | None,
        Parameter(help="What is logged on stderr; default: info, without how runs and steps begin and end."),
    ] = None

    def checked(self) -> Here:
        """These, if they make sense.

        Raises:
            CommandError: names the option that does not.
        """
        checked_timeout(self.grace, option="--grace", zero=True)
        if self.max_workers is not None and self.max_workers < 1:
            raise CommandError(Exit.USAGE, f"--max-workers must be at least 1, got {self.max_workers}")
        if self.exit_on_interrupt is not None and not 0 <= self.exit_on_interrupt <= 255:
            raise CommandError(
                Exit.USAGE, f"--exit-on-interrupt is an exit code, 0 to 255, got {self.exit_on_interrupt}"
            )
        return self


@contextmanager
def opened(url: str | None, *, existing: bool = False) -> Iterator[Store]:
    """The store that a command works on; closed at the end.

    Args:
        url: where it is.
        existing: it must be there already: who only asks makes no file.

    Raises:
        CommandError: none is named, it cannot be used, or there is no such run in it.
    """
    if url is None:
        hint = "such as --store sqlite:///runs.db, or set WORKFLOW_RUNNER_STORE"
        raise CommandError(Exit.USAGE, "--store is missing", hint=hint)
    file = sqlite_path(url)
    if existing and file is not None and not Path(file).exists():
        message = f"there is no store {Path(file).absolute()}"
        raise CommandError(Exit.STORE, message, hint="a run with --store makes one")
    with refusing():
        store = open_store(url)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def refusing() -> Iterator[None]:
    """Errors of a store as errors of the command."""
    try:
        yield
    except RunNotFound as error:
        raise CommandError(Exit.NOT_FOUND, str(error)) from error
    except (RunOwned, OwnershipLost) as error:
        raise CommandError(Exit.TEMPORARY, str(error)) from error
    except StoreError as error:
        raise CommandError(Exit.STORE, str(error)) from error


@contextmanager
def refusing_start() -> Iterator[None]:
    """Errors of a run that is not begun as errors of the command: those of the store, and what does not fit."""
    with refusing():
        try:
            yield
        except (InputError, IdempotencyConflict, SerializationError) as error:
            raise CommandError(Exit.PARAMETERS, str(error)) from error
        except JournalMismatch as error:
            message, changed, _ = str(error).partition("\nGo on with")
            hint = f"if what is recorded still holds: {NAME} resume --allow-changed; {NAME} retry runs everything again"
            raise CommandError(Exit.PARAMETERS, message, hint=hint if changed else None) from error


def checked_timeout(timeout: float | None, *, option: str = "--timeout", zero: bool = False) -> float | None:
    """``--timeout``, or another length of time, as seconds."""
    try:
        return None if timeout is None else seconds(timeout, what=option, zero=zero)
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from error


def checked_partition(texts: Sequence[str] | None) -> PartitionKey | None:
    """``--partition`` as a key."""
    try:
        return PartitionKey.parse(*texts) if texts else None
    except InputError as error:
        raise CommandError(Exit.USAGE, f"--{error}", hint="such as --partition region=EU") from error


def checked_flow(flow: str, store: Store) -> str:
    """A flow that has runs in the store.

    Raises:
        CommandError: it has none; names what is near.
    """
    flows = store.flows()
    if flow not in flows:
        near = difflib.get_close_matches(flow, flows, n=1) or flows[:5]
        hint = f"did you mean {' or '.join(near)}?" if near else "there are no runs at all"
        raise CommandError(Exit.NOT_FOUND, f"there is no run of a flow {flow!r}", hint=hint)
    return flow


def checked_tags(texts: Sequence[str] | None) -> dict[str, str]:
    """``--tag`` as names and texts."""
    tags: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise CommandError(Exit.USAGE, f"--tag: expected name=value, got {text!r}", hint="such as --tag team=risk")
        if name in tags:
            raise CommandError(Exit.USAGE, f"--tag {name} is given twice")
        tags[name] = value
    return tags
