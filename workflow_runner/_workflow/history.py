"""What a store knows about runs, as frozen values for people and pages; nobody's modules are imported for it.

All times are seconds since the epoch. Everything here may be called from any thread.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import attrs

from workflow_runner._core import codec
from workflow_runner._core.secrets import MASK
from workflow_runner._workflow.step_tree import StepView, step_tree
from workflow_runner.errors import RunNotFound
from workflow_runner.store.base import Attempt, EventRow, LogRow, RunRecord, StepRow, Store

STATUSES = ("completed", "partial", "failed", "cancelled", "running", "crashed", "pending")
"""What a run can be, for a reader: "partial" completed with a failed step, "crashed" is running in a dead process."""

RESUMABLE = ("failed", "cancelled", "crashed", "pending")
"""Those that can be gone on with."""

PAUSE = 0.25
"""How often somebody who waits for another process looks. Seconds."""

LAST_LINES = 2.0
"""So long after a run's end a reader waits for what it has logged last. Seconds."""

_ENDS = ("run.completed", "run.failed", "run.cancelled")

# So many more runs than were asked for are looked at, to say how many there are.
_AHEAD = 1000

# A workflow's result begins with its status, so that nothing has to be read that may be megabytes long.
_STATUS = re.compile(r'\{"status": ?"(\w+)"')


# --- runs -------------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RunSummary:
    """A run in a list.

    Attributes:
        run_id: its id.
        flow: the flow's name.
        version: the flow's version.
        target: where the flow is imported from.
        status: one of `STATUSES`.
        key: its idempotency key.
        batch_id: the batch it belongs to.
        partition: such as "region=EU".
        as_of: the business date.
        trace_id: the trace it belongs to.
        tags: texts by name.
        owner: the process that executes it, or that has crashed with it.
        cancel_requested: the reason, if somebody wants it cancelled.
        retry_of: the run that this one retries.
        created_at: when it was submitted.
        started_at: when it began.
        finished_at: when it ended.
        duration: seconds from its beginning to its end, or until now if it is running.
        error: what it failed with, as ``result.describe`` makes it.
    """

    run_id: str
    flow: str
    version: str | None
    target: str | None
    status: str
    key: str | None
    batch_id: str | None
    partition: str | None
    as_of: str | None
    trace_id: str | None
    tags: Mapping[str, str]
    owner: str | None
    cancel_requested: str | None
    retry_of: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    duration: float | None
    error: Mapping[str, Any] | None


def summary(run: RunRecord, now: float) -> RunSummary:
    """A run as its reader sees it.

    Args:
        run: as the store knows it.
        now: what a running one's duration is measured to.
    """
    end = now if run.alive else run.finished_at
    return RunSummary(
        run_id=run.run_id,
        flow=run.flow,
        version=run.version,
        target=run.target,
        status=status_of(run),
        key=run.idem_key,
        batch_id=run.batch_id,
        partition=run.partition,
        as_of=run.as_of,
        trace_id=run.trace_id,
        tags=json.loads(run.tags) if run.tags else {},
        owner=run.owner,
        cancel_requested=run.cancel_requested,
        retry_of=run.parent,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        duration=None if end is None or run.started_at is None else max(0.0, end - run.started_at),
        error=json.loads(run.error) if run.error else None,
    )


def status_of(run: RunRecord) -> str:
    """One of `STATUSES`."""
    if run.crashed:
        return "crashed"
    if run.status == "completed" and run.shape is not None:
        match = _STATUS.match(run.result or "")
        return match[1] if match else run.status
    return run.status


def process_of(owner: str) -> str:
    """An owner in words: ``host-123-token`` is process 123 on host."""
    host, _, rest = owner.rpartition("-")[0].rpartition("-")
    return f"process {rest} on {host}" if host and rest.isdigit() else owner


@attrs.frozen(kw_only=True)
class RunList:
    """Some runs, newest first.

    Attributes:
        runs: those that were asked for.
        more: how many more there are.
        at_least: there may be more than ``more``.
    """

    runs: tuple[RunSummary, ...]
    more: int = 0
    at_least: bool = False


