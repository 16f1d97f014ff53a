"""The journal: a key is answered once and for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from workflow_runner import FlowContext, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0


@attrs.frozen
class Order:
    qty: int


class Counted:
    """A flow that counts its runs."""

    def __init__(self, function: Callable[[Any], Any] = lambda value: value) -> None:
        self.runs: list[Any] = []
        self.function = function
        self.flow = flow(name="counted")(self)

    def __call__(self, ctx: FlowContext, value: Any) -> Any:
        self.runs.append(value)
        return self.function(value)


def run(scope: Scope, body: Callable[[FlowContext], Any]) -> Any:
    return scope.run(flow(name="body")(lambda ctx, _: body(ctx)))


def test_a_key_runs_once(scope: Scope) -> None:
    """The same key in the same place is answered with the very same value; another key runs again."""
    counted = Counted(lambda value: [value])

    def body(ctx: FlowContext) -> None:
        first = ctx.exec(counted.flow, 1, key="a")
        assert ctx.exec(counted.flow, 1, key="a") is first
        assert ctx.exec(counted.flow, 1, key="b") is not first

    run(scope, body)
    assert counted.runs == [1, 1]


@pytest.mark.parametrize("value", [None, False, 0, "", []])
def test_answers_that_look_like_nothing_are_answers(scope: Scope, value: Any) -> None:
    """None and False are recorded like any other value."""
    counted = Counted()
    assert run(scope, lambda ctx: [ctx.exec(counted.flow, value, key="k") for _ in range(3)]) == [value] * 3
    assert len(counted.runs) == 1


def test_without_a_key_every_call_runs(scope: Scope) -> None:
    """Nothing is recorded for calls that ask for nothing."""
    counted = Counted()
    run(scope, lambda ctx: [ctx.exec(counted.flow, 1) for _ in range(3)])
    assert len(counted.runs) == 3


def test_the_same_key_with_another_input_is_a_conflict(scope: Scope) -> None:
    """JournalConflict naming the key and both inputs; another flow under the key is one too; nothing runs."""
    counted, other = Counted(), flow(name="other")(lambda ctx, value: value)

    def body(ctx: FlowContext) -> Any:
        ctx.exec(counted.flow, 1, key="k")
        with pytest.raises(errors.JournalConflict, match=r"'k' was used with .*1.* and now with .*2"):
            ctx.exec(counted.flow, 2, key="k")
        with pytest.raises(errors.JournalConflict, match="'k'"):
            ctx.exec(other, 1, key="k")
        return ctx.exec(counted.flow, 1, key="k")

    assert run(scope, body) == 1
    assert counted.runs == [1]


def test_two_spellings_of_one_input_are_one(scope: Scope) -> None:
    """The input counts as the handler gets it: a dict is the object that it becomes."""
    runs: list[Any] = []

    def body(ctx: FlowContext) -> list[int]:
        return [ctx.exec(buy, order, key="k") for order in ({"qty": 2}, Order(2), {"qty": "2"})]

    @flow
    def buy(ctx: FlowContext, order: Order) -> int:
        runs.append(order)
        return order.qty

    assert run(scope, body) == [2, 2, 2]
    assert runs == [Order(2)]


def test_calls_are_compared_by_function_and_arguments(scope: Scope) -> None:
    """``call(f, 1)`` twice is one input; another argument, or another function of that name, is another."""
    counts: list[Any] = []

    def note(*args: Any, **kwargs: Any) -> int:
        counts.append((args, kwargs))
        return len(counts)

    def body(ctx: FlowContext) -> list[int]:
        answers = [ctx.exec(call(note, 1, b=2), key="k") for _ in range(2)]
        with pytest.raises(errors.JournalConflict):
            ctx.exec(call(note, 1, b=3), key="k")
        return answers

    assert run(scope, body) == [1, 1]


def test_failures_are_no_answers(scope: Scope) -> None:
    """What raised runs again under its key, with another input too."""

    def fails_first(value: Any) -> Any:
        if len(counted.runs) == 1:
            raise ValueError("no")
        return value

    counted = Counted(fails_first)

    def body(ctx: FlowContext) -> list[Any]:
        with pytest.raises(ValueError, match="no"):
            ctx.exec(counted.flow, 1, key="k")
        return [ctx.exec(counted.flow, 2, key="k"), ctx.exec(counted.flow, 2, key="k")]

    assert run(scope, body) == [2, 2]
    assert counted.runs == [1, 2]


def test_a_key_belongs_to_its_place(scope: Scope) -> None:
    """The path is the parent's and then the key: items, children, blocks and runs do not share keys."""
    counted = Counted()

    @flow
    def child(ctx: FlowContext, value: int) -> list[int]:
        return [ctx.exec(counted.flow, value, key="k"), ctx.exec(counted.flow, value, key="k")]

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return [
            *ctx.exec(child, 0),
            *ctx.exec(child, 1),
            ctx.exec(counted.flow, 2, key="k"),
            *[value for pair in ctx.parallel(child.each([3, 4])) for value in pair],
            ctx.exec("block", lambda block: block.exec(counted.flow, 5, key="k")),
        ]

    assert scope.run(top) == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert scope.run(top) == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert sorted(counted.runs) == sorted([*range(6)] * 2)


