"""The embedded store: one SQLite file in WAL mode, by the standard library alone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import attrs

from workflow_runner.errors import OwnershipLost, RunNotFound, RunOwned, StoreError
from workflow_runner.store import commit, filesystem, notes, schema
from workflow_runner.store.base import (
    BRIEF,
    BRIEFLY,
    Attempt,
    EventRow,
    FlowTotals,
    LogRow,
    NewRun,
    RunRecord,
    StepRow,
    Transaction,
    Usage,
)
from workflow_runner.store.commit import Committer, checkpoint
from workflow_runner.store.owner import Owner, alive, boot_id

T = TypeVar("T")

_NEW = [field.name for field in attrs.fields(NewRun)]
_RUN = [field.name for field in attrs.fields(RunRecord) if field.name != "alive"]
_STEP = StepRow._fields
_LOG = [field.name for field in attrs.fields(LogRow)]
_EVENT = [field.name for field in attrs.fields(EventRow)]

# The fence is looked at by the statement that writes: nobody can claim the run in between.
_STEP_MARKS = ", ".join("?" * len(_STEP))
_INTO_STEPS = f"INSERT INTO steps (run_id, fence, {', '.join(_STEP)})"
_IF_RUNNING = "WHERE runs.run_id = ? AND runs.fence = ? AND status = 'running' ON CONFLICT DO NOTHING"
_INSERT_STEP = f"{_INTO_STEPS} SELECT run_id, fence, {_STEP_MARKS} FROM runs {_IF_RUNNING}"
# Many rows in one statement take two thirds of the time; more at once hardly less, and old libraries have a limit.
_AT_ONCE = 16
_INSERT_STEPS = (
    f"{_INTO_STEPS} SELECT run_id, fence, new.* FROM runs CROSS JOIN"
    f" (VALUES {', '.join([f'({_STEP_MARKS})'] * _AT_ONCE)}) AS new {_IF_RUNNING}"
)

# So much of the WAL is written once when a file is made: a WAL that still grows doubles the price of a commit.
# What is committed until it is copied into the file and begins anew has to fit: 250 commits are some 550 pages.
_WAL_BYTES = 560 * 4096

_STATUSES = ("pending", "running", "completed", "failed", "cancelled")
# What an index finds runs by, newest first.
_INDEXED = ("flow", "status", "target", "batch_id")

# So many run ids go into one question.
_IDS = 500

# Who deletes many runs lets others write after every so long. Seconds.
_TURN = 0.05
# So many events are deleted in a turn.
_EVENTS = 10_000

_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()
_hooked = False
_of_the_parent: list[sqlite3.Connection | None] = []


class SQLiteStore:
    """Runs in one SQLite file. Verbs may be called from any thread, and in a forked child.

    Args:
        path: the file; it is made if it is not there. ``<path>.lock`` and ``<path>.owners/`` appear beside it.
        durability: "power": each commit is synced and survives a power cut. "process": it survives ``kill -9``, and a
            power cut may take the last ones.
        network: "refuse", or "allow" a network file system, for who knows that one machine alone uses the file and
            that the file system keeps locks and shared memory.

    Raises:
        StoreError: the file is no store, of a newer version, damaged, read-only, on a network file system, or its
            folder is not there.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: str = "power", network: str = "refuse") -> None:
        if durability not in ("power", "process"):
            raise StoreError(f"durability is 'power' or 'process', not {durability!r}")
        if network not in ("refuse", "allow"):
            raise StoreError(f"network is 'refuse' or 'allow', not {network!r}")
        self.path = Path(path).resolve()  # what stands beside the file is found there by every name it has
        self.durability = durability
        options = [f"durability={durability}"] * (durability != "power") + ["network=allow"] * (network == "allow")
        self.url = f"sqlite:///{self.path}" + ("?" if options else "") + "&".join(options)
        self._owner = Owner(Path(f"{self.path}.owners"))
        self._committer = Committer(self._connect, f"{self.path}.lock")
        self._read_lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        # when that was opened
        self._opened = ""
        # the runs of this process, and of the one that forked it, with the fences that they were given
        self._executed: set[tuple[str, int]] = set()
        self._of_parent: set[tuple[str, int]] = set()
        if not self.path.parent.is_dir():
            raise StoreError(f"store {self.path}: the folder {self.path.parent} does not exist")
        kind = filesystem.of(self.path) if network == "refuse" else None
        if kind in filesystem.NETWORK:
            raise StoreError(
                f"store {self.path} is on a network file system ({kind}), where SQLite's WAL cannot be shared and locks"
                " are not sure: use a local disk"
            )
        with self._errors():
            new = not self.path.exists() or not self.path.stat().st_size
            try:
                if new:
                    self._make()
                else:
                    self._read("SELECT 1")  # no write: who only looks must not wait for one who writes
                    if not os.access(self.path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
                        raise StoreError(f"store {self.path} is read-only")
            except BaseException:
                self._close_reader()
                self._committer.close()
                raise
        _stores.add(self)
        _hook()

    # -- verbs; what they promise stands in base

    def submit(self, run: NewRun) -> tuple[RunRecord, bool]:
        owner, now = self._owner_id(), time.time()
        values = [getattr(run, name) for name in _NEW]

        def operation(connection: sqlite3.Connection) -> bool:
            self._introduce(connection, owner)
            columns = ", ".join([*_NEW, "status", "owner", "fence", "created_at", "started_at"])
            marks = ", ".join("?" * len(_NEW))
            cursor = connection.execute(
                f"INSERT INTO runs ({columns}) VALUES ({marks}, 'running', ?, 1, ?, ?) ON CONFLICT DO NOTHING",
                [*values, owner, now, now],
            )
            return cursor.rowcount == 1

        self._executed.add((run.run_id, 1))
        if self._write(operation):
            return self.run(run.run_id), True
        found = self.find(run.flow, run.idem_key) if run.idem_key is not None else None
        if found is None:
            raise StoreError(f"run {run.run_id!r} is in {self.path} already; a run_id is never used twice")
        if found.run_id != run.run_id:
            self._executed.discard((run.run_id, 1))
        return found, False

    def claim(self, run_id: str, seen: RunRecord | None = None) -> RunRecord:
        owner = self._owner_id()
        while True:
            run = self.run(run_id)
            if run.alive:
                raise RunOwned(f"run {run_id} is being executed by {run.owner}")
            if seen is not None and (run.fence, run.status) != (seen.fence, seen.status):
                raise RunOwned(f"run {run_id} was executed by another process meanwhile: it is {run.status}")

            def operation(connection: sqlite3.Connection, run: RunRecord = run) -> bool:
                self._introduce(connection, owner)
                cursor = connection.execute(
                    "UPDATE runs SET owner = ?, fence = fence + 1, status = 'running', cancel_requested = NULL,"
                    " finished_at = NULL, result = NULL, error = NULL, started_at = coalesce(started_at, ?)"
                    " WHERE run_id = ? AND fence = ? AND status = ?",
                    (owner, time.time(), run_id, run.fence, run.status),
                )
                if cursor.rowcount != 1:
                    return False
                _event(connection, run_id, "claimed", owner=owner)
                return True

            self._executed.add((run_id, run.fence + 1))
            if self._write(operation):
                return self.run(run_id)
            # somebody else was quicker: look again who it is

    def record(self, run_id: str, fence: int, rows: Sequence[StepRow]) -> int:
        def operation(connection: sqlite3.Connection) -> int:
            try:
                self._insert(connection, run_id, fence, rows)
            except _RecordedBefore as some:
                return len(rows) - some.count
            return len(rows)

        return self._write(operation)

    def _insert(self, connection: sqlite3.Connection, run_id: str, fence: int, rows: Sequence[StepRow]) -> None:
        self._check_process(run_id, fence)
        new = 0
        if len(rows) >= _AT_ONCE:
            groups = zip(*[iter(rows)] * _AT_ONCE, strict=False)
            values = [(*chain.from_iterable(group), run_id, fence) for group in groups]
            new += connection.executemany(_INSERT_STEPS, values).rowcount
        rest = rows[len(rows) // _AT_ONCE * _AT_ONCE :]
        new += connection.executemany(_INSERT_STEP, [(*row, run_id, fence) for row in rest]).rowcount
        if new < len(rows) or not rows:
            self._check_fence(connection, run_id, fence)
        if new < len(rows):
            raise _RecordedBefore(len(rows) - new)

    def attempt(self, run_id: str, fence: int, path: str, attempt: int, started_at: float, error: str | None) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            self._check_fence(connection, run_id, fence)
            connection.execute(
                "INSERT INTO attempts (run_id, fence, path, attempt, started_at, finished_at, error)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, fence, path, attempt, started_at, None if error is None else time.time(), error),
            )

        self._write(operation)

    def finish(self, run_id: str, fence: int, status: str, result: str | None, error: str | None) -> None:
        values = (status, result, error, time.time())
        try:
            self._update(run_id, fence, "status = ?, result = ?, error = ?, finished_at = ?, owner = NULL", values)
        finally:
            self._executed.discard((run_id, fence))

    def release(self, run_id: str, fence: int) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            self._check_fence(connection, run_id, fence)
            connection.execute("UPDATE runs SET status = 'pending', owner = NULL WHERE run_id = ?", (run_id,))
            _event(connection, run_id, "released")

        try:
            self._write(operation)
        finally:
            self._executed.discard((run_id, fence))

    def begin(self, run_id: str, fence: int) -> Transaction:
        with self._errors():
            return _OpenTransaction(self, self._committer.hold(), run_id, fence)

    def forget(self, run_id: str, fence: int, paths: Sequence[str]) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            self._check_fence(connection, run_id, fence)
            connection.executemany("DELETE FROM steps WHERE run_id = ? AND path = ?", [(run_id, p) for p in paths])
            connection.executemany("DELETE FROM attempts WHERE run_id = ? AND path = ?", [(run_id, p) for p in paths])

        self._write(operation)

    def override(self, run_id: str, fence: int, overrides: str) -> None:
        self._update(run_id, fence, "overrides = ?", (overrides,))

    def request_cancel(self, run_id: str, reason: str = "") -> bool:
        while True:
            run = self.run(run_id)
            if run.status not in ("pending", "running"):
                return False
            # one that nobody runs is cancelled here: nobody else would
            changes = "" if run.alive else ", status = 'cancelled', owner = NULL, finished_at = ?"
            values = (reason, *(() if run.alive else (time.time(),)), run_id, run.status, run.fence)

            def operation(connection: sqlite3.Connection, changes: str = changes, values: Any = values) -> bool:
                cursor = connection.execute(
                    f"UPDATE runs SET cancel_requested = ?{changes} WHERE run_id = ? AND status = ? AND fence = ?",
                    values,
                )
                if cursor.rowcount != 1:
                    return False
                _event(connection, run_id, "cancel_requested", reason=reason)
                return True

            if self._write(operation):
                return True
            # it was claimed, released or finished in between: look again

    def cancel_requests(self, run_ids: Sequence[str]) -> dict[str, str]:
        asked: dict[str, str] = {}
        for start in range(0, len(run_ids), _IDS):
            some = run_ids[start : start + _IDS]
            rows = self._read(
                "SELECT run_id, cancel_requested FROM runs WHERE cancel_requested IS NOT NULL"
                f" AND run_id IN ({', '.join('?' * len(some))})",
                some,
            )
            asked.update(rows)
        return asked

    def run(self, run_id: str) -> RunRecord:
        found = self._runs("WHERE run_id = ?", (run_id,))
        if not found:
            ids = [row[0] for row in self._read("SELECT run_id FROM runs ORDER BY created_at DESC LIMIT 1000")]
            near = get_close_matches(run_id, ids, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RunNotFound(f"there is no run {run_id!r} in {self.path}{hint}")
        return found[0]

    def find(self, flow: str, idem_key: str) -> RunRecord | None:
        found = self._runs("WHERE flow = ? AND idem_key = ?", (flow, idem_key))
        return found[0] if found else None

    def runs(
        self,
        *,
        key: str | None = None,
        tag: tuple[str, str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int | None = 100,
        brief: bool = False,
        **wanted: str | None,
    ) -> list[RunRecord]:
        conditions = {
            **{f"{column} = ?": value for column, value in wanted.items()},
            "idem_key = ?": key,
            "created_at >= ?": since,
            "created_at < ?": until,
        }
        given: dict[str, Any] = {condition: value for condition, value in conditions.items() if value is not None}
        values = (*given.values(), *(tag or ()))
        tests = " AND ".join([*given, *(["has_tag(tags, ?, ?)"] if tag else [])]) or "1"
        order = "ORDER BY created_at DESC, run_id DESC"
        if limit is None:
            return self._runs(f"WHERE {tests} {order}", values, brief)
        if any(wanted.get(name) for name in _INDEXED):
            return self._runs(f"WHERE {tests} {order} LIMIT ?", (*values, limit), brief)
        # By the index of the statuses, all of them side by side: each gives its newest runs first.
        each = f"SELECT run_id, created_at FROM runs WHERE status = ? AND {tests}"
        newest = f"SELECT run_id FROM ({' UNION ALL '.join([each] * len(_STATUSES))} {order} LIMIT ?)"
        found = tuple(value for status in _STATUSES for value in (status, *values))
        return self._runs(f"WHERE run_id IN ({newest}) {order}", (*found, limit), brief)

    def flows(self) -> list[str]:
        # one look into the index for each of them, however many runs there are
        sql = (
            "WITH RECURSIVE found (flow) AS (SELECT min(flow) FROM runs UNION ALL"
            " SELECT (SELECT min(flow) FROM runs WHERE flow > found.flow) FROM found WHERE found.flow IS NOT NULL)"
            " SELECT flow FROM found WHERE flow IS NOT NULL"
        )
        return [row[0] for row in self._read(sql)]

    def totals(self, since: float) -> list[FlowTotals]:
        # Two indices answer it: a run's row may be long, and those that completed are most. One statement, so that
        # what is counted twice is the same.
        rows = self._read(
            "SELECT flow, NULL, count(*), 0 FROM runs GROUP BY flow UNION ALL"
            " SELECT flow, status, count(*), sum(status = 'failed' AND finished_at >= ?)"
            " FROM runs INDEXED BY runs_by_status WHERE status IN ('pending', 'running', 'failed', 'cancelled')"
            " GROUP BY flow, status",
            (since,),
        )
        counts: dict[str, dict[str, int]] = {}
        failed: dict[str, int] = {}
        for flow, status, count, failures in rows:
            of_flow = counts.setdefault(flow, {"completed": 0})
            of_flow["completed"] += count if status is None else -count
            if status is not None:
                of_flow[status] = count
                failed[flow] = failed.get(flow, 0) + failures
        return [self._totals(flow, counts[flow], failed.get(flow, 0)) for flow in sorted(counts)]

    def _totals(self, flow: str, counts: dict[str, int], failed_since: int) -> FlowTotals:
        newest = "SELECT started_at, finished_at FROM runs WHERE flow = ? AND status = 'completed'"
        last = self._read(f"{newest} ORDER BY created_at DESC LIMIT 1", (flow,)) if counts["completed"] else []
        started, finished = last[0] if last else (None, None)
        return FlowTotals(
            flow=flow,
            runs={status: count for status, count in counts.items() if count},
            failed_since=failed_since,
            last_started=started,
            last_finished=finished,
        )

    def steps(self, run_id: str) -> list[StepRow]:
        rows = self._read(f"SELECT {', '.join(_STEP)} FROM steps WHERE run_id = ? ORDER BY seq", (run_id,))
        return list(map(StepRow._make, rows))

    def checkpoints(self, run_id: str) -> list[StepRow]:
        self.run(run_id)  # an unknown run is an error
        return [row for row in self.steps(run_id) if row.kind == "step"]

    def attempts(self, run_id: str) -> list[Attempt]:
        columns = ", ".join(Attempt._fields)
        rows = self._read(f"SELECT {columns} FROM attempts WHERE run_id = ? ORDER BY id", (run_id,))
        return [Attempt(*row) for row in rows]

    def log(self, run_id: str, rows: Sequence[LogRow]) -> None:
        values = [(run_id, row.path, row.at, row.level, row.event, row.fields, run_id) for row in rows]

        def operation(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT INTO logs (run_id, path, at, level, event, fields)"
                " SELECT ?, ?, ?, ?, ?, ? FROM runs WHERE run_id = ?",
                values,
            )

        self._write(operation)

    def logs(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[LogRow]:
        rows = self._read(
            f"SELECT {', '.join(_LOG)} FROM logs WHERE run_id = ? AND id > ? ORDER BY id DESC LIMIT ?",
            (run_id, after, -1 if limit is None else limit),
        )
        return [LogRow(**dict(zip(_LOG, row, strict=True))) for row in reversed(rows)]

    def note(self, kind: str, *, target: str, data: str | None = None) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            connection.execute(notes.INSERT, (target, time.time(), kind, data))

        self._write(operation)

    def events(
        self, *, run_id: str | None = None, target: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[EventRow]:
        wanted = {"run_id = ?": run_id, "target = ?": target, "kind = ?": kind}
        given = {condition: value for condition, value in wanted.items() if value is not None}
        where = "WHERE " + " AND ".join(given) if given else ""
        rows = self._read(
            f"SELECT {', '.join(_EVENT)} FROM events {where} ORDER BY id DESC LIMIT ?",
            (*given.values(), -1 if limit is None else limit),
        )
        return [EventRow(**dict(zip(_EVENT, row, strict=True))) for row in reversed(rows)]

    def prunable(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> list[str]:
        where, values = _doomed(older_than, keep_last, keep_failed, flow)
        return [
            row[0] for row in self._read(f"SELECT run_id FROM runs WHERE {where} ORDER BY created_at, run_id", values)
        ]

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> int:
        where, values = _doomed(older_than, keep_last, keep_failed, flow)
        doomed = self.prunable(older_than=older_than, keep_last=keep_last, keep_failed=keep_failed, flow=flow)
        deleted = position = 0

        def runs(connection: sqlite3.Connection) -> tuple[int, int]:
            """Delete what the time of a turn suffices for; gives how far it came, and how many it deleted."""
            end, here, count = time.monotonic() + _TURN, position, 0
            while here < len(doomed) and (here == position or time.monotonic() < end):
                # looked at again: somebody may have gone on with it meanwhile
                sql = f"DELETE FROM runs WHERE run_id = ? AND {where}"
                count += connection.execute(sql, (doomed[here], *values)).rowcount
                here += 1
            return here, count

        while position < len(doomed):
            position, count = self._in_turn(runs)
            deleted += count
        if older_than is not None and flow is None:
            oldest = time.time() - older_than
            sql = f"SELECT id FROM events WHERE run_id IS NULL AND at <= ? LIMIT {_EVENTS}"
            while self._in_turn(lambda c: c.execute(f"DELETE FROM events WHERE id IN ({sql})", (oldest,)).rowcount):
                pass
        # Whoever gets a run is written in again, in the same transaction.
        unused = "DELETE FROM owners WHERE owner NOT IN (SELECT owner FROM runs WHERE status = 'running')"
        self._write(lambda connection: connection.execute(unused))
        return deleted

    def changes(self) -> str:
        version = self._read("PRAGMA data_version")[0][0]  # counts from anew for each connection
        return f"{self._opened}.{version}"

    def usage(self) -> Usage:
        pages, free, size = (
            self._read(f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        return Usage(used=(pages - free) * size, free=free * size)

    def vacuum(self) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("VACUUM")
            # The WAL is as large as the file now. Nobody commits beside this: the lock is ours.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

        with self._errors():
            self._committer.maintain(work)
            self._grow()

    def close(self) -> None:
        with self._read_lock:
            self._close_reader()
        self._committer.close()
        self._owner.close()

    def __repr__(self) -> str:
        return f"<SQLiteStore {self.url}>"

    # -- the machinery

    def _in_turn(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """One of many long transactions: its pages leave the WAL, and then others have their turn to write."""
        value = self._write(operation)
        with self._errors():
            self._committer.maintain(checkpoint)
        time.sleep(_TURN / 10)  # the lock is not fair: who takes it again at once gets it
        return value

    def _update(self, run_id: str, fence: int, changes: str, values: tuple[Any, ...]) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            self._check_fence(connection, run_id, fence)
            connection.execute(f"UPDATE runs SET {changes} WHERE run_id = ?", (*values, run_id))

        self._write(operation)

    def _check_fence(self, connection: sqlite3.Connection, run_id: str, fence: int) -> None:
        """In the same transaction as the write: nobody can claim the run in between."""
        self._check_process(run_id, fence)
        row = connection.execute("SELECT fence, status, owner FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise OwnershipLost(f"run {run_id} has been deleted")
        if row[0] != fence or row[1] != "running":
            raise OwnershipLost(f"run {run_id} was taken over: it is {row[1]}, owned by {row[2]}")

    def _check_process(self, run_id: str, fence: int) -> None:
        """A forked child knows the fences of its parent, and may outlive it."""
        if (run_id, fence) in self._of_parent:
            raise OwnershipLost(f"run {run_id} is the parent process's, and this is a forked child")

    def _owner_id(self) -> str:
        with self._errors():
            return self._owner.id()

    def _introduce(self, connection: sqlite3.Connection, owner: str) -> None:
        """Write this process into the owners, in the transaction in which it becomes one."""
        connection.execute(
            "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?, ?)",
            (owner, socket.gethostname(), boot_id(), os.getpid(), time.time()),
        )

    def _runs(self, rest: str, values: Sequence[Any] = (), brief: bool = False) -> list[RunRecord]:
        columns = ", ".join(
            f"substr(runs.{name}, 1, {BRIEF})" if brief and name in BRIEFLY else f"runs.{name}" for name in _RUN
        )
        sql = f"SELECT {columns}, host, boot_id FROM runs LEFT JOIN owners USING (owner) {rest}"
        living: dict[str, bool] = {}
        left: set[tuple[str, int]] = set()
        while True:
            records, sure = [], True
            for *fields, host, boot in self._read(sql, values):
                record = RunRecord(**dict(zip(_RUN, fields, strict=True)))
                if record.status == "running" and record.owner is not None and host is not None:
                    if record.owner not in living:
                        with self._errors():
                            living[record.owner] = alive(self._owner.directory, record.owner, host, boot)
                        sure = sure and living[record.owner]
                    # one of our own whose end could not be written is not being executed any more
                    one = record.run_id, record.fence
                    if record.owner == self._owner.current and one not in left and one not in self._executed:
                        left.add(one)
                        sure = False
                    record = attrs.evolve(record, alive=living[record.owner] and one not in left)
                records.append(record)
            if sure:
                return records
            # Who has died, or is not at it any more, may have ended the run after we had read it: read again.

    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._committer.run(operation)
        except (sqlite3.Error, OSError) as error:
            raise self._named(error) from error

    def _read(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._errors(), self._read_lock:
            if self._reader is None:
                self._reader = self._connect()
                self._reader.create_function("has_tag", 3, _has_tag)
                self._opened = f"{time.time_ns():x}"
            return self._reader.execute(sql, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._named(error) from error

    def _named(self, error: Exception) -> StoreError:
        return StoreError(f"store {self.path}: {error}")

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=commit.BUSY)
        try:
            schema.check(connection, str(self.path))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'FULL' if self.durability == 'power' else 'NORMAL'}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            schema.migrate(connection, str(self.path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self) -> None:
        """Make the file. One process at a time: SQLite does not wait for one who switches to WAL."""
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._connect().close()
        finally:
            os.close(lock)
        self._grow()

    def _grow(self) -> None:
        def operation(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE growth (data BLOB)")
            connection.execute("INSERT INTO growth VALUES (zeroblob(?))", (_WAL_BYTES,))
            connection.execute("DROP TABLE growth")

        self._committer.run(operation)
        self._committer.maintain(checkpoint)

    def _before_fork(self) -> None:
        self._committer.pause()
        self._read_lock.acquire()
        self._close_reader()

    def _after_fork_in_parent(self) -> None:
        self._read_lock.release()
        self._committer.resume()

    def _after_fork_in_child(self) -> None:
        # What could not be closed before is the parent's, and closing it here would end what goes on there.
        _of_the_parent.extend((self._committer.forked(), self._reader))
        self._reader = None
        self._read_lock = threading.Lock()
        self._of_parent, self._executed = self._of_parent | self._executed, set()
        self._owner.forked()


def _doomed(older_than: float | None, keep_last: int, keep_failed: bool, flow: str | None) -> tuple[str, list[Any]]:
    """The condition for a run to be deleted, and its values."""
    conditions = ["status = 'completed'" if keep_failed else "status IN ('completed', 'failed', 'cancelled')"]
    values: list[Any] = []
    if flow is not None:
        conditions.append("flow = ?")
        values.append(flow)
    if older_than is not None:
        conditions.append("finished_at <= ?")
        values.append(time.time() - older_than)
    if keep_last > 0:  # older than the last of those that stay; if there are not so many, than NULL
        conditions.append(
            "created_at < (SELECT created_at FROM runs AS newer WHERE newer.flow = runs.flow"
            " ORDER BY created_at DESC LIMIT 1 OFFSET ?)"
        )
        values.append(keep_last - 1)
    return " AND ".join(conditions), values


class _RecordedBefore(Exception):
    """So many of the rows have paths that were recorded before; the others are written."""

    def __init__(self, count: int) -> None:
        self.count = count


class _OpenTransaction:
    """See ``base.Transaction``. ``_lock`` decides who ends it, and that nobody executes after that."""

    def __init__(self, store: SQLiteStore, connection: sqlite3.Connection, run_id: str, fence: int) -> None:
        self._store = store
        self._connection = connection
        self._run = run_id, fence
        self._lock = threading.Lock()
        self._open = True

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        with self._lock:
            self._check_open()
            self._connection.set_authorizer(_no_transaction)
            try:
                return self._connection.execute(sql, parameters)
            except sqlite3.DatabaseError as error:
                if "not authorized" in str(error):
                    raise StoreError(
                        "the transaction is committed with the step's record; do not end it yourself"
                    ) from error
                raise
            finally:
                self._connection.set_authorizer(None)

    def commit(self, rows: Sequence[StepRow]) -> int:
        with self._lock, self._store._errors():
            self._check_open()
            self._open = False
            try:
                self._store._insert(self._connection, *self._run, rows)
            except _RecordedBefore as some:
                self._store._committer.let_go(commit=False)
                return len(rows) - some.count
            except BaseException:
                self._store._committer.let_go(commit=False)
                raise
            self._store._committer.let_go(commit=True)
            return len(rows)

    def rollback(self) -> None:
        self._connection.interrupt()  # a statement that another thread is executing
        with self._lock, self._store._errors():
            if self._open:
                self._open = False
                self._store._committer.let_go(commit=False)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("this transaction has ended")


def _has_tag(tags: str | None, name: str, text: str) -> bool:
    """In Python: old libraries have no JSON functions."""
    return tags is not None and json.loads(tags).get(name) == text


def _event(connection: sqlite3.Connection, run_id: str, kind: str, **data: str) -> None:
    """Note what happens to a run, in the transaction in which it happens."""
    connection.execute(
        "INSERT INTO events (run_id, at, kind, data) VALUES (?, ?, ?, ?)",
        (run_id, time.time(), kind, json.dumps(data) if data else None),
    )


def _no_transaction(action: int, *_names: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


def _hook() -> None:
    """Once, with the first store: a connection must not cross a fork, so every store closes its own before."""
    global _hooked
    if _hooked or not hasattr(os, "register_at_fork"):
        return
    _hooked = True
    # Those that this thread has stopped: other threads open stores meanwhile, and fork.
    forking = threading.local()

    def before() -> None:
        forking.stores = []
        for store in sorted(_stores, key=id):
            with suppress(StoreError):  # this thread has a transaction open: it stays open, in the parent
                store._before_fork()
                forking.stores.append(store)

    def after_in_parent() -> None:
        for store in forking.stores:
            store._after_fork_in_parent()

    def after_in_child() -> None:
        for store in list(_stores):
            store._after_fork_in_child()

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
