"""One execution: its life, its outcome, its cancellation, its deadline, those who follow it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from workflow_runner import ExecutionStatus, FlowContext, FlowExecution, Scope, errors, flow

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


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


@flow
def obeys(ctx: FlowContext, begun: threading.Event) -> None:
    """Waits for the signal and obeys it."""
    begun.set()
    assert ctx.signal.event.wait(LONG)
    ctx.throw_if_aborted()


# -- the life


def test_from_pending_over_running_to_completed(make_scope: Callable[..., Scope], event: Any) -> None:
    """The handle of an execution that waits, runs and completes says so in every way."""
    scope = make_scope(max_workers=1)
    first, second = Gate(event), Gate(event)
    scope.exec(first.flow)
    assert first.begun.wait(LONG)

    execution = scope.exec(second.flow, name="job")
    assert (execution.status, execution.done(), execution.running(), execution.cancelled()) == (
        "pending",
        False,
        False,
        False,
    )
    assert scope.stats().pending == 1
    first.go.set()
    assert second.begun.wait(LONG)
    assert (execution.status, execution.done(), execution.running()) == ("running", False, True)
    second.go.set()
    assert execution.result(LONG) == "late"
    assert (execution.status, execution.done(), execution.running(), execution.cancelled()) == (
        "completed",
        True,
        False,
        False,
    )
    assert execution.exception() is None
    assert (execution.flow_name, execution.ctx.name) == ("gated", "job")
    assert execution.id in repr(execution)
    assert "completed" in repr(execution)


def test_a_status_is_terminal_before_result_returns(scope: Scope) -> None:
    """Whoever has the result sees the terminal status, in the handle and in the context."""
    for number in range(300):
        execution = scope.exec(echo, number)
        assert execution.result(LONG) == number
        assert execution.status is execution.ctx.status is ExecutionStatus.COMPLETED
        assert execution.ctx.details.completed_at is not None
        assert execution not in scope.executions


def test_executions_lists_the_live_ones_oldest_first(make_scope: Callable[..., Scope], gate: Gate) -> None:
    """Running and waiting ones, in the order of their start, and no others."""
    scope = make_scope(max_workers=1)
    scope.run(echo)
    started = [scope.exec(gate.flow), *(scope.exec(echo) for _ in range(20))]
    assert scope.executions == tuple(started)
    started[5].cancel()
    assert scope.executions == tuple(started[:5] + started[6:])
    gate.go.set()
    started[-1].result(LONG)
    assert scope.executions == ()


# -- results and errors


def test_result_is_the_handlers_own_object(scope: Scope) -> None:
    """Nothing is copied, on the way in or out."""
    value: list[int] = []
    execution = scope.exec(echo, value)
    assert execution.result(LONG) is value
    assert execution.result() is value
    assert scope.run(echo, value) is value


def test_an_error_is_the_handlers_own_object_with_a_note(scope: Scope) -> None:
    """``result`` raises, and ``exception`` gives, the very exception, with a note naming flow and run."""
    error = ValueError("no")
    execution = scope.exec(Gate(threading.Event, error).flow)
    execution.flow.handler.go.set()  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as caught:
            execution.result(LONG)
        assert caught.value is error
    assert execution.exception() is error
    assert execution.ctx.details.error is error
    assert execution.status == "failed"
    assert error.__notes__ == [f"in flow 'gated', run {execution.id}"]


def test_the_note_is_there_as_soon_as_the_error_is(scope: Scope, tiny_switches: None) -> None:
    """Who sees the failed status sees the note."""

    @flow
    def fails(ctx: FlowContext, _: Any) -> None:
        raise ValueError("no")

    for _ in range(200):
        execution = scope.exec(fails)
        while not execution.done():
            pass
        error = execution.exception()
        assert error is not None
        assert error.__notes__ == [f"in flow 'fails', run {execution.id}"]


def test_errors_from_below_get_the_note_too(scope: Scope) -> None:
    """What a child, or another execution, has raised fails the root with its own exception."""

    @flow
    def child(ctx: FlowContext, _: Any) -> None:
        raise errors.ExecutionTimeout("of something else")

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.exec(child)

    execution = scope.exec(top)
    error = execution.exception(LONG)
    assert isinstance(error, errors.ExecutionTimeout)
    assert execution.status == "failed"
    assert error.__notes__ == [f"in flow 'top', run {execution.id}"]


@attrs.frozen
class FrozenAttrs(Exception):
    code: int


@dataclasses.dataclass(frozen=True)
class FrozenDataclass(Exception):
    code: int


class BadNotes(Exception):
    __notes__ = "no list"  # type: ignore[assignment]


class NoneNotes(Exception):
    __notes__ = None  # type: ignore[assignment]


class RefusesNotes(Exception):
    def add_note(self, note: str) -> None:
        raise SystemError("no notes")


@pytest.mark.parametrize("error", [FrozenAttrs(1), FrozenDataclass(1), BadNotes(), NoneNotes(), RefusesNotes()])
def test_an_error_that_takes_no_note_is_raised_all_the_same(scope: Scope, error: Exception) -> None:
    """Frozen and odd exceptions end their execution like any other, as root and in a fan-out."""

    @flow
    def fails(ctx: FlowContext, _: Any) -> None:
        raise error

    @flow
    def fans(ctx: FlowContext, _: Any) -> None:
        ctx.parallel([fails, fails], max_concurrency=2)

    for one in (fails, fans):
        execution = scope.exec(one)
        assert execution.exception(LONG) is error
        assert execution.status == "failed"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(5)])
def test_a_handler_may_raise_anything(scope: Scope, error: BaseException) -> None:
    """SystemExit and its like end neither the worker nor the process: they are the execution's error."""

    @flow
    def raises(ctx: FlowContext, _: Any) -> None:
        raise error

    for start in (scope.exec(raises), scope.exec(raises, timeout=LONG)):
        with pytest.raises(type(error)) as caught:
            start.result(LONG)
        assert caught.value is error
        assert start.status == "failed"
    with pytest.raises(type(error)) as caught:
        scope.run(raises)
    assert caught.value is error
    assert scope.run(echo, 5) == 5


