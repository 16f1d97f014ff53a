"""Logs: everything to stderr, whoever logs it and however."""

from __future__ import annotations

import logging
import sys

import pytest
import structlog

from workflow_runner._core import log
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
