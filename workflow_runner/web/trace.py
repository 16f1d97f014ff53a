"""A run in the Trace Event Format, which Perfetto and chrome://tracing open: every record, nothing merged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from workflow_runner.store.base import Attempt, EventRow, RunRecord, StepRow
from workflow_runner.web.layout import Lane, Piece, Timeline, layout

_PROCESS = 1


def chrome_trace(
    run: RunRecord,
    rows: Iterable[StepRow],
    attempts: Iterable[Attempt] = (),
    events: Iterable[EventRow] = (),
    *,
    now: float | None = None,
) -> dict[str, Any]:
    """A run as a trace. Each lane of its timeline is a thread; what overlaps in one is nested, as viewers ask for.

    Args:
        run: as ``store.run`` gives it.
        rows: as ``store.steps`` gives them.
        attempts: as ``store.attempts`` gives them.
        events: as ``store.events(run_id=...)`` gives them.
        now: where a running run ends, seconds since the epoch; default: the present.

    Returns:
        JSON-ready data, an object with ``traceEvents``. Times are microseconds since the start of the run, which
        ``otherData`` has in seconds since the epoch. Any thread.
    """
    events = list(events)
    timeline = layout(run, rows, attempts, events, whole=True, now=now)
    return {
        "displayTimeUnit": "ms",
        "otherData": {
            "run_id": run.run_id,
            "flow": run.flow,
            "status": timeline.status,
            "started_at": timeline.start,
            "version": run.version,
            "partition": run.partition,
            "as_of": run.as_of,
        },
        "traceEvents": [*_names(timeline), *_slices(timeline), *_marks(timeline, events)],
    }


def _names(timeline: Timeline) -> Iterator[dict[str, Any]]:
    yield _metadata("process_name", 0, name=f"{timeline.run.flow} {timeline.run.run_id}")
    group, number = "", 0
    for thread, lane in enumerate(timeline.lanes):
        group, number = (lane.label, 1) if lane.label else (group, number + 1)
        yield _metadata("thread_name", thread, name=group if number == 1 else f"{group} ({number})")
        yield _metadata("thread_sort_index", thread, sort_index=thread)


def _metadata(kind: str, thread: int, **arguments: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": thread, "args": arguments}


def _slices(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for thread, lane in enumerate(timeline.lanes):
        # Viewers take the longer one of two that begin together as the outer one only if it comes first.
        for piece in sorted(lane.pieces, key=lambda piece: (piece.start, -piece.end)):
            yield _slice(timeline, thread, lane, piece)


def _slice(timeline: Timeline, thread: int, lane: Lane, piece: Piece) -> dict[str, Any]:
    start = _micros(timeline, piece.start)
    arguments = {"path": piece.path, "status": piece.status, "attempt": piece.attempt}
    if piece.error is not None:
        arguments["error"] = piece.error
    return {
        "name": piece.label,
        "cat": f"{lane.kind},{piece.status}",
        "ph": "X",
        "ts": start,
        "dur": max(0, _micros(timeline, piece.end) - start),
        "pid": _PROCESS,
        "tid": thread,
        "args": arguments,
    }


def _marks(timeline: Timeline, events: Iterable[EventRow]) -> Iterator[dict[str, Any]]:
    """What happened to the run, at a moment: claimed, released ..."""
    for event in events:
        yield {
            "name": event.kind,
            "cat": "run",
            "ph": "i",
            "s": "p",
            "ts": _micros(timeline, event.at),
            "pid": _PROCESS,
            "tid": 0,
            "args": json.loads(event.data) if event.data else {},
        }


def _micros(timeline: Timeline, at: float) -> int:
    return round((at - timeline.start) * 1e6)