def test_waiting_has_a_limit_of_its_own(scope: Scope, gate: Gate) -> None:
    """``result(timeout)`` raises TimeoutError and changes nothing; so do 0 and less, and ``exception``."""
    execution = scope.exec(gate.flow)
    for timeout in (0, -1, 0.001):
        for wait in (execution.result, execution.exception):
            with pytest.raises(TimeoutError, match="'gated' has not ended") as caught:
                wait(timeout)
            assert not isinstance(caught.value, errors.ExecutionTimeout)
    assert execution.running() or execution.status == "pending"
    gate.go.set()
    assert execution.result(1e300) == "late"


def test_many_waiters_are_all_released(scope: Scope, gate: Gate, together: Any) -> None:
    """Everybody who waits gets the result, those who give up before do not disturb the others."""

    def impatient() -> str:
        try:
            return execution.result(0.0001)
        except TimeoutError:
            return "gave up"

    for _ in range(20):
        one = Gate(threading.Event)
        execution = scope.exec(one.flow)
        outcomes = together(*[lambda: execution.result(LONG)] * 5, *[impatient] * 5, one.go.set)  # noqa: B023
        assert outcomes[:5] == ["late"] * 5
        assert set(outcomes[5:10]) <= {"late", "gave up"}
    gate.go.set()


# -- cancelling


def test_abort_while_pending_never_runs_the_handler(make_scope: Callable[..., Scope], event: Any) -> None:
    """A cancelled execution that waits for a slot is cancelled at once, and leaves the queue."""
    scope = make_scope(max_workers=1)
    first, second = Gate(event), Gate(event)
    scope.exec(first.flow)
    execution = scope.exec(second.flow)
    assert execution.cancel("not needed") is True
    assert (execution.status, execution.cancelled(), scope.stats().pending) == ("cancelled", True, 0)
    with pytest.raises(errors.ExecutionCancelled, match="gated was cancelled: not needed") as caught:
        execution.result(LONG)
    assert caught.value.reason == "not needed"
    assert execution.ctx.details.started_at is None
    assert execution.ctx.details.completed_at is not None
    assert execution.cancel() is False
    first.go.set()
    scope.close()
    assert not second.begun.is_set()


