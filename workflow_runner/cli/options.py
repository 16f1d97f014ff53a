"""Options that several commands have, and what their values mean."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from workflow_runner import PartitionKey, open_store
from workflow_runner._core.clock import seconds
from workflow_runner.cli import params
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.errors import InputError, RunNotFound, StoreError
from workflow_runner.store.base import Store

StoreUrl = Annotated[
    str | None, Parameter(name="--store", metavar="URL", help="Where runs are recorded, such as sqlite:///runs.db.")
]
AsOfDate = Annotated[dt.date | None, Parameter(converter=params.convert, help="The business date.")]
Partitions = Annotated[
    list[str] | None,
    Parameter(
        name="--partition", negative=(), metavar="NAME=VALUE", help="A coordinate of the partition; may be repeated."
    ),
]
Seconds = Annotated[float | None, Parameter(converter=params.convert, metavar="SECONDS")]
Json = Annotated[bool, Parameter(negative=(), show_default=False, help="Print one JSON document, no tables.")]
Debug = Annotated[bool, Parameter(negative=(), show_default=False, help="Print tracebacks.")]


@contextmanager
def opened(url: str | None) -> Iterator[Store]:
    """The store that a command works on; closed at the end.

    Raises:
        CommandError: none is named, it cannot be used, or there is no such run in it.
    """
    if url is None:
        hint = "such as --store sqlite:///runs.db, or set WORKFLOW_RUNNER_STORE"
        raise CommandError(Exit.USAGE, "--store is missing", hint=hint)
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
    except StoreError as error:
        raise CommandError(Exit.STORE, str(error)) from error


def checked_timeout(timeout: float | None) -> float | None:
    """``--timeout`` as seconds."""
    try:
        return None if timeout is None else seconds(timeout, what="--timeout")
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from error


def checked_partition(texts: Sequence[str] | None) -> PartitionKey | None:
    """``--partition`` as a key."""
    try:
        return PartitionKey.parse(*texts) if texts else None
    except InputError as error:
        raise CommandError(Exit.USAGE, f"--{error}", hint="such as --partition region=EU") from error
