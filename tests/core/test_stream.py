"""Streams: results one by one, with few items alive, over endless input too."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workflow_runner import FlowContext, Retry, Scope, call, current, errors, flow

LONG = 20.0


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


@each_kind
@pytest.mark.parametrize("max_workers", [1, 2, 8])
def test_a_stream_yields_in_input_order(make_scope: Callable[..., Scope], kind: Any, max_workers: int) -> None:
    """Ordered: as ``parallel``, one by one; every item once."""
    scope = make_scope(max_workers=max_workers)

    def body(ctx: FlowContext) -> None:
        for size in (0, 1, 30):
            assert list(ctx.stream(kind(float, range(size)))) == [float(n) for n in range(size)]

    run(scope, body)


def test_unordered_yields_what_is_ready(make_scope: Callable[..., Scope], event: Any) -> None:
    """In the order of finishing: a slow first item holds up nobody."""
    scope, go = make_scope(max_workers=2), event()

    def item(n: int) -> int:
        if n == 0:
            assert go.wait(LONG)
        return n

    def body(ctx: FlowContext) -> list[int]:
        found = []
        for value in ctx.stream([call(item, n) for n in range(6)], ordered=False, buffer=6):
            found.append(value)
            if len(found) == 5:
                go.set()
        return found

    # the caller itself may be the one in the slow item; then the others are ready when it is
    threading.Timer(0.2, go.set).start()
    found = run(scope, body)
    assert sorted(found) == list(range(6))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("buffer", "max_concurrency"), [(1, 1), (1, 4), (3, 2), (5, 8), (None, 2)])
def test_a_stream_holds_at_most_its_buffer(
    make_scope: Callable[..., Scope], ordered: bool, buffer: int | None, max_concurrency: int
) -> None:
    """Over endless input: read, started or finished and not yet taken are never more than ``buffer``."""
    scope = make_scope(max_workers=4)
    limit = buffer or 2 * max_concurrency
    read, running = itertools.count(1), Running()
    most: list[int] = []

    def body(ctx: FlowContext) -> None:
        taken = 0

        def calls() -> Iterator[Any]:
            while True:
                most.append(next(read) - taken)
                yield call(item)

        def item() -> None:
            with running:
                pass

        stream = ctx.stream(calls(), ordered=ordered, buffer=buffer, max_concurrency=max_concurrency)
        for _ in range(200):
            next(stream)
            taken += 1
        stream.close()

    run(scope, body)
    assert max(most) == limit
    assert running.most <= min(max_concurrency, limit)


def test_a_stream_reads_in_the_consumers_thread(scope: Scope) -> None:
    """What the calls come from need not be thread-safe."""
    readers: set[int] = set()

    def calls() -> Iterator[Any]:
        for n in range(100):
            readers.add(threading.get_ident())
            yield echo.bind(n)

    def body(ctx: FlowContext) -> int:
        assert sum(ctx.stream(calls())) == 4950
        return threading.get_ident()

    consumer = run(scope, body)
    assert readers == {consumer}


class Helped:
    """Items of a stream of which the consumer runs one and a helper another one, which then waits for its signal."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)
        self.consumer = 0
        self.told: list[int] = []
        self.read = itertools.count()

    def item(self, n: int) -> str:
        if n < 2:
            self.both.wait(LONG)
        if threading.get_ident() == self.consumer:
            return "consumer"
        assert current().signal.event.wait(LONG)
        self.told.append(n)
        return "helper"

    def open(self, ctx: FlowContext) -> Iterator[str]:
        """An unordered stream over endless input, at most two of them alive."""
        self.consumer = threading.get_ident()
        return ctx.stream((call(self.item, next(self.read)) for _ in itertools.count()), buffer=2, ordered=False)


def test_leaving_the_loop_early_stops_the_rest(make_scope: Callable[..., Scope]) -> None:
    """``break`` tells the running items, awaits them, and reads no more."""
    helped = Helped()

    def body(ctx: FlowContext) -> Any:
        for value in helped.open(ctx):
            assert value == "consumer"
            break
        assert len(helped.told) == 1
        return next(helped.read), ctx.signal.aborted, ctx.parallel(echo.each([1, 2]))

    assert run(make_scope(max_workers=2), body) == (2, False, [1, 2])


def test_a_failed_item_raises_at_its_turn(make_scope: Callable[..., Scope]) -> None:
    """The results before it come first; it is raised as it is; the rest is stopped."""
    scope = make_scope(max_workers=2)
    error = ValueError("no")

    def item(n: int) -> int:
        if n == 3:
            raise error
        return n

    def body(ctx: FlowContext) -> list[int]:
        found: list[int] = []
        with pytest.raises(ValueError, match="no") as caught:
            found.extend(ctx.stream(call(item, n) for n in itertools.count()))
        assert caught.value is error
        return found

    assert run(scope, body) == [0, 1, 2]


def test_an_iterator_that_fails_stops_its_stream(scope: Scope) -> None:
    """What the source of the calls raises is raised, and running items are awaited."""

    def calls() -> Iterator[Any]:
        yield echo.bind(1)
        raise OSError("no more")

    def body(ctx: FlowContext) -> None:
        with pytest.raises(OSError, match="no more"):
            list(ctx.stream(calls()))
        with pytest.raises(errors.DefinitionError, match="item 1 is no call"):
            list(ctx.stream([echo, 5]))  # type: ignore[list-item]

    run(scope, body)