def test_abort_and_normal_return_is_completed(scope: Scope, gate: Gate) -> None:
    """A handler that finishes its work in spite of the signal has completed."""
    execution = scope.exec(gate.flow)
    assert gate.begun.wait(LONG)
    assert execution.cancel("stop") is True
    assert execution.status == "running"
    assert execution.abort.signal.reason == "stop"
    gate.go.set()
    assert execution.result(LONG) == "late"
    assert execution.status == "completed"


@pytest.mark.parametrize("error", [ValueError("no"), errors.Aborted("other"), SystemExit(1), KeyboardInterrupt()])
def test_abort_and_an_exception_is_cancelled_with_that_cause(scope: Scope, event: Any, error: BaseException) -> None:
    """ExecutionCancelled with the canceller's reason; the handler's exception is its cause."""
    gate = Gate(event, error)
    execution = scope.exec(gate.flow)
    assert gate.begun.wait(LONG)
    execution.cancel("stop")
    gate.go.set()
    with pytest.raises(errors.ExecutionCancelled) as caught:
        execution.result(LONG)
    assert caught.value.reason == "stop"
    assert caught.value.__cause__ is error
    assert execution.status == "cancelled"
    assert not hasattr(error, "__notes__")


def test_a_cancelled_error_is_what_libraries_expect(scope: Scope, event: Any) -> None:
    """ExecutionCancelled is an Exception and a concurrent.futures.CancelledError; a timeout also a TimeoutError."""
    begun = event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)
    execution.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        execution.result(LONG)
    error = execution.exception()
    assert isinstance(error, Exception)
    assert not isinstance(error, TimeoutError)
    assert issubclass(errors.ExecutionTimeout, errors.ExecutionCancelled)
    assert issubclass(errors.ExecutionTimeout, TimeoutError)


def test_a_handler_that_catches_aborted_and_returns_has_completed(scope: Scope, event: Any) -> None:
    """Catching the signal's exception on purpose is a normal end."""
    begun = event()

    @flow
    def cleans_up(ctx: FlowContext, _: Any) -> str:
        try:
            obeys(ctx, begun)
        except errors.Aborted as aborted:
            return f"cleaned up after {aborted.reason}"
        return "never told"

    execution = scope.exec(cleans_up)
    assert begun.wait(LONG)
    execution.abort.abort("midnight")
    assert execution.result(LONG) == "cleaned up after midnight"
    assert execution.status == "completed"


def test_except_exception_does_not_swallow_the_signal(scope: Scope, event: Any) -> None:
    """Old code below a handler that catches every Exception cannot hold up a cancelled execution."""
    begun = event()

    @flow
    def old_code(ctx: FlowContext, _: Any) -> str:
        try:
            obeys(ctx, begun)
        except Exception:
            return "swallowed"
        return "never told"

    execution = scope.exec(old_code)
    assert begun.wait(LONG)
    execution.cancel()
    with pytest.raises(errors.ExecutionCancelled):
        execution.result(LONG)


def test_a_handler_may_abort_itself(scope: Scope) -> None:
    """Raising ``Aborted`` without being told to is cancelled, with that reason, from every depth."""

    @flow
    def gives_up(ctx: FlowContext, _: Any) -> None:
        raise errors.Aborted("nothing to do")

    @flow
    def by_child(ctx: FlowContext, timeout: Any) -> None:
        ctx.exec(gives_up, timeout=timeout)

    @flow
    def by_item(ctx: FlowContext, _: Any) -> None:
        ctx.parallel([echo, gives_up, echo])

    for execution in (
        scope.exec(gives_up),
        scope.exec(by_child),
        scope.exec(by_child, LONG),
        scope.exec(by_item),
    ):
        with pytest.raises(errors.ExecutionCancelled, match="was cancelled: nothing to do") as caught:
            execution.result(LONG)
        assert caught.value.reason == "nothing to do"
        assert execution.status == "cancelled"


