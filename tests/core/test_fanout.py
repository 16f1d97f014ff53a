"""Fan-out: many calls side by side, on however few slots."""

from __future__ import annotations

import contextvars
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_runner import FlowContext, Retry, Scope, call, current, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@flow
def echo(ctx: FlowContext, value: Any) -> Any:
    return value


def run(scope: Scope, body: Callable[[FlowContext], Any], **options: Any) -> Any:
    return scope.exec(flow(name="body")(lambda ctx, _: body(ctx)), **options).result(LONG)


class Running:
    """Counts how many run at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.all = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.all += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


# Every kind of item: those of the hot path, and those that are run one by one.
KINDS: dict[str, Callable[[Callable[[Any], Any], list[Any]], Any]] = {
    "each": lambda function, values: flow(name="item")(lambda ctx, value: function(value)).each(values),
    "bind": lambda function, values: list(flow(name="item")(lambda ctx, value: function(value)).each(values)),
    "call": lambda function, values: [call(function, value) for value in values],
    "mixed": lambda function, values: [
        call(function, value) if number % 2 else flow(name="item")(lambda ctx, value: function(value)).bind(value)
        for number, value in enumerate(values)
    ],
    "retry": lambda function, values: flow(name="item", retry=Retry(on=LookupError))(
        lambda ctx, value: function(value)
    ).each(values),
    "timed": lambda function, values: flow(name="item", timeout=LONG)(lambda ctx, value: function(value)).each(values),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# -- parallel


@each_kind
@pytest.mark.parametrize("max_workers", [1, 2, 8])
def test_results_come_in_input_order(make_scope: Callable[..., Scope], kind: Any, max_workers: int) -> None:
    """Whatever finishes first: the list follows the input, and every item runs once."""
    scope = make_scope(max_workers=max_workers)
    ran: list[int] = []

    def square(n: int) -> int:
        ran.append(n)
        return n * n

    for size in (0, 1, 2, 3, 50):
        del ran[:]
        assert run(scope, lambda ctx, size=size: ctx.parallel(kind(square, range(size)))) == [  # type: ignore[misc]
            n * n for n in range(size)
        ]
        assert sorted(ran) == list(range(size))


def test_order_does_not_depend_on_who_ends_first(make_scope: Callable[..., Scope], event: Any) -> None:
    """The first item may be the last to end."""
    scope, last = make_scope(max_workers=2), event()

    def body(n: int) -> int:
        if n == 0:
            assert last.wait(LONG)
        if n == 9:
            last.set()
        return n

    assert run(scope, lambda ctx: ctx.parallel([call(body, n) for n in range(10)])) == list(range(10))


@each_kind
def test_items_run_side_by_side_up_to_the_concurrency(make_scope: Callable[..., Scope], kind: Any) -> None:
    """``max_concurrency`` items run at once, and not one more; the caller is one of those who run them."""
    scope, running = make_scope(max_workers=8), Running()
    together = threading.Barrier(3)
    threads: set[int] = set()

    def body(n: int) -> int:
        with running:
            together.wait(LONG)
            threads.add(threading.get_ident())
            return n

    assert run(scope, lambda ctx: ctx.parallel(kind(body, range(12)), max_concurrency=3)) == list(range(12))
    assert (running.most, running.all) == (3, 12)


def test_the_caller_works_itself(make_scope: Callable[..., Scope]) -> None:
    """On one slot every item runs in the caller's own thread, in order."""
    scope = make_scope(max_workers=1)
    ran: list[Any] = []

    def body(ctx: FlowContext) -> None:
        ctx.parallel([call(lambda n=n: ran.append((n, threading.get_ident()))) for n in range(5)], max_concurrency=4)
        assert ran == [(n, threading.get_ident()) for n in range(5)]

    run(scope, body)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "2"])
def test_a_concurrency_that_makes_no_sense_is_refused(scope: Scope, wrong: Any) -> None:
    """ValueError before anything runs; so is a buffer."""

    def body(ctx: FlowContext) -> None:
        for start in (ctx.parallel, ctx.parallel_settled, ctx.stream):
            with pytest.raises(ValueError, match="max_concurrency must be a whole number from 1"):
                start([echo], max_concurrency=wrong)
        with pytest.raises(ValueError, match="buffer must be a whole number from 1"):
            ctx.stream([echo], buffer=wrong)

    run(scope, body)