class Slow:
    """A flow whose first run waits until the test lets it go, with `ask` for those that come second."""

    def __init__(self, event: Any, fails: bool = False) -> None:
        self.runs: list[int] = []
        self.started, self.go, self.gave_up = event(), event(), event()
        self.fails = fails
        self.flow = flow(name="slow")(self)

    def __call__(self, ctx: FlowContext, _: Any) -> list[int]:
        self.runs.append(len(self.runs))
        if len(self.runs) == 1:
            self.started.set()
            assert self.go.wait(LONG)
            if self.fails:
                raise ValueError("no")
        return [self.runs[-1]]

    def ask(self, ctx: FlowContext, timeout: float | None) -> Any:
        if timeout is not None:
            assert self.started.wait(LONG)
        try:
            return ctx.exec(self.flow, key="k", timeout=timeout)
        except (errors.Aborted, errors.ExecutionTimeout):
            self.gave_up.set()
            raise

    def start(self, scope: Scope, *timeouts: float) -> Any:
        """Ask side by side: first without a timeout, then, while that runs, with these."""

        def top(ctx: FlowContext, _: Any) -> Any:
            return ctx.parallel_settled([call(self.ask, ctx, timeout) for timeout in (None, *timeouts)])

        return scope.exec(flow(name="top")(top))


def test_concurrent_calls_of_one_key_run_once(make_scope: Callable[..., Scope], event: Any, clock: ManualClock) -> None:
    """Who comes second waits for the first, and gets its answer."""
    slow = Slow(event)
    execution = slow.start(make_scope(max_workers=4, clock=clock), 10, 20, 30)
    for timeout in (10, 20, 30):
        clock.block_until(timeout)
    slow.go.set()
    answers = execution.result(LONG).values()
    assert len(answers) == 4
    assert all(answer is answers[0] for answer in answers)
    assert slow.runs == [0]


def test_a_waiting_caller_takes_over_when_the_first_fails(
    make_scope: Callable[..., Scope], event: Any, clock: ManualClock
) -> None:
    """The failure is the first one's own; of those that wait one runs, and answers the others."""
    slow = Slow(event, fails=True)
    execution = slow.start(make_scope(max_workers=4, clock=clock), 10, 20)
    clock.block_until(10)
    clock.block_until(20)
    slow.go.set()
    values, failures = execution.result(LONG).partition()
    assert [str(error) for error in failures] == ["no"]
    assert values == [[1], [1]]
    assert slow.runs == [0, 1]