def test_the_first_reason_counts(scope: Scope, event: Any) -> None:
    """Cancelling again says True while it runs, and changes no reason."""
    begun = event()
    execution = scope.exec(obeys, begun)
    assert begun.wait(LONG)
    assert execution.cancel("first") is True
    execution.cancel("second")
    with pytest.raises(errors.ExecutionCancelled, match="first"):
        execution.result(LONG)
    assert execution.cancel("third") is False


def test_the_signal_reaches_everything_below(scope: Scope, event: Any) -> None:
    """Children, timed children, items of fan-outs and streams, blocks: all are told, with the reason."""
    begun = threading.Barrier(3)
    told: list[Any] = []

    @flow
    def leaf(ctx: FlowContext, _: Any) -> None:
        begun.wait(LONG)
        if ctx.signal.wait(LONG):
            told.append(ctx.signal.reason)
        ctx.throw_if_aborted()

    @flow
    def by_child(ctx: FlowContext, _: Any) -> None:
        ctx.exec("block", lambda block: block.exec(leaf, timeout=LONG))

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.parallel([by_child.bind(1), leaf.bind(2)], max_concurrency=2)

    execution = scope.exec(top)
    begun.wait(LONG)
    execution.cancel("all of you")
    with pytest.raises(errors.ExecutionCancelled, match="all of you"):
        execution.result(LONG)
    assert told == ["all of you"] * 2


def test_a_cancelled_flow_starts_nothing_more(scope: Scope, gate: Gate) -> None:
    """After the signal every way of starting a child raises ``Aborted``."""
    aborted: list[Any] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        gate(ctx, None)
        for start in (
            lambda: ctx.exec(echo),
            lambda: ctx.exec(echo, timeout=LONG),
            lambda: ctx.exec(echo, key="k"),
            lambda: ctx.parallel([echo]),
            lambda: ctx.parallel_settled([echo]),
            lambda: list(ctx.stream([echo])),
            lambda: ctx.sleep(LONG),
            ctx.throw_if_aborted,
        ):
            with pytest.raises(errors.Aborted) as caught:
                start()
            aborted.append(caught.value.reason)

    execution = scope.exec(top)
    assert gate.begun.wait(LONG)
    execution.cancel("stop")
    gate.go.set()
    assert execution.result(LONG) is None
    assert aborted == ["stop"] * 8


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("reason", [None, 0, "", ValueError("why"), Unprintable(), ("a", 1)])
def test_a_reason_is_anything(make_scope: Callable[..., Scope], event: Any, reason: Any) -> None:
    """Whatever the reason is, pending and running executions end and carry it, even one that cannot be printed."""
    scope = make_scope(max_workers=1)
    gate = Gate(event, ValueError("no"))
    running, waiting = scope.exec(gate.flow), scope.exec(echo)
    assert gate.begun.wait(LONG)
    assert waiting.cancel(reason)
    assert running.cancel(reason)
    gate.go.set()
    for execution in (running, waiting):
        error = execution.exception(LONG)
        assert isinstance(error, errors.ExecutionCancelled)
        assert error.reason is reason


# -- following it


def test_status_callbacks_get_each_change_once_in_order(make_scope: Callable[..., Scope], event: Any) -> None:
    """Running, then the end; with the status and the execution; every subscriber."""
    scope = make_scope(max_workers=1)
    first, second = Gate(event), Gate(event)
    scope.exec(first.flow)
    execution = scope.exec(second.flow)
    news: list[Any] = []
    subscribers = [lambda status, e, name=name: news.append((name, status, e is execution)) for name in "ab"]
    for subscriber in subscribers:
        execution.on_status_change(subscriber)
        execution.on_status_change(subscriber)  # registers once
    first.go.set()
    second.go.set()
    execution.result(LONG)
    scope.close()
    assert news == [
        ("a", "running", True),
        ("b", "running", True),
        ("a", "completed", True),
        ("b", "completed", True),
    ]