def test_calls_may_come_from_anything_that_can_be_iterated(scope: Scope) -> None:
    """Generators are read in the caller's thread before the first item runs; what they raise is raised."""
    readers: list[int] = []

    def calls() -> Iterator[Any]:
        for n in range(5):
            readers.append(threading.get_ident())
            yield echo.bind(n)

    def breaks() -> Iterator[Any]:
        yield echo.bind(1)
        raise OSError("no more")

    def body(ctx: FlowContext) -> Any:
        assert ctx.parallel(calls()) == list(range(5))
        assert set(readers) == {threading.get_ident()}
        assert ctx.parallel(call_ for call_ in ()) == []
        with pytest.raises(OSError, match="no more"):
            ctx.parallel(breaks())

    run(scope, body)


# -- failures


@each_kind
def test_the_first_failure_stops_the_rest(make_scope: Callable[..., Scope], kind: Any, event: Any) -> None:
    """No new item starts, the running ones get the signal and are awaited, then the failure is raised."""
    scope = make_scope(max_workers=2)
    both, told, ended = threading.Barrier(2), event(), event()
    ran: list[int] = []
    error = ValueError("no")

    def body(n: int) -> None:
        ran.append(n)
        both.wait(LONG)
        if n == 1:
            raise error
        if current().signal.event.wait(LONG):
            told.set()
        ended.set()

    def top(ctx: FlowContext) -> None:
        try:
            ctx.parallel(kind(body, range(10)), max_concurrency=2)
        finally:
            assert ended.is_set()  # nobody is left behind
            assert not ctx.signal.aborted  # and the parent itself is not told

    with pytest.raises(ValueError, match="no") as caught:
        run(scope, top)
    assert caught.value is error
    assert told.is_set()
    assert sorted(ran) == [0, 1]


@each_kind
def test_the_failure_with_the_lowest_index_is_raised(make_scope: Callable[..., Scope], kind: Any) -> None:
    """Of several failures the lowest index wins, whoever was first; the others are in its notes."""
    scope = make_scope(max_workers=4)
    both = threading.Barrier(4)
    order = [threading.Event() for _ in range(5)]
    order[4].set()

    def body(n: int) -> None:
        both.wait(LONG)
        assert order[n + 1].wait(LONG)
        order[n].set()  # the last one fails first
        raise ValueError(f"item {n}")

    with pytest.raises(ValueError, match="item 0") as caught:
        run(scope, lambda ctx: ctx.parallel(kind(body, range(4)), max_concurrency=4))
    assert caught.value.__notes__[:3] == [f"item {n} failed as well: ValueError('item {n}')" for n in (1, 2, 3)]


def test_only_so_many_failures_are_noted(make_scope: Callable[..., Scope]) -> None:
    """The notes name twenty of the others, and count the rest."""
    scope, both = make_scope(max_workers=30), threading.Barrier(30)

    def body(n: int) -> None:
        both.wait(LONG)
        raise ValueError(n)

    with pytest.raises(ValueError) as caught:
        run(scope, lambda ctx: ctx.parallel([call(body, n) for n in range(30)]))
    assert len(caught.value.__notes__) == 22  # the last one names the run
    assert caught.value.__notes__[20] == "and 9 more items failed"


def test_who_only_obeyed_has_not_failed(make_scope: Callable[..., Scope]) -> None:
    """A running item that stops because it was told to is no failure, whatever its index."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)

    def body(n: int) -> None:
        both.wait(LONG)
        if n == 1:
            raise ValueError("no")
        current().signal.event.wait(LONG)
        current().throw_if_aborted()

    with pytest.raises(ValueError, match="no") as caught:
        run(scope, lambda ctx: ctx.parallel([call(body, n) for n in range(2)]))
    assert len(caught.value.__notes__) == 1


def test_an_item_that_finishes_in_spite_of_the_signal_counts_for_nothing(make_scope: Callable[..., Scope]) -> None:
    """The failure is raised all the same."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)

    def body(n: int) -> str:
        both.wait(LONG)
        if n == 1:
            raise ValueError("no")
        current().signal.event.wait(LONG)
        return "done"

    with pytest.raises(ValueError, match="no"):
        run(scope, lambda ctx: ctx.parallel([call(body, n) for n in range(2)]))


