"""Races, repeated while the interpreter switches threads as often as it can."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import Extension, FlowContext, FlowExecution, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0

pytestmark = pytest.mark.usefixtures("tiny_switches")

ENDS = {"completed", "failed", "cancelled"}


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


class Settling:
    """One execution that everything ends at once: its handler, a cancel, a grace, its deadline."""

    def __init__(self, scope: Scope, outcome: Any, timeout: float | None) -> None:
        self.news: list[str] = []
        self.done: list[str] = []
        self.told = threading.Semaphore(0)
        self.go = threading.Event()
        self.begun = threading.Event()
        self.outcome = outcome
        self.execution: FlowExecution[Any] = scope.exec(flow(name="settling")(self), timeout=timeout)
        self.execution.on_status_change(self._note)
        self.execution.add_done_callback(self._ended)
        self.future = self.execution.future

    def __call__(self, ctx: FlowContext, _: Any) -> Any:
        self.begun.set()
        assert self.go.wait(LONG)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def _note(self, status: Any, execution: Any) -> None:
        self.news.append(status.value)
        if status.terminal:
            self.told.release()

    def _ended(self, execution: Any) -> None:
        self.done.append(execution.status.value)
        self.told.release()

    def watch(self) -> list[str]:
        """The statuses that somebody sees who only looks."""
        seen: list[str] = []
        while not seen or seen[-1] not in ENDS:
            status = self.execution.status.value
            if not seen or seen[-1] != status:
                seen.append(status)
        seen.extend(self.execution.status.value for _ in range(20))
        return seen

    def check(self) -> None:
        """One end, everywhere the same, told once."""
        for _ in range(2):
            assert self.told.acquire(timeout=LONG)
        status = self.execution.status.value
        assert status in ENDS
        assert [one for one in self.news if one != "running"] == [status]
        assert self.news in ([status], ["running", status])
        assert self.done == [status]
        error = self.execution.exception(0)
        if status == "completed":
            assert error is None
            assert self.execution.result(0) == self.outcome == self.future.result(0)
        else:
            assert self.future.exception(0) is error
            assert isinstance(error, errors.ExecutionCancelled) == (status == "cancelled")
            if status == "failed":
                assert error is self.outcome
        assert self.execution.ctx.details.error is error
        assert not self.told.acquire(blocking=False)


@pytest.mark.parametrize("outcome", ["value", "error", "aborted"])
def test_everything_that_can_end_an_execution_at_once(
    make_scope: Callable[..., Scope], clock: ManualClock, together: Any, outcome: str
) -> None:
    """Cancel, completion, deadline and grace: exactly one wins, and everybody is told the same, once."""
    scope = make_scope(max_workers=2, max_abandoned=1000, clock=clock)
    seen: set[str] = set()
    for number in range(300):
        values = {"value": number, "error": ValueError(number), "aborted": errors.Aborted(number)}
        one = Settling(scope, values[outcome], 5)
        assert one.begun.wait(LONG)
        rivals: list[Callable[[], Any]] = [one.watch, one.go.set, lambda: clock.advance(5)]
        if number % 2:
            rivals.append(lambda one=one: one.execution.cancel("why", grace=0))  # type: ignore[misc]
            rivals.append(lambda one=one: one.execution.cancel("other"))  # type: ignore[misc]
        watched = together(*rivals)[0]
        status = one.execution.status.value
        assert watched[-1] == status
        assert set(watched) <= {"running", status}
        one.check()
        seen.add(status)
    assert "cancelled" in seen  # the race was one
    scope.close()
    assert (scope.stats().abandoned, scope.stats().deadlines) == (0, 0)


def test_cancel_against_the_worker_that_takes_it(make_scope: Callable[..., Scope], together: Any) -> None:
    """A cancelled execution is never begun, a begun one gets the signal: no handler runs unseen, none is lost."""
    scope = make_scope(max_workers=1)
    for _ in range(500):
        ran: list[Any] = []
        go = threading.Event()

        @flow
        def handler(ctx: FlowContext, ran: Any) -> str:
            ran.append(ctx.status.value)
            return "done"

        blocker = scope.exec(call(go.wait, LONG))
        execution = scope.exec(handler, ran)
        _, cancelled = together(go.set, lambda execution=execution: execution.cancel("why"))
        blocker.result(LONG)
        error = execution.exception(LONG)
        if execution.status == "cancelled":
            assert cancelled
            assert ran == []
            assert isinstance(error, errors.ExecutionCancelled)
        else:
            assert execution.result(0) == "done"
            assert ran == ["running"]


def test_subscribing_against_the_end(make_scope: Callable[..., Scope], together: Any) -> None:
    """Done callbacks, status callbacks and futures that come while it ends: each is told once, none is lost."""
    scope = make_scope(max_workers=1)
    for _ in range(300):
        go = threading.Event()
        execution = scope.exec(call(go.wait, LONG))
        told: list[Any] = []
        all_told = threading.Semaphore(0)

        def note(kind: str, told: list[Any] = told, all_told: threading.Semaphore = all_told) -> Callable[..., None]:
            def callback(*args: Any) -> None:
                if args[0] != "running":
                    told.append(kind)
                    all_told.release()

            return callback

        together(
            go.set,
            lambda execution=execution, note=note: [execution.add_done_callback(note(f"d{n}")) for n in range(3)],
            lambda execution=execution, note=note: [execution.on_status_change(note(f"s{n}")) for n in range(3)],
            lambda execution=execution, note=note: [
                execution.future.add_done_callback(note(f"f{n}")) for n in range(3)
            ],
        )
        for _ in range(9):
            assert all_told.acquire(timeout=LONG)
        assert sorted(told) == [f"{kind}{n}" for kind in "dfs" for n in range(3)]


def test_the_future_against_the_end(make_scope: Callable[..., Scope], together: Any) -> None:
    """Whoever asks for the future first, before or after the end: it is one future, with the result."""
    scope = make_scope(max_workers=2)
    for number in range(200):
        execution = scope.exec(echo, number)
        futures = together(*[lambda execution=execution: execution.future] * 3)
        assert futures == [execution.future] * 3
        assert futures[0].result(LONG) == number
        assert execution.status == "completed"


def test_unsubscribing_against_the_news(make_scope: Callable[..., Scope], together: Any) -> None:
    """Who unsubscribes while it ends is told at most once, and the others exactly once."""
    scope = make_scope(max_workers=1)
    for _ in range(100):
        go = threading.Event()
        execution = scope.exec(call(go.wait, LONG))
        goes: list[Any] = []
        stays: list[Any] = []
        unsubscribe = execution.on_status_change(lambda status, _, goes=goes: goes.append(status))  # type: ignore[misc]
        execution.on_status_change(lambda status, _, stays=stays: stays.append(status))  # type: ignore[misc]
        together(go.set, unsubscribe)
        execution.result(LONG)
        scope.run(echo)  # after the callbacks, on the only slot
        assert stays[-1] == "completed"
        assert stays.count("completed") == 1
        assert goes.count("completed") <= 1


def test_no_wake_up_is_lost_between_submit_and_the_slots(make_scope: Callable[..., Scope], together: Any) -> None:
    """Thousands of executions from several threads, alone and in bursts, here and there: all end."""
    for max_workers in (1, 2, 3):
        scope = make_scope(max_workers=max_workers)

        def one_by_one(scope: Scope = scope) -> int:
            return sum(scope.exec(echo, 1).result(LONG) for _ in range(900))

        def in_bursts(scope: Scope = scope) -> int:
            total = 0
            for _ in range(30):
                total += sum(execution.result(LONG) for execution in [scope.exec(echo, 1) for _ in range(30)])
            return total

        def here(scope: Scope = scope) -> int:
            return sum(scope.run(echo, 1) for _ in range(900))

        assert together(one_by_one, one_by_one, in_bursts, in_bursts, here, here) == [900] * 6
        scope.close()
        assert scope.stats().free == max_workers


def test_helpers_that_come_while_the_caller_joins(make_scope: Callable[..., Scope], together: Any) -> None:
    """Small fan-outs from several roots on few slots: helpers come and go all the time, nobody waits for ever."""
    scope = make_scope(max_workers=3)
    mixed = [echo.bind(1), call(int, 1), echo.bind(1), call(int, 1)]

    @flow
    def fans(ctx: FlowContext, number: int) -> int:
        total = 0
        for _ in range(150):
            total += sum(ctx.parallel(echo.each([1] * 4))) + sum(ctx.parallel(mixed, max_concurrency=2))
            total += sum(ctx.stream(mixed, buffer=2, ordered=bool(number % 2)))
        return total

    roots = [lambda n=n: scope.exec(fans, n).result(LONG) for n in range(3)]
    others = [lambda: sum(scope.exec(echo, 1).result(LONG) for _ in range(800))] * 2
    assert together(*roots, *others) == [1800] * 3 + [800] * 2
    scope.close()
    assert (scope.stats().free, len(scope._slots.wishes)) == (3, 0)


def test_failing_fan_outs_leave_nobody_behind(make_scope: Callable[..., Scope]) -> None:
    """Whatever fails when: when ``parallel`` raises, no item of it runs any more."""
    scope = make_scope(max_workers=4)
    running = itertools.count()
    now: set[int] = set()

    def item(n: int) -> None:
        me = next(running)
        now.add(me)
        try:
            if n % 7 == 3:
                raise ValueError(n)
        finally:
            now.discard(me)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        for _ in range(600):
            with pytest.raises(ValueError):
                ctx.parallel([call(item, n) for n in range(20)])
            assert not now

    scope.exec(top).result(LONG)


def test_abandon_against_the_worker_that_goes_on(
    make_scope: Callable[..., Scope], clock: ManualClock, together: Any
) -> None:
    """A deadline that comes as the handler ends takes the thread of nobody else: what follows runs, once, in full."""
    scope = make_scope(max_workers=1, max_abandoned=1000, clock=clock)
    for number in range(300):
        begun, go = threading.Event(), threading.Event()
        ends = scope.exec(call(lambda begun=begun, go=go: (begun.set(), go.wait(LONG))), timeout=5)  # type: ignore[misc]
        ran: list[int] = []
        alone = threading.Lock()

        def follows(n: int, ran: list[int] = ran, alone: Any = alone) -> None:
            assert alone.acquire(blocking=False)  # there is one slot
            ran.append(n)
            alone.release()

        next_ones = [scope.exec(call(follows, n)) for n in range(5)]
        assert begun.wait(LONG)
        together(go.set, lambda: clock.advance(5))
        for execution in next_ones:
            execution.result(LONG)
            assert execution.status == "completed"
        assert ran == [0, 1, 2, 3, 4], number
        assert ends.exception(LONG) is None or isinstance(ends.exception(), errors.ExecutionTimeout)
    scope.close()
    assert (scope.stats().abandoned, scope.stats().free, scope.stats().deadlines) == (0, 1, 0)


def test_deadlines_of_children_against_their_end(
    make_scope: Callable[..., Scope], clock: ManualClock, together: Any
) -> None:
    """A timed child that ends as its time does: a value or ExecutionTimeout, and no slot or thread is lost."""
    scope = make_scope(max_workers=2, max_abandoned=1000, clock=clock)
    for _ in range(250):
        begun, go = threading.Event(), threading.Event()

        def child(begun: threading.Event = begun, go: threading.Event = go) -> str:
            begun.set()
            assert go.wait(LONG)
            return "in time"

        @flow
        def top(ctx: FlowContext, _: Any, child: Any = child) -> Any:
            try:
                return ctx.exec(call(child), timeout=5)
            except errors.ExecutionTimeout:
                return "too late"

        execution = scope.exec(top, timeout=50)
        assert begun.wait(LONG)
        together(go.set, lambda: clock.advance(5))
        assert execution.result(LONG) in ("in time", "too late")
        assert execution.status == "completed"
    scope.close()
    assert scope.stats().abandoned == 0


def test_closing_while_submitting(make_scope: Callable[..., Scope], together: Any) -> None:
    """Every execution that was accepted ends before ``close`` returns; the others were refused with ScopeClosed."""
    for number in range(40):
        seen: list[str] = []

        class Observes(Extension):
            def on_status(self, execution: Any, status: Any, seen: list[str] = seen) -> None:
                seen.append(status.value)

        scope = make_scope(max_workers=2, extensions=[Observes()])
        started = threading.Semaphore(0)

        def submit(scope: Scope = scope, started: threading.Semaphore = started) -> list[Any]:
            accepted = []
            try:
                while True:
                    accepted.append(scope.exec(echo, 1, timeout=3600))
                    started.release()
            except errors.ScopeClosed:
                return accepted

        def close(scope: Scope = scope, started: threading.Semaphore = started, number: int = number) -> bool:
            assert started.acquire(timeout=LONG)
            scope.close(cancel=bool(number % 2))
            return not scope.executions

        *lists, nothing_live = together(submit, submit, close)
        assert nothing_live is True
        accepted = [execution for some in lists for execution in some]
        assert all(execution.done() for execution in accepted)
        if not number % 2:
            assert all(execution.result(0) == 1 for execution in accepted)
            assert seen.count("completed") == len(accepted)
            assert set(seen) == {"running", "completed"}


def test_closing_while_blocks_are_made(make_scope: Callable[..., Scope], together: Any) -> None:
    """A tracked execution is refused, or ends with the scope."""
    for _ in range(30):
        scope = make_scope()

        def track(scope: Scope = scope) -> list[Any]:
            blocks = []
            try:
                while True:
                    blocks.append(scope.create_execution("block", timeout=3600))
            except errors.ScopeClosed:
                return blocks

        first, second, _ = together(track, track, scope.close)
        assert {block.status.value for block in first + second} <= {"cancelled"}


def test_giving_up_against_the_end(make_scope: Callable[..., Scope], together: Any) -> None:
    """Waiters with tiny limits beside patient ones: the patient always get the result."""
    scope = make_scope(max_workers=2)
    for number in range(150):
        go = threading.Event()
        execution = scope.exec(call(lambda go=go, number=number: go.wait(LONG) and number))  # type: ignore[misc]

        def impatient(execution: Any = execution) -> Any:
            for _ in range(5):
                try:
                    return execution.result(0.0001)
                except TimeoutError:
                    pass
            return None

        outcomes = together(go.set, *[impatient] * 3, *[lambda execution=execution: execution.result(LONG)] * 3)
        assert outcomes[4:] == [number] * 3
        assert set(outcomes[1:4]) <= {number, None}


def test_lending_against_the_slots(make_scope: Callable[..., Scope]) -> None:
    """Flows on one slot that wait for others, patiently or not, all end, and no slot is lost or made."""
    scope = make_scope(max_workers=1)

    @flow
    def waits(ctx: FlowContext, n: int) -> int:
        execution = scope.exec(echo, n)
        try:
            return execution.result(0.00001 if n % 2 else None)
        except TimeoutError:
            return execution.result()

    executions = [scope.exec(waits, n) for n in range(1000)]
    assert [execution.result(LONG) for execution in executions] == list(range(1000))
    scope.close()
    assert scope._slots.free == 1