@pytest.mark.parametrize(
    ("outcome", "status"), [("fine", "completed"), (ValueError("no"), "failed"), (errors.Aborted(), "cancelled")]
)
def test_subscribing_after_the_end_calls_at_once(scope: Scope, event: Any, outcome: Any, status: str) -> None:
    """The terminal status, in this thread, once for each subscription."""
    gate = Gate(event, outcome)
    gate.go.set()
    execution = scope.exec(gate.flow)
    execution.exception(LONG)
    news: list[Any] = []
    unsubscribe = execution.on_status_change(lambda s, e: news.append((s, threading.get_ident())))
    execution.add_done_callback(lambda e: news.append((e.status, threading.get_ident())))
    assert news == [(status, threading.get_ident())] * 2
    unsubscribe()


def test_unsubscribing_ends_the_news(scope: Scope, gate: Gate, event: Any) -> None:
    """Who has unsubscribed hears nothing more; the others do; twice is harmless."""
    told = event()
    execution = scope.exec(gate.flow)
    assert gate.begun.wait(LONG)
    news: list[str] = []
    unsubscribe = execution.on_status_change(lambda status, _: news.append("gone"))
    execution.on_status_change(lambda status, _: (news.append("stays"), told.set()))
    unsubscribe()
    unsubscribe()
    gate.go.set()
    assert told.wait(LONG)
    assert news == ["stays"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), errors.Aborted("mine"), GeneratorExit()])
def test_a_callback_that_raises_hurts_nothing(
    make_scope: Callable[..., Scope], caplog: pytest.LogCaptureFixture, gate: Gate, error: BaseException
) -> None:
    """Status and done callbacks: what they raise is logged, the others are called, the slot is given on."""
    scope = make_scope(max_workers=1)
    news: list[Any] = []

    def bad(*_: Any) -> None:
        raise error

    execution = scope.exec(gate.flow)
    assert gate.begun.wait(LONG)
    execution.on_status_change(bad)
    execution.on_status_change(lambda status, _: news.append(status))
    execution.add_done_callback(bad)
    execution.add_done_callback(lambda e: news.append(e.status))
    gate.go.set()
    assert execution.result(LONG) == "late"
    assert scope.exec(echo, 5).result(LONG) == 5
    assert news == ["completed", "completed"]
    assert [(r.event, r.exc_info[1]) for r in caplog.records] == [("callback.failed", error)] * 2  # type: ignore[attr-defined, index]


def test_an_interrupt_in_a_callback_costs_no_slot(
    make_scope: Callable[..., Scope], caplog: pytest.LogCaptureFixture
) -> None:
    """KeyboardInterrupt from a callback in a worker is logged; the worker goes on, later callbacks are told."""
    scope = make_scope(max_workers=1)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        gate = Gate(threading.Event)
        execution = scope.exec(gate.flow)
        execution.add_done_callback(interrupt)
        gate.go.set()
        assert execution.result(LONG) == "late"
        assert scope.exec(echo, 5).result(LONG) == 5
        news: list[Any] = []
        execution.add_done_callback(lambda e: news.append(e.status))  # noqa: B023
        assert news == ["completed"]
    assert {r.event for r in caplog.records} == {"thread.interrupted"}  # type: ignore[attr-defined]


def test_callbacks_may_use_the_execution(make_scope: Callable[..., Scope], gate: Gate, event: Any) -> None:
    """Inside a callback: result, cancel, subscribe, exec on the same scope; nothing deadlocks, order is kept."""
    scope, done = make_scope(max_workers=1), event()
    news: list[Any] = []

    def busy(execution: FlowExecution[Any]) -> None:
        news.append(("done", execution.result(0), execution.cancel()))
        execution.on_status_change(lambda status, _: news.append(("nested", status)))
        execution.add_done_callback(lambda _: (news.append("last"), done.set()))
        news.append("first")
        scope.exec(echo, 1)

    execution = scope.exec(gate.flow)
    execution.add_done_callback(busy)
    gate.go.set()
    assert done.wait(LONG)
    assert news == [("done", "late", False), "first", ("nested", "completed"), "last"]