def test_catching_the_failure_leaves_the_parent_intact(scope: Scope) -> None:
    """After a failed fan-out the same execution may go on, and fan out again."""

    def fails(n: int) -> None:
        raise ValueError(n)

    def body(ctx: FlowContext) -> Any:
        for _ in range(50):
            with pytest.raises(ValueError, match="0"):
                ctx.parallel([call(fails, n) for n in range(5)])
        return ctx.parallel(echo.each(range(5)))

    assert run(scope, body) == list(range(5))


def test_cancelling_the_parent_stops_a_fan_out(make_scope: Callable[..., Scope], event: Any) -> None:
    """The running items are told, no new one starts, and the parent raises ``Aborted`` with the reason."""
    scope = make_scope(max_workers=2)
    both = threading.Barrier(3)
    ran: list[int] = []

    @flow
    def item(ctx: FlowContext, n: int) -> None:
        ran.append(n)
        both.wait(LONG)
        ctx.signal.event.wait(LONG)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        with pytest.raises(errors.Aborted, match="stop"):
            ctx.parallel(item.each(range(10)))
        ctx.throw_if_aborted()

    execution = scope.exec(top)
    both.wait(LONG)
    execution.cancel("stop")
    with pytest.raises(errors.ExecutionCancelled, match="stop"):
        execution.result(LONG)
    assert sorted(ran) == [0, 1]


def test_an_interrupt_goes_first(make_scope: Callable[..., Scope]) -> None:
    """KeyboardInterrupt of an item wins over ordinary failures with a lower index."""
    scope, both = make_scope(max_workers=3), threading.Barrier(3)

    def body(n: int) -> None:
        both.wait(LONG)
        raise (ValueError(n), KeyboardInterrupt(), ValueError(n))[n]

    with pytest.raises(KeyboardInterrupt):
        run(scope, lambda ctx: ctx.parallel([call(body, n) for n in range(3)]))


def test_ctrl_c_in_the_main_thread_stops_the_helpers(make_scope: Callable[..., Scope]) -> None:
    """An interrupt of an inline ``scope.run`` tells the helpers, waits for them and is raised; nothing is left."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)
    ended: list[bool] = []

    def body(_: int) -> None:
        both.wait(LONG)
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)
        try:
            assert current().signal.event.wait(LONG)
        finally:
            ended.append(threading.current_thread() is threading.main_thread())

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.parallel([call(body, n) for n in range(6)])

    with pytest.raises(KeyboardInterrupt):
        scope.run(top)
    assert ended == [False]
    assert scope.run(echo, 5) == 5


@pytest.mark.parametrize("when", ["starting", "waiting"])
def test_ctrl_c_between_items_stops_the_helpers_too(
    make_scope: Callable[..., Scope], event: Any, interrupt: Any, when: str
) -> None:
    """An interrupt while the caller starts its helpers, or waits for them: they are told, awaited, and it is raised."""
    scope, begun = make_scope(max_workers=2), event()
    ended: list[bool] = []

    def body(_: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(LONG)
            return
        begun.set()
        fanout = current()._fanout
        assert fanout is not None
        while when == "waiting" and fanout.gate is None:
            pass  # until the caller has nothing left to start
        interrupt()
        ended.append(current().signal.event.wait(LONG))

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.parallel([call(body, n) for n in range(2)])

    with pytest.raises(KeyboardInterrupt):
        scope.run(top)
    assert ended == [True]
    assert scope.run(echo, 5) == 5


# -- settled


def test_settled_runs_every_item_and_keeps_every_outcome(make_scope: Callable[..., Scope]) -> None:
    """Outcomes in input order, counts, values, errors and partition; failures stop nobody."""
    scope = make_scope(max_workers=2)

    def body(n: int) -> int | None:
        if n % 3 == 0:
            raise ValueError(n)
        return n if n % 2 else None

    settled = run(scope, lambda ctx: ctx.parallel_settled([call(body, n) for n in range(7)]))
    assert [(o.index, o.value, o.ok, str(o.error or "")) for o in settled.results] == [
        (0, None, False, "0"),
        (1, 1, True, ""),
        (2, None, True, ""),
        (3, None, False, "3"),
        (4, None, True, ""),
        (5, 5, True, ""),
        (6, None, False, "6"),
    ]
    assert (settled.stats.total, settled.stats.succeeded, settled.stats.failed) == (7, 4, 3)
    assert settled.values() == [1, None, None, 5]
    assert [str(error) for error in settled.errors()] == ["0", "3", "6"]
    assert settled.partition() == (settled.values(), settled.errors())


def test_settled_tells_nobody_to_stop(make_scope: Callable[..., Scope]) -> None:
    """A failure sets no signal for the others."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)

    def body(n: int) -> bool:
        both.wait(LONG)
        if n == 0:
            raise ValueError("no")
        both.wait(LONG)
        return current().signal.aborted

    def late(ctx: FlowContext) -> Any:
        return ctx.parallel_settled([call(body, 0), call(body, 1), call(both.wait, LONG)])

    settled = run(scope, late)
    assert settled.results[1].value is False


