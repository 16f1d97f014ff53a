"""The contract of ``store.base``, clause by clause, for every back-end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from store.conftest import BACK_ENDS, make_store
from store.records import LONG, die, new_run, paths, row
from workflow_runner.errors import OwnershipLost, RunNotFound, RunOwned, StoreError
from workflow_runner.store import open_store
from workflow_runner.store.base import LogRow, NewRun, StepRow

FULL_RUN = NewRun(
    run_id="r1",
    flow="flow",
    target="module:flow",
    version="2",
    shape='["a"]',
    idem_key="key",
    input='{"x":"Zürich \\u0000 \U0001f600"}',
    input_hash="hash",
    batch_id="batch",
    partition="region=EU",
    as_of="2013-03-01",
    parent="r0",
    trace_id="trace",
    tags='{"env":"prod"}',
)

# Every verb that needs the fence, and writes nothing without it.
FENCED: dict[str, Callable[[Any, str, int], object]] = {
    "record": lambda store, run_id, fence: store.record(run_id, fence, [row("x", 9), row("y", 10)]),
    "attempt": lambda store, run_id, fence: store.attempt(run_id, fence, "x", 1, 1.0, None),
    "finish": lambda store, run_id, fence: store.finish(run_id, fence, "completed", "1", None),
    "release": lambda store, run_id, fence: store.release(run_id, fence),
    "forget": lambda store, run_id, fence: store.forget(run_id, fence, ["a"]),
    "override": lambda store, run_id, fence: store.override(run_id, fence, "[]"),
}


def everything(store: Any, run_id: str = "r1") -> tuple[Any, ...]:
    return store.run(run_id), store.steps(run_id), store.attempts(run_id)


# -- 1. acknowledged is kept


@pytest.mark.parametrize("kind", ["power", "process"])
def test_what_was_acknowledged_is_there_for_the_next_who_opens_the_store(kind: str, tmp_path: Path) -> None:
    """Runs, steps and attempts are as they were when the file is opened again."""
    store = make_store(kind, tmp_path)
    store.submit(FULL_RUN)
    store.record("r1", 1, [row("a", 1), row("b", 2, status="skipped", output=None, input_hash="i", attempt=3)])
    store.attempt("r1", 1, "c", 2, 5.5, '"no"')
    store.override("r1", 1, "[1]")
    store.finish("r1", 1, "failed", None, '{"type":"E"}')
    before = everything(store)
    store.close()
    again = make_store(kind, tmp_path)
    assert everything(again) == before
    again.close()


def test_a_run_comes_back_as_it_was_submitted(store: Any) -> None:
    """Every field of a new run is kept, whatever characters its texts have."""
    record, created = store.submit(FULL_RUN)
    assert created
    assert store.run("r1") == record
    for field in attrs.fields(NewRun):
        assert getattr(record, field.name) == getattr(FULL_RUN, field.name)
    assert (record.status, record.fence, record.alive, record.crashed) == ("running", 1, True, False)
    assert (record.result, record.error, record.overrides, record.cancel_requested) == (None, None, None, None)
    assert record.finished_at is None


def test_a_step_comes_back_as_it_was_recorded(store: Any) -> None:
    """Every field of a row is kept."""
    store.submit(new_run())
    rows = [
        StepRow(
            path="a/items[3]",
            seq=7,
            kind="item",
            flow="ü",
            attempt=2,
            status="completed",
            input_hash="h",
            output='{"$":"float","v":"nan"}',
            started_at=1.25,
            finished_at=2.5,
        ),
        row("b", 8, output=None),
    ]
    store.record("r1", 1, rows)
    assert store.steps("r1") == rows


def test_steps_come_in_the_order_of_recording(store: Any) -> None:
    """The order is that of ``seq``, not of paths and not of writing."""
    store.submit(new_run())
    store.record("r1", 1, [row("b", 10), row("a", 30)])
    store.record("r1", 1, [row("c", 20)])
    assert paths(store) == ["b", "c", "a"]


def test_rows_are_recorded_all_or_none(store: Any) -> None:
    """Rows that cannot be written leave nothing of the others behind."""
    store.submit(new_run())
    with pytest.raises(Exception):
        store.record("r1", 1, [row("a", 1), None, row("b", 2)])  # type: ignore[list-item]
    assert paths(store) == []
    store.record("r1", 1, [row("a", 1)])
    assert paths(store) == ["a"]


def test_nothing_to_record_is_no_error(store: Any) -> None:
    """An empty batch writes nothing and still looks at the fence."""
    store.submit(new_run())
    store.record("r1", 1, [])
    with pytest.raises(OwnershipLost):
        store.record("r1", 2, [])


# -- 2. a run is inserted once


def test_a_key_gives_the_run_that_has_it(store: Any) -> None:
    """A second run with the key of its flow is not inserted; the first one is given."""
    store.submit(new_run("r1", idem_key="k"))
    found, created = store.submit(new_run("r2", idem_key="k", input="2", input_hash="other"))
    assert (found.run_id, found.input_hash, created) == ("r1", "h", False)
    assert store.find("f", "k").run_id == "r1"
    with pytest.raises(RunNotFound):
        store.run("r2")


def test_keys_belong_to_their_flow(store: Any) -> None:
    """Two flows may use one key; without a key there are as many runs as are submitted."""
    for run in (new_run("a", idem_key="k"), new_run("b", flow="g", idem_key="k"), new_run("c"), new_run("d")):
        assert store.submit(run)[1]
    assert store.find("f", "k").run_id == "a"
    assert store.find("g", "k").run_id == "b"
    assert store.find("h", "k") is None
    assert store.find("f", "") is None


def test_an_empty_key_is_a_key(store: Any) -> None:
    """Only None is no key."""
    assert store.submit(new_run("a", idem_key=""))[1]
    assert not store.submit(new_run("b", idem_key=""))[1]


def test_a_run_id_is_never_used_twice(store: Any) -> None:
    """Submitting it again is refused by name, and the run stays as it was."""
    store.submit(new_run("r1", idem_key="k"))
    for again in (new_run("r1"), new_run("r1", idem_key="other"), new_run("r1", flow="g")):
        with pytest.raises(StoreError, match=r"'r1'.*never used twice"):
            store.submit(again)
    assert [run.run_id for run in store.runs()] == ["r1"]


def test_many_who_submit_one_key_get_one_run(store: Any, together: Any) -> None:
    """Of threads that submit one key at once one has inserted it, and all get that run."""
    outcomes = together(*(lambda n=n: store.submit(new_run(f"r{n}", idem_key="k")) for n in range(16)))
    assert sum(created for _, created in outcomes) == 1
    assert len({run.run_id for run, _ in outcomes}) == 1


# -- 3. a run has one owner


def test_a_run_that_lives_cannot_be_claimed(store: Any) -> None:
    """The owner is named, and nothing has changed."""
    store.submit(new_run())
    before = store.run("r1")
    with pytest.raises(RunOwned, match=f"r1.*{before.owner}"):
        store.claim("r1")
    assert store.run("r1") == before


@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled"])
def test_a_run_that_nobody_holds_can_be_claimed(store: Any, status: str) -> None:
    """It runs again, under a higher fence, without its former result; its steps, times and overrides stay."""
    store.submit(FULL_RUN)
    store.record("r1", 1, [row("a")])
    store.override("r1", 1, "[7]")
    if status == "pending":
        store.release("r1", 1)
    else:
        store.finish("r1", 1, status, "1", '{"type":"E"}')
    before = store.run("r1")
    assert (before.status, before.owner, before.alive) == (status, None, False)
    claimed = store.claim("r1")
    assert (claimed.status, claimed.fence, claimed.alive) == ("running", 2, True)
    assert (claimed.result, claimed.error, claimed.finished_at) == (None, None, None)
    assert (claimed.overrides, claimed.created_at, claimed.started_at) == ("[7]", before.created_at, before.started_at)
    assert paths(store) == ["a"]
    assert store.run("r1") == claimed


def test_claiming_an_unknown_run_names_near_ones(store: Any) -> None:
    """RunNotFound, with the id that was probably meant."""
    store.submit(new_run("nightly-2013-03-01"))
    with pytest.raises(RunNotFound, match=r"'nightly-2013-03-02'.*did you mean nightly-2013-03-01"):
        store.claim("nightly-2013-03-02")
    with pytest.raises(LookupError):
        store.run("nothing like it")


def test_of_many_claims_one_succeeds(store: Any, together: Any) -> None:
    """Again and again: of threads that claim at once exactly one gets the run, under the next fence."""
    store.submit(new_run())
    store.release("r1", 1)
    for fence in range(2, 12):
        outcomes = together(*[lambda: store.claim("r1")] * 6)
        won = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
        assert [run.fence for run in won] == [fence]
        assert all(isinstance(outcome, RunOwned) for outcome in outcomes if outcome not in won)
        store.release("r1", fence)


def test_a_claim_after_a_look_is_refused_if_somebody_had_the_run_since(store: Any) -> None:
    """Who decided on what he has seen does not undo what another one has finished since."""
    store.submit(new_run())
    store.finish("r1", 1, "failed", None, "{}")
    seen = store.run("r1")
    store.finish("r1", store.claim("r1").fence, "completed", "42", None)
    with pytest.raises(RunOwned, match=r"meanwhile.*completed"):
        store.claim("r1", seen)
    assert store.run("r1").result == "42"
    assert store.claim("r1", store.run("r1")).fence == 3


# -- 4. writes are fenced


@pytest.mark.parametrize("verb", FENCED)
@pytest.mark.parametrize("state", ["taken over", "wrong fence", "released", "completed", "deleted"])
def test_without_the_fence_nothing_is_written(store: Any, verb: str, state: str) -> None:
    """OwnershipLost, and run, steps and attempts are as before."""
    store.submit(new_run())
    store.record("r1", 1, [row("a")])
    fence = 1
    if state == "taken over":
        store.release("r1", 1)
        store.claim("r1")
    elif state == "wrong fence":
        fence = 2
    elif state == "released":
        store.release("r1", 1)
    else:
        store.finish("r1", 1, "completed", "7", None)
    if state == "deleted":
        assert store.prune() == 1
        with pytest.raises(OwnershipLost, match="r1"):
            FENCED[verb](store, "r1", fence)
        assert (store.runs(), store.steps("r1"), store.attempts("r1")) == ([], [], [])
        return
    before = everything(store)
    with pytest.raises(OwnershipLost, match="r1"):
        FENCED[verb](store, "r1", fence)
    assert everything(store) == before


# -- 5. a path is recorded once


def test_a_second_row_of_a_path_changes_nothing(store: Any) -> None:
    """The first one stays, in the same batch and in a later one; the other rows are written, and counted."""
    store.submit(new_run())
    assert store.record("r1", 1, [row("a", 1, output="1"), row("a", 2, output="2")]) == 1
    assert store.record("r1", 1, [row("a", 3, output="3"), row("b", 4)]) == 1
    assert store.record("r1", 1, [row("a", 5), row("b", 6)]) == 0
    assert [(step.path, step.output) for step in store.steps("r1")] == [("a", "1"), ("b", '"b"')]


def test_paths_belong_to_their_run(store: Any) -> None:
    """Two runs record one path each for itself, and forget it each for itself."""
    store.submit(new_run("r1"))
    store.submit(new_run("r2"))
    store.record("r1", 1, [row("a", output="1")])
    store.record("r2", 1, [row("a", output="2")])
    store.forget("r1", 1, ["a"])
    assert paths(store, "r1") == []
    assert [step.output for step in store.steps("r2")] == ["2"]


def test_what_was_forgotten_can_be_recorded_again(store: Any) -> None:
    """`forget` deletes the outcomes of its paths and what was noted of them, and no others."""
    store.submit(new_run())
    store.record("r1", 1, [row("a", 1), row("a/x", 2), row("b", 3)])
    store.attempt("r1", 1, "a", 1, 1.0, None)
    store.attempt("r1", 1, "b", 1, 1.0, None)
    store.forget("r1", 1, ["a", "never there"])
    assert paths(store) == ["a/x", "b"]
    assert [noted[0] for noted in store.attempts("r1")] == ["b"]
    store.record("r1", 1, [row("a", 9, output="9")])
    assert store.steps("r1")[-1].output == "9"


# -- 6. reads see what was acknowledged


def test_every_thread_sees_what_was_acknowledged(store: Any) -> None:
    """What one thread has been told is written, any other finds at once."""
    store.submit(new_run())
    missing: list[int] = []

    def write(first: int) -> None:
        for n in range(first, first + 25):
            store.record("r1", 1, [row(f"p{n}", n)])
            if f"p{n}" not in paths(store):
                missing.append(n)

    threads = [threading.Thread(target=write, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert missing == []
    assert len(store.steps("r1")) == 100


def test_a_record_that_was_read_does_not_change(store: Any) -> None:
    """What a read has given is a value: later writes are not seen through it."""
    store.submit(new_run())
    run, steps, attempts = everything(store)
    store.record("r1", 1, [row("a")])
    store.attempt("r1", 1, "a", 1, 1.0, None)
    store.finish("r1", 1, "completed", "1", None)
    assert (run.status, steps, attempts) == ("running", [], [])


def test_unknown_runs_have_no_steps(store: Any) -> None:
    """`steps` and `attempts` of an unknown run are empty; `checkpoints` and `run` say that there is none."""
    assert (store.steps("r"), store.attempts("r"), store.find("f", "k"), store.runs()) == ([], [], None, [])
    for verb in (store.run, store.checkpoints, store.claim, store.request_cancel):
        with pytest.raises(RunNotFound, match="'r'"):
            verb("r")


# -- the other verbs


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_finish_ends_a_run(store: Any, status: str) -> None:
    """It has its status, result, error and end, and no owner."""
    before = time.time()
    store.submit(new_run())
    store.finish("r1", 1, status, "[1]", '{"type":"E"}')
    run = store.run("r1")
    assert (run.status, run.result, run.error, run.owner) == (status, "[1]", '{"type":"E"}', None)
    assert before - 1 <= run.created_at <= run.started_at <= run.finished_at <= time.time() + 1
    assert not run.alive
    assert not run.crashed


def test_attempts_come_in_order(store: Any) -> None:
    """Starts and failures of a path, as they were noted; a path may be noted any number of times."""
    before = time.time()
    store.submit(new_run())
    store.attempt("r1", 1, "b", 1, 1.5, None)
    store.attempt("r1", 1, "a", 1, 2.5, '"no"')
    store.attempt("r1", 1, "b", 2, 3.5, None)
    assert [tuple(noted) for noted in store.attempts("r1")] == [
        ("b", 1, 1.5, None, None),
        ("a", 1, 2.5, '"no"', store.attempts("r1")[1].finished_at),
        ("b", 2, 3.5, None, None),
    ]
    assert before <= store.attempts("r1")[1].finished_at <= time.time()


def test_what_was_logged_comes_in_order(store: Any) -> None:
    """Under its run, after an id or the last ones; what is logged under a run that is gone is nothing."""
    for run_id in ("r1", "r2"):
        store.submit(new_run(run_id))
    rows = [LogRow(path=f"s{n}", at=n + 0.5, level="info", event="Zürich", fields='{"n":1}') for n in range(3)]
    store.log("r1", rows[:2])
    store.log("r2", [LogRow(at=1.0, level="error", event="alone")])
    store.log("r1", rows[2:])
    store.log("gone", rows)
    found = store.logs("r1")
    assert [attrs.evolve(row, id=0) for row in found] == rows
    assert [row.id for row in found] == sorted({row.id for row in found})
    assert store.logs("r1", after=found[0].id) == found[1:]
    assert store.logs("r1", limit=2) == found[1:]
    assert store.logs("r1", limit=0) == store.logs("gone") == []
    assert [(row.path, row.fields) for row in store.logs("r2")] == [(None, None)]


def test_what_happens_to_a_run_is_noted(store: Any) -> None:
    """Claims, releases and requests to cancel it, and starts that were skipped, which have no run."""
    store.submit(new_run())
    store.release("r1", 1)
    store.claim("r1")
    store.request_cancel("r1", "enough")
    store.note("skipped", target="m:f", data='{"holder":"r1"}')
    assert [event.kind for event in store.events(run_id="r1")] == ["released", "claimed", "cancel_requested"]
    assert json.loads(store.events(kind="claimed")[0].data)["owner"] == store.run("r1").owner
    assert json.loads(store.events(kind="cancel_requested")[0].data) == {"reason": "enough"}
    (skipped,) = store.events(target="m:f")
    assert (skipped.run_id, skipped.kind, skipped.data) == (None, "skipped", '{"holder":"r1"}')
    assert [event.kind for event in store.events(limit=2)] == ["cancel_requested", "skipped"]


def test_runs_are_found_by_what_they_are(store: Any) -> None:
    """By flow, target, key, date, partition, batch, parent, tag and time, each alone and together."""
    before = time.time()
    store.submit(new_run("plain"))
    store.submit(attrs.evolve(FULL_RUN, tags='{"env":"prod","n":"1"}'))
    after = time.time()
    filters: dict[str, Any] = {
        "flow": "flow",
        "target": "module:flow",
        "key": "key",
        "as_of": "2013-03-01",
        "partition": "region=EU",
        "batch_id": "batch",
        "parent": "r0",
        "tag": ("env", "prod"),
    }
    for name, value in filters.items():
        assert [run.run_id for run in store.runs(**{name: value})] == ["r1"], name
        assert store.runs(**{name: ("env", "test") if name == "tag" else "other"}) == [], name
    assert [run.run_id for run in store.runs(**filters, status="running", since=before, until=after + 1)] == ["r1"]
    assert store.runs(since=after + 1) == store.runs(until=before - 1) == []
    assert len(store.runs(limit=None)) == 2
    assert len(store.runs(limit=1)) == len(store.runs(tag=("n", "1"), limit=1)) == 1
    assert store.flows() == sorted({"flow", new_run().flow})


def test_a_list_need_not_be_as_large_as_what_is_listed(store: Any) -> None:
    """Asked briefly, the store cuts input, shape and result, and tells all else as ever."""
    record, _ = store.submit(attrs.evolve(FULL_RUN, input=f'"{"x" * 500}"'))
    store.finish("r1", record.fence, "completed", f'"{"ü" * 500}"', None)
    (whole,), (brief,) = store.runs(), store.runs(brief=True)
    assert (len(whole.input), brief.input, brief.result) == (502, whole.input[:100], whole.result[:100])
    assert attrs.evolve(brief, input=whole.input, result=whole.result) == whole


def test_checkpoints_are_the_steps(store: Any) -> None:
    """The rows of steps in order, without executions and items inside them."""
    store.submit(new_run())
    rows = [row("a/x", 1, kind="execution"), row("a", 2), row("b/items[0]", 3, kind="item"), row("b", 4)]
    store.record("r1", 1, rows)
    assert store.checkpoints("r1") == [rows[1], rows[3]]


def test_a_wish_to_cancel_reaches_who_asks_for_it(store: Any) -> None:
    """The owner finds it among the runs it asks about, with the last reason; a claim begins without it."""
    for run_id in ("r1", "r2", "r3"):
        store.submit(new_run(run_id))
    assert store.cancel_requests(["r1", "r2"]) == {}
    assert store.request_cancel("r1", "one")
    assert store.request_cancel("r1", "two")
    assert store.request_cancel("r3")
    assert store.cancel_requests(["r1", "r2", "unknown"]) == {"r1": "two"}
    assert store.cancel_requests(["r3"]) == {"r3": ""}
    assert store.cancel_requests([]) == {}
    assert store.run("r1").status == "running"
    store.release("r1", 1)
    store.claim("r1")
    assert store.cancel_requests(["r1"]) == {}


def test_a_wish_to_cancel_may_concern_any_number_of_runs(store: Any) -> None:
    """More run ids than a statement may have parameters."""
    store.submit(new_run("wanted"))
    store.request_cancel("wanted", "why")
    ids = [f"r{n}" for n in range(40_000)]
    assert store.cancel_requests([*ids, "wanted", *ids]) == {"wanted": "why"}


def test_a_run_that_nobody_runs_is_cancelled_at_once(store: Any) -> None:
    """There is nobody to be asked: a pending run is cancelled, and can still be claimed."""
    store.submit(new_run())
    store.release("r1", 1)
    assert store.request_cancel("r1", "not needed")
    run = store.run("r1")
    assert (run.status, run.cancel_requested) == ("cancelled", "not needed")
    assert run.finished_at is not None
    assert not store.request_cancel("r1")
    assert store.claim("r1").cancel_requested is None


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(store: Any, status: str) -> None:
    """False, and nothing changes."""
    store.submit(new_run())
    store.finish("r1", 1, status, None, None)
    before = store.run("r1")
    assert not store.request_cancel("r1", "late")
    assert store.run("r1") == before


def test_runs_are_listed_newest_first(store: Any) -> None:
    """By flow, status and batch, alone and together, at most so many."""
    store.submit(new_run("a", flow="f", batch_id="x"))
    store.submit(new_run("b", flow="g", batch_id="x"))
    store.submit(new_run("c", flow="f"))
    store.submit(new_run("d", flow="f", batch_id="x"))
    store.finish("a", 1, "completed", None, None)

    def ids(**wanted: Any) -> list[str]:
        return [run.run_id for run in store.runs(**wanted)]

    assert ids() == ["d", "c", "b", "a"]
    assert ids(limit=2) == ["d", "c"]
    assert ids(flow="f") == ["d", "c", "a"]
    assert ids(status="completed") == ["a"]
    assert ids(batch_id="x") == ["d", "b", "a"]
    assert ids(flow="f", status="running", batch_id="x") == ["d"]
    assert ids(flow="unknown") == []


# -- retention


@pytest.fixture
def ended(store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs of two flows that ended 1, 2, ... hours ago, and two that have not ended."""
    now = time.time()
    for hours, (flow, status) in enumerate(
        [
            ("f", "completed"),
            ("f", "failed"),
            ("f", "completed"),
            ("g", "completed"),
            ("f", "cancelled"),
            ("f", "completed"),
        ],
        1,
    ):
        monkeypatch.setattr(time, "time", lambda hours=hours: now - 3600 * hours)
        run_id = f"{flow}{hours}-{status}"
        store.submit(new_run(run_id, flow=flow, idem_key=run_id))
        store.record(run_id, 1, [row("a")])
        store.attempt(run_id, 1, "a", 1, 1.0, None)
        store.finish(run_id, 1, status, None, None)
    monkeypatch.setattr(time, "time", lambda: now - 3600 * 9)
    store.submit(new_run("f9-running"))
    store.submit(new_run("f9-pending"))
    store.release("f9-pending", 1)
    monkeypatch.setattr(time, "time", lambda: now)
    return store


