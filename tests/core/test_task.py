"""Tasks: graces, deadlines and timed children; how work is taken from its thread."""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from typing import Any

import attrs
import pytest

from workflow_runner import FlowContext, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0


class Gate:
    """A flow that says when it has begun and ends when the test lets it."""

    def __init__(self, event: Callable[[], threading.Event], outcome: Any = "late") -> None:
        self.begun, self.go, self.ended = event(), event(), event()
        self.outcome = outcome
        self.flow = flow(name="gated")(self)

    def __call__(self, ctx: FlowContext, _: Any) -> Any:
        self.begun.set()
        try:
            assert self.go.wait(LONG)
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome
        finally:
            self.ended.set()


@pytest.fixture
def gate(event: Any) -> Gate:
    return Gate(event)


@pytest.fixture
def abandoned() -> Iterator[queue.SimpleQueue[Any]]:
    """The records of the library's log, which come from other threads."""
    handler = QueueHandler(queue.SimpleQueue())
    logging.getLogger("workflow_runner").addHandler(handler)
    yield handler.queue  # type: ignore[misc]
    logging.getLogger("workflow_runner").removeHandler(handler)


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


@flow
def obeys(ctx: FlowContext, begun: threading.Event) -> None:
    """Waits for the signal and obeys it."""
    begun.set()
    assert ctx.signal.event.wait(LONG)
    ctx.throw_if_aborted()


# -- grace


