"""What the hot paths cost in Python calls, counted over all threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workflow_runner import Extension, FlowContext, Scope, flow

LONG = 20.0


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


@flow
def fan(ctx: FlowContext, n: int) -> None:
    ctx.parallel(noop.each(range(n)), max_concurrency=8)


class Counter:
    """Counts the Python calls of this thread and of those that start while it counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[int, int] = {}

    def __call__(self, frame: Any, kind: str, _: Any) -> None:
        if kind == "call":
            # one entry for each thread, so that nothing is lost without a lock
            me = threading.get_ident()
            self._counts[me] = self._counts.get(me, 0) + 1

    def of(self, work: Callable[[], object], settled: Callable[[], bool]) -> int:
        """The calls that ``work`` makes here and elsewhere, until ``settled``."""
        before = sum(self._counts.values())
        sys.setprofile(self)
        try:
            work()
        finally:
            sys.setprofile(None)
        end = time.monotonic() + LONG
        while not settled():
            assert time.monotonic() < end
        return sum(self._counts.values()) - before


@pytest.fixture
def counter() -> Iterator[Counter]:
    """Set before any pool starts; threads of scopes that are made later are counted."""
    counter = Counter()
    threading.setprofile(counter)
    yield counter
    threading.setprofile(None)  # type: ignore[arg-type]


def idle(scope: Scope) -> Callable[[], bool]:
    """Every slot is given back, and every thread waits for its next work."""
    threads = scope._slots._threads
    return lambda: scope._slots.free == scope.max_workers and not threads.busy


def test_a_no_op_execution_costs_at_most_60_calls(counter: Counter, make_scope: Callable[..., Scope]) -> None:
    """``scope.exec(f).result()`` with all that its thread does."""
    scope = make_scope(max_workers=8)

    def fifty() -> None:
        for n in range(50):
            scope.exec(noop, n).result()

    counter.of(fifty, idle(scope))  # threads and annotations are there
    calls = counter.of(fifty, idle(scope))
    assert 0 < calls <= 50 * 60, calls / 50


def test_one_more_parallel_item_costs_at_most_8_calls(counter: Counter, make_scope: Callable[..., Scope]) -> None:
    """The difference between fan-outs of N and of 2 N items, 8 wide, over N."""
    scope = make_scope(max_workers=8)
    for wide in (lambda n: scope.exec(fan, n).result(), lambda n: scope.run(fan, n)):
        counter.of(lambda wide=wide: wide(2000), idle(scope))  # type: ignore[misc]
        small = counter.of(lambda wide=wide: wide(2000), idle(scope))  # type: ignore[misc]
        large = counter.of(lambda wide=wide: wide(4000), idle(scope))  # type: ignore[misc]
        assert 0 < large - small <= 2000 * 8, (large - small) / 2000


def test_an_extension_that_overrides_nothing_adds_no_call(counter: Counter, make_scope: Callable[..., Scope]) -> None:
    """Runs, children and items cost the same to the call, with five of them and without."""

    class Nothing(Extension):
        name = "nothing"

        def helper(self) -> None: ...

    @flow
    def busy(ctx: FlowContext, n: int) -> None:
        for _ in range(n):
            ctx.exec(noop, 1)
        ctx.parallel(noop.each(range(n)))
        ctx.parallel_settled([noop.bind(1), noop.bind(2)])

    counts = []
    for extensions in ([], [Nothing() for _ in range(5)]):
        scope = make_scope(max_workers=1, extensions=extensions)
        scope.run(busy, 10)
        counts.append(counter.of(lambda scope=scope: scope.run(busy, 10), idle(scope)))  # type: ignore[misc]
    assert counts[0] == counts[1] > 0


def test_an_inline_child_costs_a_handful_of_calls(counter: Counter, make_scope: Callable[..., Scope]) -> None:
    """``ctx.exec(f)`` without options: at most 16 calls, its handler included."""
    scope = make_scope(max_workers=1)

    @flow
    def children(ctx: FlowContext, n: int) -> None:
        for _ in range(n):
            ctx.exec(noop, 1)

    scope.run(children, 10)
    small = counter.of(lambda: scope.run(children, 100), idle(scope))
    large = counter.of(lambda: scope.run(children, 200), idle(scope))
    assert 0 < large - small <= 100 * 16, (large - small) / 100
