"""Named places in the life of a step, and what happens there. The library knows nothing of them: it is wrapped.

For a body: ``before body PATH``, ``in body PATH``, ``after body PATH``. For what the store is told (``record PATH``,
``attempt PATH``, ``submit``, ``claim``, ``finish``, ``release``): ``before ...`` (nothing was done yet),
``before COMMIT ...`` (inside the transaction), ``after COMMIT ...`` (nobody has been told yet), ``after ...``
(acknowledged). For the making of the file: ``before COMMIT opening``, ``after COMMIT opening``. For the copying of the
WAL: ``before checkpoint``, ``after checkpoint``. What comes again is numbered: ``before checkpoint#2``.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from crash import outside
from workflow_runner.store import commit, sqlite
from workflow_runner.store.sqlite import SQLiteStore

LONG = 30.0

_actions: dict[str, str] = {}
_tracing = False
_counts: Counter[str] = Counter()
_counting = threading.Lock()
_thread = threading.local()

# set when the main thread does nothing but wait, and by its handler of SIGTERM
waiting = threading.Event()
terminated = threading.Event()
# readable after SIGCONT: written by the thread that gets the signal, while a handler would wait for the main thread
_continued, _wakeup = os.pipe()


def reach(place: str) -> None:
    """The program is at ``place``; do what was asked for."""
    with _counting:
        _counts[place] += 1
        number = _counts[place]
    name = place if number == 1 else f"{place}#{number}"
    if _tracing:
        outside.note("at", name)
    action = _actions.get(name)
    if action is not None:
        _act(action, name)


def _act(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(LONG)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        # the signal may go to another thread first, and this one run on for a while
        while select.select([_continued], [], [], LONG)[0]:
            if signal.SIGCONT in os.read(_continued, 64):
                return
        raise AssertionError("nobody has sent SIGCONT")
    elif action == "terminate":
        assert waiting.wait(LONG), "the main thread does not come to wait"
        os.kill(os.getpid(), signal.SIGTERM)
        assert terminated.wait(LONG), "the handler has not run"
    elif action == "wait":
        outside.note("waiting", name)
        until(lambda: outside.exists("go"), name)
    elif action == "delay":
        time.sleep(0.4)
    elif action == "full":
        limit(1)
    elif action == "fork":
        forked = os.fork() == 0
        if forked:
            outside.note("forked", name)
        until(lambda: outside.exists("child-go" if forked else "parent-go"), name)
    else:
        raise AssertionError(action)


def limit(size: int | None) -> None:
    """From now on no file can be written beyond ``size`` bytes: a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def until(condition: Callable[[], object], what: str, timeout: float = LONG) -> None:
    """Wait until ``condition`` holds, which is looked at every millisecond."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(0.001)


class TracedConnection(sqlite3.Connection):
    """A connection that says where its transactions are."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE":
            self.labels: list[str] = []
            return super().execute(sql)
        if sql == "COMMIT":
            labels = self.labels or ["opening"]
            _each("before COMMIT", labels)
            cursor = super().execute(sql)
            _each("after COMMIT", labels)
            return cursor
        if sql.startswith("PRAGMA wal_checkpoint"):
            reach("before checkpoint")
            cursor = super().execute(sql)
            reach("after checkpoint")
            return cursor
        return super().execute(sql, *args)


def _each(place: str, labels: list[str]) -> None:
    for label in labels:
        reach(f"{place} {label}")


def install(actions: dict[str, str], *, trace: bool = False, checkpoint_every: int | None = None) -> None:
    """Wrap the library.

    Args:
        actions: by name of a place: "kill", "stop", "terminate", "wait", "delay", "full" or "fork".
        trace: write every place that is reached to the effects.
        checkpoint_every: copy the WAL into the file after so many commits.
    """
    global _tracing
    os.set_blocking(_wakeup, False)
    signal.set_wakeup_fd(_wakeup)
    signal.signal(signal.SIGCONT, lambda *_: None)
    _actions.update(actions)
    _tracing = trace
    if checkpoint_every is not None:
        commit._CHECKPOINT_EVERY = checkpoint_every  # type: ignore[misc]
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, factory=TracedConnection, **options)
    for verb in ("submit", "claim", "record", "attempt", "finish", "release"):
        setattr(SQLiteStore, verb, _traced(verb, getattr(SQLiteStore, verb)))
    sqlite._OpenTransaction.commit = _traced_commit(sqlite._OpenTransaction.commit)
    SQLiteStore._write = _traced_write(SQLiteStore._write)
    SQLiteStore._insert = _traced_insert(SQLiteStore._insert)


def _traced(verb: str, original: Any) -> Any:
    def call(store: Any, *args: Any, **options: Any) -> Any:
        if verb == "record":
            run_id, rows = args[0], args[2]
            labels, tokens = [f"record {row.path}" for row in rows], [f"{run_id}/{row.path}" for row in rows]
        else:
            run_id = getattr(args[0], "run_id", args[0])
            labels = [f"{verb} {args[2]}" if verb == "attempt" else verb]
            tokens = [f"{verb} {run_id}"]
        return _told(labels, tokens, lambda: original(store, *args, **options))

    return call


def _traced_commit(original: Any) -> Any:
    def call(transaction: Any, rows: Any) -> Any:
        run_id = transaction._run[0]
        labels, tokens = [f"record {row.path}" for row in rows], [f"{run_id}/{row.path}" for row in rows]
        return _told(labels, tokens, lambda: original(transaction, rows))

    return call


def _told(labels: list[str], tokens: list[str], verb: Callable[[], Any]) -> Any:
    _each("before", labels)
    _thread.labels = labels
    value = verb()
    for token in tokens:
        outside.note("ack", token)
    _each("after", labels)
    return value


def _traced_write(original: Any) -> Any:
    def call(store: Any, operation: Any) -> Any:
        labels = [label for label in getattr(_thread, "labels", ()) if not label.startswith("record ")]
        _thread.labels = []

        def labelled(connection: TracedConnection) -> Any:
            value = operation(connection)
            connection.labels += labels
            return value

        return original(store, labelled)

    return call


def _traced_insert(original: Any) -> Any:
    def call(store: Any, connection: TracedConnection, run_id: str, fence: int, rows: Any) -> None:
        original(store, connection, run_id, fence, rows)
        connection.labels += [f"record {row.path}" for row in rows]

    return call
