"""Many partitions of one flow: what is decided for each, and what becomes of it."""

from __future__ import annotations

import datetime as dt
import gc
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from workflow_runner import FlowContext, PartitionKey, Scope, Step, StepResult, Workflow, WorkflowContext, errors, flow
from workflow_runner._workflow import partitions, schedule
from workflow_runner._workflow.backfill import (
    Action,
    Backfill,
    Ended,
    Failure,
    Only,
    Outcome,
    Plan,
    Planned,
    Slot,
    distinct,
    grouped,
    identity_by,
    plan,
    slots,
)
from workflow_runner._workflow.schedule import Policy, missed, ticks, zone
from workflow_runner.store.base import RunRecord

LONG = 20.0
DAYS = [dt.date(2013, 2, n) for n in (25, 26, 27, 28)]
NEW_YORK = zone("America/New_York")
UTC = dt.UTC


def record(status: str = "completed", **fields: Any) -> RunRecord:
    known: dict[str, Any] = {
        **dict.fromkeys(("overrides", "result", "error", "owner", "cancel_requested", "started_at", "finished_at")),
        "run_id": "r1",
        "flow": "f",
        "input": "{}",
        "input_hash": "h",
        "fence": 1,
        "created_at": 0.0,
    }
    return RunRecord(**{**known, "status": status, **fields})


def slot(date: dt.date = DAYS[0], **fields: Any) -> Slot:
    return Slot(**{"key": f"f/{date}", "as_of_date": date, **fields})


def by_date(date: dt.date, partition: PartitionKey | None) -> str:
    return f"f/{date}" if partition is None else f"f/{date}/{partition}"


# --- dates and partitions ---------------------------------------------------------------------------------------------


def test_both_ends_of_a_range_belong_to_it() -> None:
    """A calendar of days has each from the first to the last; of weekdays those from Monday to Friday."""
    first, last = dt.date(2013, 2, 1), dt.date(2013, 2, 28)
    assert len(partitions.dates(first, last)) == 28
    assert len(partitions.dates(first, last, "weekdays")) == 20
    assert partitions.dates(last, last) == [last]
    assert len(partitions.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31), "weekdays")) > 2_000_000


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    """The error names both dates."""
    with pytest.raises(errors.InputError, match="2013-02-01, is before the first, 2013-02-28"):
        partitions.dates(dt.date(2013, 2, 28), dt.date(2013, 2, 1))


def test_a_file_is_a_calendar(tmp_path: Path) -> None:
    """Its dates count inside the range, in order and each once; comments and empty lines do not."""
    file = tmp_path / "days.txt"
    file.write_text("# trading days\n2013-02-28\n\n2013-02-27  # Wednesday\n2013-02-28\n2013-03-01\n")
    assert partitions.dates(DAYS[0], DAYS[-1], str(file)) == DAYS[2:]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("days.txt", "2013-02-28\n2013-02-30\n", "days.txt:2: expected a date such as 2013-02-28, got '2013-02-30'"),
        ("days.txt", None, "days.txt cannot be read"),
        ("days.txt", b"\xff\xfe\x00", "days.txt cannot be read"),
        ("p.txt", "region=EU\n\nregion\n", "p.txt:3: partition: expected name=value, got 'region'"),
        ("p.txt", "region=EU\n# no\nregion=EU\n", "p.txt:3: region=EU is there twice, first in line 1"),
        ("p.txt", "region='EU\n", "p.txt:1: No closing quotation"),
        ("p.txt", "# none\n", "p.txt has no partitions"),
        ("p.csv", "region,desk\nEU\n", "p.csv:2: expected 2 values, got 1"),
        ("p.csv", "region,from\nEU,1\n", "p.csv:2: 'from' cannot name a coordinate of a partition"),
        ("p.csv", "", "p.csv has no partitions"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, text: str | bytes | None, message: str) -> None:
    """Whoever keeps the file finds what is wrong in it."""
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(errors.InputError) as error:
        if name == "days.txt":
            partitions.dates(DAYS[0], DAYS[-1], str(file))
        else:
            partitions.read_partitions(file)
    assert message in str(error.value)


