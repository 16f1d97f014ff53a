"""How far a run is, read from its counters while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from workflow_runner import FlowContext, Scope, Step, Workflow, WorkflowContext, flow
from workflow_runner.extensions.progress import FanOutProgress, snapshot
from workflow_runner.testing import ManualClock

LONG = 20.0
Event = Callable[[], threading.Event]


def test_the_steps_of_a_workflow(make_scope: Callable[..., Scope], event: Event) -> None:
    """How many there are, with those of branches, which have ended, and which began last."""
    there, go_on = event(), event()

    def waits(_: WorkflowContext) -> None:
        there.set()
        assert go_on.wait(LONG)

    steps = [
        Step("load", lambda _: None),
        Step.choice("route", when=lambda _: True, then=[Step("waits", waits)], otherwise=[Step("not", print)]),
        Step("last", lambda _: None),
    ]
    clock = ManualClock()
    scope = make_scope(clock=clock)
    execution = scope.exec(Workflow("nightly", steps=steps))
    assert there.wait(LONG)
    clock.advance(5)
    now = snapshot(execution)
    assert (now.run_id, now.flow, now.status) == (execution.id, "nightly", "running")
    assert (now.step, now.ended, now.steps) == ("waits", ("load", "not"), 5)
    assert now.seconds == 5
    go_on.set()
    execution.result(LONG)
    end = snapshot(execution)
    assert (end.status, end.step, len(end.ended), end.fanouts) == ("completed", "last", 5, ())


def test_the_items_of_fan_outs(scope: Scope, event: Event) -> None:
    """What is done and what there is, while they are under way, wherever they are."""
    there, go_on = event(), event()

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        if n == 7:
            there.set()
            assert go_on.wait(LONG)
        return n

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        return sum(ctx.parallel(item.each(range(10)), max_concurrency=1, name="inner")) if n == 1 else 0

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.parallel(item.each([1, 2]))
        ctx.parallel(outer.each(range(3)), max_concurrency=1, name="outer")

    execution = scope.exec(top)
    other = scope.exec(flow(name="other")(lambda ctx, _: go_on.wait(LONG)))
    assert there.wait(LONG)
    assert snapshot(execution).fanouts == (
        FanOutProgress(path="outer", done=1, total=3),
        FanOutProgress(path="outer[1]/inner", done=7, total=10),
    )
    assert snapshot(execution).steps == 0
    assert snapshot(other).fanouts == ()
    go_on.set()
    execution.result(LONG)
    assert snapshot(execution).fanouts == ()
    assert scope._fanouts == {}


def test_a_fan_out_with_helpers_is_never_beyond_its_end(make_scope: Callable[..., Scope]) -> None:
    """However many threads work, what is done is between what was done before and all."""
    seen: list[FanOutProgress] = []

    @flow
    def item(ctx: FlowContext, n: int) -> None:
        if n % 97 == 0:
            seen.extend(snapshot(execution).fanouts)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        started.wait(LONG)
        ctx.parallel(item.each(range(5000)), max_concurrency=4)

    started = threading.Event()
    scope = make_scope(max_workers=4)
    execution = scope.exec(top)
    started.set()
    execution.result(LONG)
    assert seen
    assert all(0 <= one.done <= one.total == 5000 for one in seen if one.total is not None)


def test_a_stream_has_no_end(scope: Scope) -> None:
    """Its results are counted as they are taken; nobody knows how many come."""

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        return n

    started = threading.Event()

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        assert started.wait(LONG)
        stream = ctx.stream(item.each(iter(range(10**9))))
        for _ in range(5):
            next(stream)
        return snapshot(execution).fanouts

    execution = scope.exec(top)
    started.set()
    assert execution.result(LONG) == (FanOutProgress(path="stream", done=5, total=None),)
    assert scope._fanouts == {}


def test_a_run_that_waits_for_a_slot(make_scope: Callable[..., Scope], event: Event) -> None:
    """It is pending, and nothing has been counted."""
    go_on = event()
    scope = make_scope(max_workers=1)
    first = scope.exec(flow(name="first")(lambda ctx, _: go_on.wait(LONG)))
    second = scope.exec(Workflow("second", steps=[Step("s", lambda _: None)]))
    now = snapshot(second)
    assert (now.status, now.seconds, now.step, now.ended, now.steps) == ("pending", 0.0, None, (), 0)
    go_on.set()
    first.result(LONG)
    second.result(LONG)