def list_runs(
    store: Store, *, status: Collection[str] = (), limit: int = 20, ahead: int | None = None, **filters: Any
) -> RunList:
    """Find runs.

    Args:
        store: where to look.
        status: those of `STATUSES` that are meant; none: any.
        limit: at most so many, and the number of the others.
        ahead: so many of the others are looked at to count them.
        filters: as for ``store.runs``.
    """
    recorded = {_RECORDED.get(wanted, wanted) for wanted in status}
    if len(recorded) == 1:
        filters["status"] = recorded.pop()
    reach = limit + (_AHEAD if ahead is None else ahead)
    while True:
        found = store.runs(limit=reach, brief=True, **filters)
        fitting = [run for run in found if not status or status_of(run) in status]
        end = len(found) < reach
        if end or len(fitting) > limit:
            break
        reach *= 4
    now = time.time()
    runs = tuple(summary(run, now) for run in fitting[:limit])
    return RunList(runs=runs, more=max(0, len(fitting) - limit), at_least=not end)


# What a store calls what a reader sees in more detail.
_RECORDED = {"partial": "completed", "crashed": "running"}


def find_run(store: Store, text: str) -> RunRecord:
    """The run with this id, or the only one whose id begins so.

    Raises:
        RunNotFound: there is none, or there are several; names near ones.
    """
    with suppress(RunNotFound):
        return store.run(text)
    ids = [run.run_id for run in store.runs(limit=None, brief=True)]
    found = [run_id for run_id in ids if text and run_id.startswith(text)]
    if len(found) == 1:
        return store.run(found[0])
    some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
    if found:
        raise RunNotFound(f"{len(found)} runs begin with {text!r}: {some}")
    near = get_close_matches(text, {run_id[: len(text)] for run_id in ids[:_AHEAD]})
    nearest = [run_id for run_id in ids[:_AHEAD] if run_id[: len(text)] in near][:3]
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    raise RunNotFound(f"there is no run {text!r} in {store.url}{hint}")


# --- one run ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RunView:
    """All that is recorded of one run, but its log.

    Attributes:
        run: the run.
        input: what it was given, as plain data; of a workflow its params.
        overrides: params that were given when it was gone on with, in that order.
        steps: its steps, see `step_tree`.
        more_steps: how many of them were left out.
        result: what a flow returned, or the whole `WorkflowResult` of a workflow, as plain data.
        retried_by: the ids of the runs that retry it.
        resumed: how often it was gone on with.
        events: what has happened to it.
    """

    run: RunSummary
    input: Any
    overrides: tuple[Mapping[str, Any], ...]
    steps: tuple[StepView, ...]
    more_steps: int
    result: Any
    retried_by: tuple[str, ...]
    resumed: int
    events: tuple[EventRow, ...]


@attrs.frozen(kw_only=True)
class RunRecords:
    """All that is recorded of one run, as its store has it."""

    run: RunRecord
    rows: Sequence[StepRow]
    attempts: Sequence[Attempt]
    events: Sequence[EventRow]
    logs: Sequence[LogRow]


def read_records(store: Store, run_id: str) -> RunRecords:
    """Read all that is recorded of one run.

    Raises:
        RunNotFound: there is no such run.
    """
    run = store.run(run_id)
    return RunRecords(
        run=run,
        rows=store.steps(run_id),
        attempts=store.attempts(run_id),
        events=store.events(run_id=run_id),
        logs=store.logs(run_id),
    )


def read_run(store: Store, run_id: str) -> RunView:
    """Read one run.

    Raises:
        RunNotFound: there is no such run.
    """
    return view_of(store, read_records(store, run_id))


def view_of(store: Store, known: RunRecords, *, most_steps: int | None = None) -> RunView:
    """What is recorded of a run, for its reader.

    Args:
        store: where it is.
        known: what is recorded.
        most_steps: at most so many of its steps, those above first.
    """
    run, claims = known.run, [event.at for event in known.events if event.kind == "claimed"]
    logged = () if run.status == "completed" else known.logs  # of a completed one its result says it all
    claimed_at = claims[-1] if claims else 0.0
    steps, more = step_tree(run, known.rows, known.attempts, logged, claimed_at, most_steps)
    input = plain_text(run.input)
    return RunView(
        run=summary(run, time.time()),
        input=input if run.shape is None else input["params"],
        overrides=tuple(override["params"] for override in plain_text(run.overrides) or ()),
        steps=steps,
        more_steps=more,
        result=plain_text(run.result),
        retried_by=tuple(child.run_id for child in retries(store, run)),
        resumed=len(claims),
        events=tuple(known.events),
    )


def retries(store: Store, run: RunRecord) -> list[RunRecord]:
    """The runs that retry this one, the oldest first; they are of the same flow."""
    return store.runs(flow=run.flow, parent=run.run_id, since=run.created_at, limit=None, brief=True)[::-1]


def output_of(step: StepView) -> Any:
    """What a step has put out, or a child has returned, as plain data."""
    data = plain_text(step.text)
    return (data or {}).get("output") if step.kind == "step" else data