def test_partitions_stand_in_lines_or_in_a_table(tmp_path: Path) -> None:
    """name=value lines and a CSV file mean the same; a date becomes one."""
    lines, table = tmp_path / "p.txt", tmp_path / "p.csv"
    lines.write_text("desk='FX spot' day=2013-02-28  # one\ndesk=rates day=2013-02-28\n")
    table.write_text("\ufeffdesk,day\r\nFX spot,2013-02-28\r\n\r\nrates,2013-02-28\r\n", encoding="utf-8")
    expected = [PartitionKey(desk=desk, day=dt.date(2013, 2, 28)) for desk in ("FX spot", "rates")]
    assert partitions.read_partitions(lines) == partitions.read_partitions(table) == expected


def test_slots_go_by_date_and_then_by_partition() -> None:
    """Backward turns the dates around, not the partitions."""
    regions = [PartitionKey(region=region) for region in ("EU", "US")]
    forward = slots(DAYS[:2], regions, key=by_date)
    assert [str(one) for one in forward] == [
        "2013-02-25 region=EU",
        "2013-02-25 region=US",
        "2013-02-26 region=EU",
        "2013-02-26 region=US",
    ]
    assert slots(DAYS[:2], regions, key=by_date, backward=True) == forward[2:] + forward[:2]
    assert [one.partition for one in slots(DAYS, key=by_date)] == [None] * 4


def test_two_slots_with_one_key_are_refused() -> None:
    """A template that leaves out what tells them apart would run one of them only."""
    with pytest.raises(errors.InputError, match="2013-02-25 and 2013-02-26 have the same key 'f'"):
        slots(DAYS, key=lambda date, partition: "f")


# --- the decision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "only", "action", "why"),
    [
        (None, None, "run", "has never run"),
        (None, "missing", "run", "has never run"),
        (None, "failed", "pass over", "has never run"),
        (None, "all", "run", "has never run"),
        (record("running", alive=True, owner="host/1"), None, "leave", "is being executed by host/1"),
        (record("running", alive=True, owner="host/1"), "all", "leave", "is being executed by host/1"),
        (record("running"), None, "resume", "crashed"),
        (record("running"), "missing", "resume", "crashed"),
        (record("running"), "failed", "resume", "crashed"),
        (record("pending"), "missing", "resume", "was interrupted"),
        (record("pending"), "failed", "resume", "was interrupted"),
        (record("failed"), None, "resume", "failed on"),
        (record("failed"), "missing", "pass over", "failed on"),
        (record("failed"), "failed", "resume", "failed on"),
        (record("cancelled"), "failed", "resume", "cancelled on"),
        (record(), None, "done", "completed on"),
        (record(), "missing", "done", "completed on"),
        (record(), "failed", "done", "completed on"),
        (record(), "all", "run again", "wanted anew"),
        (record(batch_id="b1"), "all", "done", "completed on"),
        (record(shape="[]", result='{"status": "partial"}'), None, "done", "completed on"),
        (record(input_hash="other"), None, "refuse", "with other parameters"),
        (record(input_hash="other", batch_id="b1"), "all", "refuse", "with other parameters"),
        (record("failed", input_hash="other"), "failed", "refuse", "with other parameters"),
    ],
)
def test_what_is_there_and_what_is_wanted_decide(
    found: RunRecord | None, only: str | None, action: str, why: str
) -> None:
    """One table says what becomes of a partition."""
    wanted = None if only is None else Only(only)
    find = {"f/2013-02-25": found}.get
    [decided] = plan([slot()], find, identity=lambda slot: "h", batch_id="b1", only=wanted).partitions
    assert decided.action == action
    assert why in decided.why
    assert decided.run_id == (None if found is None else "r1")
    assert decided.partial == (found is not None and found.shape is not None)


