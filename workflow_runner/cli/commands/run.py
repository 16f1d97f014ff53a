"""``run``: one run in this process."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import nullcontext, suppress
from enum import StrEnum
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from workflow_runner import Flow, FlowExecution, PartitionKey, Scope
from workflow_runner.cli import NAME, early, params
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.inputs import input_of, key_of, read_params
from workflow_runner.cli.locks import Lock, Locked, digest, holder
from workflow_runner.cli.options import (
    AsOfDate,
    Debug,
    Here,
    Json,
    Partitions,
    Seconds,
    StoreUrl,
    Tags,
    checked_partition,
    checked_tags,
    checked_timeout,
    opened,
    refusing_start,
)
from workflow_runner.cli.output import Reply
from workflow_runner.cli.run import Elsewhere, Outcome, resume_command, run_here
from workflow_runner.cli.signals import exiting
from workflow_runner.cli.target import load
from workflow_runner.cli.telling import telling
from workflow_runner.store import sqlite_path
from workflow_runner.store.base import Store


class OnLocked(StrEnum):
    """What to do when another process is at it."""

    SKIP = "skip"
    WAIT = "wait"
    FAIL = "fail"


class Resume(StrEnum):
    """What to do with an unfinished run under the key."""

    AUTO = "auto"
    NEVER = "never"


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Recording:
    """Where the run is recorded, and how it is found again."""

    store: StoreUrl = None
    key: Annotated[
        str | None,
        Parameter(
            metavar="TEMPLATE",
            help="One run per key in the store, such as {flow}/{as_of_date}: it is gone on with, or answers with its "
            "result.",
        ),
    ] = None
    on_locked: Annotated[
        OnLocked | None, Parameter(help="When another process is at it: skip (0; the default), wait, or fail (75).")
    ] = None
    resume: Annotated[Resume, Parameter(help="Whether an unfinished run under the key is gone on with.")] = Resume.AUTO
    tag: Tags = None


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class About:
    """What the run is about."""

    as_of_date: AsOfDate = None
    partition: Partitions = None
    batch_id: Annotated[str | None, Parameter(metavar="ID", help="The batch that the run belongs to.")] = None
    trace_id: Annotated[str | None, Parameter(metavar="ID", help="The trace that the run belongs to.")] = None


_ABOUT, _RECORDING, _HERE = About(), Recording(), Here()


def run(
    target: str,
    /,
    *parameters: Annotated[str, Parameter(allow_leading_hyphen=True)],
    about: About = _ABOUT,
    file: Annotated[str | None, Parameter(name="--params", metavar="FILE", allow_leading_hyphen=True)] = None,
    recording: Recording = _RECORDING,
    timeout: Seconds = None,
    here: Here = _HERE,
    dry_run: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    json: Json = False,
    debug: Debug = False,
) -> Reply | None:
    """Run a flow or a workflow in this process.

    Options before the target are the runner's. What follows it are the
    flow's own parameters; "workflow-runner run TARGET --help" lists them.
    Results go to stdout, logs and errors to stderr.

    Exit codes: 0 done, 1 failed, 3 partial (a step failed that may),
    64 usage, 65 parameters, 66 no such flow, 69 the store, 70 a bug of
    ours, 75 try again later (another process is at it), 78 configuration,
    124 timeout. Ctrl-C and SIGTERM end the run, and the process dies of the
    signal.

    Args:
        target: What to run, as module:attribute. The working directory is searched first.
        parameters: The flow's own, as --name value.
        file: The flow's own parameters as a JSON or TOML file; "-" is JSON on stdin. What follows the target wins.
        timeout: How long it may run.
        dry_run: Check everything, say what would happen, run nothing.
    """
    told = telling(here.checked(), json=json)
    limit = checked_timeout(timeout)
    coordinates = checked_partition(about.partition)
    tags = checked_tags(recording.tag)
    from_file = {} if file is None else read_params(file)
    words = " ".join(str(part) for part in (about.as_of_date, coordinates) if part)
    path = _lock_path(target, recording, about.as_of_date, coordinates)

    def start(scope: Scope) -> FlowExecution[Any]:
        if recording.resume is Resume.NEVER and key is not None:
            _refuse_unfinished(scope.store, flow.name, key, recording.store)
        execution = scope.exec(flow, input, timeout=limit, idempotency_key=key, metadata=tags)
        if lock is not None:
            with suppress(OSError):  # it runs, whoever can read of it
                lock.tell(mark, run_id=execution.id)
        return execution

    with refusing_start(), exiting(here.exit_on_interrupt):
        try:
            lock = None if dry_run or "--help" in parameters else _lock(path, target, recording)
            mark = "" if lock is None else digest(about.as_of_date, str(coordinates), parameters, from_file)
            if lock is not None and lock.before[1] == mark and here.ping is None:
                # not with a monitor, which is told of an execution, for which there must be a flow
                done = _done(lock, recording.store or "", mark)
                if done is not None:
                    return told.ended(done, about=words)
            flow = load(target)
            command = f"{NAME} run {target}"
            given = params.read(flow, parameters, command=command, file=from_file, source=f"--params {file}")
            if given is None:
                return None
            input = input_of(
                flow,
                given(),
                as_of_date=about.as_of_date,
                partition=coordinates,
                batch_id=about.batch_id,
                trace_id=about.trace_id,
            )
            key = None if recording.key is None else key_of(recording.key, flow.name, about.as_of_date, coordinates)
            if dry_run:
                return _plan(flow, input, key, recording, path, about=words)
            outcome = run_here(
                start,
                store=recording.store,
                max_workers=here.max_workers,
                grace=here.grace,
                extensions=told.extensions,
                watch=told.watch,
                follow=recording.on_locked is OnLocked.WAIT,
            )
        except (Locked, Elsewhere) as busy:
            return _turned_away(busy, target, recording, quiet=here.quiet)
    return told.ended(outcome, about=words, debug=debug, exit_on_interrupt=here.exit_on_interrupt)


def _lock_path(
    target: str, recording: Recording, as_of_date: dt.date | None, partition: PartitionKey | None
) -> str | None:
    """The file of the lock that this run needs; None if it needs none."""
    option = "--key" if recording.key is not None else "--on-locked" if recording.on_locked is not None else None
    if option is None:
        return None
    if recording.store is None:
        raise CommandError(Exit.USAGE, f"{option} needs a --store", hint="such as --store sqlite:///runs.db")
    key = None if recording.key is None else key_of(recording.key, early.FLOW, as_of_date, partition)
    return early.lock_path(recording.store, early.lock_name(target, key))


def _lock(path: str | None, target: str, recording: Recording) -> Lock | None:
    """The lock of this run: taken at the door, or now."""
    if early.held is None and path is not None:
        try:
            early.held = early.acquire(path, recording.on_locked or OnLocked.SKIP, target=target, key=recording.key)
        except FileNotFoundError:  # the folder of the store is not there, which the store can say better
            return None
        except OSError as error:
            raise CommandError(Exit.STORE, f"the lock {path} cannot be taken: {error.strerror}") from error
    return early.held


def _turned_away(busy: Locked | Elsewhere, target: str, recording: Recording, *, quiet: bool) -> Reply:
    from workflow_runner.cli import already

    locked = busy if isinstance(busy, Locked) else already.elsewhere(busy.record)
    fail = recording.on_locked is OnLocked.FAIL
    return already.turned_away(locked, target, recording.store or "", fail=fail, quiet=quiet)


def _done(lock: Lock, store: str, mark: str) -> Outcome | None:
    from workflow_runner.cli import already

    return already.done_before(lock, store, mark)


def _refuse_unfinished(store: Store | None, flow: str, key: str, url: str | None) -> None:
    from workflow_runner._workflow.history import RESUMABLE, status_of

    record = None if store is None else store.find(flow, key)
    if record is not None and status_of(record) in RESUMABLE:
        message = f"run {record.run_id} of flow {flow!r} under key {key!r} is {status_of(record)}"
        raise CommandError(Exit.TEMPORARY, message, hint=f"go on with it: {resume_command(record.run_id, url)}")


def _plan(
    flow: Flow[Any, Any], input: Any, key: str | None, recording: Recording, path: str | None, *, about: str
) -> Reply:
    from workflow_runner.cli import dryrun

    there = recording.store is not None and os.path.exists(sqlite_path(recording.store) or "")
    with opened(recording.store) if there else nullcontext() as store:
        plan = dryrun.plan(
            flow,
            input,
            key=key,
            store=store,
            locked=None if path is None else holder(path),
            on_locked=recording.on_locked or OnLocked.SKIP,
            never_resume=recording.resume is Resume.NEVER,
        )
    return dryrun.reply(plan, about=about)