def find_step(steps: Collection[StepView], name: str) -> StepView | None:
    """The step with this path, or the first with this name, at any depth."""
    every = list(walk(steps))
    named = [step for _, step in every if step.path == name] or [step for _, step in every if step.name == name]
    return named[0] if named else None


def walk(steps: Collection[StepView], depth: int = 0) -> Iterator[tuple[int, StepView]]:
    """Every step with its depth, those above first."""
    for step in steps:
        yield depth, step
        yield from walk(step.steps, depth + 1)


Keep = Callable[[LogRow], bool]


def read_logs(store: Store, run_id: str, *, keep: Keep, last: int | None = None) -> list[LogRow]:
    """What was logged under a run.

    Args:
        store: where it is.
        run_id: the run.
        keep: which records are meant.
        last: only so many of them, the last ones.
    """
    rows = [row for row in store.logs(run_id) if keep(row)]
    return rows if last is None else rows[max(0, len(rows) - last) :]


def follow_logs(
    store: Store, run_id: str, *, keep: Keep, last: int | None = None, pause: float = PAUSE
) -> Iterator[LogRow]:
    """What is logged under a run, until nobody executes it any more.

    Args:
        store: where it is.
        run_id: the run.
        keep: which records are meant.
        last: of what is there already only so many.
        pause: seconds between two looks.

    Raises:
        RunNotFound: there is no such run, or it was deleted.
    """
    after, seen_alive, end = 0, False, math.inf
    while True:
        alive = store.run(run_id).alive  # before its rows: those of its end must not be missed
        rows = store.logs(run_id, after=after)
        after = rows[-1].id if rows else after
        kept = [row for row in rows if keep(row)]
        yield from kept if last is None else kept[max(0, len(kept) - last) :]
        seen_alive, last = seen_alive or alive, None
        if not alive:
            # the last lines are written in a batch, after the run has ended
            end = min(end, time.monotonic() + LAST_LINES)
            if not seen_alive or time.monotonic() >= end or any(row.event in _ENDS for row in rows):
                return
        time.sleep(pause)


def is_within(path: str | None, step: str) -> bool:
    """Whether a path is that of a step, given by its path or its name, or of something that the step has called."""
    if path is None:
        return False
    parts = path.split("/")
    return step in parts or any(part.startswith(f"{step}[") for part in parts) or f"{path}/".startswith(f"{step}/")


def await_end(store: Store, run_id: str, *, timeout: float, pause: float = PAUSE) -> RunRecord:
    """Wait until nobody executes a run any more, or the time is over.

    Args:
        store: where it is.
        run_id: the run.
        timeout: seconds.
        pause: seconds between two looks.
    """
    end = time.monotonic() + timeout
    while True:
        run = store.run(run_id)
        left = end - time.monotonic()
        if not run.alive or left <= 0:
            return run
        time.sleep(min(pause, left))


# --- values -----------------------------------------------------------------------------------------------------------


def plain_text(text: str | None) -> Any:
    """Read typed JSON text as plain JSON data, without the classes that are named in it.

    Args:
        text: what a store keeps of a value; None for nothing.

    Returns:
        None, bool, int, finite float, str, and lists and str-keyed dicts of these. What has fields becomes a dict;
        dates and times ISO text, a timedelta seconds, bytes base64; NaN and the infinities None; a secret "***"; a
        member of an enum its name, since only its class knows the value.

    Raises:
        SerializationError: the text is no JSON.

    Any thread.
    """
    return None if text is None else _plain(codec.read_json(text))


def _plain(data: Any) -> Any:
    if isinstance(data, list):
        return [_plain(item) for item in data]
    if not isinstance(data, dict):
        return data
    if "$" in data:
        return _untagged(data["$"], data.get("v"))
    return {key: _plain(item) for key, item in data.items()}


def _untagged(tag: str, content: Any) -> Any:
    if tag == "secret":
        return MASK
    if tag == "dict":
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in content}
    if tag == "int":
        return int(content, 16)
    if tag == "float":
        value = float(content)
        return value if math.isfinite(value) else None
    if tag == "timedelta":
        return float(content)
    if tag in ("datetime", "time"):  # the zone's name and the fold follow the ISO text
        return content.partition("[")[0]
    if tag in ("set", "frozenset"):
        return sorted((_plain(item) for item in content), key=str)
    if ":" in tag and isinstance(content, Mapping):  # fields, of which one may be called "$"
        return {name: _plain(item) for name, item in content.items()}
    return _plain(content)
