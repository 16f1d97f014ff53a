"""The library's events in a service's own logging."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs
import pytest
import structlog

from workflow_runner import FlowContext, Scope, Secret, flow
from workflow_runner._core import log
from workflow_runner.extensions.logs import EVENTS, MaskSecrets, add_fields, mask_secrets

LONG = 20.0


@attrs.frozen
class Login:
    user: str
    password: Annotated[str, Secret]


@flow
def logs_in(ctx: FlowContext, login: Login) -> None:
    logging.getLogger("service").warning("as %s with %s", login.user, login.password)
    structlog.get_logger("service").warning("logged in", about={"password": login.password})


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a service writes that logs JSON lines through structlog and the standard library."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[add_fields], processors=[mask_secrets, meta, structlog.processors.JSONRenderer()]
        )
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    loggers = [logging.getLogger(name) for name in ("service", "workflow_runner")]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield stream
    for logger in loggers:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    structlog.reset_defaults()


def test_every_event_is_documented() -> None:
    """Whatever the library logs by name is in the vocabulary, and nothing else is."""
    root = Path(log.__file__).parent.parent
    kinds = "|".join({event.partition(".")[0] for event in EVENTS})
    logged: set[str] = set()
    for file in root.rglob("*.py"):
        if file.name != "logs.py" and "examples" not in file.parts:
            logged |= set(re.findall(rf'"((?:{kinds})\.[a-z_]+)"', file.read_text("utf-8")))
    literal = re.compile(r'log\.(?:info|warning|error)\(\s*"([a-z]+\.[a-z_]+)')
    for file in root.rglob("*.py"):
        if "examples" not in file.parts:
            assert set(literal.findall(file.read_text("utf-8"))) <= set(EVENTS), file
    assert {"run.started", "step.failed", "thread.abandoned"} <= set(EVENTS)
    assert "attempt.failed" in logged


def test_a_service_sees_runs_begin_and_end(written: io.StringIO, make_scope: Callable[..., Scope]) -> None:
    """As JSON lines with the run's fields, whoever has logged them, and without its secrets."""
    scope = make_scope(max_workers=1)
    execution = scope.exec(logs_in, Login("ada", "hunter22"))
    execution.result(LONG)
    scope.close()
    lines: list[dict[str, Any]] = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["run.started", "as ada with ***", "logged in", "run.completed"]
    assert {line["run_id"] for line in lines} == {execution.id}
    assert lines[2]["about"] == {"password": "***"}
    assert "hunter22" not in written.getvalue()


def test_secrets_are_masked_for_any_handler(make_scope: Callable[..., Scope]) -> None:
    """By a filter of the standard library."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(MaskSecrets())
    logger = logging.getLogger("service")
    logger.addHandler(handler)
    try:
        make_scope(max_workers=1).run(logs_in, Login("ada", "hunter22"))
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().startswith("as ada with ***\n")
