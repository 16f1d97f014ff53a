"""Slots: how many executions make progress, and the threads they make it on."""

from __future__ import annotations

import concurrent.futures.thread
import contextvars
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import FlowContext, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


def threads_of(scope: Scope) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(scope.name)]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never happened"


# -- the bound


@pytest.mark.parametrize("max_workers", [1, 3])
def test_no_more_handlers_than_slots(make_scope: Callable[..., Scope], max_workers: int) -> None:
    """At most ``max_workers`` executions run at once, and as many do when there is work."""
    scope = make_scope(max_workers=max_workers)
    lock, barrier = threading.Lock(), threading.Barrier(max_workers)
    now = most = 0

    @flow
    def work(ctx: FlowContext, _: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        barrier.wait(LONG)
        with lock:
            now -= 1

    executions = [scope.exec(work) for _ in range(10 * max_workers)]
    for execution in executions:
        execution.result(LONG)
    assert most == max_workers


def test_executions_start_in_the_order_they_came(make_scope: Callable[..., Scope], event: Any) -> None:
    """The queue is first in, first out."""
    scope, go = make_scope(max_workers=1), event()
    order: list[int] = []
    scope.exec(call(go.wait, LONG))
    executions = [scope.exec(call(order.append, n)) for n in range(100)]
    go.set()
    for execution in executions:
        execution.result(LONG)
    assert order == list(range(100))


def test_a_full_queue_refuses(make_scope: Callable[..., Scope], event: Any) -> None:
    """``max_pending`` more may wait; one more is ScopeSaturated, and leaves no trace; then there is room again."""
    scope, go = make_scope(max_workers=1, max_pending=2), event()
    running = scope.exec(call(go.wait, LONG))
    waiting = [scope.exec(echo, n) for n in range(2)]
    for start in (scope.exec, scope.run):
        with pytest.raises(errors.ScopeSaturated, match=r"1 executions run and 2 wait \(max_pending=2\)"):
            start(echo, 5)
    assert scope.executions == (running, *waiting)
    waiting[0].cancel()
    third = scope.exec(echo, 3)
    go.set()
    assert [execution.result(LONG) for execution in (running, waiting[1], third)] == [True, 1, 3]


def test_no_queue_at_all(make_scope: Callable[..., Scope], event: Any) -> None:
    """``max_pending=0``: what finds a slot runs, what does not is refused."""
    scope, go = make_scope(max_workers=1, max_pending=0), event()
    assert scope.run(echo, 1) == 1
    running = scope.exec(call(go.wait, LONG))
    with pytest.raises(errors.ScopeSaturated):
        scope.exec(echo, 2)
    go.set()
    assert running.result(LONG) is True


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": 0},
        {"max_workers": -1},
        {"max_workers": 1.5},
        {"max_workers": True},
        {"max_pending": -1},
        {"max_pending": "5"},
        {"max_abandoned": 0},
    ],
)
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """A ValueError that names the option."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be a whole number from"):
        Scope(**options)


# -- abandoned threads


def test_too_many_abandoned_threads_refuse_new_work(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """Past ``max_abandoned`` every start is ScopeSaturated; when a thread comes back there is room again."""
    scope = make_scope(max_workers=2, max_abandoned=2, clock=clock)
    goes = [event(), event()]
    for number, go in enumerate(goes):
        begun = event()
        stuck = scope.exec(call(lambda begun=begun, go=go: (begun.set(), go.wait(LONG))), timeout=10)
        assert begun.wait(LONG)
        assert scope.run(echo, number) == number  # one of them is no reason
        clock.advance(10)
        assert isinstance(stuck.exception(LONG), errors.ExecutionTimeout)
    assert scope.stats().abandoned == 2
    for start in (scope.exec, scope.run):
        with pytest.raises(errors.ScopeSaturated, match=r"2 of its threads are abandoned .*max_abandoned=2"):
            start(echo, 5)
    assert scope.executions == ()
    goes[0].set()
    until(lambda: scope.stats().abandoned == 1)
    assert scope.run(echo, 5) == 5
    goes[1].set()


def test_each_abandoned_slot_is_used_again(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """Many deadlines on one slot: each frees it for the next, while the threads are stuck."""
    scope, go = make_scope(max_workers=1, clock=clock), event()
    begun = threading.Semaphore(0)

    @flow
    def stuck(ctx: FlowContext, _: Any) -> None:
        begun.release()
        assert go.wait(LONG)

    executions = [scope.exec(stuck, timeout=10) for _ in range(20)]
    for number, execution in enumerate(executions):
        assert begun.acquire(timeout=LONG)
        assert scope.stats().abandoned == number
        clock.advance(10)
        assert isinstance(execution.exception(LONG), errors.ExecutionTimeout)
    assert scope.run(echo, 5) == 5
    assert scope.stats().abandoned == 20
    go.set()
    scope.close()
    assert (scope.stats().abandoned, scope.stats().free) == (0, 1)


# -- waiting inside a flow


@pytest.mark.parametrize("way", ["run", "exec", "run timed", "exec timed"])
def test_waiting_for_another_execution_on_one_slot(make_scope: Callable[..., Scope], way: str) -> None:
    """``scope.run`` and ``exec().result()`` inside a flow, to any depth on one slot, end."""
    scope = make_scope(max_workers=1)
    timeout = LONG if "timed" in way else None

    @flow
    def count(ctx: FlowContext, n: int) -> int:
        if not n:
            return 0
        if way.startswith("run"):
            return 1 + scope.run(count, n - 1, timeout=timeout)
        execution = scope.exec(count, n - 1, timeout=timeout)
        return 1 + execution.result()

    assert scope.exec(count, 30).result(LONG) == 30
    assert scope.run(count, 30) == 30


def test_waiting_in_items_of_a_fan_out(make_scope: Callable[..., Scope]) -> None:
    """Items that start and await executions of their own, on one and on two slots."""

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        scope = ctx._scope
        return scope.run(echo, n) + scope.exec(echo, n).result() + sum(scope.run(fan, n - 1) if n else [])

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        return ctx.parallel(item.each([n, n, n]))

    for max_workers in (1, 2):
        # 3 * 2n and three times what is below
        expected = 0
        for n in range(5):
            expected = 3 * (2 * n + expected) if n else 0
        assert sum(make_scope(max_workers=max_workers).exec(fan, 4).result(LONG)) == expected


def test_looking_starts_nothing(make_scope: Callable[..., Scope], event: Any) -> None:
    """Polling inside a flow with ``result(0)`` lends no slot: nothing runs beside the one who polls."""
    scope = make_scope(max_workers=1)
    ran: list[int] = []

    @flow
    def polls(ctx: FlowContext, _: Any) -> list[Any]:
        started = [scope.exec(call(ran.append, n)) for n in range(10)]
        for execution in started:
            for wait in (execution.result, execution.exception):
                with pytest.raises(TimeoutError):
                    wait(0)
        assert ran == []
        assert scope.stats().pending == 10
        return started

    for execution in scope.exec(polls).result(LONG):
        execution.result(LONG)
    assert ran == list(range(10))


def test_who_gives_up_waiting_owes_a_slot(make_scope: Callable[..., Scope], event: Any) -> None:
    """A wait that times out leaves two on one slot; until that is paid back nothing else starts."""
    scope = make_scope(max_workers=1)
    begun, go = event(), event()

    @flow
    def gives_up(ctx: FlowContext, _: Any) -> Any:
        lent = scope.exec(call(lambda: (begun.set(), go.wait(LONG))))
        with pytest.raises(TimeoutError):
            lent.result(0.001)
        assert begun.wait(LONG)
        others = [scope.exec(echo, n) for n in range(3)]
        for other in others:
            with pytest.raises(TimeoutError):
                other.result(0.001)
        go.set()
        lent.result()
        until(lambda: scope._slots.free == 0)
        assert [other.status for other in others] == ["pending"] * 3
        return others

    others = scope.exec(gives_up).result(LONG)
    assert [other.result(LONG) for other in others] == [0, 1, 2]


def test_waiting_without_limit_works_even_when_a_slot_is_owed(make_scope: Callable[..., Scope], event: Any) -> None:
    """Giving up once does not make a later wait hang."""
    scope = make_scope(max_workers=1)
    go = event()

    @flow
    def gives_up(ctx: FlowContext, _: Any) -> int:
        with pytest.raises(TimeoutError):
            scope.exec(call(go.wait, LONG)).result(0.001)
        return scope.exec(echo, 5).result()

    assert scope.exec(gives_up).result(LONG) == 5
    go.set()


# -- running here


def test_run_uses_the_callers_thread(make_scope: Callable[..., Scope], event: Any) -> None:
    """With a free slot and no timeout ``run`` runs here; otherwise it waits for another thread."""
    scope = make_scope(max_workers=1)
    here = threading.get_ident()
    assert scope.run(call(threading.get_ident)) == here
    assert threads_of(scope) == []
    assert scope.run(call(threading.get_ident), timeout=LONG) != here
    go, begun = event(), event()
    blocker = scope.exec(call(lambda: (begun.set(), go.wait(LONG))))
    assert begun.wait(LONG)
    releases = threading.Timer(0, lambda: (until(lambda: scope.stats().pending == 1), go.set()))
    releases.start()
    assert scope.run(call(threading.get_ident)) != here
    assert blocker.result(LONG) == (None, True)
    releases.join(LONG)


def test_run_takes_a_slot_like_everybody(make_scope: Callable[..., Scope], event: Any) -> None:
    """What runs in the caller's thread counts: others wait, and go on in another thread when it ends."""
    scope = make_scope(max_workers=1)
    waiting: list[Any] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        waiting.append(scope.exec(call(threading.get_ident)))
        return waiting[0].status, scope.stats().free

    assert scope.run(top) == ("pending", 0)
    assert waiting[0].result(LONG) != threading.get_ident()