@pytest.mark.parametrize(
    ("again", "action"),
    [(None, "run again"), (record("failed"), "resume"), (record("running"), "resume"), (record(), "done")],
)
def test_what_is_made_anew_is_made_once_in_a_batch(again: RunRecord | None, action: str) -> None:
    """The new run has a key of its own, by which the same batch goes on with it."""
    found = {"f/2013-02-25": record(batch_id="b0"), "f/2013-02-25@b1": again}
    [decided] = plan([slot()], found.get, identity=lambda slot: "h", batch_id="b1", only=Only.ALL).partitions
    assert (decided.action, decided.key) == (action, "f/2013-02-25@b1")


# --- doing it ---------------------------------------------------------------------------------------------------------


class World:
    """A workflow over one date, and what the test wants of it."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.failing: dict[str, BaseException | str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        self.contexts: list[WorkflowContext] = []
        self.workflow = Workflow("f", steps=[Step("work", self.work), Step("extra", self.extra, on_error="continue")])

    def work(self, context: WorkflowContext) -> dict[str, str]:
        day = str(context.as_of_date)
        with self.lock:
            self.began.append(day)
            self.contexts.append(context)
            self.active += 1
            self.most_active = max(self.active, self.most_active)
        try:
            assert self.hold.wait(LONG)
            failure = self.failing.get(day)
            if isinstance(failure, BaseException):
                raise failure
        finally:
            with self.lock:
                self.active -= 1
        return {"day": day}

    def extra(self, context: WorkflowContext) -> StepResult:
        if self.failing.get(str(context.as_of_date)) == "partial":
            return StepResult.fail("not today")
        return StepResult.ok()


@pytest.fixture
def world() -> World:
    return World()


def make(batch_id: str) -> Callable[[Slot], WorkflowContext]:
    return lambda slot: WorkflowContext.new(as_of_date=slot.as_of_date, partition=slot.partition, batch_id=batch_id)


def planned(scope: Scope, days: list[dt.date] = DAYS, *, only: Only | None = None, batch_id: str = "b1") -> Plan:
    assert scope.store is not None
    find, identity = partial(scope.store.find, "f"), identity_by(World().workflow, make(batch_id))
    return plan(slots(days, key=by_date), find, identity=identity, batch_id=batch_id, only=only)


def backfill(scope: Scope, world: World, plan: Plan, **options: Any) -> tuple[Ended, ...]:
    return Backfill(scope, world.workflow, plan, make(plan.batch_id), **options).run()


def outcomes(ended: tuple[Ended, ...]) -> list[str]:
    return [str(one.outcome) for one in ended]


@pytest.fixture
def scope(make_scope: Callable[..., Scope], store: Any) -> Scope:
    return make_scope(max_workers=4, store=store)


def test_each_partition_is_a_run_of_its_own(scope: Scope, store: Any, world: World) -> None:
    """Each has its key, its batch, its date, and a capture of its own."""
    ended = backfill(scope, world, planned(scope))
    assert outcomes(ended) == ["completed"] * 4
    assert world.began == [str(day) for day in DAYS]
    runs = sorted(store.runs(batch_id="b1"), key=lambda run: run.as_of)
    assert [run.idem_key for run in runs] == [f"f/{day}" for day in DAYS]
    assert [run.run_id for run in runs] == [one.run_id for one in ended]
    assert len({context.capture_id for context in world.contexts}) == 4


def test_what_is_done_is_not_done_again(scope: Scope, world: World) -> None:
    """A second backfill answers what has completed, and goes on with what failed."""
    world.failing = {"2013-02-26": ValueError("bad"), "2013-02-27": "partial"}
    assert outcomes(backfill(scope, world, planned(scope))) == ["completed", "failed", "partial", "completed"]
    world.failing.clear()
    world.began.clear()
    ended = backfill(scope, world, planned(scope, batch_id="b2"))
    assert outcomes(ended) == ["completed", "completed", "partial", "completed"]
    assert [one.before for one in ended] == [True, False, True, True]
    assert world.began == ["2013-02-26"]


def test_all_runs_what_is_done_again_once_in_a_batch(scope: Scope, store: Any, world: World) -> None:
    """The old runs stay as they are; the same batch, given again, makes only what failed of it."""
    first = backfill(scope, world, planned(scope))
    world.failing = {"2013-02-26": ValueError("bad")}
    assert outcomes(backfill(scope, world, planned(scope, only=Only.ALL, batch_id="b2")))[1] == "failed"
    world.failing.clear()
    world.began.clear()
    again = backfill(scope, world, planned(scope, only=Only.ALL, batch_id="b2"))
    assert outcomes(again) == ["completed"] * 4
    assert world.began == ["2013-02-26"]
    assert {one.run_id for one in again}.isdisjoint(one.run_id for one in first)
    assert {store.run(one.run_id).status for one in first} == {"completed"}


def test_the_plan_is_what_is_done(scope: Scope, world: World) -> None:
    """What the planner says is what the run then does, whatever is there."""
    world.failing = {"2013-02-26": ValueError("bad")}
    backfill(scope, world, planned(scope, DAYS[:2]))
    for only in (None, *Only):
        expected = planned(scope, only=only, batch_id=f"b-{only}")
        world.began.clear()
        ended = backfill(scope, world, expected)
        assert tuple(one.planned for one in ended) == expected.partitions
        assert world.began == [str(one.slot) for one in expected.partitions if one.action.runs]


def test_so_many_run_at_once(scope: Scope, world: World) -> None:
    """max_active is a limit, and it is used."""
    world.hold.clear()
    begun: list[Planned] = []

    def on_begin(planned: Planned) -> None:
        begun.append(planned)
        if len(begun) == 2:  # the loop that begins more is in this very thread
            threading.Thread(target=wait_for_two).start()

    def wait_for_two() -> None:
        end = time.monotonic() + LONG
        while world.active < 2 and time.monotonic() < end:
            time.sleep(0.001)
        world.hold.set()

    ended = backfill(scope, world, planned(scope), max_active=2, on_begin=on_begin)
    assert outcomes(ended) == ["completed"] * 4
    assert world.most_active == 2


def test_after_so_many_failures_nothing_more_is_begun(scope: Scope, world: World) -> None:
    """The rest is reported as not started, and is there for the next time."""
    world.failing = {str(day): ValueError("bad") for day in DAYS[:3]}
    assert outcomes(backfill(scope, world, planned(scope), stop_after_failures=2)) == [
        "failed",
        "failed",
        "not started",
        "not started",
    ]
    assert len(world.began) == 2


def test_a_stop_hands_back_what_runs(make_scope: Callable[..., Scope], store: Any) -> None:
    """What ran is interrupted and resumable, what did not is not started; the same plan goes on with both."""
    scope = make_scope(max_workers=4, store=store)
    running, stopping = threading.Event(), [True]

    def work(ctx: FlowContext, context: WorkflowContext) -> str:
        if stopping and context.as_of_date == DAYS[1]:
            running.set()
            ctx.sleep(LONG)
        return str(context.as_of_date)

    work_flow = flow(name="f")(work)
    fill = Backfill(scope, work_flow, planned(scope), make("b1"))
    threading.Thread(target=lambda: (running.wait(LONG), fill.stop("enough", grace=LONG))).start()
    ended = fill.run()
    assert outcomes(ended) == ["completed", "interrupted", "not started", "not started"]
    assert store.run(ended[1].run_id).status == "pending"
    stopping.clear()
    assert outcomes(Backfill(scope, work_flow, planned(scope), make("b1")).run()) == ["completed"] * 4
    assert store.run(ended[1].run_id).status == "completed"


def test_a_stop_leaves_behind_what_does_not_hear(
    make_scope: Callable[..., Scope], store: Any, event: Callable[[], threading.Event]
) -> None:
    """After the grace the run is handed back though its thread goes on; asking again makes the grace shorter."""
    scope = make_scope(max_workers=2, store=store)
    running, let_go = event(), event()

    @flow(name="f")
    def deaf(ctx: FlowContext, context: WorkflowContext) -> None:
        running.set()
        let_go.wait(LONG)

    fill = Backfill(scope, deaf, planned(scope), make("b1"))

    def stop() -> None:
        running.wait(LONG)
        fill.stop("enough", grace=3600)
        fill.stop("at once", grace=0)

    threading.Thread(target=stop).start()
    assert outcomes(fill.run()) == ["interrupted", *["not started"] * 3]
    let_go.set()


def test_what_another_process_executes_is_left_to_it(
    make_scope: Callable[..., Scope], open_store: Callable[[], Any], world: World
) -> None:
    """It is reported, not waited for and not cancelled; also when it was begun after the plan was made."""
    theirs, ours = make_scope(max_workers=2, store=open_store()), make_scope(max_workers=2, store=open_store())
    before = planned(ours)
    world.hold.clear()
    running = theirs.exec(world.workflow, make("b0")(slot()), idempotency_key="f/2013-02-25")
    assert planned(ours).partitions[0].action is Action.LEAVE
    fill = Backfill(ours, world.workflow, before, make("b1"), on_end=lambda ended: world.hold.set())
    ended = fill.run()
    assert outcomes(ended) == ["left", *["completed"] * 3]
    assert ended[0].run_id == running.id
    assert running.result(LONG).status == "completed"


def test_who_is_quicker_has_the_run(
    make_scope: Callable[..., Scope],
    open_store: Callable[[], Any],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that another process begins between the decision and the start is left to it, and goes on there."""
    theirs, ours = make_scope(max_workers=2, store=open_store()), make_scope(max_workers=2, store=open_store())
    before = planned(ours, DAYS[:1])
    world.hold.clear()
    running = theirs.exec(world.workflow, make("b0")(slot()), idempotency_key="f/2013-02-25")
    assert ours.store is not None
    answers = iter([None, ours.store.find("f", "f/2013-02-25")])
    monkeypatch.setattr(ours.store, "find", lambda flow, key: next(answers))
    [ended] = backfill(ours, world, before)
    assert (ended.outcome, ended.run_id, ended.planned.action) == (Outcome.LEFT, running.id, Action.RUN)
    world.hold.set()
    assert running.result(LONG).status == "completed"