def test_an_interrupt_in_an_item_does_not_wait_for_its_turn(make_scope: Callable[..., Scope]) -> None:
    """KeyboardInterrupt of a helper's item ends the stream at once: the others are told, and it is raised."""
    both = threading.Barrier(2)
    told: list[int] = []

    def body(ctx: FlowContext) -> None:
        consumer = threading.get_ident()

        def item(n: int) -> None:
            both.wait(LONG)
            if threading.get_ident() != consumer:
                raise KeyboardInterrupt
            assert current().signal.event.wait(LONG)
            told.append(n)

        with pytest.raises(KeyboardInterrupt):
            next(ctx.stream(call(item, n) for n in itertools.count()))

    run(make_scope(max_workers=2), body)
    assert len(told) == 1


def test_a_stream_left_open_ends_with_its_flow(make_scope: Callable[..., Scope]) -> None:
    """When the handler returns, running items are told and awaited; iterating later is a ContextError."""
    helped = Helped()
    kept: list[Iterator[Any]] = []

    @flow
    def leaves(ctx: FlowContext, _: Any) -> str:
        kept.append(helped.open(ctx))
        return next(kept[0])

    assert make_scope(max_workers=2).exec(leaves).result(LONG) == "consumer"
    assert len(helped.told) == 1
    with pytest.raises(errors.ContextError, match="stream 'stream' has ended with execution 'leaves'"):
        next(kept[0])
    assert list(kept[0]) == []
    assert next(helped.read) == 2


@pytest.mark.parametrize("where", ["root", "child", "timed", "item", "block", "failing"])
def test_a_stream_never_outlives_its_execution(make_scope: Callable[..., Scope], where: str) -> None:
    """Begun or not, in whatever execution it was made: later it runs nothing."""
    scope = make_scope(max_workers=2)
    kept: list[Iterator[Any]] = []
    ran: list[int] = []

    def leave(ctx: FlowContext, _: Any = None) -> None:
        kept.extend([ctx.stream([call(ran.append, n) for n in range(9)], max_concurrency=1) for _ in range(2)])
        next(kept[0])
        if where == "failing":
            raise ValueError("no")

    leaves = flow(leave)

    def body(ctx: FlowContext) -> None:
        if where in ("child", "failing"):
            ctx.exec(leaves)
        elif where == "timed":
            ctx.exec(leaves, timeout=LONG)
        elif where == "item":
            ctx.parallel([leaves])
        elif where == "block":
            ctx.exec("block", leave)
        else:
            leave(ctx)

    if where == "failing":
        with pytest.raises(ValueError, match="no"):
            run(scope, body)
    else:
        run(scope, body)
    before = len(ran)
    for stream in kept:
        with pytest.raises(errors.ContextError):
            next(stream)
    assert len(ran) == before


def test_a_cancelled_parent_ends_its_stream(make_scope: Callable[..., Scope]) -> None:
    """The running items are told, no other one starts, and the consumer gets ``Aborted`` instead of a result."""
    scope, both = make_scope(max_workers=2), threading.Barrier(3)
    ran: list[int] = []
    aborted: list[Any] = []

    def item(n: int) -> None:
        ran.append(n)
        both.wait(LONG)
        assert current().signal.event.wait(LONG)

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        with pytest.raises(errors.Aborted) as caught:
            next(ctx.stream(call(item, n) for n in itertools.count()))
        aborted.append(caught.value.reason)
        ctx.throw_if_aborted()

    execution = scope.exec(top)
    both.wait(LONG)
    execution.cancel("stop")
    with pytest.raises(errors.ExecutionCancelled, match="stop"):
        execution.result(LONG)
    assert (sorted(ran), aborted) == ([0, 1], ["stop"])


def test_streams_nest(make_scope: Callable[..., Scope]) -> None:
    """Streams in items of streams and fan-outs, on one, two and eight slots."""

    @flow
    def inner(ctx: FlowContext, n: int) -> int:
        return sum(ctx.stream(echo.each(range(n)))) + sum(ctx.parallel(echo.each(range(n))))

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        return sum(ctx.stream(inner.each(range(n)))) + sum(ctx.parallel(inner.each(range(n))))

    for max_workers in (1, 2, 8):
        assert make_scope(max_workers=max_workers).exec(outer, 9).result(LONG) == 4 * sum(
            sum(range(n)) for n in range(9)
        )


def test_threads_may_open_streams_of_one_context_together(
    make_scope: Callable[..., Scope], together: Any, tiny_switches: None
) -> None:
    """None of them is forgotten at the end of the flow."""
    scope = make_scope(max_workers=1)
    streams: list[Any] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        def open_some() -> list[Any]:
            return [ctx.stream([echo]) for _ in range(20)]

        streams.extend(stream for some in together(*[open_some] * 4) for stream in some)

    for _ in range(10):
        del streams[:]
        scope.run(top)
        assert len(streams) == 80
        for stream in streams:
            with pytest.raises(errors.ContextError):
                next(stream)
