"""What is logged inside a run is in its store: whose it is, how much of it, and what happens when the store fails."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from workflow_runner import FlowContext, Retry, Scope, Step, StepResult, Workflow, WorkflowContext, call, errors, flow
from workflow_runner._core import log
from workflow_runner.extensions.capture import Caps, Capture
from workflow_runner.store.base import LogRow
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore

LONG = 20.0
LOGGER = logging.getLogger("somebodys")


@pytest.fixture(autouse=True)
def info() -> Iterator[None]:
    """The program wants INFO."""
    level = logging.root.level
    logging.root.setLevel(logging.INFO)
    yield
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """A store on disk."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    yield store
    store.close()


Kept = Callable[..., list[LogRow]]


@pytest.fixture
def kept(make_scope: Callable[..., Scope], store: SQLiteStore) -> Kept:
    """Runs a flow in a scope that captures, closes it, and gives what is in the store."""

    def run(flow: Any, input: Any = None, *, caps: Caps | None = None, store: Any = store) -> list[LogRow]:
        scope = make_scope(max_workers=2, store=store, extensions=[Capture(caps)])
        execution = scope.exec(flow, input)
        execution.exception(LONG)
        scope.close()
        rows: list[LogRow] = store.logs(execution.id)
        return rows

    return run


def fields(row: LogRow) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(row.fields or "{}")
    return data


def test_a_run_tells_its_life(kept: Kept) -> None:
    """The run's and the steps' beginnings and ends are there, in order, each at its path."""

    def fails(_: WorkflowContext) -> None:
        raise ValueError("no")

    steps = [
        Step("load", lambda _: None),
        Step.choice("route", when=lambda _: True, then=[Step("skips", lambda _: StepResult.skip("enough"))]),
        Step("fails", fails, on_error="continue"),
    ]
    rows = kept(Workflow("nightly", steps=steps))
    assert [(row.path, row.event) for row in rows] == [
        (None, "run.started"),
        ("load", "step.started"),
        ("load", "step.completed"),
        ("route", "step.started"),
        ("route/skips", "step.started"),
        ("route/skips", "step.skipped"),
        ("route", "step.completed"),
        ("fails", "step.started"),
        ("fails", "step.failed"),
        (None, "run.completed"),
    ]
    assert {row.level for row in rows} == {"info"}
    assert fields(rows[-2])["error"] == "ValueError('no')"
    assert fields(rows[-1])["flow"] == "nightly"
    assert fields(rows[-1])["seconds"] > 0


def test_whoever_logs_and_however(kept: Kept) -> None:
    """The standard library's records and structlog's are at the path of the step, the child or the item they are of."""

    def structured() -> None:
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs],
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        structlog.get_logger("other").info("structured", answer=42)

    @flow
    def item(ctx: FlowContext, n: int) -> None:
        LOGGER.warning("item %d", n)
        LOGGER.debug("not this")

    @flow
    def inner(ctx: FlowContext, _: Any) -> None:
        LOGGER.info("above", extra={"answer": 42})
        ctx.exec(call(structured), name="child")
        ctx.parallel(item.each([7]), name="many")

    rows = [row for row in kept(Workflow("w", steps=[Step("s", inner)])) if "." not in row.event]
    assert [(row.path, row.level, row.event) for row in rows] == [
        ("s", "info", "above"),
        ("s/child", "info", "structured"),
        ("s/many[0]", "warning", "item 7"),
    ]
    assert fields(rows[0])["answer"] == fields(rows[1])["answer"] == 42
    assert fields(rows[2]) == {"flow": "item", "step": "s"}


def test_a_traceback_is_kept(kept: Kept) -> None:
    """It is a field, the text that a log file would have."""

    @flow
    def logs(ctx: FlowContext, _: Any) -> None:
        try:
            raise ValueError("oops")
        except ValueError:
            LOGGER.exception("failed")

    (row,) = [row for row in kept(logs) if row.event == "failed"]
    assert row.level == "error"
    assert fields(row)["exception"].startswith("Traceback")
    assert fields(row)["exception"].endswith("ValueError: oops")


def test_an_attempt_that_is_repeated_is_told(kept: Kept) -> None:
    """With the error, and how often it was tried."""
    tries: list[int] = []

    def flaky(_: WorkflowContext) -> None:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("away")

    rows = kept(Workflow("w", steps=[Step("flaky", flaky, retry=Retry(attempts=2, initial=0))]))
    started, failed, completed = [row for row in rows if row.path == "flaky"]
    assert [row.event for row in (started, failed, completed)] == ["step.started", "attempt.failed", "step.completed"]
    assert (fields(failed)["attempt"], fields(failed)["error"]) == (1, "ConnectionError('away')")