def test_of_nothing_nothing_settles(scope: Scope) -> None:
    """An empty fan-out is an empty answer."""
    settled = run(scope, lambda ctx: ctx.parallel_settled([]))
    assert (settled.results, settled.stats.total, settled.partition()) == ((), 0, ([], []))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_is_no_outcome(make_scope: Callable[..., Scope], interrupt: BaseException) -> None:
    """What is meant for the process stops a settled fan-out and is raised: no item that never ran looks done."""
    scope = make_scope(max_workers=1)
    ran: list[int] = []

    def body(n: int) -> None:
        ran.append(n)
        if n == 0:
            raise ValueError("no")
        if n == 1:
            raise interrupt

    with pytest.raises(type(interrupt)) as caught:
        run(scope, lambda ctx: ctx.parallel_settled([call(body, n) for n in range(5)]))
    assert caught.value is interrupt
    assert ran == [0, 1]


def test_an_item_that_gives_up_by_itself_is_an_outcome(make_scope: Callable[..., Scope]) -> None:
    """``Aborted`` that nobody asked for is one item's own end; the others run."""

    def body(n: int) -> int:
        if n == 1:
            raise errors.Aborted("mine")
        return n

    settled = run(make_scope(max_workers=1), lambda ctx: ctx.parallel_settled([call(body, n) for n in range(3)]))
    assert settled.values() == [0, 2]
    assert [error.reason for error in settled.errors()] == ["mine"]


# -- items as executions


def test_each_item_is_a_tracked_child(scope: Scope) -> None:
    """An id, a status, times, tags and a signal of its own."""
    kept: list[FlowContext] = []

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        kept.append(ctx)
        assert ctx.status == "running"
        if n == 3:
            raise ValueError("no")
        return n

    with pytest.raises(ValueError, match="no"):
        run(scope, lambda ctx: ctx.parallel(item.each(range(4)), max_concurrency=1))
    assert [ctx.status for ctx in kept] == ["completed"] * 3 + ["failed"]
    assert [str(ctx.details.error or "") for ctx in kept] == ["", "", "", "no"]
    assert all(ctx.details.completed_at is not None for ctx in kept)
    assert len({ctx.id for ctx in kept}) == 4


