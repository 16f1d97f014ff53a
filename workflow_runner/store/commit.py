"""Group commit: threads of one process share one write connection and, where each commit is a sync, the sync.

A thread that finds no leader commits everything that is queued in one transaction, wakes those whose operations they
were, and hands the lead to the next one. If one of them raises, all are run again, each behind a savepoint of its own;
so an operation may run twice, and only the database counts. ``_mutex`` guards the queue and who leads; the connection
belongs to the leader. Around the transaction a ``flock`` on ``<file>.lock`` queues processes, which SQLite's own busy
wait would let poll.

A thread may be interrupted (``KeyboardInterrupt``) wherever it stands. Operations stay in the queue until they are
done, so that whoever leads next finds those that an interrupted leader has left; nobody else sees the interrupt.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from threading import get_ident
from typing import Any, TypeVar

from workflow_runner.errors import StoreError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

# So many operations go into one transaction.
_BATCH = 256
# After so many commits the WAL is copied into the file, by whoever holds the lock; SQLite does not do it by itself.
_CHECKPOINT_EVERY = 250
# So long SQLite waits for a lock that somebody holds who does not know of our own (a backup tool, a shell). Seconds.
BUSY = 10.0


class _Item:
    __slots__ = ("done", "error", "gate", "operation", "value")

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
        # where its thread waits, if it has to
        self.gate: LockType | None = None


class Committer:
    """Runs operations in transactions on one connection."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], lock_path: str) -> None:
        self._connect = connect
        self._lock_path = lock_path
        self._reset()

    def forked(self) -> sqlite3.Connection | None:
        """In a forked child: start afresh; gives the connection, if it could not be closed before."""
        connection = self._connection
        self._reset()
        return connection

    def _reset(self) -> None:
        self._mutex = allocate_lock()
        self._queue: deque[_Item] = deque()
        # whose thread leads
        self._leader: _Item | None = None
        # the thread that has begun a transaction with `hold`
        self._holder: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        self._commits = 0
        # whether what the leader has begun is there, should it be interrupted
        self._committed = False

    def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``operation`` in a transaction; when this returns, it is committed.

        Raises:
            sqlite3.Error: the transaction could not be made; nothing of the operation is there.
            BaseException: what the operation raised; nothing of it is there.
        """
        item = _Item(operation)
        try:
            self._await_lead(item)
            if not item.done:
                self._lead()
        except BaseException:
            self._withdraw(item)
            raise
        if item.error is not None:
            raise item.error
        value: T = item.value
        return value

    def _lead(self) -> None:
        """Commit everything that is queued."""
        with self._mutex:
            batch = list(islice(self._queue, _BATCH))
        self._committed = False
        try:
            self._commit(batch)
        except Exception as error:
            for item in batch:
                item.error = item.error or error
        except BaseException:
            if self._committed:
                self._hand_on(batch)
            raise
        self._hand_on(batch)

    def maintain(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Run ``work`` outside any transaction, alone among all threads and processes."""
        self._take_lead()
        try:
            connection = self._open()
            assert self._lock_file is not None
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                work(connection)
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        finally:
            self._hand_on([])

    def hold(self) -> sqlite3.Connection:
        """Begin a transaction that stays open until `let_go`; every other writer waits."""
        self._take_lead()
        try:
            connection = self._open()
            assert self._lock_file is not None
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._unlock()
            self._hand_on([])
            raise
        self._holder = get_ident()
        return connection

    def let_go(self, *, commit: bool) -> None:
        """End what `hold` has begun. Raises what SQLite raises; nothing is written then."""
        assert self._connection is not None
        self._holder = None
        try:
            self._connection.execute("COMMIT" if commit else "ROLLBACK")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._unlock()
            self._hand_on([])

    def _unlock(self) -> None:
        if self._lock_file is not None:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def pause(self) -> None:
        """Take the lead and close the files, so that the process can fork; `resume` or `forked` afterwards.

        Raises:
            StoreError: this thread has a transaction open.
        """
        self._take_lead()
        self._close_files()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._hand_on([])

    def _take_lead(self) -> None:
        while True:
            item = _Item(lambda connection: None)
            try:
                self._await_lead(item)
            except BaseException:
                self._withdraw(item)
                raise
            if not item.done:  # or somebody else has done the nothing that was asked for
                break
        with self._mutex:
            self._queue.remove(item)

    def _await_lead(self, item: _Item) -> None:
        """Queue ``item`` and wait until it is done or this thread leads.

        Raises:
            StoreError: this thread has a transaction open, and would wait for itself.
        """
        if self._holder == get_ident():
            raise StoreError("this thread has a transaction open, and nothing else is written before that has ended")
        with self._mutex:
            if self._leader is None:
                self._leader = item
            else:
                item.gate = allocate_lock()
                item.gate.acquire()
            self._queue.append(item)
        if item.gate is not None:
            item.gate.acquire()

    def _withdraw(self, item: _Item) -> None:
        """The thread of ``item`` was interrupted: nobody waits for it to lead."""
        with self._mutex:
            with suppress(ValueError):
                self._queue.remove(item)
            leads = self._leader is item
        if leads:
            self._hand_on([])

    def _hand_on(self, batch: list[_Item]) -> None:
        """Wake those whose operations were done, and the one who leads next."""
        with self._mutex:
            for item in batch:
                try:  # noqa: SIM105 - cheaper than `suppress`, for each operation
                    self._queue.remove(item)
                except ValueError:  # its thread may have been interrupted
                    pass
            heir = self._leader = self._queue[0] if self._queue else None
        for item in batch:
            item.done = True
            if item.gate is not None:
                item.gate.release()
        if heir is not None and heir.gate is not None:
            heir.gate.release()

    def _commit(self, batch: list[_Item]) -> None:
        connection = self._open()
        assert self._lock_file is not None
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._committed = True  # unless it has to be rolled back
                try:
                    for item in batch:
                        item.value = item.operation(connection)
                except Exception:
                    if len(batch) == 1:
                        raise
                    # Seldom: again, each on its own, so that only the one that raises is undone.
                    self._committed = False
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    connection.execute("BEGIN IMMEDIATE")
                    self._committed = True
                    for item in batch:
                        self._guarded(connection, item)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    self._committed = False
                    connection.execute("ROLLBACK")
                raise
            self._commits += 1
            if self._commits % _CHECKPOINT_EVERY == 0:
                checkpoint(connection)
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def _guarded(self, connection: sqlite3.Connection, item: _Item) -> None:
        """One of many: what it raises is its own, unless SQLite has given up the whole transaction."""
        connection.execute("SAVEPOINT one")
        item.error = None  # of a leader before, who was interrupted
        try:
            item.value = item.operation(connection)
        except Exception as error:
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO one")
            item.error = error
        connection.execute("RELEASE one")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        if self._lock_file is None:  # after the look at what the file is: nothing is put beside somebody else's
            self._lock_file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._connection

    def close(self) -> None:
        """Close the files when what is being committed is committed; the next operation opens them again."""
        self._take_lead()
        try:
            self._close_files()
        finally:
            self._hand_on([])

    def _close_files(self) -> None:
        connection, self._connection = self._connection, None
        lock_file, self._lock_file = self._lock_file, None
        if connection is not None:
            connection.close()
        if lock_file is not None:
            os.close(lock_file)


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the WAL into the file, under the flock; a reader in the way makes it give up after 20 ms.

    FULL, and only under our own lock: a checkpoint beside another connection's commit can lose the commit in SQLite
    before 3.51.3 (the WAL-reset bug). Never TRUNCATE, which gives the space of the WAL back that the next commits need.
    """
    connection.execute("PRAGMA busy_timeout = 20")
    try:
        connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    except sqlite3.Error:
        pass  # what was committed is safe in the WAL; the next one will do it
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(BUSY * 1000)}")