def test_what_is_too_much_is_counted_and_said(kept: Kept) -> None:
    """So many records of a step, and of all items of a fan-out, and so many characters; the last one says the rest."""

    @flow
    def item(ctx: FlowContext, n: int) -> None:
        LOGGER.info("item")

    @flow
    def chatty(ctx: FlowContext, _: Any) -> None:
        for _ in range(10):
            LOGGER.info("said")
        ctx.parallel(item.each(range(10)), name="many")

    def large(_: WorkflowContext) -> None:
        LOGGER.info("x" * 100)
        for _ in range(20):
            LOGGER.info("y" * 70)

    steps = [Step("chatty", chatty), Step("large", large), Step("quiet", lambda _: None)]
    rows = kept(Workflow("w", steps=steps), caps=Caps(records=4, size=400, message=80))
    said = {path: [row for row in rows if row.path == path] for path in {row.path for row in rows}}
    events = ["step.started", "said", "said", "said", "said", "step.completed", "log.dropped"]
    assert [row.event for row in said["chatty"]] == events
    assert fields(said["chatty"][-1]) == {"dropped": 6, "kept": 4}
    many = [row for row in rows if (row.path or "").startswith("chatty/many")]
    assert [row.event for row in many] == ["item"] * 4 + ["log.dropped"]
    assert many[-1].path == "chatty/many"
    assert said["large"][1].event == f"{'x' * 80}... (100 characters)"
    assert fields(said["large"][-1])["dropped"] > 0
    assert [row.event for row in said["quiet"]] == ["step.started", "step.completed"]


def test_the_caps_of_a_step_hold_for_each_run(make_scope: Callable[..., Scope], store: SQLiteStore) -> None:
    """A second run in the same scope has its own."""

    @flow
    def chatty(ctx: FlowContext, _: Any) -> None:
        for _ in range(5):
            LOGGER.info("said")

    scope = make_scope(store=store, extensions=[Capture(Caps(records=3))])
    runs = [scope.exec(chatty) for _ in range(2)]
    for run in runs:
        run.result(LONG)
    scope.close()
    for run in runs:
        events = [row.event for row in store.logs(run.id)]
        assert events == ["run.started", *["said"] * 3, "run.completed", "log.dropped"]


def test_batches_come_while_the_run_goes_on(
    make_scope: Callable[..., Scope], store: SQLiteStore, event: Callable[[], threading.Event]
) -> None:
    """Who reads along need not wait for the end."""
    go_on, written = event(), threading.Event()
    write = store.log

    def tells(run_id: str, rows: Any) -> None:
        write(run_id, rows)
        written.set()

    store.log = tells  # type: ignore[method-assign]

    @flow
    def waits(ctx: FlowContext, _: Any) -> None:
        LOGGER.info("here")
        go_on.wait(LONG)

    scope = make_scope(store=store, extensions=[Capture()])
    execution = scope.exec(waits)
    assert written.wait(LONG)
    assert "here" in [row.event for row in store.logs(execution.id)]
    go_on.set()
    execution.result(LONG)
    scope.close()  # before its store


def test_a_store_that_fails_costs_lines_and_no_run(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, however many batches are lost; the run completes."""

    class Full(MemoryStore):
        def log(self, run_id: str, rows: Any) -> None:
            raise errors.StoreError("disk full")

    @flow
    def chatty(ctx: FlowContext, _: Any) -> None:
        for _ in range(500):
            LOGGER.info("said")

    store = Full()
    assert kept(chatty, store=store) == []
    warnings = [record for record in caplog.records if getattr(record, "event", "") == "capture.failed"]
    assert len(warnings) == 1
    assert "disk full" in warnings[0].getMessage()
    (run,) = store.runs()
    assert run.status == "completed"


def test_fields_of_any_kind_are_kept(kept: Kept) -> None:
    """What JSON has not is a text; a program's field called path is a field."""

    @flow
    def logs(ctx: FlowContext, _: Any) -> None:
        LOGGER.info("request", extra={"path": "/index", "what": {1, 2} - {2}})

    (row,) = [row for row in kept(logs) if row.event == "request"]
    assert row.path is None
    assert fields(row)["path"] == "/index"
    assert fields(row)["what"] == "{1}"


def test_outside_of_runs_nothing_is_kept(make_scope: Callable[..., Scope], store: SQLiteStore) -> None:
    """Nor by a scope without a store, and nothing of the handler is left when the scope has closed."""
    before = logging.root.handlers[:]
    make_scope(extensions=[Capture()])
    assert logging.root.handlers == before
    scope = make_scope(store=store, extensions=[Capture()])
    LOGGER.info("outside")
    log.info("scope.example")
    assert len(logging.root.handlers) == len(before) + 1
    scope.close()
    assert logging.root.handlers == before