def left(store: Any) -> set[str]:
    return {run.run_id for run in store.runs()}


ALL = {"f1-completed", "f2-failed", "f3-completed", "g4-completed", "f5-cancelled", "f6-completed"}
ALIVE = {"f9-running", "f9-pending"}


@pytest.mark.parametrize(
    ("options", "deleted"),
    [
        ({}, {"f1-completed", "f3-completed", "g4-completed", "f6-completed"}),
        ({"keep_failed": False}, ALL),
        ({"older_than": 3600 * 3.5}, {"g4-completed", "f6-completed"}),
        ({"older_than": 3600 * 3.5, "keep_failed": False}, {"g4-completed", "f5-cancelled", "f6-completed"}),
        ({"older_than": 3600 * 24}, set()),
        ({"keep_last": 2}, {"f3-completed", "f6-completed"}),
        ({"keep_last": 1}, {"f3-completed", "f6-completed"}),
        ({"keep_last": 1, "keep_failed": False}, ALL - {"f1-completed", "g4-completed"}),
        ({"keep_last": 3, "keep_failed": False, "older_than": 3600 * 5.5}, {"f6-completed"}),
        ({"keep_last": 99, "keep_failed": False}, set()),
        ({"flow": "g", "keep_failed": False}, {"g4-completed"}),
        ({"flow": "f", "keep_last": 3}, {"f6-completed"}),
        ({"flow": "nobody's"}, set()),
    ],
)
def test_prune_deletes_what_it_was_told_to(ended: Any, options: dict[str, Any], deleted: set[str]) -> None:
    """By age, flow, how many of one stay, and how they ended; never what has not ended. It can be asked for before."""
    prunable = ended.prunable(**options)
    assert set(prunable) == deleted
    assert prunable == sorted(deleted, key=lambda run_id: ended.run(run_id).created_at)
    assert ended.prune(**options) == len(deleted)
    assert left(ended) == (ALL | ALIVE) - deleted
    assert ended.prune(**options) == 0


