"""The library's log, and what is bound for structlog around a handler."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
import structlog

from workflow_runner import FlowContext, Scope, call, flow
from workflow_runner._core import log, secrets

LONG = 20.0


def bound() -> dict[str, Any]:
    """What a structlog logger would add to every event here."""
    return dict(structlog.contextvars.merge_contextvars(None, "info", {}))


@flow
def child(ctx: FlowContext, _: Any) -> Any:
    return bound()


def test_run_trace_and_flow_are_bound_around_each_handler(scope: Scope) -> None:
    """structlog sees run_id, trace_id and flow in roots, children, items, calls and streams, and nothing outside."""

    @flow
    def top(ctx: FlowContext, _: Any) -> list[Any]:
        return [
            bound(),
            ctx.exec(child),
            ctx.exec(child, name="named"),
            ctx.exec(child, timeout=LONG),
            *ctx.parallel(child.each([1])),
            *ctx.parallel([child.bind(1), call(bound)]),
            *ctx.stream([child]),
            bound(),
        ]

    before = bound()
    for start in (scope.exec, lambda *args: scope.exec(*args, timeout=LONG)):
        execution = start(top)
        found = execution.result(LONG)
        expected = ["top", "child", "child", "child", "child", "child", "bound", "child", "top"]
        assert [one["flow"] for one in found] == expected
        assert {(one["run_id"], one["trace_id"]) for one in found} == {(execution.id, execution.id)}
        assert all(set(one) == {"run_id", "trace_id", "flow"} for one in found)
    scope.run(top)
    assert bound() == before == {}


def test_what_the_caller_has_bound_is_kept(scope: Scope) -> None:
    """Context variables that a program binds with structlog are seen inside, and its own fields are not lost."""
    with structlog.contextvars.bound_contextvars(request="r-1"):
        found = scope.exec(child).result(LONG)
        assert (found["request"], found["flow"]) == ("r-1", "child")
        assert bound() == {"request": "r-1"}


def test_a_run_inside_a_run_is_bound_as_itself(scope: Scope) -> None:
    """``scope.run`` inside a flow binds the inner run, and the outer one again after it."""

    @flow
    def outer(ctx: FlowContext, _: Any) -> Any:
        inner = scope.run(child)
        return inner["run_id"] != ctx.run_id, inner["flow"], bound()["run_id"] == ctx.run_id, bound()["flow"]

    assert scope.run(outer) == (True, "child", True, "outer")


def test_events_go_to_stdlib_logging_with_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    """An event is one record of the logger "workflow_runner": fields in the message, and as attributes."""
    log.warning("thread.example", scope="s", count=3, text="a b", quoted='a="b"', empty="")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("workflow_runner", logging.WARNING)
    assert record.getMessage() == """thread.example scope=s count=3 text='a b' quoted='a="b"' empty=''"""
    assert (record.event, record.scope, record.count) == ("thread.example", "s", 3)  # type: ignore[attr-defined]


def test_percent_signs_and_braces_are_texts(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing in a field is taken for a format."""
    log.error("odd", ValueError("50%"), text="100%", other="%s %d {x}")
    (record,) = caplog.records
    assert record.getMessage() == "odd text=100% other='%s %d {x}'"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "50%"


def test_a_stack_stands_below_its_event(caplog: pytest.LogCaptureFixture) -> None:
    """A stack is printed on lines of its own."""
    log.warning("stuck", thread="t", stack="line 1\nline 2")
    (record,) = caplog.records
    assert record.getMessage() == "stuck thread=t\nline 1\nline 2"


def test_fields_may_have_the_names_of_a_records_own(caplog: pytest.LogCaptureFixture) -> None:
    """``name``, ``args``, ``message`` and the like do not break the record."""
    log.warning("odd", name="n", message="m", args="a", thread="t", asctime="now")
    (record,) = caplog.records
    assert record.getMessage() == "odd name=n message=m args=a thread=t asctime=now"
    assert record.name == "workflow_runner"
    assert (record.name_, record.message_, record.args_) == ("n", "m", "a")  # type: ignore[attr-defined]


def test_events_carry_what_is_bound(caplog: pytest.LogCaptureFixture) -> None:
    """The library's own events have the context variables of the place where they happen."""
    with structlog.contextvars.bound_contextvars(run_id="r-1"):
        log.warning("here")
    assert caplog.records[0].run_id == "r-1"  # type: ignore[attr-defined]


