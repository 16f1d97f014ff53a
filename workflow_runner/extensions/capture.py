"""What is logged inside a run goes into its store, step by step, as far as the caps allow.

A record is a line in a queue when it is logged; a thread of the scope writes them in batches. History is worth less
than the run: a store that fails costs lines, and never a step.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import attrs

from workflow_runner._core import log, secrets
from workflow_runner._core.context import CURRENT
from workflow_runner._core.extension import Extension
from workflow_runner._core.scope import Scope
from workflow_runner._core.status import ExecutionStatus
from workflow_runner.store.base import LogRow, Store

if TYPE_CHECKING:
    from workflow_runner._core.execution import FlowExecution

# A record waits at most so many seconds, or for so many others, until it is written.
BATCH_SECONDS = 0.5
BATCH_SIZE = 200
# The end of a scope waits so many seconds for the last batch.
LAST_BATCH = 5.0

# What keeps the paths of one step apart: the index of an item, the count of a call.
_INDICES = re.compile(r"\[\d+\]|#\d+")


@attrs.frozen(kw_only=True)
class Caps:
    """How much of what a step logs is kept.

    Attributes:
        records: of one step; the items of a fan-out count together.
        size: characters of one step, in all.
        message: characters of one message, or of one field.
    """

    records: int = 1000
    size: int = 256 * 1024
    message: int = 8 * 1024


@attrs.define
class _Kept:
    """What was kept of one step, and what was not."""

    records: int = 0
    size: int = 0
    dropped: int = 0


class Capture(Extension):
    """Keeps what is logged, from INFO on, inside the runs of a scope that has a store.

    Records of the standard library and of structlog, if that hands over to it, wherever the run's context variables are
    bound. A record belongs to the step that was running where it was logged.

    Args:
        caps: how much is kept.
    """

    name = "capture"

    def __init__(self, caps: Caps | None = None) -> None:
        self._caps = caps or Caps()
        self._handler: _Handler | None = None

    def init(self, scope: Scope) -> None:
        store = getattr(scope, "store", None)
        if store is not None:
            self._handler = _Handler(store, self._caps, f"{scope.name}-capture")
            logging.root.addHandler(self._handler)

    def on_status(self, execution: FlowExecution[Any], status: ExecutionStatus) -> None:
        if status.terminal and self._handler is not None:
            self._handler.ended(execution.id)

    def dispose(self, scope: Scope) -> None:
        if self._handler is not None:
            logging.root.removeHandler(self._handler)
            self._handler.close()
            self._handler = None


class _Handler(logging.Handler):
    """Puts records into a queue, from any thread; its own thread, which starts with the first record, writes them.

    ``emit`` is called one at a time, under the handler's lock, and takes no other lock: who logs may hold some.
    """

    def __init__(self, store: Store, caps: Caps, name: str) -> None:
        super().__init__(logging.INFO)
        self._store = store
        self._caps = caps
        self._thread_name = name
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._queue: SimpleQueue[tuple[str, LogRow] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._warned = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = log.fields_of(record)
            run_id = fields.pop("run_id", None)
            if not isinstance(run_id, str) or threading.current_thread() is self._thread:
                return
            ours = record.name == log.LOGGER.name
            path = fields.pop("path") if ours and "path" in fields else _path_in(run_id)
            row = _row(record, path, fields, self._caps.message)
            if ours and record.levelno == logging.INFO:  # how runs and steps begin and end: never too much
                self._put(run_id, row)
                return
            kept = self._kept.setdefault((run_id, _INDICES.sub("", path or "")), _Kept())
            size = len(row.event) + len(row.fields or "")
            if kept.records >= self._caps.records or kept.size + size > self._caps.size:
                kept.dropped += 1
                return
            kept.records += 1
            kept.size += size
            self._put(run_id, row)
        except Exception:
            self.handleError(record)

    def ended(self, run_id: str) -> None:
        """A run has ended: what it may log from now on is counted anew, and what was dropped is said."""
        self.acquire()
        try:
            for key in [key for key in self._kept if key[0] == run_id]:
                self._say_dropped(key, self._kept.pop(key))
        finally:
            self.release()

    def _say_dropped(self, key: tuple[str, str], kept: _Kept) -> None:
        if kept.dropped:
            run_id, step = key
            fields = json.dumps({"dropped": kept.dropped, "kept": kept.records})
            row = LogRow(path=step or None, at=time.time(), level="warning", event="log.dropped", fields=fields)
            self._put(run_id, row)

    def _put(self, run_id: str, row: LogRow) -> None:
        if self._process != os.getpid():  # the thread of a forked child's parent is not here
            self._process = os.getpid()
            self._queue = SimpleQueue()
            self._thread = threading.Thread(
                target=self._write, args=(self._queue,), name=self._thread_name, daemon=True
            )
            self._thread.start()
        self._queue.put((run_id, row))

    def close(self) -> None:
        """Write what waits, in a bounded time."""
        for run_id in {run_id for run_id, _ in self._kept}:
            self.ended(run_id)
        if self._thread is not None and self._process == os.getpid():
            self._queue.put(None)
            self._thread.join(LAST_BATCH)
        super().close()

    # -- the thread

    def _write(self, queue: SimpleQueue[tuple[str, LogRow] | None]) -> None:
        going_on = True
        while going_on:
            first = queue.get()
            if first is None:
                return
            batch = [first]
            end = time.monotonic() + BATCH_SECONDS
            while len(batch) < BATCH_SIZE:
                try:
                    item = queue.get(timeout=max(0.0, end - time.monotonic()))
                except Empty:
                    break
                if item is None:
                    going_on = False
                    break
                batch.append(item)
            self._write_batch(batch)

    def _write_batch(self, batch: list[tuple[str, LogRow]]) -> None:
        runs: dict[str, list[LogRow]] = {}
        for run_id, row in batch:
            runs.setdefault(run_id, []).append(row)
        for run_id, rows in runs.items():
            try:
                self._store.log(run_id, rows)
            except Exception as error:  # whatever the store has, the run goes on
                if not self._warned:
                    self._warned = True
                    log.warning("capture.failed", run_id=run_id, error=repr(error))


def _path_in(run_id: str) -> str | None:
    """The path of what runs here, if it belongs to that run; None for the run itself."""
    context = CURRENT.get()
    if context is None or context.root.id != run_id:
        return None
    return context._path or None


def _row(record: logging.LogRecord, path: str | None, fields: dict[str, Any], longest: int) -> LogRow:
    event = _cut(str(fields.pop("event")), longest)
    if fields.get("step") == path:
        fields.pop("step", None)
    fields.pop("trace_id", None)  # the run's
    short = {key: _cut(value, longest) if isinstance(value, str) else value for key, value in fields.items()}
    text = json.dumps(short, default=lambda value: _cut(secrets.mask(str(value)), longest)) if short else None
    return LogRow(path=path, at=record.created, level=record.levelname.lower(), event=event, fields=text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"
