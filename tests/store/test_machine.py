"""The store against a model of it: any sequence of verbs, by several processes, some of which die."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import attrs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from store.records import die, new_run, row
from workflow_runner.errors import OwnershipLost, RunNotFound, RunOwned
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore

PATHS = ["a", "a/items[0]", "a/items[1]", "b", "c"]
SETTINGS = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@attrs.define
class Model:
    """What one run should be."""

    flow: str
    key: str | None
    input_hash: str
    created: int
    status: str = "running"
    fence: int = 1
    # the process that has it; it may be dead
    owner: int | None = None
    steps: dict[str, tuple[int, str]] = attrs.field(factory=dict)
    attempts: list[tuple[str, int]] = attrs.field(factory=list)
    overrides: str | None = None
    cancel: str | None = None
    result: str | None = None


class StoreMachine(RuleBasedStateMachine):
    """Rules are verbs; a fence is any that was ever given out, so that stale ones come again."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Model] = {}
        self.living: set[int] = set()
        self.seen: dict[str, Any] = {}
        self.ids = itertools.count()
        self.seqs = itertools.count(1)
        self.stores: list[Any] = []
        self.owners: list[int] = []

    def open(self) -> None:
        self.stores = [MemoryStore()]

    @initialize()
    def begin(self) -> None:
        self.open()
        self.owners = list(range(len(self.stores)))
        self.living = set(self.owners)

    # -- the model's answers

    def alive(self, run: Model) -> bool:
        return run.status == "running" and run.owner in self.living

    def fenced(self, run_id: str, fence: int) -> Model | None:
        """The run, if a write with this fence is allowed."""
        run = self.model.get(run_id)
        return run if run is not None and run.fence == fence and run.status == "running" else None

    def write(self, run_id: str, fence: int, verb: Any) -> Model | None:
        """Call ``verb``, which must raise exactly if the fence is stale; the run to change, if it is not."""
        allowed = self.fenced(run_id, fence)
        try:
            verb()
        except OwnershipLost:
            assert allowed is None, "refused, although the fence is the run's"
        else:
            assert allowed is not None, "written, although the fence is stale"
        return allowed

    # -- verbs

    @rule(
        target=runs,
        store=st.integers(0, 9),
        flow=st.sampled_from("fg"),
        key=st.sampled_from([None, "k", "l"]),
        input_hash=st.sampled_from("hi"),
    )
    def submit(self, store: int, flow: str, key: str | None, input_hash: str) -> Any:
        number = next(self.ids)
        run_id, store = f"r{number}", store % len(self.stores)
        found, created = self.stores[store].submit(
            new_run(run_id, flow=flow, idem_key=key, input_hash=input_hash, input=f'"{number}"')
        )
        same = [r for r, m in self.model.items() if key is not None and (m.flow, m.key) == (flow, key)]
        assert created == (not same)
        if same:
            assert [found.run_id] == same
            assert found.input_hash == self.model[same[0]].input_hash
            return multiple()
        assert (found.run_id, found.fence, found.status, found.alive) == (run_id, 1, "running", True)
        self.model[run_id] = Model(flow, key, input_hash, number, owner=self.owners[store])
        return run_id

    @rule(store=st.integers(0, 9), run_id=runs)
    def look(self, store: int, run_id: str) -> None:
        """Keep what a run is, for a claim that comes later."""
        if run_id in self.model:
            self.seen[run_id] = self.stores[store % len(self.stores)].run(run_id)

    @rule(store=st.integers(0, 9), run_id=runs, looked=st.booleans())
    def claim(self, store: int, run_id: str, looked: bool) -> None:
        run, store = self.model.get(run_id), store % len(self.stores)
        seen = self.seen.get(run_id) if looked else None
        changed = seen is not None and run is not None and (seen.fence, seen.status) != (run.fence, run.status)
        try:
            claimed = self.stores[store].claim(run_id, seen)
        except RunNotFound:
            assert run is None
        except RunOwned:
            assert run is not None
            assert self.alive(run) or changed
        else:
            assert run is not None
            assert not self.alive(run)
            assert not changed
            run.fence += 1
            run.status, run.owner, run.cancel, run.result = "running", self.owners[store], None, None
            assert (claimed.fence, claimed.alive) == (run.fence, True)

    @rule(
        store=st.integers(0, 9),
        run_id=runs,
        fence=st.integers(1, 5),
        paths=st.lists(st.sampled_from(PATHS), min_size=1, max_size=4),
    )
    def record(self, store: int, run_id: str, fence: int, paths: list[str]) -> None:
        rows = [row(path, seq, output=str(seq)) for path, seq in zip(paths, self.seqs, strict=False)]
        run = self.write(run_id, fence, lambda: self.stores[store % len(self.stores)].record(run_id, fence, rows))
        if run is not None:
            for one in rows:
                run.steps.setdefault(one.path, (one.seq, one.output or ""))

    @rule(store=st.integers(0, 9), run_id=runs, fence=st.integers(1, 5), path=st.sampled_from(PATHS))
    def attempt(self, store: int, run_id: str, fence: int, path: str) -> None:
        number = next(self.seqs)
        one = self.stores[store % len(self.stores)]
        run = self.write(run_id, fence, lambda: one.attempt(run_id, fence, path, number, 1.0, None))
        if run is not None:
            run.attempts.append((path, number))

    @rule(
        store=st.integers(0, 9),
        run_id=runs,
        fence=st.integers(1, 5),
        status=st.sampled_from(["completed", "failed", "cancelled"]),
    )
    def finish(self, store: int, run_id: str, fence: int, status: str) -> None:
        result = str(next(self.seqs))
        one = self.stores[store % len(self.stores)]
        run = self.write(run_id, fence, lambda: one.finish(run_id, fence, status, result, None))
        if run is not None:
            run.status, run.result, run.owner = status, result, None

    @rule(store=st.integers(0, 9), run_id=runs, fence=st.integers(1, 5))
    def release(self, store: int, run_id: str, fence: int) -> None:
        run = self.write(run_id, fence, lambda: self.stores[store % len(self.stores)].release(run_id, fence))
        if run is not None:
            run.status, run.owner = "pending", None

    @rule(store=st.integers(0, 9), run_id=runs, fence=st.integers(1, 5), paths=st.lists(st.sampled_from(PATHS)))
    def forget(self, store: int, run_id: str, fence: int, paths: list[str]) -> None:
        run = self.write(run_id, fence, lambda: self.stores[store % len(self.stores)].forget(run_id, fence, paths))
        if run is not None:
            run.steps = {path: step for path, step in run.steps.items() if path not in paths}
            run.attempts = [noted for noted in run.attempts if noted[0] not in paths]

    @rule(store=st.integers(0, 9), run_id=runs, fence=st.integers(1, 5))
    def override(self, store: int, run_id: str, fence: int) -> None:
        text = str(next(self.seqs))
        one = self.stores[store % len(self.stores)]
        run = self.write(run_id, fence, lambda: one.override(run_id, fence, text))
        if run is not None:
            run.overrides = text

    @rule(store=st.integers(0, 9), run_id=runs, reason=st.sampled_from(["", "why"]))
    def request_cancel(self, store: int, run_id: str, reason: str) -> None:
        run = self.model.get(run_id)
        try:
            asked = self.stores[store % len(self.stores)].request_cancel(run_id, reason)
        except RunNotFound:
            assert run is None
            return
        assert run is not None
        assert asked == (run.status in ("pending", "running"))
        if asked:
            run.cancel = reason
            if not self.alive(run):
                run.status, run.owner = "cancelled", None

    @rule(store=st.integers(0, 9), keep_last=st.integers(0, 3), keep_failed=st.booleans())
    def prune(self, store: int, keep_last: int, keep_failed: bool) -> None:
        ended = ("completed",) if keep_failed else ("completed", "failed", "cancelled")
        doomed = []
        for run_id, run in self.model.items():
            newer = sum(other.flow == run.flow and other.created > run.created for other in self.model.values())
            if run.status in ended and newer >= keep_last:
                doomed.append(run_id)
        deleted = self.stores[store % len(self.stores)].prune(keep_last=keep_last, keep_failed=keep_failed)
        assert deleted == len(doomed)
        for run_id in doomed:
            del self.model[run_id]

    @rule(run_id=consumes(runs))
    def lose_sight(self, run_id: str) -> None:
        """Concentrate on other runs."""

    # -- what must hold after every verb

    @invariant()
    def every_store_says_what_the_model_says(self) -> None:
        for store in self.stores:
            assert [run.run_id for run in store.runs(limit=1000)] == sorted(
                self.model, key=lambda run_id: self.model[run_id].created, reverse=True
            )
            for run_id, run in self.model.items():
                record = store.run(run_id)
                assert (record.status, record.fence, record.overrides) == (run.status, run.fence, run.overrides)
                assert (record.cancel_requested, record.result) == (run.cancel, run.result)
                assert record.alive == self.alive(run)
                assert record.crashed == (run.status == "running" and not self.alive(run))
                assert (record.finished_at is None) == (run.status in ("running", "pending"))
                steps = sorted((seq, path, output) for path, (seq, output) in run.steps.items())
                assert [(step.seq, step.path, step.output) for step in store.steps(run_id)] == steps
                assert [(noted[0], noted[1]) for noted in store.attempts(run_id)] == run.attempts
                if run.key is not None:
                    assert store.find(run.flow, run.key) == record
            wanted = {run_id: run.cancel for run_id, run in self.model.items() if run.cancel is not None}
            assert store.cancel_requests(list(self.model)) == wanted


class SQLiteMachine(StoreMachine):
    """Three processes on one file: three stores, each of which is an owner."""

    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.stores = [SQLiteStore(self.folder / "runs.db", durability="process") for _ in range(3)]
        self.next_owner = itertools.count(len(self.stores))

    @precondition(lambda self: self.stores)
    @rule(store=st.integers(0, 2), how=st.sampled_from(["killed", "closed"]))
    def a_process_ends(self, store: int, how: str) -> None:
        """A process dies, or closes its store; another one takes its place."""
        if how == "killed":
            die(self.stores[store])
        else:
            self.stores[store].close()
        self.living.discard(self.owners[store])
        self.owners[store] = next(self.next_owner)
        self.living.add(self.owners[store])

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        if self.stores:
            shutil.rmtree(self.folder)


TestMemory = StoreMachine.TestCase
TestMemory.settings = SETTINGS
TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(SETTINGS, max_examples=25)