def test_a_waiting_caller_can_be_cancelled(make_scope: Callable[..., Scope], event: Any, clock: ManualClock) -> None:
    """Who waits for another one's answer stops at once when it is told to."""
    slow = Slow(event)
    execution = slow.start(make_scope(max_workers=4, clock=clock), 10)
    clock.block_until(10)
    execution.cancel("enough")
    assert slow.gave_up.wait(LONG)
    slow.go.set()
    with pytest.raises(errors.ExecutionCancelled, match="enough"):
        execution.result(LONG)
    assert slow.runs == [0]


def test_a_waiting_caller_has_its_own_timeout(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """Who waits for another one's answer waits no longer than its own timeout, and the other one goes on."""
    slow = Slow(event)
    execution = slow.start(make_scope(max_workers=2, clock=clock), 10)
    clock.block_until(10)
    clock.advance(10)
    assert slow.gave_up.wait(LONG)
    slow.go.set()
    values, failures = execution.result(LONG).partition()
    assert (values, slow.runs) == ([[0]], [0])
    (error,) = failures
    assert isinstance(error, errors.ExecutionTimeout)
    assert "k is still running elsewhere after 10 s" in str(error)


def test_a_late_value_is_not_recorded(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """A call that ran into its timeout has given no answer, not even when its handler returns later."""
    scope = make_scope(clock=clock)
    started, go, ended = event(), event(), event()
    runs: list[int] = []

    @flow
    def slow(ctx: FlowContext, _: Any) -> int:
        runs.append(1)
        number = len(runs)
        if number == 1:
            started.set()
            assert go.wait(LONG)
            ended.set()
        return number

    def top(ctx: FlowContext) -> Any:
        with pytest.raises(errors.ExecutionTimeout):
            ctx.exec(slow, key="k", timeout=10)
        go.set()
        assert ended.wait(LONG)
        return ctx.exec(slow, key="k"), ctx.exec(slow, key="k")

    execution = scope.exec(flow(name="top")(lambda ctx, _: top(ctx)))
    assert started.wait(LONG)
    clock.advance(10)
    assert execution.result(LONG) == (2, 2)


def test_reset_forgets_what_lies_below(scope: Scope) -> None:
    """``reset_journal(pattern)`` forgets matching keys below this execution; without a pattern, all of them."""
    counted = Counted()

    @flow
    def child(ctx: FlowContext, keys: list[str]) -> None:
        for key in keys:
            ctx.exec(counted.flow, key, key=key)

    def ask(ctx: FlowContext, *keys: str) -> list[Any]:
        del counted.runs[:]
        for key in keys:
            ctx.exec(counted.flow, key, key=key)
        return counted.runs[:]

    def top(ctx: FlowContext) -> None:
        keys = ("price-a", "price-b", "stock-a")
        assert ask(ctx, *keys) == [*keys]
        ctx.reset_journal("price-*")
        assert ask(ctx, *keys) == ["price-a", "price-b"]
        ctx.reset_journal("nothing")
        assert ask(ctx, *keys) == []
        ctx.reset_journal()
        assert ask(ctx, *keys) == [*keys]

        # a child forgets its own only
        ctx.exec("child", lambda block: block.exec(counted.flow, "x", key="price-a"))
        ctx.exec("child", lambda block: block.reset_journal())
        assert ask(ctx, *keys) == []

    run(scope, top)


def test_the_journal_ends_with_its_run(scope: Scope) -> None:
    """Without a store two runs know nothing of each other."""
    counted = Counted()
    for _ in range(2):
        run(scope, lambda ctx: ctx.exec(counted.flow, 1, key="k"))
    assert len(counted.runs) == 2


def test_many_threads_ask_many_keys(scope: Scope, together: Any, tiny_switches: None) -> None:
    """Racing callers of the same keys run each key once, and all get its answer."""
    counted = Counted(lambda value: [value])

    def top(ctx: FlowContext) -> list[Any]:
        return together(*[lambda: [ctx.exec(counted.flow, n, key=f"k{n}") for n in range(40)]] * 4)

    lists = run(scope, top)
    assert sorted(counted.runs) == list(range(40))
    assert all(a is b for one in lists[1:] for a, b in zip(lists[0], one, strict=True))
