"""Scopes: what owns everything live, and how it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import ExecutionContext, Flow, FlowContext, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


@flow
def obeys(ctx: FlowContext, begun: threading.Event) -> None:
    begun.set()
    assert ctx.signal.event.wait(LONG)
    ctx.throw_if_aborted()


def wait_for(go: threading.Event, begun: threading.Event | None = None) -> str:
    if begun is not None:
        begun.set()
    assert go.wait(LONG)
    return "done"


def test_stats_are_the_counts_of_now(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """Active, pending, abandoned, free slots, slots in all, deadlines."""
    scope, go = make_scope(max_workers=3, clock=clock), event()

    def counts() -> tuple[int, ...]:
        stats = scope.stats()
        return stats.active, stats.pending, stats.abandoned, stats.free, stats.max_workers, stats.deadlines

    assert counts() == (0, 0, 0, 3, 3, 0)
    begun = [event() for _ in range(3)]
    running = [scope.exec(call(wait_for, go, one), timeout=10 * (n + 1)) for n, one in enumerate(begun)]
    assert all(one.wait(LONG) for one in begun)
    waiting = [scope.exec(echo, n, timeout=5) for n in range(2)]
    assert counts() == (3, 2, 0, 0, 3, 3)
    waiting[0].cancel()
    assert counts() == (3, 1, 0, 0, 3, 3)
    clock.advance(10)
    assert isinstance(running[0].exception(LONG), errors.ExecutionTimeout)
    assert waiting[1].result(LONG) == 1
    go.set()
    assert [one.result(LONG) for one in running[1:]] == ["done"] * 2
    scope.close()
    assert counts() == (0, 0, 0, 3, 3, 0)


def test_options_of_exec(scope: Scope) -> None:
    """Name and metadata are those of the execution; what needs a store says so, and nothing starts."""
    execution = scope.exec(echo, 1, name="nightly", metadata={"a": 1})
    assert (execution.ctx.name, execution.flow_name, execution.ctx.details.metadata) == ("nightly", "echo", {"a": 1})
    assert execution.result(LONG) == 1
    with pytest.raises(errors.StoreError, match="idempotency_key needs a scope with a store"):
        scope.exec(echo, 1, idempotency_key="k")
    assert scope.exec(echo, 1, durable=False).result(LONG) == 1
    with pytest.raises(errors.StoreError, match="needs a scope with a store"):
        scope.resume("some-run")
    assert scope.executions == ()


def test_metadata_does_not_alias(scope: Scope) -> None:
    """What the caller does to its mapping later is not seen."""
    metadata = {"a": 1}
    execution = scope.exec(echo, 1, metadata=metadata)
    block = scope.create_execution("block", metadata=metadata)
    metadata["a"] = 2
    assert execution.ctx.details.metadata == block.details.metadata == {"a": 1}
    block.end()


# -- closing


def test_leaving_the_block_waits_for_everything(event: Any) -> None:
    """Running and queued executions end; then the threads do; the results are there."""
    go = event()
    with Scope(name="leaving", max_workers=2) as scope:
        executions = [scope.exec(call(wait_for, go)) for _ in range(6)]
        threading.Timer(0, go.set).start()
    assert [execution.status for execution in executions] == ["completed"] * 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("leaving")]
    assert (scope.stats().free, repr(scope)) == (2, "<Scope 'leaving' closed>")


def test_an_error_in_the_block_still_waits(event: Any) -> None:
    """An ordinary exception leaves the block after what runs has ended."""
    go = event()
    with pytest.raises(ValueError, match="no"), Scope(max_workers=1) as scope:
        executions = [scope.exec(call(wait_for, go)) for _ in range(2)]
        go.set()
        raise ValueError("no")
    assert [execution.status for execution in executions] == ["completed"] * 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_leaving_the_block_by_an_interrupt_cancels(event: Any, interrupt: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit tell everything to stop, and then wait for it."""
    begun = event()
    with pytest.raises(interrupt), Scope(max_workers=1) as scope:
        executions = [scope.exec(obeys, begun) for _ in range(3)]
        assert begun.wait(LONG)
        raise interrupt
    assert [execution.status for execution in executions] == ["cancelled"] * 3


def test_cancelling_close(make_scope: Callable[..., Scope], event: Any) -> None:
    """``close(cancel=True)``: what waits never runs, what runs is told and awaited; the reason names the scope."""
    scope, begun, never = make_scope(max_workers=1), event(), event()
    running, waiting = scope.exec(obeys, begun), scope.exec(call(never.set))
    assert begun.wait(LONG)
    scope.close(cancel=True)
    for execution in (running, waiting):
        assert execution.status == "cancelled"
        error = execution.exception()
        assert isinstance(error, errors.ExecutionCancelled)
        assert scope.name in str(error.reason)
    assert not never.is_set()


