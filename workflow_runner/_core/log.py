"""The library's own log: structlog processors over a stdlib logger. Nothing is configured here.

structlog is imported with the first event that somebody wants to see, never by ``import workflow_runner``.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

LOGGER = logging.getLogger("workflow_runner")

# structlog knows its context variables by their names' prefix (structlog.contextvars, "structlog_"), so that these can
# be bound around a handler for the price of a `ContextVar.set`, whether structlog is imported or not.
RUN_ID: ContextVar[Any] = ContextVar("structlog_run_id", default=...)
TRACE_ID: ContextVar[Any] = ContextVar("structlog_trace_id", default=...)
FLOW: ContextVar[Any] = ContextVar("structlog_flow", default=...)
STEP: ContextVar[Any] = ContextVar("structlog_step", default=...)

_RESERVED = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_bound: Any = None


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
            _structured().log(level, event, **fields)
        except Exception:  # somebody's handler: as in logging itself, it must not stop those who only report
            if logging.raiseExceptions:
                traceback.print_exc()


def _structured() -> Any:
    global _bound
    if _bound is None:
        import structlog

        _bound = structlog.wrap_logger(
            LOGGER,
            processors=[structlog.contextvars.merge_contextvars, _to_stdlib],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            context_class=dict,
        )
    return _bound


def _to_stdlib(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, Any]]:
    """Fields go into the message, where every handler shows them, and into ``extra``, for those that write JSON."""
    exc_info = event.pop("exc_info", None)
    name = event.pop("event")
    text = " ".join([name, *(f"{key}={_short(value)}" for key, value in event.items() if key != "stack")])
    if "stack" in event:
        text = f"{text}\n{event['stack']}"
    extra = {(f"{key}_" if key in _RESERVED else key): value for key, value in event.items()}
    return (text,), {"extra": {"event": name, **extra}, "exc_info": exc_info}


def _short(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or c in "\"'=" for c in text) else text