def test_a_partition_that_is_refused_is_a_failure_like_any_other(scope: Scope, world: World) -> None:
    """Other parameters under its key, or changed steps, are told of that partition; the others run."""
    world.failing = {str(day): ValueError("bad") for day in DAYS[1:3]}
    old = Workflow("f", steps=[Step("before", lambda context: None), *world.workflow.steps])
    for flow_, params, day in [(old, {}, DAYS[1]), (world.workflow, {"x": 1}, DAYS[2])]:
        context = WorkflowContext.new(params, as_of_date=day)
        assert scope.exec(flow_, context, idempotency_key=f"f/{day}").exception(LONG) is not None
    world.failing.clear()
    ended = backfill(scope, world, planned(scope))
    assert outcomes(ended) == ["completed", "failed", "failed", "completed"]
    assert [one.failure.type for one in ended[1:3] if one.failure] == ["JournalMismatch", "IdempotencyConflict"]


def test_a_deadline_is_a_failure(scope: Scope, event: Callable[[], threading.Event]) -> None:
    """Each run has the timeout for itself."""
    let_go = event()

    @flow(name="f")
    def slow(ctx: FlowContext, context: WorkflowContext) -> None:
        let_go.wait(LONG)

    ended = Backfill(scope, slow, planned(scope, DAYS[:2]), make("b1"), timeout=0.05).run()
    assert outcomes(ended) == ["cancelled"] * 2
    assert ended[0].failure is not None
    assert ended[0].failure.type == "ExecutionTimeout"
    let_go.set()


