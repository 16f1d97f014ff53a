"""How far a live run is: a picture of its counters at one moment, taken by whoever wants to draw it.

Nothing is counted for this while nobody looks. A sampler calls `snapshot` a few times a second, from any thread.
"""

from __future__ import annotations

from typing import Any

import attrs

from workflow_runner._core.execution import FlowExecution


@attrs.frozen(kw_only=True)
class FanOutProgress:
    """One fan-out that is under way.

    Attributes:
        path: its place in the run.
        done: items that are done, give or take one for each thread that works on them.
        total: None if nobody knows, as in a stream.
    """

    path: str
    done: int
    total: int | None


@attrs.frozen(kw_only=True)
class RunProgress:
    """One run at one moment.

    Attributes:
        status: the execution's.
        seconds: how long it has been running.
        step: the step that was begun last; None if there is none.
        ended: the steps that have ended, however, in the order of ending.
        steps: how many steps there are, those of branches included; 0 for a flow.
        fanouts: those under way, oldest first.
    """

    run_id: str
    flow: str
    status: str
    seconds: float
    step: str | None
    ended: tuple[str, ...]
    steps: int
    fanouts: tuple[FanOutProgress, ...]


def snapshot(execution: FlowExecution[Any]) -> RunProgress:
    """How far an execution is. Any thread.

    Args:
        execution: the handle of a run in this process.
    """
    ctx = execution.ctx
    scope, run = ctx._scope, ctx._steps
    until = ctx._ended if ctx._ended is not None else scope._time()
    counted = [(fanout, *fanout.counts()) for fanout in list(scope._fanouts) if fanout.parent.root is ctx]
    return RunProgress(
        run_id=execution.id,
        flow=execution.flow_name,
        status=str(execution.status),
        seconds=max(0.0, until - ctx._started) if ctx._started is not None else 0.0,
        step=None if run is None else run.latest,
        ended=() if run is None else tuple(run.records.copy()),
        steps=0 if run is None else len(run.names),
        fanouts=tuple(
            FanOutProgress(path=f"{fanout.parent._path}/{fanout.segment}".lstrip("/"), done=done, total=total)
            for fanout, done, total in counted
        ),
    )