def test_nobody_who_does_not_ask_pays(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event below the logger's level is not made."""

    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("printed")

    caplog.set_level(logging.ERROR, "workflow_runner")
    log.warning("quiet", value=Unprintable())
    log.info("quiet", value=Unprintable())
    assert caplog.records == []


def test_a_broken_handler_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A handler that raises is told on stderr, as logging does, and never reaches those who only report."""

    class Breaks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    handler = Breaks()
    log.LOGGER.addHandler(handler)
    try:
        log.warning("event")
    finally:
        log.LOGGER.removeHandler(handler)
    out, err = capsys.readouterr()
    assert "disk full" in err
    assert out == ""


def test_a_broken_log_costs_no_slot_and_no_waiter(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks that fail while the log fails as well leave the scope as it was."""

    class Breaks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    def bad(*_: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = Breaks()
    log.LOGGER.addHandler(handler)
    try:
        for _ in range(5):
            execution = scope.exec(child)
            execution.add_done_callback(bad)
            execution.on_status_change(bad)
            execution.ctx.signal.on_abort(bad)
            execution.result(LONG)
    finally:
        log.LOGGER.removeHandler(handler)


def test_nothing_is_configured() -> None:
    """Importing and using the library configures neither logging nor structlog, and imports structlog late."""
    program = """
import logging, sys
import workflow_runner
assert not {"structlog", "asyncio", "rich", "sqlite3", "tenacity", "cattrs"} & set(sys.modules), sorted(sys.modules)
from workflow_runner import Scope, flow, call
with Scope() as scope:
    assert scope.run(call(len, "abc")) == 3
    execution = scope.exec(call(len, "abc"), timeout=60)
    assert execution.result() == 3
assert not {"structlog", "asyncio", "rich", "sqlite3", "tenacity", "cattrs"} & set(sys.modules), sorted(sys.modules)
root, logger = logging.getLogger(), logging.getLogger("workflow_runner")
assert (root.handlers, root.level, logger.handlers, logger.level) == ([], logging.WARNING, [], logging.NOTSET)
execution = Scope().exec(call(len, "abc"))
execution.add_done_callback(lambda execution: 1 / 0)
execution.result()
import structlog
assert not structlog.is_configured()
assert (root.handlers, logger.handlers) == ([], [])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "callback.failed" in done.stderr


# -- what runs and steps tell


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if hasattr(record, "event")]


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Somebody wants to know how runs begin and end."""
    caplog.set_level(logging.INFO, "workflow_runner")
    return caplog


def test_a_run_tells_how_it_begins_and_ends(scope: Scope, info: pytest.LogCaptureFixture) -> None:
    """Whose it is, how long it took and what it failed with, before those are called who wait for its end."""

    @flow
    def fails(ctx: FlowContext, _: Any) -> None:
        raise ValueError("no")

    execution = scope.exec(child)
    before: list[list[str]] = []
    ended = threading.Event()
    execution.add_done_callback(lambda _: before.append(told(info)))
    execution.add_done_callback(lambda _: ended.set())
    assert ended.wait(LONG)
    failing = scope.exec(fails)
    assert failing.exception(LONG) is not None
    scope.close()
    assert before == [["run.started", "run.completed"]]
    assert told(info)[2:] == ["run.started", "run.failed"]
    first, last = info.records[0], info.records[-1]
    assert (first.run_id, first.flow) == (execution.id, "child")  # type: ignore[attr-defined]
    assert (last.run_id, last.error) == (failing.id, "ValueError('no')")  # type: ignore[attr-defined]
    assert last.seconds >= 0  # type: ignore[attr-defined]


def test_a_run_that_is_ended_by_its_deadline_tells_it(scope: Scope, info: pytest.LogCaptureFixture) -> None:
    """Also if its handler never looks up, and if it never began."""
    stuck, ended = threading.Event(), threading.Event()
    for _ in range(2):
        execution = scope.exec(flow(name="stuck")(lambda ctx, _: stuck.wait(LONG)), timeout=0.01)
        execution.add_done_callback(lambda _: ended.set())
        assert ended.wait(LONG)
        ended.clear()
    stuck.set()
    cancelled = [record for record in info.records if getattr(record, "event", "") == "run.cancelled"]
    assert len(cancelled) == 2
    assert "timed out" in cancelled[0].error  # type: ignore[attr-defined]


def test_secrets_are_in_no_fields(caplog: pytest.LogCaptureFixture) -> None:
    """What handlers are given as the fields of a record has no secret that is held, however deep it is."""

    class Owner:
        pass

    owner = Owner()
    secrets.hold(owner, "hunter22")
    log.warning("login", password="hunter22", about={"url": ["https://u:hunter22@host"]})
    (record,) = caplog.records
    fields = log.fields_of(record)
    assert (fields["password"], fields["about"]) == ("***", {"url": ["https://u:***@host"]})