def test_no_execution_is_kept(make_scope: Callable[..., Scope], store: Any) -> None:
    """However many partitions there are, only those that run are in memory."""
    scope = make_scope(max_workers=2, store=store)
    days = partitions.dates(dt.date(2013, 1, 1), dt.date(2013, 3, 31))
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    @flow(name="f")
    def work(ctx: FlowContext, context: WorkflowContext) -> str:
        alive.add(ctx)
        alive.add(context)
        return "done"

    def on_end(ended: Ended) -> None:
        nonlocal most
        if ended.planned.slot.as_of_date.day == 1:
            gc.collect()
            most = max(most, len(alive))

    ended = Backfill(scope, work, planned(scope, days), make("b1"), on_end=on_end).run()
    assert len(ended) == 90
    assert most < 10


def test_failures_of_one_cause_stand_together() -> None:
    """Numbers and ids in the text do not tell causes apart; the step and the exception do."""

    def failed(message: str, type: str = "ValueError", step: str | None = "work") -> Ended:
        one = Planned(slot=slot(), action=Action.RUN, why="", key="k")
        return Ended(planned=one, outcome=Outcome.FAILED, failure=Failure(type, message, step))

    rows = [
        failed("no bars of 2013-02-25"),
        failed("run 4fd01c77ab3e at 0x7fffe1 is away", "OSError"),
        failed("no bars of 2013-02-26"),
        failed("run 12ab34cd56ef at 0x7fffe2 is away", "OSError"),
        failed("no bars of 2013-02-27"),
        failed("no bars of 2013-02-27", step="other"),
        failed("no bars of defaced fields"),
    ]
    assert [[rows.index(one) for one in group] for group in grouped(rows)] == [[0, 2, 4], [1, 3], [5], [6]]
    done = Ended(planned=rows[0].planned, outcome=Outcome.COMPLETED)
    assert grouped([done]) == []


