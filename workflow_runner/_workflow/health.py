"""Whether flows do what is expected of them, judged by their runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import attrs

from workflow_runner._workflow.history import RunSummary, summary
from workflow_runner.store.base import Store

EVERY = "*"
"""Stands for every flow that has no limit of its own."""

# Without a limit, a run is stuck that takes so many times as long as nearly all of so many runs before it.
STUCK_FACTOR = 3.0
STUCK_RUNS = 5

# So many of the newest runs of a flow are looked at.
_NEWEST = 100


@attrs.frozen(kw_only=True)
class Trouble:
    """One reason why a flow is not healthy.

    Attributes:
        kind: "crashed", "failed", "timed out", "interrupted" (left unfinished, for anybody to go on with), "overdue",
            "never succeeded", "stuck".
        run_id: the run that it is about.
        seconds: how long it has run, or how long ago the last success is.
        limit: the seconds that these should have stayed below.
    """

    kind: str
    run_id: str | None = None
    seconds: float | None = None
    limit: float | None = None


@attrs.frozen(kw_only=True)
class FlowHealth:
    """How a flow is.

    Attributes:
        flow: its name.
        last: its newest run.
        last_success: its newest run that completed.
        age: seconds since that one's end.
        running: the runs that are being executed.
        usual: seconds that 95 of 100 runs stay below; None if there are too few.
        troubles: what is wrong.
    """

    flow: str
    last: RunSummary | None
    last_success: RunSummary | None
    age: float | None
    running: tuple[RunSummary, ...]
    usual: float | None
    troubles: tuple[Trouble, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.troubles


def health(
    runs: Iterable[RunSummary],
    now: float,
    *,
    max_age: Mapping[str, float] | None = None,
    max_running: Mapping[str, float] | None = None,
) -> tuple[FlowHealth, ...]:
    """Judge flows by their runs.

    Args:
        runs: the newest of each flow, all that are running, and the last success.
        now: seconds since the epoch.
        max_age: by the name of a flow, or `EVERY`: seconds after its last success that it is overdue.
        max_running: the same: seconds of running after which a run is stuck.

    Returns:
        A flow each, in order of their names; those too that have a limit of their own and no runs.

    Any thread.
    """
    max_age, max_running = max_age or {}, max_running or {}
    by_flow: dict[str, list[RunSummary]] = {name: [] for name in {*max_age, *max_running} - {EVERY}}
    for run in runs:
        by_flow.setdefault(run.flow, []).append(run)
    return tuple(
        _judged(
            flow,
            sorted(by_flow[flow], key=lambda run: (run.created_at, run.run_id), reverse=True),
            now,
            max_age.get(flow, max_age.get(EVERY)),
            max_running.get(flow, max_running.get(EVERY)),
        )
        for flow in sorted(by_flow)
    )


def _judged(
    flow: str, runs: Sequence[RunSummary], now: float, max_age: float | None, max_running: float | None
) -> FlowHealth:
    successes = [run for run in runs if run.status in ("completed", "partial")]
    last_success = max(successes, key=lambda run: run.finished_at or 0.0, default=None)
    age = None if last_success is None else max(0.0, now - (last_success.finished_at or now))
    running = tuple(run for run in runs if run.status == "running")
    usual = _usual([run.duration for run in successes if run.duration is not None])
    longest = max_running if max_running is not None else None if usual is None else usual * STUCK_FACTOR
    retried = {run.retry_of for run in runs}
    troubles = [
        Trouble(kind="crashed", run_id=r.run_id) for r in runs if r.status == "crashed" and r.run_id not in retried
    ]
    ended = next((run for run in runs if run.status not in ("running", "crashed")), None)
    bad = None if ended is None else _bad_end(ended)
    if ended is not None and bad is not None:
        troubles.append(Trouble(kind=bad, run_id=ended.run_id))
    if max_age is not None and (age is None or age > max_age):
        troubles.append(Trouble(kind="never succeeded" if age is None else "overdue", seconds=age, limit=max_age))
    troubles += [
        Trouble(kind="stuck", run_id=run.run_id, seconds=run.duration, limit=longest)
        for run in running
        if longest is not None and run.duration is not None and run.duration > longest
    ]
    return FlowHealth(
        flow=flow,
        last=runs[0] if runs else None,
        last_success=last_success,
        age=age,
        running=running,
        usual=usual,
        troubles=tuple(troubles),
    )


def _bad_end(run: RunSummary) -> str | None:
    """What is wrong with how a run has ended; that somebody has cancelled it is not."""
    if run.status == "cancelled" and run.error is not None and run.error["type"] == "ExecutionTimeout":
        return "timed out"
    return {"failed": "failed", "pending": "interrupted"}.get(run.status)


def _usual(durations: Sequence[float]) -> float | None:
    """The 95th percentile, by nearest rank."""
    if len(durations) < STUCK_RUNS:
        return None
    return sorted(durations)[math.ceil(0.95 * len(durations)) - 1]


def read_for_health(store: Store, flow: str | None = None) -> list[RunSummary]:
    """The runs that `health` judges by.

    A running one is as long at it as its process is, however long ago it was begun the first time.

    Args:
        store: where they are.
        flow: of this flow only.
    """
    now = time.time()
    living = [run for run in store.runs(status="running", limit=None, brief=True) if flow in (None, run.flow)]
    found = {run.run_id: summary(run, now) for run in living}
    for name in store.flows() if flow is None else [flow]:
        newest = store.runs(flow=name, limit=_NEWEST, brief=True)
        successes = store.runs(flow=name, status="completed", limit=STUCK_RUNS, brief=True)
        found |= {run.run_id: summary(run, now) for run in (*newest, *successes)}
    return [_since_claimed(store, run, now) if run.status == "running" else run for run in found.values()]


def _since_claimed(store: Store, run: RunSummary, now: float) -> RunSummary:
    claims = store.events(run_id=run.run_id, kind="claimed", limit=1)
    return attrs.evolve(run, duration=max(0.0, now - claims[-1].at)) if claims else run
