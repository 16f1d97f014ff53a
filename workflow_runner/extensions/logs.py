"""The library's events, and how a service that configures its own logging gets them whole.

The library logs through the standard library's logger ``workflow_runner`` and configures nothing. What goes as planned
is INFO, and so is a failure that its caller is told of; the rest is WARNING or ERROR. To see runs and steps begin and
end: ``logging.getLogger("workflow_runner").setLevel(logging.INFO)``.

Each record is an event (`EVENTS`) with fields: as text in its message, and as attributes for handlers that write JSON.
What is logged inside a run, by anybody, has ``run_id``, ``trace_id``, ``flow`` and ``step``: through structlog by its
context variables, through the standard library by `add_fields`::

    structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[add_fields],     # records of the standard library
        processors=[mask_secrets, structlog.stdlib.ProcessorFormatter.remove_processors_meta, JSONRenderer()],
    )
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from workflow_runner._core import log, secrets

EVENTS: Final[Mapping[str, str]] = {
    "run.started": "a run has begun",
    "run.resumed": "a run is gone on with",
    "run.followed": "another process executes the run, and this one waits for it",
    "run.completed": "a run has ended well, after ``seconds``",
    "run.failed": "a run has failed, after ``seconds``, with ``error``",
    "run.cancelled": "a run was cancelled, by somebody or by its deadline",
    "run.answered": "a run had ended before, and is answered by what is recorded",
    "run.not_recorded": "the end of a run could not be written to its store",
    "step.started": "a step has begun; ``path`` is its place in the run",
    "step.completed": "a step has ended well and is recorded",
    "step.skipped": "a step has skipped itself, for ``reason``",
    "step.failed": "a step has failed, after its last attempt",
    "step.cancelled": "a step was told to stop",
    "attempt.failed": "an attempt has failed and is made again after ``delay`` seconds",
    "attempt.not_recorded": "a failed attempt could not be written to the store",
    "thread.abandoned": "a deadline took a thread's slot away; ``stack`` says where it is stuck",
    "thread.failed": "a thread could not be started",
    "thread.interrupted": "a thread was interrupted in a callback",
    "callback.failed": "somebody's callback has raised",
    "extension.failed": "an observing extension has raised",
    "watchdog.failed": "a deadline's own work has raised",
    "journal.failed": "finished items could not be written to the store",
    "store.failed": "the store could not be asked for requests to cancel",
    "capture.failed": "log records could not be written to the store",
    "log.dropped": "more was logged than the store keeps of one step: ``kept`` and ``dropped``",
    "ping.failed": "a monitor could not be told",
    "progress.failed": "progress could not be drawn",
}
"""Every event that the library logs, and what it means. New ones may come; these stay."""


def add_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add what a record of the standard library carries: its fields, and those of the run that it was logged in.

    For ``foreign_pre_chain`` of ``structlog.stdlib.ProcessorFormatter``, in the thread that logs.
    """
    record: logging.LogRecord | None = event.get("_record")
    if record is not None:
        known = {"exception", "stack"}  # structlog adds them itself, if it is asked to
        if not isinstance(record.msg, log.Message):
            known.add("event")
        event.update({name: value for name, value in log.fields_of(record).items() if name not in known})
    return event


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put ``***`` in the place of every secret of a live run, however deep it is; a processor for structlog."""
    for name, value in event.items():
        if not name.startswith("_"):
            event[name] = secrets.mask_data(value)
    return event


class MaskSecrets(logging.Filter):
    """The same for a handler of the standard library: ``handler.addFilter(MaskSecrets())``."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = secrets.mask(record.getMessage()), None
        return True
