"""Logs: everything to stderr, whoever logs it and however."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
import structlog

from workflow_runner._core import log, secrets
from workflow_runner.cli import logs

Capture = pytest.CaptureFixture[str]


def lines(capsys: Capture) -> list[str]:
    """What was logged, by line; nothing of it is on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_the_library_logs_its_fields_once(capsys: Capture) -> None:
    """The library's records are key=value with the event's name, whose text repeats nothing."""
    logs.configure()
    log.warning("thread.abandoned", scope="s", thread="t 1", text="100%")
    (line,) = lines(capsys)
    assert line.partition(" ")[0].startswith("timestamp=")
    assert line.partition(" ")[2] == 'level=warning event=thread.abandoned scope=s thread="t 1" text=100%'


def test_everybody_elses_logs_look_the_same(capsys: Capture) -> None:
    """The standard library's and structlog's records have the run's fields; below INFO there is silence."""
    logs.configure()
    token = log.FLOW.set("nightly")
    logging.getLogger("a.b").info("hello %s", "world", extra={"answer": 42})
    structlog.get_logger().info("hello", answer=42)
    logging.getLogger("a.b").debug("not this")
    structlog.get_logger().debug("nor this")
    log.FLOW.reset(token)
    first, second = (line.partition(" ")[2] for line in lines(capsys))
    assert first == 'level=info event="hello world" answer=42 flow=nightly'
    assert second == "level=info event=hello answer=42 flow=nightly"


def test_an_exception_is_in_its_line(capsys: Capture) -> None:
    """A traceback is a field, so that one event stays one line."""
    logs.configure()
    try:
        raise ValueError("bad")
    except ValueError as error:
        log.error("callback.failed", error, callback="f")
        logging.getLogger("a.b").exception("oops")
    first, second = lines(capsys)
    assert "event=callback.failed" in first
    assert "ValueError: bad" in first
    assert "ValueError: bad" in second


def test_on_a_terminal_logs_are_for_people(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A short time, no ids, no colours if they are not wanted, and tracebacks without the values of variables."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure()
    secret = "hunter2"
    try:
        raise ValueError(f"{len(secret)} letters")
    except ValueError as error:
        log.error("callback.failed", error, run_id="r", trace_id="t", callback="f")
    text = capsys.readouterr().err
    assert text.splitlines()[0].split()[1:] == ["[error", "]", "callback.failed", "callback=f"]
    assert "ValueError: 7 letters" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_json_lines(capsys: Capture) -> None:
    """One object for each line, with the same fields; what JSON has not is a text."""
    logs.configure(logs.LogFormat.JSON)
    log.warning("odd", text='a "b"', count=3, what={1})
    logging.getLogger("a").error("two\nlines")
    first, second = (json.loads(line) for line in lines(capsys))
    assert list(first) == ["timestamp", "level", "event", "text", "count", "what"]
    assert first["timestamp"].endswith("+00:00")
    assert (first["text"], first["count"], first["what"]) == ('a "b"', 3, "{1}")
    assert second["event"] == "two\nlines"


def test_logfmt_values_are_quoted_when_they_must(capsys: Capture) -> None:
    """One record is one line, whatever is in it."""
    logs.configure()
    log.warning("odd", empty="", yes=True, nothing=None, lines="a\nb", equals="a=b", umlaut="ü", **{"a b": 1})
    (line,) = lines(capsys)
    assert line.partition("event=odd ")[2] == 'empty= yes=true nothing= lines="a\\nb" equals="a=b" umlaut=ü a_b=1'


def test_levels(capsys: Capture) -> None:
    """By default what goes as planned with runs and steps is not told; it is when somebody asks for a level."""

    def say() -> list[str]:
        log.info("run.example")
        log.warning("thread.example")
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            logging.getLogger("a").log(level, logging.getLevelName(level).lower())
        return [line.partition("event=")[2] for line in lines(capsys)]

    logs.configure()
    assert say() == ["thread.example", "info", "error"]
    logs.configure(level=logs.LogLevel.INFO)
    assert say() == ["run.example", "thread.example", "info", "error"]
    logs.configure(level=logs.LogLevel.DEBUG)
    assert say() == ["run.example", "thread.example", "debug", "info", "error"]
    logs.configure(level=logs.LogLevel.ERROR)
    assert say() == ["error"]
    assert logging.root.level == logging.INFO  # the store keeps more than is shown


def test_the_last_lines_are_kept(capsys: Capture) -> None:
    """For those who are told of a failure, also if nothing is shown."""
    tail = logs.configure(silent=True)
    for number in range(60):
        logging.getLogger("a").info("line %d", number)
    assert lines(capsys) == []
    assert len(tail) == logs.TAIL
    assert [line.split(" ", 1)[1] for line in (tail[0], tail[-1])] == ["info    line 10", "info    line 59"]
    try:
        raise ValueError("bad")
    except ValueError as error:
        log.error("callback.failed", error, callback="f g", run_id="r")
    assert next(line for line in tail if "callback" in line).endswith('error   callback.failed callback="f g"')
    assert tail[-1] == "ValueError: bad"


def test_the_path_of_a_step_is_said_where_its_name_does_not(capsys: Capture) -> None:
    """A step of the workflow itself needs none."""
    logs.configure(level=logs.LogLevel.INFO)
    log.info("step.started", step="load", path="load")
    log.info("step.started", step="load", path="route/load")
    first, second = (line.partition("event=step.started ")[2] for line in lines(capsys))
    assert (first, second) == ("step=load", "path=route/load step=load")


def test_importing_structlog_later_is_early_enough() -> None:
    """Code that imports it in the middle of a run logs to stderr as everybody does, with the fields of the run."""
    program = """
import sys
from workflow_runner.cli import logs
from workflow_runner._core import log, secrets
logs.configure()
log.FLOW.set("nightly")
log.warning("ours")
assert not {"structlog", "rich", "asyncio"} & set(sys.modules), "slow imports"
import structlog
structlog.get_logger().info("theirs", answer=42)
structlog.get_logger().debug("not this")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("caught")
import structlog.stdlib
assert len([finder for finder in sys.meta_path if type(finder).__module__.startswith("workflow_runner")]) == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    ours, theirs, caught = done.stderr.splitlines()
    assert ours.endswith("level=warning event=ours flow=nightly")
    assert theirs.endswith("level=info event=theirs answer=42 flow=nightly")
    assert "ZeroDivisionError" in caught


def test_structlog_that_is_configured_by_its_user_stays_so() -> None:
    """Whoever configures it after importing it knows what he wants."""
    program = """
from workflow_runner.cli import logs
logs.configure()
import structlog
structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory())
structlog.get_logger().info("mine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"event": "mine"}\n', "")


@pytest.mark.parametrize("format", list(logs.LogFormat))
def test_secrets_are_masked(format: logs.LogFormat, capsys: Capture) -> None:
    """In messages, in fields of any kind, in tracebacks, and in the lines that are kept."""

    class Owner:
        pass

    class Shows:
        def __str__(self) -> str:
            return "<Shows hunter22>"

    owner = Owner()
    secrets.hold(owner, "hunter22")
    tail = logs.configure(format)
    try:
        raise ValueError("bad hunter22")
    except ValueError as error:
        log.error("login.failed", error, shows=Shows(), nested=[Shows()])
    logging.getLogger("a").info("with hunter22")
    captured = capsys.readouterr()
    text = captured.err + "\n".join(tail)
    assert "hunter22" not in text
    assert "bad ***" in text
    assert "with ***" in text