def test_prune_leaves_nothing_of_a_run(ended: Any) -> None:
    """Steps, attempts, logs and events go with it, those of others stay, and its key is free."""
    for run_id in ("f1-completed", "f9-running"):
        ended.log(run_id, [LogRow(at=1.0, level="info", event="said")])
        ended.request_cancel(run_id, "no need")
    ended.claim("f2-failed")
    ended.finish("f2-failed", 2, "failed", None, None)
    assert ended.events(run_id="f2-failed")
    ended.prune(keep_failed=False)
    for run_id in ALL:
        assert (ended.steps(run_id), ended.attempts(run_id)) == ([], [])
        assert (ended.logs(run_id), ended.events(run_id=run_id)) == ([], [])
    assert [row.event for row in ended.logs("f9-running")] == ["said"]
    assert [event.kind for event in ended.events(run_id="f9-running")] == ["cancel_requested"]
    assert ended.submit(new_run("new", idem_key="f1-completed"))[1]


def test_events_without_a_run_go_by_age_alone(ended: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of no flow, and stay if no age is given."""
    now = time.time()
    for hours in (2, 4):
        monkeypatch.setattr(time, "time", lambda hours=hours: now - 3600 * hours)
        ended.note("skipped", target=f"m:{hours}")
    monkeypatch.setattr(time, "time", lambda: now)
    ended.prune(keep_failed=False)
    ended.prune(older_than=3600.0, flow="f")
    assert [event.target for event in ended.events(kind="skipped")] == ["m:2", "m:4"]
    ended.prune(older_than=3600 * 3.0)
    assert [event.target for event in ended.events(kind="skipped")] == ["m:2"]


def test_vacuum_changes_nothing_but_the_space(ended: Any) -> None:
    """What is there stays there; what was deleted takes no space any more."""
    before = [ended.run(run_id) for run_id in sorted(left(ended))]
    ended.vacuum()
    assert [ended.run(run_id) for run_id in sorted(left(ended))] == before
    ended.submit(new_run("new"))
    assert ended.usage().used >= 0


def test_prune_never_deletes_what_runs(store: Any) -> None:
    """However hard it is asked: not a running run, not one that was resumed after it had completed."""
    store.submit(new_run("r1"))
    store.finish("r1", 1, "completed", None, None)
    store.claim("r1")
    store.submit(new_run("r2"))
    assert store.prune(older_than=-3600, keep_failed=False) == 0
    assert left(store) == {"r1", "r2"}


# -- all verbs


def test_closing_is_idempotent(store: Any) -> None:
    """Twice is as once; a verb after it opens the store again."""
    store.submit(new_run())
    store.close()
    store.close()
    if store.url != "memory:":
        assert store.run("r1").run_id == "r1"
        assert store.submit(new_run("r2"))[1]


def test_every_verb_may_be_called_from_any_thread(store: Any, together: Any) -> None:
    """Threads with runs of their own use every verb at once and get what is theirs."""

    def life(name: str) -> str:
        for n in range(6):
            run_id = f"{name}-{n}"
            store.submit(new_run(run_id, flow=name, idem_key=run_id))
            store.record(run_id, 1, [row("a", 1, output=f'"{run_id}"')])
            store.attempt(run_id, 1, "a", 1, 1.0, None)
            store.override(run_id, 1, "[]")
            store.release(run_id, 1)
            fence = store.claim(run_id).fence
            store.request_cancel(run_id, run_id)
            assert store.cancel_requests([run_id]) == {run_id: run_id}
            assert [step.output for step in store.steps(run_id)] == [f'"{run_id}"']
            store.forget(run_id, fence, ["a"])
            store.finish(run_id, fence, "completed", f'"{run_id}"', None)
            assert store.find(name, run_id).result == f'"{run_id}"'
        return name

    names = [f"t{n}" for n in range(6)]
    assert together(*(lambda name=name: life(name) for name in names)) == names
    assert {run.status for run in store.runs()} == {"completed"}
    assert len(store.runs()) == 36


def test_a_dead_owner_is_seen_and_followed(open_sqlite: Any) -> None:
    """A run whose owner died is shown as crashed, and may be taken over; what the dead one still writes is refused."""
    first, second = open_sqlite(), open_sqlite()
    first.submit(new_run())
    first.record("r1", 1, [row("a")])
    with pytest.raises(RunOwned):
        second.claim("r1")
    die(first)
    assert second.run("r1").crashed
    assert [run.crashed for run in first.runs()] == [True]
    claimed = second.claim("r1")
    assert (claimed.fence, claimed.alive, claimed.crashed) == (2, True, False)
    for verb in FENCED.values():
        with pytest.raises(OwnershipLost, match=str(claimed.owner)):
            verb(first, "r1", 1)
    assert paths(second) == ["a"]
    second.record("r1", 2, [row("b", 2)])


def test_a_crashed_run_is_cancelled_at_once(open_sqlite: Any) -> None:
    """Its owner is dead and cannot be asked."""
    first, second = open_sqlite(), open_sqlite()
    first.submit(new_run())
    die(first)
    assert second.request_cancel("r1", "no need")
    assert (second.run("r1").status, second.run("r1").crashed) == ("cancelled", False)
    with pytest.raises(OwnershipLost):
        first.record("r1", 1, [row("a")])


def test_totals_count_every_run_by_flow_and_status(store: Any) -> None:
    """Runs of all statuses are counted, recent failures apart, and the newest success has its times."""
    assert store.totals(0.0) == []
    ends = {
        "a": ["completed", "failed", "completed", "failed", None, "cancelled", "released"],
        "b": [None],
        "c": ["failed"],
    }
    for flow, statuses in ends.items():
        for index, status in enumerate(statuses):
            run_id = f"{flow}{index}"
            store.submit(new_run(run_id, flow=flow))
            if status == "released":
                store.release(run_id, 1)
            elif status is not None:
                store.finish(run_id, 1, status, None, None)
    last, first_failure = store.run("a2"), store.run("a1").finished_at
    a, b, c = store.totals(first_failure)
    assert (a.flow, b.flow, c.flow) == ("a", "b", "c")
    assert a.runs == {"completed": 2, "failed": 2, "running": 1, "cancelled": 1, "pending": 1}
    assert (a.failed_since, a.last_started, a.last_finished) == (2, last.started_at, last.finished_at)
    assert (b.runs, b.failed_since, b.last_started, b.last_finished) == ({"running": 1}, 0, None, None)
    assert (c.runs, c.failed_since, c.last_finished) == ({"failed": 1}, 1, None)
    assert [totals.failed_since for totals in store.totals(time.time() + 60)] == [0, 0, 0]


@pytest.mark.parametrize("kind", BACK_ENDS)
def test_a_url_opens_its_back_end(kind: str, tmp_path: Path) -> None:
    """A store's own URL opens the same store again."""
    store = make_store(kind, tmp_path)
    again = open_store(store.url)
    assert (type(again), again.url) == (type(store), store.url)
    if kind != "memory":
        store.submit(new_run())
        assert again.run("r1").alive
    again.close()
    store.close()