def test_close_with_a_grace_and_a_stuck_thread(make_scope: Callable[..., Scope], event: Any) -> None:
    """What has not ended by then is told, its waiters are released, its thread is abandoned, and close returns."""
    scope, begun, go = make_scope(max_workers=1), event(), event()
    stuck, waiting = scope.exec(call(wait_for, go, begun)), scope.exec(echo, 1)
    assert begun.wait(LONG)
    scope.close(timeout=0.01)
    assert stuck.status == waiting.status == "cancelled"
    assert stuck.abort.signal.aborted
    with pytest.raises(errors.ExecutionCancelled, match=scope.name):
        stuck.result()
    assert scope.stats().abandoned == 1
    scope.close(timeout=0)
    go.set()


def test_close_with_a_grace_that_suffices(make_scope: Callable[..., Scope], event: Any) -> None:
    """Nothing is told to stop while the grace lasts, and close returns as soon as all has ended."""
    scope, go = make_scope(max_workers=1), event()
    executions = [scope.exec(call(wait_for, go)) for _ in range(3)]
    threading.Timer(0, go.set).start()
    scope.close(timeout=LONG)
    assert [execution.status for execution in executions] == ["completed"] * 3


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf")])
def test_a_grace_that_makes_no_sense_closes_nothing(scope: Scope, wrong: Any) -> None:
    """ValueError, and the scope goes on."""
    with pytest.raises(ValueError, match="timeout must be zero or more"):
        scope.close(timeout=wrong)
    assert scope.run(echo, 5) == 5


def test_closing_again_is_harmless(make_scope: Callable[..., Scope]) -> None:
    """Any number of times, in every way."""
    scope = make_scope()
    scope.exec(echo, 1)
    for options in ({}, {"cancel": True}, {"timeout": 0}, {"cancel": True, "timeout": 1}):
        scope.close(**options)


def test_the_second_close_waits_for_the_first(make_scope: Callable[..., Scope], event: Any, together: Any) -> None:
    """Both return when everything has ended; one with a limit of its own returns before."""
    scope, begun, go = make_scope(max_workers=1), event(), event()
    execution = scope.exec(call(wait_for, go, begun))
    assert begun.wait(LONG)

    def close() -> str:
        scope.close()
        return execution.status

    def look() -> str:
        while not scope._closer:
            pass  # until one of the others waits
        scope.close(timeout=0)
        before = execution.status
        go.set()
        return before

    assert together(close, close, look) == ["completed", "completed", "running"]


def test_a_second_close_may_cancel(make_scope: Callable[..., Scope], event: Any, together: Any) -> None:
    """While a graceful close waits, ``close(cancel=True)`` tells what runs to stop."""
    scope, begun = make_scope(max_workers=1), event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)

    def hurry() -> None:
        while not scope._closer:
            pass
        scope.close(cancel=True)

    together(scope.close, hurry)
    assert execution.status == "cancelled"


