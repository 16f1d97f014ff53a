"""History as it is read from a store: without the modules of those who ran, and the same live and after a crash."""

from __future__ import annotations

import datetime as dt
import json
import math
import threading
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum, Flag, auto
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import attrs
import pytest

from workflow_runner import (
    FlowContext,
    PartitionKey,
    QualityMetrics,
    Retry,
    Scope,
    Step,
    StepResult,
    Workflow,
    WorkflowContext,
    errors,
    flow,
    open_store,
)
from workflow_runner._core import codec
from workflow_runner._core.secrets import REDACTED
from workflow_runner._workflow.history import (
    await_end,
    find_run,
    find_step,
    follow_logs,
    is_within,
    list_runs,
    output_of,
    plain_text,
    process_of,
    read_run,
    walk,
)
from workflow_runner._workflow.step_tree import StepView, fan_out
from workflow_runner.cli.document import plain
from workflow_runner.store.base import LogRow, NewRun, StepRow, Store
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore

LONG = 20.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """A store in a file."""
    opened = SQLiteStore(tmp_path / "runs.db")
    yield opened
    opened.close()


def submit(store: Store, run_id: str, **changes: Any) -> int:
    """Insert a run; its fence."""
    new = NewRun(**{"run_id": run_id, "flow": "f", "input": "1", "input_hash": "h", **changes})
    return store.submit(new)[0].fence


def die(store: SQLiteStore) -> None:
    """What the kernel does for a process that has died: its lock is gone."""
    store._owner.forked()


# --- values -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Order:
    ticker: str
    price: Decimal
    day: dt.date
    tags: tuple[str, ...] = ()


class Point(NamedTuple):
    x: int
    y: float


class Side(Enum):
    BUY = "b"


class Mode(Flag):
    READ = auto()
    WRITE = auto()


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**2000),
        1.5,
        math.nan,
        -math.inf,
        "text",
        b"bytes",
        [1, [2]],
        (1, (2,)),
        {3, 20, 100},
        frozenset({"b", "a"}),
        {"a": {"b": 1}},
        {1: "one", (2, 3): "two", None: "none", Decimal("1.10"): 4},
        {"$": {"$": 1}},
        dt.date(2013, 2, 28),
        dt.datetime(2013, 2, 28, 18, 30),
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        dt.datetime(2013, 2, 28, tzinfo=dt.UTC),
        dt.time(18, 30, fold=1),
        dt.timedelta(days=-1, microseconds=3),
        dt.timedelta.max,
        Decimal("1.10"),
        uuid.UUID(int=7),
        PurePosixPath("/a/b"),
        PureWindowsPath("c:\\a"),
        Order("IBM", Decimal("200.83"), dt.date(2013, 2, 28), ("x",)),
        [Order("IBM", Decimal("1"), dt.date(2013, 2, 28)), Point(1, math.inf)],
        Mode.READ | Mode.WRITE,
        QualityMetrics(record_count=2, valid_count=1, custom_metrics={"spread": Decimal("0.1")}),
        WorkflowContext.new(params={"limit": Decimal("5")}, as_of_date="2013-02-28"),
        PartitionKey(region="EU"),
        REDACTED,
        {"password": REDACTED},
    ],
)
def test_stored_text_becomes_what_the_live_value_becomes(value: Any) -> None:
    """A value reads the same from its stored text, without its class, as it is printed while it lives."""
    assert plain_text(codec.dumps(value)) == plain(value)


def test_nobodys_modules_are_imported() -> None:
    """A class that is nowhere to be found is read as its fields."""
    text = '{"$":"no.such.module:Order","v":{"day":{"$":"date","v":"2013-02-28"},"$":{"$":"tuple","v":[1]}}}'
    assert plain_text(text) == {"day": "2013-02-28", "$": [1]}
    assert plain_text('{"$":"no.such.module:Side","v":"BUY"}') == "BUY"


def test_a_member_of_an_enum_is_its_name() -> None:
    """Its value stands in its class alone."""
    assert plain_text(codec.dumps(Side.BUY)) == "BUY"


def test_a_context_reads_from_its_own_json() -> None:
    """A workflow's input: its params as plain data, its partition by name."""
    context = WorkflowContext.new(params={"day": dt.date(2013, 2, 28)}, partition={"region": "EU"})
    data = plain_text(context.to_json())
    assert (data["params"], data["partition"]) == ({"day": "2013-02-28"}, {"region": "EU"})