def test_grace_ends_an_execution_whose_handler_never_looks(
    make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate, event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """``grace`` seconds after the cancel waiters are released; the thread is abandoned, its slot given on."""
    scope = make_scope(max_workers=1, clock=clock)
    execution, waiting = scope.exec(gate.flow), scope.exec(echo, 5)
    assert gate.begun.wait(LONG)
    assert execution.cancel("stop", grace=10)
    clock.block_until(10)
    clock.advance(9.999)
    assert execution.status == "running"
    clock.advance(0.001)
    with pytest.raises(errors.ExecutionCancelled, match="stop") as caught:
        execution.result(LONG)
    assert not isinstance(caught.value, errors.ExecutionTimeout)
    assert waiting.result(LONG) == 5
    assert scope.stats().abandoned == 1
    gate.go.set()
    scope.close()
    assert scope.stats().abandoned == 0
    assert execution.status == "cancelled"


def test_a_handler_that_obeys_within_its_grace_is_not_abandoned(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """The execution ends with its handler, and takes the grace's deadline with it."""
    scope, begun = make_scope(clock=clock), event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)
    execution.cancel("stop", grace=dt.timedelta(seconds=10))  # type: ignore[arg-type]
    with pytest.raises(errors.ExecutionCancelled):
        execution.result(LONG)
    scope.close()
    assert scope.stats().deadlines == 0
    assert scope.stats().abandoned == 0


def test_grace_may_be_zero_and_may_come_later(scope: Scope, gate: Gate) -> None:
    """``grace=0`` ends it now; a grace may follow a cancel without one; odd ones are refused without effect."""
    execution = scope.exec(gate.flow)
    assert gate.begun.wait(LONG)
    for wrong in (-1, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match="grace"):
            execution.cancel(grace=wrong)  # type: ignore[arg-type]
    assert not execution.abort.signal.aborted
    execution.cancel("stop")
    assert execution.status == "running"
    execution.cancel("later", grace=0)
    with pytest.raises(errors.ExecutionCancelled, match="stop"):
        execution.result(LONG)
    gate.go.set()


def test_racing_graces_leave_no_deadline(make_scope: Callable[..., Scope], together: Any, tiny_switches: None) -> None:
    """However many cancel with a grace at once: when the execution has ended, no deadline of theirs is left."""
    scope = make_scope(max_workers=1)
    for _ in range(30):
        begun = threading.Event()
        execution = scope.exec(obeys, begun)
        assert begun.wait(LONG)
        together(*[lambda execution=execution: execution.cancel("stop", grace=3600)] * 4)
        execution.exception(LONG)
        assert scope.run(echo, 1) == 1  # on the only slot: the thread has let go of the one before
        assert scope.stats().deadlines == 0


# -- the deadline of a root


def test_a_root_that_ignores_its_deadline_is_abandoned(
    make_scope: Callable[..., Scope],
    clock: ManualClock,
    gate: Gate,
    abandoned: queue.SimpleQueue[Any],
) -> None:
    """At the deadline: signal set, waiter released, slot given on, thread counted and logged with its stack.

    Its late value is dropped, and when it ends it is no longer counted.
    """
    scope = make_scope(max_workers=1, clock=clock)
    told: list[Any] = []
    execution = scope.exec(gate.flow, timeout=dt.timedelta(minutes=1), name="stubborn")
    execution.ctx.signal.on_abort(lambda: told.append(1))
    waiting = scope.exec(echo, "next")
    assert gate.begun.wait(LONG)
    clock.advance(59.9)
    assert (execution.status, scope.stats().deadlines) == ("running", 1)
    clock.advance(0.1)

    with pytest.raises(errors.ExecutionTimeout, match="stubborn timed out after 60 s") as caught:
        execution.result(LONG)
    assert execution.status == "cancelled"
    assert execution.abort.signal.aborted
    assert caught.value.reason is execution.abort.signal.reason
    assert waiting.result(LONG) == "next"
    stats = scope.stats()
    assert (stats.abandoned, stats.active, stats.deadlines) == (1, 0, 0)

    record = abandoned.get(timeout=LONG)
    assert (record.event, abandoned.empty()) == ("thread.abandoned", True)
    assert record.levelno == logging.WARNING
    assert (record.run_id, record.execution, record.scope) == (execution.id, "stubborn", scope.name)  # type: ignore[attr-defined]
    assert "in __call__" in record.stack  # type: ignore[attr-defined]
    assert "self.go.wait(LONG)" in record.stack  # type: ignore[attr-defined]
    assert "slots.py" not in record.stack  # type: ignore[attr-defined]

    gate.go.set()
    assert gate.ended.wait(LONG)
    scope.close()
    assert scope.stats().abandoned == 0
    assert isinstance(execution.exception(), errors.ExecutionTimeout)
    assert execution.status == "cancelled"
    assert told == [1]


def test_a_root_that_obeys_its_deadline_times_out_too(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """``throw_if_aborted`` after the deadline is ExecutionTimeout as well."""
    scope, begun = make_scope(max_workers=1, clock=clock), event()
    execution = scope.exec(obeys, begun, timeout=5)
    assert begun.wait(LONG)
    clock.advance(5)
    with pytest.raises(errors.ExecutionTimeout, match="obeys timed out after 5 s"):
        execution.result(LONG)


def test_time_is_running_time(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """The clock of a deadline starts with the handler, not in the queue."""
    scope = make_scope(max_workers=1, clock=clock)
    first, second = Gate(event), Gate(event)
    scope.exec(first.flow)
    execution = scope.exec(second.flow, timeout=5)
    clock.advance(1000)
    first.go.set()
    assert second.begun.wait(LONG)
    clock.advance(4)
    second.go.set()
    assert execution.result(LONG) == "late"


def test_where_a_timeout_may_come_from(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """The call's, or the flow's, or the scope's, in this order."""
    scope = make_scope(clock=clock, timeout=dt.timedelta(seconds=30))
    for own, given, expected in ((None, None, 30), (20, None, 20), (20, 10, 10), (None, 50, 50)):
        begun = event()
        timed = flow(name="timed", timeout=own)(obeys.handler)
        execution = scope.exec(timed, begun, timeout=given)
        assert begun.wait(LONG)
        clock.advance(expected)
        with pytest.raises(errors.ExecutionTimeout, match=f"timed timed out after {expected} s"):
            execution.result(LONG)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), -float("inf"), dt.timedelta(0), 10**400, "5"])
def test_odd_timeouts_are_refused_everywhere(make_scope: Callable[..., Scope], timeout: Any) -> None:
    """Zero, negative, NaN, infinite: ValueError, and nothing starts."""
    scope = make_scope(max_workers=1)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        for start in (
            lambda: ctx.exec(echo, timeout=timeout),
            lambda: ctx.exec(echo, timeout=timeout, key="k"),
            lambda: ctx.parallel([echo], timeout=timeout),
            lambda: ctx.parallel_settled([echo], timeout=timeout),
            lambda: ctx.stream([echo], timeout=timeout),
        ):
            with pytest.raises(ValueError, match="timeout must be"):
                start()

    scope.run(top)
    for start in (
        lambda: scope.exec(echo, timeout=timeout),
        lambda: scope.run(echo, timeout=timeout),
        lambda: scope.create_execution("block", timeout=timeout),
        lambda: make_scope(timeout=timeout).close(),
        lambda: flow(timeout=timeout)(lambda ctx, _: 1),
    ):
        with pytest.raises(ValueError, match="timeout must be"):
            start()
    assert scope.executions == ()


@pytest.mark.parametrize("timeout", [None, 1e-300 + 1e9, 1e300, dt.timedelta.max, 10**300])
def test_no_timeout_and_very_large_ones_are_fine(scope: Scope, timeout: Any) -> None:
    """None is none; a millennium is fine, for roots, children, items and streams."""

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return [
            ctx.exec(echo, 1, timeout=timeout),
            *ctx.parallel([echo.bind(2)], timeout=timeout),
            *ctx.stream([echo.bind(3)], timeout=timeout),
        ]

    assert scope.exec(top, timeout=timeout).result(LONG) == [1, 2, 3]


def test_a_thousand_deadlines_at_once(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """1,000 concurrent executions that reach their deadline together all end; nothing is left behind."""
    scope = make_scope(max_workers=1000, max_abandoned=2000, clock=clock)
    begun = threading.Semaphore(0)

    @flow
    def waits(ctx: FlowContext, _: Any) -> None:
        begun.release()
        ctx.sleep(3600)

    executions = [scope.exec(waits, timeout=30) for _ in range(1000)]
    for _ in executions:
        assert begun.acquire(timeout=LONG)
    assert scope.stats().deadlines == 1000
    clock.advance(30)
    for execution in executions:
        assert isinstance(execution.exception(LONG), errors.ExecutionTimeout)
    assert scope.stats().deadlines == 0


def test_a_finished_execution_leaves_no_deadline(make_scope: Callable[..., Scope]) -> None:
    """10,000 no-ops with ``timeout=60``: no entry, one watchdog thread, and none per execution."""
    scope = make_scope(max_workers=2)
    pending = [scope.exec(echo, number, timeout=60) for number in range(10_000)]
    assert [execution.result(LONG) for execution in pending] == list(range(10_000))
    assert sum(thread.name == f"{scope.name}-watchdog" for thread in threading.enumerate()) == 1
    scope.close()
    assert (scope.stats().deadlines, scope._watchdog._heap) == (0, [])


def test_a_slow_log_holds_up_no_deadline(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """While a logging handler is stuck over one abandoned thread, other deadlines release their waiters."""
    stuck, logging_now = event(), event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging_now.set()
            stuck.wait(LONG)

    scope = make_scope(max_workers=2, clock=clock)
    first, second = Gate(event), Gate(event)
    early, late = scope.exec(first.flow, timeout=10), scope.exec(second.flow, timeout=20)
    assert first.begun.wait(LONG)
    assert second.begun.wait(LONG)
    handler = Slow()
    logging.getLogger("workflow_runner").addHandler(handler)
    try:
        clock.advance(10)
        assert isinstance(early.exception(LONG), errors.ExecutionTimeout)
        assert logging_now.wait(LONG)
        clock.advance(10)
        assert isinstance(late.exception(LONG), errors.ExecutionTimeout)
    finally:
        stuck.set()
        logging.getLogger("workflow_runner").removeHandler(handler)
    first.go.set()
    second.go.set()


def test_callbacks_at_a_deadline_hold_up_no_deadline(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """Callbacks that block, of the signal, of the status and of the end, keep no other deadline waiting."""
    scope, stuck = make_scope(max_workers=2, clock=clock), event()
    first, second = Gate(event), Gate(event)
    early, late = scope.exec(first.flow, timeout=10), scope.exec(second.flow, timeout=20)
    assert first.begun.wait(LONG)
    assert second.begun.wait(LONG)
    called = [event() for _ in range(3)]

    def blocks(number: int) -> Callable[..., None]:
        def callback(*_: Any) -> None:
            called[number].set()
            stuck.wait(LONG)

        return callback

    early.ctx.signal.on_abort(blocks(0))
    early.on_status_change(blocks(1))
    early.add_done_callback(blocks(2))
    clock.advance(10)
    assert isinstance(early.exception(LONG), errors.ExecutionTimeout)
    clock.advance(10)
    assert isinstance(late.exception(LONG), errors.ExecutionTimeout)
    stuck.set()
    assert all(one.wait(LONG) for one in called)
    first.go.set()
    second.go.set()


def test_an_execution_that_no_watchdog_can_watch_has_failed(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread can be had for its deadline it fails, instead of running without or hanging."""

    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    scope.run(echo)
    with monkeypatch.context() as patch:
        patch.setattr(scope._watchdog, "at", fail)
        execution = scope.exec(echo, timeout=5)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            execution.result(LONG)
    assert execution.status == "failed"


# -- timed children


def timed_parent(child: Any, timeout: Any, after: Any = None) -> Any:
    @flow
    def parent(ctx: FlowContext, _: Any) -> Any:
        try:
            return ctx.exec(child, timeout=timeout)
        except errors.ExecutionTimeout as error:
            return f"caught {error}" if after is None else after(ctx, error)

    return parent


def test_a_childs_timeout_releases_the_parent_on_time(
    make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate
) -> None:
    """The parent gets ExecutionTimeout though the child ignores it, and goes on; the thread is abandoned."""
    scope = make_scope(max_workers=1, clock=clock)
    statuses: list[Any] = []

    def after(ctx: FlowContext, error: errors.ExecutionTimeout) -> Any:
        statuses.append((ctx.status, ctx.signal.aborted, scope.stats().abandoned))
        return [str(error), ctx.exec(echo, 5), *ctx.parallel(echo.each([6, 7]))]

    execution = scope.exec(timed_parent(gate.flow, 10, after))
    assert gate.begun.wait(LONG)
    clock.advance(10)
    assert execution.result(LONG) == ["gated timed out after 10 s", 5, 6, 7]
    assert statuses == [("running", False, 1)]
    assert execution.status == "completed"
    gate.go.set()
    scope.close()
    assert scope.stats().abandoned == 0


def test_a_timed_child_that_is_in_time_answers(scope: Scope) -> None:
    """Values and errors of a timed child are those of an untimed one."""
    error = ValueError("no")

    @flow
    def fails(ctx: FlowContext, _: Any) -> None:
        raise error

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        with pytest.raises(ValueError, match="no") as caught:
            ctx.exec(fails, timeout=LONG)
        return caught.value is error, ctx.exec(echo, 5, timeout=LONG), ctx.exec(call(len, "abc"), timeout=LONG)

    assert scope.run(top) == (True, 5, 3)


def test_left_uncaught_the_root_has_failed(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """A child's timeout is an error of the parent like any other."""
    scope, begun = make_scope(clock=clock), event()

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.exec(obeys, begun, timeout=10)

    execution = scope.exec(top)
    assert begun.wait(LONG)
    clock.advance(10)
    with pytest.raises(errors.ExecutionTimeout, match="obeys timed out after 10 s"):
        execution.result(LONG)
    assert execution.status == "failed"


def test_siblings_go_on(make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate, event: Any) -> None:
    """One item's timeout hurts no other item of a settled fan-out."""
    scope, sibling = make_scope(max_workers=3, clock=clock), Gate(event, "sibling")

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        @flow
        def item(ctx: FlowContext, which: Any) -> Any:
            return ctx.exec(which, timeout=10) if which is gate.flow else ctx.exec(which)

        return ctx.parallel_settled(item.each([gate.flow, sibling.flow, echo]))

    execution = scope.exec(top)
    assert gate.begun.wait(LONG)
    assert sibling.begun.wait(LONG)
    clock.advance(10)
    clock.advance(10)
    sibling.go.set()
    settled = execution.result(LONG)
    assert settled.values() == ["sibling", None]
    assert [str(error) for error in settled.errors()] == ["gated timed out after 10 s"]
    gate.go.set()


def test_a_child_has_at_most_what_is_left_of_its_parents_time(
    make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate
) -> None:
    """A child with a longer timeout ends with the parent's deadline; the root is cancelled by its own."""
    scope = make_scope(max_workers=1, clock=clock)
    execution = scope.exec(timed_parent(gate.flow, 1000), timeout=30)
    assert gate.begun.wait(LONG)
    assert scope.stats().deadlines == 2
    (child,) = execution._subtasks or ()
    clock.advance(30)
    with pytest.raises(errors.ExecutionTimeout, match="parent timed out after 30 s"):
        execution.result(LONG)
    assert child._wait(LONG)
    assert isinstance(child.ctx.details.error, errors.ExecutionTimeout)
    assert scope.stats().deadlines == 0
    gate.go.set()


def test_nested_timeouts_where_the_outer_is_shorter(
    make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate
) -> None:
    """The outer deadline releases the one who waits for the outer; the inner child gets no more time than that."""
    scope = make_scope(max_workers=1, clock=clock)
    inner = timed_parent(gate.flow, 1000)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        with pytest.raises(errors.ExecutionTimeout, match="parent timed out after 10 s"):
            ctx.exec(inner, timeout=10)
        return ctx.exec(echo, "on time")

    execution = scope.exec(top, timeout=100)
    assert gate.begun.wait(LONG)
    clock.advance(10)
    assert execution.result(LONG) == "on time"
    gate.go.set()
    scope.close()
    assert scope.stats() == attrs.evolve(scope.stats(), abandoned=0, deadlines=0, free=1)


def test_nested_timeouts_where_the_inner_is_shorter(
    make_scope: Callable[..., Scope], clock: ManualClock, gate: Gate
) -> None:
    """The inner deadline releases the inner parent, and nobody else."""
    scope = make_scope(max_workers=1, clock=clock)
    inner = timed_parent(gate.flow, 10)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return ctx.exec(inner, timeout=1000)

    execution = scope.exec(top, timeout=2000)
    assert gate.begun.wait(LONG)
    clock.advance(10)
    assert execution.result(LONG) == "caught gated timed out after 10 s"
    gate.go.set()


def test_a_timed_child_in_an_item_in_a_timed_root(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """When the root's time is over everything below is let go of: items, helpers, timed children."""
    scope = make_scope(max_workers=3, clock=clock)
    gates = [Gate(event) for _ in range(3)]

    @flow
    def item(ctx: FlowContext, number: int) -> Any:
        return ctx.exec(gates[number].flow, timeout=1000)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return ctx.parallel(item.each(range(3)))

    execution = scope.exec(top, timeout=50)
    assert all(gate.begun.wait(LONG) for gate in gates)
    clock.advance(50)
    with pytest.raises(errors.ExecutionTimeout, match="top timed out after 50 s"):
        execution.result(LONG)
    # every slot is back at once
    again = [Gate(event) for _ in range(3)]
    others = [scope.exec(gate.flow) for gate in again]
    assert all(gate.begun.wait(LONG) for gate in again)
    for gate in again + gates:
        gate.go.set()
    assert [other.result(LONG) for other in others] == ["late"] * 3
    scope.close()
    assert scope.stats().abandoned == 0


def test_cancelling_the_root_reaches_a_timed_child(scope: Scope, event: Any) -> None:
    """The parent raises ``Aborted``, not the child's ExecutionCancelled; the reason is the canceller's."""
    begun = event()
    seen: list[Any] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        try:
            ctx.exec(obeys, begun, timeout=LONG)
        except BaseException as error:
            seen.append(error)
            raise

    execution = scope.exec(top)
    assert begun.wait(LONG)
    execution.cancel("stop")
    with pytest.raises(errors.ExecutionCancelled, match="stop"):
        execution.result(LONG)
    assert isinstance(seen[0], errors.Aborted)
    assert seen[0].reason == "stop"


def test_a_timed_child_for_which_there_is_no_thread_fails(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ctx.exec(timeout=)`` raises ScopeSaturated when no thread can be had, and nobody waits for ever."""

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        def fail(*_: Any) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(scope._slots._threads, "submit", fail)
            with pytest.raises(errors.ScopeSaturated, match="cannot start a thread"):
                ctx.exec(echo, 1, timeout=LONG)
            assert ctx.parallel(echo.each(range(5)), max_concurrency=4) == [0, 1, 2, 3, 4]
        return ctx.exec(echo, 2, timeout=LONG)

    assert scope.run(top) == 2