def test_cancelling_from_inside_a_callback(scope: Scope, event: Any) -> None:
    """A subscriber that cancels on "running" stops the handler before it has looked."""

    @flow
    def looks(ctx: FlowContext, _: Any) -> str:
        ctx.throw_if_aborted()
        return "not told"

    gate = Gate(event)
    blockers = [scope.exec(gate.flow), scope.exec(gate.flow)]
    execution = scope.exec(looks)
    execution.on_status_change(lambda status, e: e.cancel("at once") if status == "running" else None)
    gate.go.set()
    with pytest.raises(errors.ExecutionCancelled, match="at once"):
        execution.result(LONG)
    for blocker in blockers:
        blocker.result(LONG)


# -- as a future


def test_the_future_is_a_real_one(scope: Scope, event: Any) -> None:
    """``wait`` and ``as_completed`` of the standard library work on it; it is always the same one."""
    gates = [Gate(event, number) for number in range(3)]
    executions = [scope.exec(gate.flow) for gate in gates[:2]]
    futures = [execution.future for execution in executions]
    assert executions[0].future is futures[0]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    done, pending = concurrent.futures.wait(futures, timeout=0.01)
    assert (done, pending) == (set(), set(futures))
    gates[1].go.set()
    done, pending = concurrent.futures.wait(futures, LONG, concurrent.futures.FIRST_COMPLETED)
    assert done == {futures[1]}
    gates[0].go.set()
    assert [future.result() for future in concurrent.futures.as_completed(futures, LONG)] in ([0, 1], [1, 0])
    late = scope.exec(echo, 5)
    late.result(LONG)
    assert (late.future.done(), late.future.result(0)) == (True, 5)


def test_the_future_of_an_error_and_of_a_cancelled_one(scope: Scope, event: Any) -> None:
    """Errors are the future's exception; a cancelled execution is ExecutionCancelled there too, with its reason."""
    error = ValueError("no")
    failing = Gate(event, error)
    execution = scope.exec(failing.flow)
    future = execution.future
    failing.go.set()
    assert future.exception(LONG) is error

    begun = event()
    execution = scope.exec(obeys, begun)
    future = execution.future
    assert begun.wait(LONG)
    assert future.running()
    assert future.cancel() is True
    assert isinstance(future.exception(LONG), errors.ExecutionCancelled)
    assert execution.status == "cancelled"
    assert future.done()
    assert future.cancel() is False
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_the_futures_callbacks_get_the_future(scope: Scope, gate: Gate, event: Any) -> None:
    """``add_done_callback`` of the future: called once with it, late ones at once."""
    called: list[Any] = []
    told = event()
    execution = scope.exec(gate.flow)
    future = execution.future
    future.add_done_callback(lambda f: (called.append(f), told.set()))
    gate.go.set()
    assert told.wait(LONG)
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_await_gives_the_result_and_raises_the_error(scope: Scope) -> None:
    """Inside asyncio an execution is awaited; many at once too; errors and cancellations are raised."""
    error = ValueError("no")

    @flow
    def fails(ctx: FlowContext, _: Any) -> None:
        raise error

    @flow
    def gives_up(ctx: FlowContext, _: Any) -> None:
        raise errors.Aborted("mine")

    async def main() -> None:
        assert await scope.exec(echo, 5) == 5
        assert await asyncio.gather(*[scope.exec(echo, n) for n in range(100)]) == list(range(100))
        with pytest.raises(ValueError, match="no") as caught:
            await scope.exec(fails)
        assert caught.value is error
        with pytest.raises(errors.ExecutionCancelled) as cancelled:
            await scope.exec(gives_up)
        assert cancelled.value.reason == "mine"
        assert await asyncio.wrap_future(scope.exec(echo, 6).future) == 6
        done = scope.exec(echo, 7)
        done.result(LONG)
        assert await done == 7

    asyncio.run(main())