# --- schedules --------------------------------------------------------------------------------------------------------


def test_a_schedule_has_its_times() -> None:
    """From the first after a moment to the last that is not after another."""
    found = ticks("30 18 * * MON-FRI", NEW_YORK, after=at(25, 18, 30), until=at(28, 18, 30))
    assert found == [at(26, 18, 30), at(27, 18, 30), at(28, 18, 30)]
    assert ticks("0 0 2 MAR *", NEW_YORK, after=at(25), until=at(28)) == []


@pytest.mark.parametrize(
    ("cron", "day", "expected"),
    [
        ("30 2 * * *", dt.date(2013, 3, 10), ["07:00"]),  # 02:30 is left out: right after the change
        ("30 1 * * *", dt.date(2013, 11, 3), ["05:30"]),  # 01:30 comes twice: once
        ("30 * * * *", dt.date(2013, 11, 3), ["04:30", "05:30", "06:30", "07:30"]),  # every hour: every hour
    ],
)
def test_changed_clocks_neither_lose_nor_double_a_run(cron: str, day: dt.date, expected: list[str]) -> None:
    """A nightly run is there once on the nights when clocks change, in time zones that do so."""
    start = dt.datetime.combine(day, dt.time(), NEW_YORK)
    until = dt.datetime.combine(day, dt.time(8), UTC)
    assert [f"{time.astimezone(UTC):%H:%M}" for time in ticks(cron, NEW_YORK, after=start, until=until)] == expected


@pytest.mark.parametrize("text", ["", "nightly", "61 * * * *", "* * * *", "* * * * * *", "0 0 31 2 *"])
def test_a_wrong_schedule_is_refused(text: str) -> None:
    """The error shows it."""
    with pytest.raises(errors.InputError, match="is no schedule"):
        ticks(text, NEW_YORK, after=at(25), until=at(28))