def test_a_signal_handler_may_close(make_scope: Callable[..., Scope], event: Any, interrupt: Any) -> None:
    """SIGTERM's handler calls ``close(cancel=True)`` in the middle of a graceful close: that hurries up, and ends."""
    scope, begun = make_scope(max_workers=1), event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)
    called: list[int] = []

    def handler(*_: Any) -> None:
        called.append(1)
        scope.close(cancel=True)

    def send() -> None:
        while not scope._closer:
            pass
        interrupt(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        threading.Thread(target=send, daemon=True).start()
        scope.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (called, execution.status) == ([1], "cancelled")


def test_an_interrupted_close_can_be_closed_again(make_scope: Callable[..., Scope], event: Any, interrupt: Any) -> None:
    """Ctrl-C while ``close`` waits is raised, tells what runs to stop, and leaves a scope that can be closed."""
    scope, begun = make_scope(max_workers=1), event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)

    def send() -> None:
        while not scope._closer:
            pass
        interrupt()

    threading.Thread(target=send, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        scope.close()
    scope.close()
    assert execution.status == "cancelled"


@pytest.mark.parametrize("where", ["root", "child", "item", "timed", "block"])
def test_a_flow_cannot_close_its_scope(scope: Scope, where: str) -> None:
    """ContextError from anywhere inside, because it would wait for itself; the scope goes on."""

    def close(*_: Any) -> None:
        with pytest.raises(errors.ContextError, match="cannot close the scope that it runs in"):
            scope.close()

    closes = flow(name="closes")(close)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        match where:
            case "child":
                ctx.exec(closes)
            case "item":
                ctx.parallel([closes, closes])
            case "timed":
                ctx.exec(closes, timeout=LONG)
            case "block":
                ctx.exec("block", close)
            case _:
                close()

    scope.exec(top).result(LONG)
    assert scope.run(echo, 5) == 5


def test_a_flow_may_close_another_scope(make_scope: Callable[..., Scope]) -> None:
    """Only its own is forbidden."""
    outer, inner = make_scope(), make_scope()

    @flow
    def top(ctx: FlowContext, _: Any) -> str:
        execution = inner.exec(echo, 5)
        inner.close()
        return execution.status

    assert outer.run(top) == "completed"


def test_a_closed_scope_takes_no_more_work(make_scope: Callable[..., Scope]) -> None:
    """ScopeClosed from every start; handles and contexts of before still answer."""
    scope = make_scope()
    execution = scope.exec(echo, 5)
    scope.close()
    for start in (
        lambda: scope.exec(echo, 1),
        lambda: scope.exec(echo, 1, timeout=5),
        lambda: scope.run(echo, 1),
        lambda: scope.create_execution("block"),
    ):
        with pytest.raises(errors.ScopeClosed, match="is closed and takes no more work"):
            start()
    assert (execution.result(), execution.status, scope.executions) == (5, "completed", ())
    execution.add_done_callback(lambda e: None)


def test_a_closing_scope_takes_no_new_roots_and_lets_flows_finish(
    make_scope: Callable[..., Scope], event: Any, together: Any
) -> None:
    """While it waits, running flows may still run children and fan out; new executions are refused."""
    scope, begun = make_scope(max_workers=2), event()

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        begun.set()
        while not scope._closer:
            pass
        with pytest.raises(errors.ScopeClosed):
            scope.exec(echo, 1)
        return [
            ctx.exec(echo, 1),
            ctx.exec(echo, 2, timeout=LONG),
            *ctx.parallel(echo.each([3, 4])),
            *ctx.stream(echo.each([5, 6])),
        ]

    execution = scope.exec(top)
    assert begun.wait(LONG)
    scope.close()
    assert execution.result() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("start", ["exec", "run"])
def test_a_start_that_close_overtakes_is_refused(
    make_scope: Callable[..., Scope], event: Any, together: Any, start: str
) -> None:
    """What was let in before ``close`` and comes after it is ScopeClosed and never runs: nobody would wait for it."""
    scope, begun, go, preparing, prepared, ran = make_scope(max_workers=2), *(event() for _ in range(5))

    class Slow(Flow[Any, Any]):
        def prepare(self, value: Any) -> Any:
            preparing.set()
            assert prepared.wait(LONG)
            return value

    slow = Slow(lambda ctx, _: ran.set(), name="slow")
    blocker = scope.exec(call(wait_for, go, begun))
    assert begun.wait(LONG)

    def come_late() -> None:
        assert preparing.wait(LONG)
        while not scope._closer:
            pass  # until `close` waits for the blocker
        prepared.set()

    def close() -> None:
        assert preparing.wait(LONG)
        scope.close()

    def begin() -> None:
        try:
            getattr(scope, start)(slow)
        finally:
            go.set()

    outcome, *_ = together(begin, come_late, close)
    assert isinstance(outcome, errors.ScopeClosed)
    assert (blocker.status, scope.executions, ran.is_set()) == ("completed", (), False)


def test_closing_from_a_callback(make_scope: Callable[..., Scope], event: Any) -> None:
    """A done callback may close the scope: it waits for the others, not for its own execution."""
    scope, go, closed = make_scope(max_workers=2), event(), event()
    first, second = scope.exec(call(wait_for, go)), scope.exec(call(wait_for, go))

    def close(_: Any) -> None:
        scope.close()
        closed.set()

    first.add_done_callback(close)
    go.set()
    assert closed.wait(LONG)
    assert second.status == "completed"


def test_tracked_executions_end_with_their_scope(make_scope: Callable[..., Scope]) -> None:
    """One that nobody has ended is told, cancelled with the reason, and close does not wait for it."""
    scope = make_scope()
    open_, ended = scope.create_execution("open", timeout=3600), scope.create_execution("ended")
    ended.end()
    scope.close()
    assert (open_.status, ended.status) == ("cancelled", "completed")
    assert open_.signal.aborted
    assert scope.name in str(open_.signal.reason)
    open_.end()
    assert open_.status == "cancelled"


# -- tracking without a flow


def test_create_execution_runs_no_thread_and_takes_no_slot(make_scope: Callable[..., Scope]) -> None:
    """Tracking is bookkeeping only."""
    scope = make_scope(max_workers=1)
    blocks: list[ExecutionContext] = [scope.create_execution(f"block {n}") for n in range(5)]
    assert scope.stats().free == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(scope.name)]
    with blocks[0]:
        assert scope.run(echo, 5) == 5  # inside the block too
    for block in blocks:
        block.end()