def test_cancelling_the_awaiting_task_cancels_the_execution(scope: Scope, event: Any) -> None:
    """The task is cancelled as usual, and the execution is told."""
    begun = event()
    execution = scope.exec(obeys, begun)

    async def main() -> None:
        task = asyncio.ensure_future(execution)
        assert await asyncio.to_thread(begun.wait, LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert isinstance(execution.exception(LONG), errors.ExecutionCancelled)


def test_cancelling_the_execution_raises_in_the_awaiting_task(scope: Scope, event: Any) -> None:
    """ExecutionCancelled, an ordinary exception: the task itself is not cancelled."""
    begun = event()
    execution = scope.exec(obeys, begun)

    async def main() -> bool:
        async def waits() -> str:
            try:
                await execution
            except errors.ExecutionCancelled as error:
                return str(error.reason)
            return "not told"

        task = asyncio.ensure_future(waits())
        assert await asyncio.to_thread(begun.wait, LONG)
        execution.cancel("by hand")
        assert await task == "by hand"
        return task.cancelled()

    assert asyncio.run(main()) is False


# -- memory


def test_nothing_keeps_a_finished_execution_alive(make_scope: Callable[..., Scope]) -> None:
    """When the results are taken, execution, context, input, output and error can go, and the scope has not grown."""
    scope = make_scope(max_workers=2)

    class Thing:
        pass

    class Wrong(Exception):
        pass

    @flow
    def busy(ctx: FlowContext, thing: Thing) -> Thing:
        kept.extend(map(weakref.ref, (ctx, thing)))
        ctx.signal.on_abort(lambda: None)
        ctx.exec(echo, thing, key="k")
        ctx.exec(echo, thing, timeout=LONG)
        ctx.parallel(echo.each([thing] * 3))
        for _ in ctx.stream(echo.each([thing] * 3)):
            break
        ctx.exec("block", lambda block: block.signal)
        if thing.__dict__:
            raise Wrong(thing)
        return Thing()

    kept: list[weakref.ref[Any]] = []
    for fails in (False, True):
        for start in (
            lambda thing: scope.exec(busy, thing),
            lambda thing: scope.exec(busy, thing, timeout=LONG),
        ):
            thing = Thing()
            if fails:
                thing.__dict__["fails"] = True
            execution = start(thing)
            kept.append(weakref.ref(execution))
            execution.add_done_callback(lambda _: None)
            execution.future
            outcome = execution.exception(LONG) if fails else execution.result(LONG)
            kept.append(weakref.ref(outcome))
            del execution, outcome, thing
    scope.close()  # its threads have let go of their last work
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


def test_thousands_of_runs_grow_nothing(make_scope: Callable[..., Scope], event: Any) -> None:
    """Neither the scope's tables nor those of a long-running flow grow with what has ended."""
    scope = make_scope(max_workers=2)
    sizes: list[Any] = []

    @flow
    def long_running(ctx: FlowContext, _: Any) -> None:
        ctx.signal.event  # everything below is linked to it
        for _ in range(500):
            ctx.exec("block", lambda block: block.signal)
            ctx.parallel([touches, touches])
            assert list(ctx.stream([touches.bind(1)])) == [None]
            for _ in ctx.stream(echo.each(range(3))):
                break
            ctx.exec(touches, timeout=LONG)
        task = ctx._task
        assert task is not None
        sizes.extend([len(ctx.signal._children or ()), len(ctx._streams or ()), len(task._subtasks or ())])

    @flow
    def touches(ctx: FlowContext, _: Any) -> None:
        ctx.signal

    scope.run(long_running)
    for number in range(3000):
        scope.exec(touches, number, timeout=60).result(LONG)
    assert sizes == [0, 0, 0]
    slots = scope._slots
    scope.close()
    assert (len(scope._live), len(slots.pending), len(slots.wishes), len(slots.abandoned)) == (0, 0, 0, 0)
    assert scope._watchdog._heap == []