def test_the_local_zone_changes_its_clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a name it is TZ, or this machine's; a wrong name is refused."""
    monkeypatch.setenv("TZ", ":Europe/Zurich")
    assert zone(None).key == "Europe/Zurich"
    monkeypatch.delenv("TZ")
    assert zone(None).utcoffset(dt.datetime(2013, 2, 28)) is not None
    monkeypatch.setattr(schedule, "LOCAL_TIME", tmp_path / "nothing")
    assert zone(None).key == "UTC"
    for wrong in ("Mars/Olympus", "../etc/passwd", "EST5EDT,M3"):
        with pytest.raises(errors.InputError, match="there is no time zone"):
            zone(wrong)


def at(day: int, hour: int = 0, minute: int = 0) -> dt.datetime:
    return dt.datetime(2013, 2, day, hour, minute, tzinfo=NEW_YORK)


def nightly(*days: int) -> tuple[Slot, ...]:
    dated = [(dt.date(2013, 2, day), at(day, 18, 30)) for day in days]
    return tuple(Slot(key=f"f/{date}", as_of_date=date, scheduled_at=time) for date, time in dated)


def completed(*days: int, **others: RunRecord) -> dict[str, RunRecord]:
    return {f"f/2013-02-{day}": record() for day in days} | {f"f/2013-02-{n[1:]}": run for n, run in others.items()}


def days(slots: tuple[Slot, ...]) -> list[int]:
    return [slot.as_of_date.day for slot in slots]


WEEK = nightly(21, 22, 25, 26, 27, 28)


def test_missed_is_what_comes_after_the_last_success() -> None:
    """Whatever has become of those in between; older ones are none of its business."""
    found = completed(25, d26=record("failed"))
    answer = missed(WEEK, found.get, None, policy=Policy.ALL)
    assert days(answer.run) == [26, 27, 28]
    assert answer.last_success == at(25, 18, 30)
    assert (answer.skipped, answer.left_out, answer.gaps) == ((), (), ())


def test_the_policy_says_which_of_them_run() -> None:
    """All of them, the newest, or none; what is not run is named."""
    found = completed(25).get
    latest = missed(WEEK, found, None, policy=Policy.LATEST)
    assert (days(latest.run), days(latest.skipped)) == ([28], [26, 27])
    skip = missed(WEEK, found, None, policy=Policy.SKIP)
    assert (days(skip.run), days(skip.skipped)) == ([], [26, 27, 28])
    two = missed(WEEK, found, None, policy=Policy.ALL, most=2)
    assert (days(two.run), days(two.left_out)) == ([26, 27], [28])


def test_nothing_is_missed_when_the_newest_has_completed() -> None:
    """What lies before it and has not completed is a gap; before the oldest success it was not yet at work."""
    answer = missed(WEEK, completed(22, 28).get, None, policy=Policy.ALL)
    assert (answer.run, days(answer.gaps)) == ((), [25, 26, 27])


def test_without_a_success_under_a_key_the_newest_run_tells() -> None:
    """By its business date, or by when it was begun; with no run at all the window is the limit."""
    none = dict[str, RunRecord]().get
    assert missed(WEEK, none, None, policy=Policy.ALL).run == WEEK
    dated = record(as_of="2013-02-26", created_at=at(28).timestamp())
    answer = missed(WEEK, none, dated, policy=Policy.ALL)
    assert (days(answer.run), answer.last_success) == ([27, 28], dt.date(2013, 2, 26))
    undated = record(created_at=at(27, 18, 31).timestamp())
    assert days(missed(WEEK, none, undated, policy=Policy.ALL).run) == [28]


def test_two_times_of_one_date_need_two_keys() -> None:
    """Times of a schedule are named by themselves, not by their date."""
    twice = [attrs.evolve(WEEK[0], scheduled_at=at(21, hour)) for hour in (6, 18)]
    with pytest.raises(errors.InputError, match=r"2013-02-21 06:00-05:00 and 2013-02-21 18:00-05:00 have the same key"):
        distinct(twice)
