"""When a flow is healthy, and what is said when it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow_runner._workflow.health import EVERY, FlowHealth, health, read_for_health
from workflow_runner._workflow.history import RunSummary
from workflow_runner.store.base import NewRun
from workflow_runner.store.sqlite import SQLiteStore

NOW = 1000.0


def run(run_id: str, status: str, at: float, *, took: float | None = 1.0, **changes: Any) -> RunSummary:
    """A run that was begun at ``at``."""
    ended = status not in ("running", "crashed", "pending")
    fields = dict.fromkeys(("version", "target", "key", "batch_id", "partition", "as_of", "trace_id", "owner"))
    return RunSummary(
        **{
            **fields,
            "run_id": run_id,
            "flow": "f",
            "status": status,
            "tags": {},
            "cancel_requested": None,
            "retry_of": None,
            "created_at": at,
            "started_at": at,
            "finished_at": at + (took or 0.0) if ended else None,
            "duration": took,
            "error": None,
            **changes,
        }
    )


def judged(*runs: RunSummary, **limits: Any) -> FlowHealth:
    return health(runs, NOW, **limits)[0]


def troubles(*runs: RunSummary, **limits: Any) -> list[tuple[str, str | None]]:
    return [(trouble.kind, trouble.run_id) for trouble in judged(*runs, **limits).troubles]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([run("a", "completed", 1)], []),
        ([run("a", "partial", 1)], []),
        ([run("a", "failed", 1)], [("failed", "a")]),
        ([run("a", "failed", 1), run("b", "completed", 2)], []),
        ([run("a", "completed", 1), run("b", "failed", 2), run("c", "running", 3)], [("failed", "b")]),
        ([run("a", "cancelled", 1)], []),
        ([run("a", "cancelled", 1, error={"type": "ExecutionTimeout", "message": "late"})], [("timed out", "a")]),
        ([run("a", "pending", 1)], [("interrupted", "a")]),
        ([run("a", "crashed", 1), run("b", "completed", 2)], [("crashed", "a")]),
        ([run("a", "crashed", 1), run("b", "completed", 2, retry_of="a")], []),
        ([run("a", "running", 1)], []),
    ],
)
def test_the_last_end_and_every_crash_counts(runs: list[RunSummary], expected: list[tuple[str, str]]) -> None:
    """A failure counts until a later run has ended well; a crash until somebody goes on with it."""
    assert troubles(*runs) == expected
    assert judged(*runs).healthy is not bool(expected)


def test_a_flow_is_overdue_some_time_after_its_last_success() -> None:
    """The last success is the one that ended last; failures since do not count as one."""
    runs = [run("a", "completed", 800, took=50.0), run("b", "completed", 810, took=1.0), run("c", "running", 990)]
    assert judged(*runs).age == 150.0
    assert troubles(*runs, max_age={EVERY: 150.0}) == []
    assert troubles(*runs, max_age={EVERY: 149.0}) == [("overdue", None)]
    assert troubles(*runs, max_age={"f": 200.0, EVERY: 1.0}) == []
    assert troubles(run("a", "running", 999), max_age={"f": 10.0}) == [("never succeeded", None)]


def test_a_flow_that_was_never_run_is_noticed_if_it_is_named() -> None:
    """A limit of its own says that it is expected."""
    (never,) = health([], NOW, max_age={"nightly": 10.0, EVERY: 5.0})
    assert (never.flow, never.last, [trouble.kind for trouble in never.troubles]) == (
        "nightly",
        None,
        ["never succeeded"],
    )


def test_a_run_is_stuck_when_it_takes_much_longer_than_usual() -> None:
    """Three times what 95 of 100 took, as soon as there are five; or a limit that was given."""
    before = [run(f"r{n}", "completed", n, took=10.0) for n in range(5)]
    slow = run("slow", "running", 900, took=31.0)
    assert troubles(*before, slow) == [("stuck", "slow")]
    assert troubles(*before[:4], slow) == []
    assert troubles(*before, slow, max_running={EVERY: 60.0}) == []
    assert troubles(slow, max_running={"f": 30.0}) == [("stuck", "slow")]
    (trouble,) = judged(*before, slow).troubles
    assert (trouble.seconds, trouble.limit) == (31.0, 30.0)


def test_flows_are_judged_one_by_one_in_order() -> None:
    """Each by its own runs, whatever their order."""
    found = health([run("b", "failed", 2, flow="z"), run("a", "completed", 1, flow="a")], NOW)
    assert [(one.flow, one.healthy) for one in found] == [("a", True), ("z", False)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """A store in a file."""
    opened = SQLiteStore(tmp_path / "runs.db", durability="process")
    yield opened
    opened.close()


def test_what_is_read_has_the_last_success_and_every_crash(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many failed runs came after them."""
    monkeypatch.setattr("workflow_runner._workflow.health._NEWEST", 2)

    def submit(run_id: str) -> None:
        store.submit(NewRun(run_id=run_id, flow="f", input="1", input_hash="h"))

    submit("good")
    store.finish("good", 1, "completed", "1", None)
    submit("lost")
    store._owner.forked()
    for number in range(4):
        submit(f"bad{number}")
        store.finish(f"bad{number}", 1, "failed", None, json.dumps({"type": "E", "message": "m"}))
    found = {one.run_id: one.status for one in read_for_health(store)}
    assert found == {"good": "completed", "lost": "crashed", "bad3": "failed", "bad2": "failed"}
    assert read_for_health(store, "other") == []


def test_a_run_that_was_gone_on_with_is_as_long_at_it_as_its_process(store: SQLiteStore) -> None:
    """Not since it was begun the first time."""
    store.submit(NewRun(run_id="r", flow="f", input="1", input_hash="h"))
    store.release("r", 1)
    store._write(lambda connection: connection.execute("UPDATE runs SET started_at = started_at - 1e6"))
    store.claim("r")
    (one,) = read_for_health(store)
    assert one.duration is not None
    assert one.duration < 1e5