@each_kind
@pytest.mark.parametrize("stream", [False, True])
def test_helpers_have_the_creators_variables(make_scope: Callable[..., Scope], kind: Any, stream: bool) -> None:
    """Whoever runs an item, the caller or a helper: it sees the context variables of the creator, and its own sets."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)

    def body(n: int) -> tuple[str, int]:
        both.wait(LONG)  # one in the caller's thread and one in a helper's
        before = variable.get()
        variable.set(f"item {n}")
        return before, threading.get_ident()

    def top(ctx: FlowContext) -> Any:
        variable.set("creator")
        calls = kind(body, range(6))
        return list(ctx.stream(calls)) if stream else ctx.parallel(calls, max_concurrency=2)

    outcomes = run(scope, top)
    assert {before for before, _ in outcomes} == {"creator"}
    assert len({thread for _, thread in outcomes}) >= 2


def test_a_waiting_caller_that_helps_below_has_their_variables(make_scope: Callable[..., Scope], event: Any) -> None:
    """Items that an ancestor runs while it waits see what their own creator has set."""
    scope, both = make_scope(max_workers=2), threading.Barrier(2)

    def leaf(_: int) -> str:
        both.wait(LONG)  # needs the caller that waits above
        return variable.get()

    @flow
    def nested(ctx: FlowContext, _: Any) -> Any:
        variable.set("nested")
        return ctx.parallel([call(leaf, 1), call(leaf, 2), echo.bind("other")])

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        begun = event()

        def first() -> str:
            assert begun.wait(LONG)  # so that the helper takes the other one
            return "first"

        @flow
        def second(ctx: FlowContext, _: Any) -> Any:
            begun.set()
            return ctx.exec(nested)

        return ctx.parallel([call(first), second])

    variable.set("outside")
    assert scope.run(top) == ["first", ["nested", "nested", "other"]]


# -- slots


@pytest.mark.parametrize("max_workers", [1, 2, 8])
@pytest.mark.parametrize("depth", [1, 2, 5, 30])
def test_any_depth_finishes_on_any_slots(make_scope: Callable[..., Scope], max_workers: int, depth: int) -> None:
    """Nested fan-outs end however few slots there are, and never run more handlers at once than slots."""
    scope, running = make_scope(max_workers=max_workers), Running()
    width = 3 if depth <= 5 else 1

    @flow
    def node(ctx: FlowContext, left: int) -> int:
        if not left:
            with running:
                return 1
        return sum(ctx.parallel(node.each([left - 1] * width)))

    assert scope.exec(node, depth).result(LONG) == width**depth
    assert running.most <= max_workers


def test_many_roots_with_nested_fan_outs_share_the_slots(make_scope: Callable[..., Scope]) -> None:
    """More roots than slots, each with nested fan-outs: all end, and the slots are never exceeded."""
    scope, running = make_scope(max_workers=3), Running()

    @flow
    def node(ctx: FlowContext, left: int) -> int:
        if not left:
            with running:
                return 1
        return sum(ctx.parallel(node.each([left - 1] * 3), max_concurrency=4))

    executions = [scope.exec(node, 3) for _ in range(30)]
    assert [execution.result(LONG) for execution in executions] == [27] * 30
    assert running.most <= 3


@pytest.mark.parametrize("kind", [kind for name, kind in KINDS.items() if name != "timed"])
@pytest.mark.parametrize("stream", [False, True])
def test_helpers_make_room_for_executions_that_wait(
    make_scope: Callable[..., Scope], event: Any, kind: Any, stream: bool
) -> None:
    """While the caller is stuck in one item, its helper gives its slot to an execution that waits."""
    scope = make_scope(max_workers=2)
    helped, queued, go = event(), event(), event()

    @flow
    def other(ctx: FlowContext, _: Any) -> str:
        go.set()
        return "other"

    @flow
    def fan(ctx: FlowContext, _: Any) -> int:
        caller = threading.get_ident()

        def item(n: int) -> int:
            if threading.get_ident() == caller:
                assert go.wait(LONG)  # until `other` has run, on the helper's slot
            else:
                helped.set()
                assert queued.wait(LONG)
            return 1

        calls = kind(item, list(range(100)))
        return sum(ctx.stream(calls, buffer=50) if stream else ctx.parallel(calls))

    fanning = scope.exec(fan)
    assert helped.wait(LONG)
    waiting = scope.exec(other)
    queued.set()
    assert waiting.result(LONG) == "other"
    assert fanning.result(LONG) == 100


def test_slots_that_become_free_later_join(make_scope: Callable[..., Scope], event: Any) -> None:
    """A fan-out that begins without helpers gets them when other executions end."""
    scope = make_scope(max_workers=2)
    go, begun = event(), event()
    both = threading.Barrier(2)
    blocker = scope.exec(call(go.wait, LONG))

    @flow
    def fan(ctx: FlowContext, _: Any) -> None:
        def item(n: int) -> None:
            begun.set()
            both.wait(LONG)  # needs two of them at once

        ctx.parallel([call(item, n) for n in range(4)])

    fanning = scope.exec(fan)
    assert begun.wait(LONG)
    go.set()
    fanning.result(LONG)
    assert blocker.result(LONG) is True


def test_a_waiting_parent_runs_only_what_is_below_it(make_scope: Callable[..., Scope], event: Any) -> None:
    """The caller that waits for its helper takes no foreign execution: it is back as soon as its own work is done."""
    scope = make_scope(max_workers=2)
    helper_begun, go, foreign_go = event(), event(), event()
    foreign_threads: list[int] = []

    def foreign() -> None:
        foreign_threads.append(threading.get_ident())
        assert foreign_go.wait(LONG)

    @flow
    def fan(ctx: FlowContext, _: Any) -> int:
        caller = threading.get_ident()

        def item() -> None:
            if threading.get_ident() != caller:
                helper_begun.set()
                assert go.wait(LONG)
            else:
                assert helper_begun.wait(LONG)

        ctx.parallel([call(item), call(item)])
        return caller

    fanning = scope.exec(fan)
    assert helper_begun.wait(LONG)
    waiting = [scope.exec(call(foreign)) for _ in range(3)]
    go.set()
    caller = fanning.result(LONG)  # though the foreign ones are stuck
    foreign_go.set()
    for one in waiting:
        one.result(LONG)
    assert fanning.done()
    assert caller not in foreign_threads[:1]


@pytest.mark.parametrize("way", ["parallel", "settled", "stream", "exec", "run"])
@pytest.mark.parametrize("max_workers", [1, 8])
def test_deeper_than_python_can_call(make_scope: Callable[..., Scope], way: str, max_workers: int) -> None:
    """Nesting ends where the interpreter's stack does: a RecursionError like any other error, and nothing is lost."""
    scope = make_scope(max_workers=max_workers)

    @flow
    def node(ctx: FlowContext, left: int) -> int:
        if not left:
            return 1
        match way:
            case "parallel":
                return sum(ctx.parallel(node.each([left - 1] * 2)))
            case "settled":
                settled = ctx.parallel_settled([node.bind(left - 1), call(int, 1)])
                if settled.stats.failed:
                    raise settled.errors()[0]
                return sum(settled.values())
            case "stream":
                return sum(ctx.stream(node.each([left - 1] * 2)))
            case "exec":
                return ctx.exec(node, left - 1)
            case _:
                return scope.run(node, left - 1)

    with pytest.raises(RecursionError):
        scope.exec(node, 2000).result(LONG)
    assert scope.run(node, 3) == {"parallel": 8, "settled": 4, "stream": 8, "exec": 1, "run": 1}[way]


