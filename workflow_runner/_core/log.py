"""The library's own log: events with fields over a stdlib logger. Nothing is configured here.

The events are listed in ``extensions.logs``. What goes as planned is INFO, and so is a failure that its caller is told
of; the rest is WARNING or ERROR.
"""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar, copy_context
from typing import Any

from workflow_runner._core import secrets

LOGGER = logging.getLogger("workflow_runner")

# structlog knows its context variables by their names' prefix (structlog.contextvars), so that these can be bound
# around a handler, and read by us, whether structlog is imported or not: importing it takes a tenth of a second.
_PREFIX = "structlog_"
RUN_ID: ContextVar[Any] = ContextVar("structlog_run_id", default=...)
TRACE_ID: ContextVar[Any] = ContextVar("structlog_trace_id", default=...)
FLOW: ContextVar[Any] = ContextVar("structlog_flow", default=...)
STEP: ContextVar[Any] = ContextVar("structlog_step", default=...)

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def bound() -> dict[str, Any]:
    """What is bound for structlog here: the fields of the run, and what a program has bound itself."""
    return {
        variable.name.removeprefix(_PREFIX): value
        for variable, value in copy_context().items()
        if variable.name.startswith(_PREFIX) and value is not ...
    }


def info(event: str, **fields: Any) -> None:
    """Log ``event`` with ``fields`` for people who ask for it. Any thread."""
    _log(logging.INFO, event, fields)


def warning(event: str, **fields: Any) -> None:
    """Log ``event`` with ``fields``: something an operator should see. Any thread."""
    _log(logging.WARNING, event, fields)


def error(event: str, exception: BaseException | None = None, **fields: Any) -> None:
    """Log ``event`` with ``fields`` and the traceback of ``exception``. Any thread."""
    if exception is not None:
        fields["exc_info"] = (type(exception), exception, exception.__traceback__)
    _log(logging.ERROR, event, fields)


def _log(level: int, event: str, fields: dict[str, Any]) -> None:
    if LOGGER.isEnabledFor(level):
        try:
            # what was given wins over what is bound, and stands before it
            fields = {**fields, **bound(), **fields}
            masked = {key: secrets.mask(value) if isinstance(value, str) else value for key, value in fields.items()}
            text, keywords = to_stdlib(event, masked)
            LOGGER.log(level, text, **keywords)
        except Exception:  # somebody's handler: as in logging itself, it must not stop those who only report
            if logging.raiseExceptions:
                traceback.print_exc()


class Message(str):
    """The message of a record that is an event with fields, which it repeats."""

    __slots__ = ()


def to_stdlib(event: str, fields: dict[str, Any]) -> tuple[Message, dict[str, Any]]:
    """An event as the arguments of a stdlib logger: ``(message, keywords)``.

    Fields go into the message, where every handler shows them, and into ``extra``, for those that write JSON.
    """
    exc_info = fields.pop("exc_info", None)
    text = " ".join([event, *(f"{key}={_short(value)}" for key, value in fields.items() if key != "stack")])
    if "stack" in fields:
        text = f"{text}\n{fields['stack']}"
    extra = {(f"{key}_" if key in _RESERVED else key): value for key, value in fields.items()}
    return Message(text), {"extra": {"event": event, **extra}, "exc_info": exc_info}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """``event`` and the fields of a record, whoever has logged it; to be called where it was logged.

    Returns:
        With what is bound there, and without secrets; a traceback is the text ``exception``, a stack ``stack``.
    """
    given = {
        (key[:-1] if key[:-1] in _RESERVED else key): value
        for key, value in vars(record).items()
        if key not in _RESERVED
    }
    if isinstance(record.msg, Message):
        fields = {"event": given["event"], **given}
    else:
        fields = {**given, **bound(), **given, "event": record.getMessage()}
        fields = {"event": fields.pop("event"), **fields}
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = record.exc_text or "".join(traceback.format_exception(*record.exc_info)).rstrip()
        fields["exception"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    masked: dict[str, Any] = secrets.mask_data(fields)
    return masked


def _short(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text
