"""Logs to stderr: for people on a terminal, key=value elsewhere. The one place that configures logging."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from workflow_runner._core import log

Event = MutableMapping[str, Any]

# Where it came from, in this order; on a terminal there is one run, and its id stands at the end of the output.
_ORIGIN = ("flow", "step", "run_id", "trace_id")
_FOR_MACHINES = ("run_id", "trace_id")


def configure() -> None:
    """Send everything that is logged, through the standard library or through structlog, to stderr from INFO on."""
    terminal = sys.stderr.isatty()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if terminal else "iso", utc=not terminal),
    ]
    last: list[Any]
    if terminal:
        # structlog's own tracebacks show the values of all variables: secrets too.
        plain = structlog.dev.plain_traceback
        last = [
            _drop_ids,
            structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, exception_formatter=plain),
        ]
    else:
        logfmt = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
        last = [_origin_last, structlog.processors.format_exc_info, logfmt]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _take_fields],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _take_fields(_logger: Any, _method: str, event: Event) -> Event:
    """Take what a record carries as ``extra``; the library's own records repeat it in their text, which is left out."""
    record = event["_record"]
    known = vars(logging.makeLogRecord({}))
    fields = {key: value for key, value in vars(record).items() if key not in known and key != "message"}
    if record.name != log.LOGGER.name:
        fields.pop("event", None)
    # a name that logging keeps for itself has got an underscore
    event.update({key.removesuffix("_"): value for key, value in fields.items()})
    return event


def _origin_last(_logger: Any, _method: str, event: Event) -> Event:
    for key in _ORIGIN:
        if key in event:
            event[key] = event.pop(key)
    return event


def _drop_ids(_logger: Any, _method: str, event: Event) -> Event:
    for key in _FOR_MACHINES:
        event.pop(key, None)
    return event