def test_many_threads_may_use_one_context(make_scope: Callable[..., Scope], together: Any) -> None:
    """The members of a running flow's context may be used from any thread, all at once."""
    scope = make_scope(max_workers=3)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        def use() -> list[Any]:
            found: list[Any] = []
            for n in range(30):
                found += [ctx.exec(echo, n), *ctx.parallel(echo.each(range(4))), *ctx.stream(echo.each(range(4)))]
                found += [ctx.exec(echo, n, timeout=LONG), ctx.exec("block", lambda block, n=n: block.exec(echo, n))]  # type: ignore[misc]
            return found

        outcomes = together(*[use] * 4)
        assert len(outcomes[0]) == 30 * 11
        assert outcomes == [outcomes[0]] * 4

    scope.exec(top).result(LONG)


# -- items with a timeout


def test_an_items_timeout_is_its_own(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """``timeout=`` is for each item; the caller is released though the item ignores it, the others have run."""
    scope = make_scope(max_workers=2, clock=clock)
    stuck, go = event(), event()

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        if n == 1:
            stuck.set()
            assert go.wait(LONG)
        return n

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return ctx.parallel_settled(item.each(range(4)), timeout=10)

    execution = scope.exec(top)
    assert stuck.wait(LONG)
    clock.advance(10)
    settled = execution.result(LONG)
    assert settled.stats.total == 4
    assert isinstance(settled.results[1].error, errors.ExecutionTimeout)
    assert settled.results[1].error.args == ("item timed out after 10 s",)
    go.set()


def test_a_timed_out_item_fails_a_fan_out(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """Without settling the timeout is the failure: the others are told, and nobody but the stuck thread is left."""
    scope = make_scope(max_workers=2, clock=clock)
    both, go = threading.Barrier(3), event()

    @flow
    def item(ctx: FlowContext, n: int) -> None:
        both.wait(LONG)
        if n == 1:
            assert go.wait(LONG)
        else:
            ctx.exec(waits, timeout=1000)

    @flow
    def waits(ctx: FlowContext, _: Any) -> None:
        ctx.sleep(900)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        both_timed = [flow(name="item", timeout=10)(item.handler).bind(1), item.bind(0)]
        return ctx.parallel(both_timed)

    execution = scope.exec(top)
    both.wait(LONG)
    clock.block_until(900)
    clock.advance(10)
    with pytest.raises(errors.ExecutionTimeout, match="item timed out after 10 s"):
        execution.result(LONG)
    assert execution.status == "failed"
    go.set()


def test_a_deadline_while_the_parent_waits_for_its_helpers(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """The root's deadline releases its waiter; the stuck helper's slot is given on, and so is the caller's."""
    scope = make_scope(max_workers=2, clock=clock)
    begun, go = event(), event()

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        caller = threading.get_ident()

        def item() -> None:
            if threading.get_ident() == caller:
                assert begun.wait(LONG)
            else:
                begun.set()
                assert go.wait(LONG)

        ctx.parallel([call(item), call(item)])

    execution = scope.exec(top, timeout=30)
    assert begun.wait(LONG)
    clock.advance(30)
    with pytest.raises(errors.ExecutionTimeout):
        execution.result(LONG)
    both = threading.Barrier(2)
    again = [scope.exec(call(both.wait, LONG)) for _ in range(2)]  # need both slots at once
    for one in again:
        one.result(LONG)
    go.set()
    scope.close()
    assert scope.stats().abandoned == 0


def test_a_deadline_that_catches_helpers_before_they_begin(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any
) -> None:
    """A helper whose thread has not even begun is let go of as well, and is not counted as abandoned for ever."""
    scope = make_scope(max_workers=3, clock=clock)
    begun, go, release = event(), event(), event()
    submit = scope._slots._threads.submit
    held: list[Any] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        scope._slots._threads.submit = lambda *args: held.append(args)  # type: ignore[method-assign]

        def item(n: int) -> None:
            begun.set()
            assert go.wait(LONG)

        ctx.parallel([call(item, n) for n in range(5)])

    execution = scope.exec(top, timeout=30)
    assert begun.wait(LONG)
    scope._slots._threads.submit = submit  # type: ignore[method-assign]
    assert len(held) == 2  # the threads of the helpers are late
    clock.advance(30)
    with pytest.raises(errors.ExecutionTimeout):
        execution.result(LONG)
    for args in held:
        submit(*args)
    go.set()
    scope.close()
    assert scope.stats().abandoned == 0
    release.set()


# -- random trees


def trees() -> st.SearchStrategy[Any]:
    """A tree of work: numbers are leaves, nodes say how their children are run."""
    ways = st.sampled_from(["parallel", "narrow", "settled", "stream", "unordered", "exec", "timed", "items_timed"])
    return st.recursive(
        st.integers(0, 5),
        lambda children: st.tuples(ways, st.lists(children, max_size=4)),
        max_leaves=25,
    )


def total(tree: Any) -> int:
    return tree if isinstance(tree, int) else sum(map(total, tree[1]))


def make_node(running: Running) -> Any:
    @flow
    def node(ctx: FlowContext, tree: Any) -> int:
        if isinstance(tree, int):
            with running:
                return tree
        way, children = tree
        calls = node.each(children)
        match way:
            case "parallel":
                return sum(ctx.parallel(calls))
            case "narrow":
                return sum(ctx.parallel(list(calls), max_concurrency=2))
            case "settled":
                return sum(ctx.parallel_settled(calls).values())
            case "stream":
                return sum(ctx.stream(calls, buffer=2))
            case "unordered":
                return sum(ctx.stream(calls, ordered=False))
            case "exec":
                return sum(ctx.exec(node, child) for child in children)
            case "timed":
                return sum(ctx.exec(node, child, timeout=LONG) for child in children)
            case _:
                return sum(ctx.parallel(calls, timeout=LONG))

    return node


@pytest.mark.parametrize("max_workers", [1, 2, 8])
def test_random_trees_finish(max_workers: int) -> None:
    """Any mixture of nested fan-outs, streams, children and timeouts ends, on any number of slots, within its slots."""

    @settings(max_examples=60, deadline=None)
    @given(forest=st.lists(trees(), min_size=1, max_size=4))
    def check(forest: list[Any]) -> None:
        running = Running()
        with Scope(max_workers=max_workers) as scope:
            node = make_node(running)
            executions = [scope.exec(node, tree) for tree in forest]
            assert [execution.result(LONG) for execution in executions] == [total(tree) for tree in forest]
            assert running.most <= max_workers
        stats = scope.stats()
        assert (stats.free, stats.pending, stats.abandoned, stats.deadlines) == (max_workers, 0, 0, 0)
        assert not scope._slots.wishes

    check()
