"""How items are recorded: in batches that wait a little, and a fan-out that waits for its last one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from store.records import LONG, die, until

from workflow_runner import FlowContext, Scope, call, errors, flow
from workflow_runner._workflow import journal
from workflow_runner.store.base import StepRow
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore
from workflow_runner.testing import ManualClock


class WatchedStore(MemoryStore):
    """Notes the batches that it is given. ``closed``: while it is set, `record` waits; ``failure``: it raises this."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.failure: Exception | None = None

    def record(self, run_id: str, fence: int, rows: Sequence[StepRow]) -> None:
        self.asked.set()
        assert self.open.wait(LONG)
        if self.failure is not None:
            raise self.failure
        super().record(run_id, fence, rows)
        self.batches.append([row.path for row in rows])


@pytest.fixture
def watched() -> Iterator[WatchedStore]:
    store = WatchedStore()
    yield store
    store.open.set()


@flow
def same(ctx: FlowContext, n: int) -> int:
    return n


@flow
def many(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel(same.each(range(n)))


class Gate:
    """An item that notes that it has begun and ends when it is let through."""

    def __init__(self, event: Callable[[], threading.Event]) -> None:
        self.begun, self.go = event(), event()
        self.count = 0

    def __call__(self, n: int) -> int:
        self.count += 1
        self.begun.set()
        assert self.go.wait(LONG)
        return n


@pytest.fixture
def gate(event: Callable[[], threading.Event]) -> Gate:
    return Gate(event)


def number(n: int) -> int:
    return n


def test_items_share_their_records(make_scope: Any, watched: WatchedStore) -> None:
    """A thousand items are a handful of batches, and each item is in one of them, once."""
    execution = make_scope(max_workers=4, store=watched).exec(many, 1000)
    assert execution.result(LONG) == list(range(1000))
    assert sorted(itertools.chain(*watched.batches)) == sorted(f"parallel[{n}]" for n in range(1000))
    assert max(map(len, watched.batches)) <= journal.BATCH_SIZE + 4  # those that end while a batch is on its way
    assert watched.batches[0] != ["parallel[0]"]


def test_items_are_few_commits(make_scope: Any, tmp_path: Path) -> None:
    """On a file a thousand items cost a few dozen transactions at most, begin and end of the run included."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    scope = make_scope(max_workers=4, store=store)
    scope.run(many, 1)
    before = store._committer._commits
    execution = scope.exec(many, 1000)
    execution.result(LONG)
    assert 2 + 1000 / (journal.BATCH_SIZE + 4) <= store._committer._commits - before <= 60
    assert len(store.steps(execution.id)) == 1000
    store.close()


def test_a_full_batch_does_not_wait(make_scope: Any, watched: WatchedStore, clock: ManualClock, gate: Gate) -> None:
    """So many items are recorded at once, although no time passes."""
    calls = [*(call(number, n) for n in range(journal.BATCH_SIZE)), call(gate, -1)]

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        return ctx.parallel(calls, max_concurrency=1)

    execution = make_scope(store=watched, clock=clock).exec(fan, 0)
    assert gate.begun.wait(LONG)
    assert [len(batch) for batch in watched.batches] == [journal.BATCH_SIZE]
    gate.go.set()
    assert len(execution.result(LONG)) == journal.BATCH_SIZE + 1
    assert [len(batch) for batch in watched.batches] == [journal.BATCH_SIZE, 1]


def test_an_item_waits_at_most_for_its_batch(
    make_scope: Any, watched: WatchedStore, clock: ManualClock, gate: Gate
) -> None:
    """While others still run it is recorded when the time of the batch is over, and not before; the next one again."""
    calls = [call(number, 1), call(number, 2), call(gate, 3)]

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        return ctx.parallel(calls, max_concurrency=1)

    execution = make_scope(store=watched, clock=clock).exec(fan, 0)
    assert gate.begun.wait(LONG)
    assert watched.batches == []
    clock.block_until(journal.BATCH_SECONDS)
    clock.advance(journal.BATCH_SECONDS)
    until(lambda: watched.batches, "the batch")
    assert watched.batches == [["parallel[0]", "parallel[1]"]]
    gate.go.set()
    execution.result(LONG)
    assert watched.batches == [["parallel[0]", "parallel[1]"], ["parallel[2]"]]


def test_every_batch_has_its_time(make_scope: Any, watched: WatchedStore, clock: ManualClock, event: Any) -> None:
    """After one was recorded the next item begins a new wait."""
    gates = [Gate(event) for _ in range(3)]

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        return ctx.parallel([call(one, n) for n, one in enumerate(gates)], max_concurrency=1)

    execution = make_scope(store=watched, clock=clock).exec(fan, 0)
    for n in range(2):
        gates[n].go.set()
        assert gates[n + 1].begun.wait(LONG)
        clock.block_until(journal.BATCH_SECONDS)
        clock.advance(journal.BATCH_SECONDS)
        until(lambda n=n: len(watched.batches) == n + 1, "the batch")
    gates[2].go.set()
    execution.result(LONG)
    assert watched.batches == [["parallel[0]"], ["parallel[1]"], ["parallel[2]"]]


def test_the_join_waits_for_the_record(make_scope: Any, watched: WatchedStore, event: Any) -> None:
    """A fan-out does not return before its last item is safe."""
    returned = event()

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        values = ctx.parallel(same.each(range(n)))
        returned.set()
        return values

    watched.open.clear()
    execution = make_scope(max_workers=2, store=watched).exec(fan, 5)
    assert watched.asked.wait(LONG)
    assert not returned.is_set()
    assert not execution.done()
    watched.open.set()
    assert execution.result(LONG) == list(range(5))
    assert returned.is_set()


def test_the_end_of_a_stream_waits_for_the_record(make_scope: Any, watched: WatchedStore) -> None:
    """Read to the end or left early: the items that were taken are recorded when the loop is over."""

    @flow
    def streams(ctx: FlowContext, n: int) -> list[list[str]]:
        assert list(ctx.stream(same.each(range(n)), name="all")) == list(range(n))
        first = sorted(itertools.chain(*watched.batches))
        for value in ctx.stream(same.each(itertools.count()), name="some"):
            if value == n:
                break
        return [first]

    [first] = make_scope(max_workers=2, store=watched).run(streams, 20)
    assert first == sorted(f"all[{n}]" for n in range(20))
    taken = set(itertools.chain(*watched.batches))
    assert {f"some[{n}]" for n in range(21)} <= taken


def test_a_record_that_fails_fails_the_fan_out(make_scope: Any, watched: WatchedStore) -> None:
    """The items ran, but they are not safe: the fan-out raises, and what was not recorded runs again on resume."""
    ran: list[int] = []

    def item(n: int) -> int:
        ran.append(n)
        return n

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        return ctx.parallel([call(item, i) for i in range(n)])

    watched.failure = errors.StoreError("no room")
    scope = make_scope(max_workers=2, store=watched)
    execution = scope.exec(fan, 10)
    error = execution.exception(LONG)
    assert isinstance(error, errors.StoreError)
    assert "no room" in str(error)
    assert watched.steps(execution.id) == []
    watched.failure = None
    ran.clear()
    assert scope.resume(execution.id, flow=fan).result(LONG) == list(range(10))
    assert sorted(ran) == list(range(10))


@pytest.mark.parametrize("settled", [False, True])
def test_after_a_record_that_has_failed_nothing_more_is_begun(
    make_scope: Any, watched: WatchedStore, clock: ManualClock, gate: Gate, settled: bool
) -> None:
    """A batch in the background has failed: the items to come do not run, and the fan-out raises."""
    begun: list[int] = []

    def item(n: int) -> int:
        begun.append(n)
        return n

    @flow
    def fan(ctx: FlowContext, n: int) -> Any:
        calls = [call(number, 0), call(gate, 1), *(call(item, i) for i in range(n))]
        return (ctx.parallel_settled if settled else ctx.parallel)(calls, max_concurrency=1)

    watched.failure = errors.StoreError("no room")
    execution = make_scope(store=watched, clock=clock).exec(fan, 100)
    assert gate.begun.wait(LONG)
    clock.block_until(journal.BATCH_SECONDS)
    clock.advance(journal.BATCH_SECONDS)
    root = execution.ctx
    until(lambda: root.__dict__["_journal"]._failure is not None, "the batch to fail")
    gate.go.set()
    assert "no room" in str(execution.exception(LONG))
    assert begun == []


def test_a_zombies_fan_out_stops(make_scope: Any, tmp_path: Path, event: Any) -> None:
    """Taken over: its items are not recorded, and once it knows it begins no more of them."""
    gate, begun = Gate(event), []
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    other = SQLiteStore(tmp_path / "runs.db", durability="process")

    def item(n: int) -> int:
        begun.append(n)
        return n

    @flow
    def fan(ctx: FlowContext, n: int) -> Any:
        return ctx.parallel_settled([call(gate, 0), *(call(item, i) for i in range(n))], max_concurrency=1)

    zombie = make_scope(store=store).exec(fan, 10_000)
    assert gate.begun.wait(LONG)
    die(store)
    claimed = other.claim(zombie.id)
    gate.go.set()
    assert isinstance(zombie.exception(LONG), errors.OwnershipLost)
    assert other.steps(zombie.id) == []
    assert len(begun) < 10_000
    assert other.run(zombie.id) == claimed
    store.close()
    other.close()


def test_failures_are_no_answers(make_scope: Any, store: Any) -> None:
    """Neither of a child, nor of a keyed one, nor of an item: they are asked again; None, False and [] are answers."""
    values: dict[str, Any] = {"none": None, "false": False, "empty": [], "fails": RuntimeError("no")}
    asked: list[str] = []

    def ask(name: str) -> Any:
        asked.append(name)
        if isinstance(values[name], Exception):
            raise values[name]
        return values[name]

    def child(ctx: FlowContext, name: str) -> Any:
        return ctx.exec(call(ask, name), name=name)

    def keyed(ctx: FlowContext, name: str) -> Any:
        return ctx.exec(call(ask, name), key=name)

    def item(ctx: FlowContext, name: str) -> Any:
        return ctx.parallel([call(ask, name)], name=name)[0]

    for how in (child, keyed, item):
        asks = flow(lambda ctx, n, how=how: [how(ctx, name) for name in values], name="asks")
        values["fails"] = RuntimeError("no")
        scope = make_scope(store=store)
        execution = scope.exec(asks, 0)
        assert execution.exception(LONG) is values["fails"]
        values["fails"] = 7
        asked.clear()
        assert scope.resume(execution.id, flow=asks).result(LONG) == [None, False, [], 7]
        assert asked == ["fails"]


def test_what_was_reset_is_made_again(make_scope: Any, store: Any) -> None:
    """``ctx.reset_journal`` forgets by pattern, in the store too, and only below the execution that asks."""
    ran: list[str] = []

    def note(name: str) -> str:
        ran.append(name)
        return name

    @flow
    def below(ctx: FlowContext, reset: str | None) -> None:
        for key in ("price-a", "price-b", "other"):
            ctx.exec(call(note, key), key=key)
        if reset is not None:
            ctx.reset_journal(reset)
            for key in ("price-a", "price-b", "other"):
                ctx.exec(call(note, key), key=key)

    @flow
    def outer(ctx: FlowContext, reset: str | None) -> None:
        ctx.exec(below, None, name="untouched")
        ctx.exec(below, reset, name="reset")
        if reset is not None and "fail" not in ran:
            ran.append("fail")
            raise RuntimeError("once")

    scope = make_scope(store=store)
    keys = ["price-a", "price-b", "other"]
    execution = scope.exec(outer, "price-*")
    assert execution.exception(LONG) is not None
    assert ran == [*keys, *keys, "price-a", "price-b", "fail"]
    rows = {row.path for row in store.steps(execution.id)}
    assert rows == {f"{name}/{key}" for name in ("untouched", "reset") for key in keys} | {"untouched", "reset"}
    assert scope.resume(execution.id, flow=outer).result(LONG) is None
    assert ran[-1] == "fail"


def test_two_who_ask_one_key_at_once_run_it_once(make_scope: Any, watched: WatchedStore, gate: Gate) -> None:
    """And both get the value, which is recorded once."""

    @flow
    def asks(ctx: FlowContext, n: int) -> list[Any]:
        values: list[Any] = []
        threads = [
            threading.Thread(target=lambda: values.append(ctx.exec(call(gate, 7), key="k", timeout=LONG)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert gate.begun.wait(LONG)
        gate.go.set()
        for thread in threads:
            thread.join(LONG)
        return values

    assert make_scope(store=watched).run(asks, 0) == [7, 7, 7]
    assert gate.count == 1
    assert watched.batches == [["k"]]


def test_items_of_fan_outs_side_by_side_share_batches(make_scope: Any, watched: WatchedStore) -> None:
    """Whoever joins first, every item of each is recorded under its own path."""

    @flow
    def outer(ctx: FlowContext, n: int) -> list[list[int]]:
        return ctx.parallel(many.each([n] * 8))

    execution = make_scope(max_workers=4, store=watched).exec(outer, 50)
    assert execution.result(LONG) == [list(range(50))] * 8
    found = sorted(itertools.chain(*watched.batches))
    inner = [f"parallel[{i}]/parallel[{n}]" for i in range(8) for n in range(50)]
    assert found == sorted([*inner, *(f"parallel[{i}]" for i in range(8))])


def test_without_a_store_nothing_is_batched(make_scope: Any, clock: ManualClock) -> None:
    """A fan-out of a scope without a store leaves no timer."""
    scope: Scope = make_scope(clock=clock)
    assert scope.run(many, 10) == list(range(10))
    assert scope.stats().deadlines == 0