def test_nothing_is_read_as_none_and_no_json_is_an_error() -> None:
    """There may be no text; a damaged one is said to be."""
    assert plain_text(None) is None
    with pytest.raises(errors.SerializationError, match="no JSON"):
        plain_text("{")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_what_a_run_is_is_told_in_more_detail_than_it_is_recorded(store: SQLiteStore) -> None:
    """Partial is completed with a failed step, crashed is running in a dead process."""
    for number, (status, result) in enumerate(
        [
            ("completed", json.dumps({"status": "completed", "steps": []})),
            ("completed", json.dumps({"status": "partial", "steps": []})),
            ("failed", None),
        ]
    ):
        fence = submit(store, f"r{number}", shape="[]")
        store.finish(f"r{number}", fence, status, result, None)
    submit(store, "lost")
    die(store)
    submit(store, "live")
    found = {run.run_id: run.status for run in list_runs(store).runs}
    assert found == {"r0": "completed", "r1": "partial", "r2": "failed", "lost": "crashed", "live": "running"}
    for run_id, status in found.items():
        assert [run.run_id for run in list_runs(store, status=[status]).runs] == [run_id]
    assert [run.run_id for run in list_runs(store, status=["partial", "failed"]).runs] == ["r2", "r1"]


def test_a_list_says_how_many_more_there_are(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, or at least, if there are very many; and it looks as far as it must for those that fit."""
    monkeypatch.setattr("workflow_runner._workflow.history._AHEAD", 3)
    for number in range(10):
        submit(store, f"r{number}", flow="even" if number % 2 == 0 else "odd")
        if number < 2:
            store.finish(f"r{number}", 1, "completed", "1", None)
    few = list_runs(store, limit=8)
    assert ([run.run_id for run in few.runs][:2], few.more, few.at_least) == (["r9", "r8"], 2, False)
    many = list_runs(store, limit=1)
    assert (many.more, many.at_least) == (3, True)
    assert [run.run_id for run in list_runs(store, status=["completed"], limit=1).runs] == ["r1"]
    assert [run.run_id for run in list_runs(store, status=["completed", "failed"], limit=1).runs] == ["r1"]
    assert list_runs(store, flow="odd", limit=5).more == 0


def test_a_run_is_found_by_the_beginning_of_its_id(store: SQLiteStore) -> None:
    """As long as it is the only one that begins so; an id that is the beginning of others is itself."""
    for run_id in ("abc", "abcd1", "abcd2", "xyz"):
        submit(store, run_id)
    assert find_run(store, "x").run_id == "xyz"
    assert find_run(store, "abc").run_id == "abc"
    with pytest.raises(errors.RunNotFound, match=r"2 runs begin with 'abcd': abcd2, abcd1"):
        find_run(store, "abcd")
    with pytest.raises(errors.RunNotFound, match=r"no run 'abce' in .*; did you mean abcd2 or abcd1 or abc\?"):
        find_run(store, "abce")
    with pytest.raises(errors.RunNotFound, match="no run ''"):
        find_run(store, "")


def test_an_owner_is_named_as_a_process() -> None:
    """Host names may have dashes; what is no such name stays as it is."""
    assert process_of("my-host-123-a1b2") == "process 123 on my-host"
    assert process_of("this process") == "this process"


# --- one run ----------------------------------------------------------------------------------------------------------


@flow
def twice(ctx: FlowContext, number: int) -> int:
    return 2 * number


@flow
def fan(ctx: FlowContext, number: int) -> int:
    return sum(ctx.parallel(twice.each(range(number)))) + ctx.exec(twice, number)


@flow
def fetch(ctx: FlowContext, context: WorkflowContext) -> StepResult:
    ctx.parallel(fan.each(range(3)), name="pages")
    return StepResult.ok({"rows": ctx.exec(twice, 1), "day": dt.date(2013, 2, 28)}, context_updates={"clean": True})


def bad(context: WorkflowContext) -> None:
    raise RuntimeError("bad data") from OSError("disk")


def fine(context: WorkflowContext) -> dict[str, int]:
    return {"x": 1}


inner = Workflow(
    "inner",
    steps=[
        Step("first", fine),
        Step.choice("way", when=lambda context: True, then=[Step("there", fine)], otherwise=[Step("back", fine)]),
    ],
)
failing = Workflow(
    "failing",
    steps=[
        Step("fetch", fetch),
        Step("nest", inner),
        Step("bad", bad, retry=Retry(attempts=2, initial=0.0)),
        Step("never", fine),
    ],
)
nested_failing = Workflow("nested_failing", steps=[Step("outer", Workflow("in", steps=[Step("bad", bad)]))])
partial = Workflow("partial", steps=[Step("bad", bad, on_error="continue"), Step("nest", inner)])


def ran(store: Store, flow: Any, input: Any = None) -> str:
    """Run a flow to its end; the run's id."""
    with Scope(store=store) as scope:
        execution = scope.exec(flow, input or {})
        execution.exception()
    return execution.id


def shown(steps: tuple[StepView, ...]) -> list[str]:
    return [f"{'  ' * depth}{step.name} {step.status}" for depth, step in walk(steps)]


@pytest.mark.parametrize("make", [MemoryStore, None])
def test_a_failed_run_shows_what_was_done_what_failed_and_what_was_not_reached(
    make: Callable[[], Store] | None, store: SQLiteStore
) -> None:
    """Every step stands in its place: branches beside their choice, nested ones and calls below their step."""
    store_ = make() if make is not None else store
    view = read_run(store_, ran(store_, failing))
    assert shown(view.steps) == [
        "fetch completed",
        "  pages completed",
        "  twice completed",
        "nest completed",
        "  first completed",
        "  way completed",
        "  there completed",
        "  back pending",
        "bad failed",
        "never pending",
    ]
    step = find_step(view.steps, "bad")
    assert step is not None
    assert step.error is not None
    assert (step.attempts, step.error["message"], step.error["cause"]["type"]) == (2, "bad data", "OSError")
    assert [json.loads(noted.error or "")["message"] for noted in step.failures] == ["bad data", "bad data"]
    assert (view.run.status, view.run.error and view.run.error["step"]) == ("failed", "bad")


def test_what_steps_have_put_out_is_plain_data(store: SQLiteStore) -> None:
    """Outputs of steps and values of their calls; a fan-out counts its own items, however much is inside them."""
    view = read_run(store, ran(store, failing))
    found = {step.path: step for _, step in walk(view.steps)}
    assert output_of(found["fetch"]) == {"rows": 2, "day": "2013-02-28"}
    assert output_of(found["fetch/twice"]) == 2
    assert output_of(found["never"]) is None
    assert (found["fetch/pages"].count, found["fetch/pages"].flow) == (3, "fan")
    assert found["fetch"].duration is not None


def test_a_partial_run_is_shown_as_its_result_tells(store: SQLiteStore) -> None:
    """The result knows which steps were skipped and why, and what failed that may."""
    view = read_run(store, ran(store, partial))
    assert view.run.status == "partial"
    assert shown(view.steps)[:2] == ["bad failed", "nest completed"]
    back = find_step(view.steps, "nest/back")
    assert back is not None
    assert (back.status, back.reason) == ("skipped", "'way' took 'then'")


def test_a_failure_inside_a_nested_workflow_marks_the_way_to_it(store: SQLiteStore) -> None:
    """The step and the step that it is inside of."""
    view = read_run(store, ran(store, nested_failing))
    assert shown(view.steps) == ["outer failed", "  bad failed"]


def test_a_flow_shows_what_it_has_called(store: SQLiteStore) -> None:
    """In order of their starts."""
    view = read_run(store, ran(store, fan, 3))
    assert shown(view.steps) == ["parallel completed", "twice completed"]
    assert (view.input, view.result) == (3, 12)


def test_params_overrides_and_lineage_are_told(store: SQLiteStore) -> None:
    """What it was given and given later, how often it was gone on with, and who retries it."""
    run_id = ran(store, failing, {"limit": Decimal("5")})
    with Scope(store=store) as scope:
        scope.resume(run_id, params_override={"day": dt.date(2013, 3, 1)}).exception()
        retried = scope.retry(run_id)
        retried.exception()
    view = read_run(store, run_id)
    assert (view.input, view.overrides) == ({"limit": "5"}, ({"day": "2013-03-01"},))
    assert (view.resumed, view.retried_by) == (1, (retried.id,))
    assert [event.kind for event in view.events] == ["claimed"]
    assert read_run(store, retried.id).run.retry_of == run_id


def begin(store: Store, *rows: StepRow, run_id: str = "r1") -> int:
    """A run of a workflow with steps a, b and b/c, of which these are recorded."""
    fence = submit(store, run_id, input='{"params":{}}', shape='["a","b","b/c","d"]')
    if rows:
        store.record(run_id, fence, rows)
    return fence


def done(path: str, seq: int, **changes: Any) -> StepRow:
    fields = {"kind": "step", "flow": path, "output": "{}", "started_at": 1.0, "finished_at": 2.0, **changes}
    return StepRow(path=path, seq=seq, **fields)


def test_what_runs_now_is_known_from_the_log(store: SQLiteStore) -> None:
    """A step that was begun and is not recorded runs; when its process dies it is interrupted."""
    begin(store, done("a", 1))
    at = store.run("r1").created_at
    started = [LogRow(path=path, at=at, level="info", event="step.started") for path in ("a", "b", "b/c")]
    store.log("r1", started)
    assert shown(read_run(store, "r1").steps) == ["a completed", "b running", "  c running", "d pending"]
    die(store)
    assert shown(read_run(store, "r1").steps) == ["a completed", "b interrupted", "  c interrupted", "d pending"]
    store.claim("r1")  # by the next process, which has begun nothing yet
    assert shown(read_run(store, "r1").steps) == ["a completed", "b interrupted", "  c interrupted", "d pending"]


def test_the_end_of_a_step_with_steps_inside_is_known_from_the_log(store: SQLiteStore) -> None:
    """It is not recorded itself, and its last steps may be in a branch that was not taken."""
    begin(store, done("b/c", 1))
    at = store.run("r1").created_at
    store.log("r1", [LogRow(path="b", at=at, level="info", event=f"step.{what}") for what in ("started", "completed")])
    assert shown(read_run(store, "r1").steps) == ["a pending", "b completed", "  c completed", "d pending"]


def test_without_a_log_items_tell_that_a_step_runs(store: SQLiteStore) -> None:
    """A step with recorded items has begun; how many are done is told."""
    items = [done(f"a/parallel[{n}]", n + 1, kind="item", flow="price") for n in (1, 0)]
    fence = begin(store, *items, done("a/parallel[0]/inside", 5, kind="execution"))
    step = read_run(store, "r1").steps[0]
    assert (step.status, step.steps[0].status, step.steps[0].count) == ("running", "running", 2)
    store.finish("r1", fence, "cancelled", None, None)
    assert shown(read_run(store, "r1").steps)[:2] == ["a interrupted", "  parallel interrupted"]


def test_items_are_found_by_their_path() -> None:
    """The outermost fan-out counts."""
    assert fan_out("a/parallel[3]") == "a/parallel"
    assert fan_out("a/pages[1]/parallel[0]/x") == "a/pages"
    assert fan_out("a/b#2") is None


# --- logs and waiting -------------------------------------------------------------------------------------------------


def line(event: str, path: str | None = None, level: str = "info") -> LogRow:
    return LogRow(path=path, at=1.0, level=level, event=event)


def test_following_a_log_ends_with_the_run_and_misses_nothing(store: SQLiteStore) -> None:
    """What was there, what comes, and what is written last, after the end of the run."""
    fence = submit(store, "r1")
    store.log("r1", [line("one"), line("two")])
    followed = follow_logs(store, "r1", keep=lambda row: True, last=1, pause=0.001)
    assert next(followed).event == "two"
    store.log("r1", [line("three")])
    assert next(followed).event == "three"
    store.finish("r1", fence, "completed", "1", None)
    store.log("r1", [line("four"), line("run.completed")])
    assert [row.event for row in followed] == ["four", "run.completed"]


def test_the_log_of_a_run_that_has_ended_is_not_waited_for(store: SQLiteStore) -> None:
    """What is there is given, and no more comes."""
    store.finish("r1", submit(store, "r1"), "completed", "1", None)
    store.log("r1", [line("one"), line("two")])
    followed = follow_logs(store, "r1", keep=lambda row: row.event != "one", pause=LONG)
    assert [row.event for row in followed] == ["two"]


@pytest.mark.parametrize(
    ("path", "step", "within"),
    [
        ("a", "a", True),
        ("a/parallel[3]", "a", True),
        ("a/parallel[3]/x", "parallel", True),
        ("way/a", "way/a", True),
        ("way/a/x", "way/a", True),
        ("way/ab", "way/a", False),
        ("ab", "a", False),
        (None, "a", False),
    ],
)
def test_what_belongs_to_a_step(path: str | None, step: str, within: bool) -> None:
    """A step is named by its path or its name, and what it calls belongs to it."""
    assert is_within(path, step) is within


def test_waiting_for_the_end_of_a_run_has_an_end_itself(store: SQLiteStore) -> None:
    """It returns when nobody executes the run any more, or when the time is over."""
    fence = submit(store, "r1")
    assert await_end(store, "r1", timeout=0.0).alive
    looked = threading.Event()
    seen = store.run

    def run(run_id: str) -> Any:
        looked.set()
        return seen(run_id)

    store.run = run  # type: ignore[method-assign]
    ended: list[Any] = []
    waiter = threading.Thread(target=lambda: ended.append(await_end(store, "r1", timeout=LONG, pause=0.001)))
    waiter.start()
    assert looked.wait(LONG)
    store.finish("r1", fence, "failed", None, None)
    waiter.join(LONG)
    assert ended[0].status == "failed"


def test_a_memory_store_has_a_history_too() -> None:
    """As every store."""
    store = open_store("memory:")
    assert read_run(store, ran(store, fan, 1)).run.status == "completed"