def test_context_variables_of_an_ended_flow_give_no_slot(make_scope: Callable[..., Scope], event: Any) -> None:
    """Who only carries a flow's variables, in another thread or after its end, has no slot to run on."""
    scope, go, begun = make_scope(max_workers=1), event(), event()

    @flow
    def top(ctx: FlowContext, _: Any) -> contextvars.Context:
        return contextvars.copy_context()

    kept = scope.run(top)
    blocker = scope.exec(call(lambda: (begun.set(), go.wait(LONG))))
    assert begun.wait(LONG)
    results: list[Any] = []
    thread = threading.Thread(target=kept.run, args=(lambda: results.append(scope.run(echo, 5)),), daemon=True)
    thread.start()
    until(lambda: scope.stats().pending == 1)
    assert results == []
    go.set()
    blocker.result(LONG)
    thread.join(LONG)
    assert results == [5]


def test_ctrl_c_in_an_inline_run_gives_the_slot_back(make_scope: Callable[..., Scope]) -> None:
    """KeyboardInterrupt in the handler is raised, its execution has failed, and the slot is free."""
    scope = make_scope(max_workers=1)

    @flow
    def interrupted(ctx: FlowContext, _: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            scope.run(interrupted)
        assert (scope.stats().free, scope.executions) == (1, ())


def test_ctrl_c_in_a_callback_of_an_inline_run(make_scope: Callable[..., Scope]) -> None:
    """An interrupt in the callbacks at the end is raised too, and costs no slot."""
    scope = make_scope(max_workers=1)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        def interrupt(_: Any) -> None:
            signal.raise_signal(signal.SIGINT)

        (execution,) = scope.executions
        execution.add_done_callback(interrupt)

    with pytest.raises(KeyboardInterrupt):
        scope.run(top)
    assert (scope.stats().free, scope.executions) == (1, ())
    assert scope.run(echo, 5) == 5


# -- threads


def test_nothing_starts_before_it_is_needed(make_scope: Callable[..., Scope]) -> None:
    """A scope without work has no thread; one execution needs one; a deadline one more."""
    scope = make_scope(max_workers=8)
    assert threads_of(scope) == []
    assert scope.run(echo, 1) == 1
    assert threads_of(scope) == []
    scope.exec(echo, 1).result(LONG)
    assert len(threads_of(scope)) == 1
    scope.exec(echo, 1, timeout=LONG).result(LONG)
    assert len(threads_of(scope)) <= 3


def test_threads_are_reused_and_never_keep_the_interpreter_alive(make_scope: Callable[..., Scope]) -> None:
    """Many executions need no more threads than slots; all are daemons, and in no exit hook's table."""
    scope = make_scope(max_workers=3)
    for execution in [scope.exec(echo, n) for n in range(500)]:
        execution.result(LONG)
    threads = threads_of(scope)
    assert 1 <= len(threads) <= 3
    assert all(thread.daemon for thread in threads)
    assert not set(threads) & set(concurrent.futures.thread._threads_queues)


def test_a_scope_that_is_forgotten_leaves_no_thread() -> None:
    """Without ``close`` the threads end when nobody has the scope any more."""
    scope = Scope(name="forgotten", max_workers=2)
    for execution in [scope.exec(echo, n) for n in range(10)]:
        execution.result(LONG)
    threads, gone = threads_of(scope), weakref.ref(scope)
    assert threads
    del scope, execution
    gc.collect()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    gc.collect()
    assert gone() is None


def test_when_no_thread_can_be_had(make_scope: Callable[..., Scope], monkeypatch: pytest.MonkeyPatch) -> None:
    """``exec`` raises ScopeSaturated and nothing is lost; what the pool had queued finds nothing to do."""
    scope = make_scope(max_workers=2)
    ran: list[int] = []
    real = type(scope._slots._threads)._adjust_thread_count

    def fail(_self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(type(scope._slots._threads), "_adjust_thread_count", fail)
        for _ in range(3):
            with pytest.raises(errors.ScopeSaturated, match="cannot start a thread: can't start new thread"):
                scope.exec(call(ran.append, 1))
        assert (scope.stats().free, scope.executions) == (2, ())
        assert scope.run(echo, 5) == 5  # needs none
    assert type(scope._slots._threads)._adjust_thread_count is real
    assert [scope.exec(echo, n).result(LONG) for n in range(5)] == list(range(5))
    scope.close()
    assert ran == []


def test_a_start_that_is_interrupted_costs_no_slot(
    make_scope: Callable[..., Scope], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the thread is being made: ``exec`` raises it, the handler has run or never will."""
    scope = make_scope(max_workers=1)
    ran: list[int] = []
    pool = type(scope._slots._threads)
    real = pool._adjust_thread_count

    def before(self: Any) -> None:
        raise KeyboardInterrupt

    def after(self: Any) -> None:
        real(self)
        raise KeyboardInterrupt

    for number, interrupted in enumerate((before, after)):
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_adjust_thread_count", interrupted)
            with pytest.raises(KeyboardInterrupt):
                scope.exec(call(ran.append, number))
        until(lambda: scope.stats().free == 1)
        assert scope.exec(echo, 5).result(LONG) == 5
    scope.close()
    assert 0 not in ran
    assert scope.executions == ()
