"""A disk that loses its power: a VFS that writes down what SQLite writes and syncs, and what may be left of it.

Between two syncs of a file nothing is sure: each write may have reached the disk or not, in any order, and of one that
was on its way some 512-byte sectors. What was synced is there. A file that was made is there from its first sync on,
one that was deleted may come back until the next sync of any file.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import attrs

SECTOR = 512


class Log:
    """What has happened, in order: ``(op, file, offset, data)``, and ``("ack", what, 0, b"")``. Any thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int, bytes]] = []

    def acknowledged(self, what: str) -> None:
        """``what`` was promised at this point."""
        self.events.append(("ack", what, 0, b""))

    def syncs(self, first: int, last: int) -> int:
        """How many syncs there were between two events."""
        return sum(event[0] == "sync" for event in self.events[first:last])


class _File(apsw.VFSFile):
    def __init__(self, log: Log, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._events = log.events
        # temporary files have no name
        self._name = Path(path).name if path else None
        super().__init__("", name, flags)

    def _note(self, op: str, offset: int = 0, data: bytes = b"") -> None:
        if self._name is not None:
            self._events.append((op, self._name, offset, data))

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._note("write", offset, bytes(data))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._note("truncate", size)

    def xSync(self, flags: int) -> None:
        self._note("sync")  # the disk of this machine need not do it


# SQLite refers to a disk by its name, and keeps none alive
_disks: list[Disk] = []


class Disk(apsw.VFS):
    """The VFS that writes everything down, under a name of its own."""

    def __init__(self) -> None:
        self.name = name = f"disk-{len(_disks)}"
        _disks.append(self)
        self.log = Log()
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> _File:
        return _File(self.log, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        super().xDelete(name, sync)
        self.log.events.append(("delete", Path(name).name, 0, b""))


# -- the few methods of sqlite3 that the store uses, on apsw


class _Cursor:
    def __init__(self, cursor: Any, rowcount: int) -> None:
        self._cursor = cursor
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        with _translated():
            return self._cursor.fetchone()

    def fetchall(self) -> list[Any]:
        with _translated():
            return self._cursor.fetchall()


class _translated:
    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, apsw.Error):
            raise sqlite3.OperationalError(str(error)) from error


class Connection:
    """An ``apsw.Connection`` as the store wants it."""

    def __init__(self, path: str, vfs: str, synchronous: str | None) -> None:
        self._synchronous = synchronous
        with _translated():
            self._db = apsw.Connection(str(path), vfs=vfs)
            self._db.set_busy_timeout(10_000)

    def execute(self, sql: str, parameters: Any = ()) -> _Cursor:
        if self._synchronous is not None and sql.startswith("PRAGMA synchronous"):
            sql = f"PRAGMA synchronous = {self._synchronous}"
        with _translated():
            before = self._db.total_changes()
            cursor = self._db.execute(sql, tuple(parameters))
            return _Cursor(cursor, self._db.total_changes() - before)

    def executemany(self, sql: str, rows: Any) -> _Cursor:
        with _translated():
            before = self._db.total_changes()
            cursor = self._db.executemany(sql, [tuple(row) for row in rows])
            return _Cursor(cursor, self._db.total_changes() - before)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def set_authorizer(self, authorizer: Any) -> None:
        self._db.authorizer = authorizer

    def create_function(self, name: str, arguments: int, function: Any) -> None:
        self._db.create_scalar_function(name, function, arguments)

    def interrupt(self) -> None:
        self._db.interrupt()

    def close(self) -> None:
        self._db.close()


def driver(vfs: str, synchronous: str | None = None) -> SimpleNamespace:
    """What to put in the place of the module ``sqlite3`` in the store.

    Args:
        vfs: the name of the disk.
        synchronous: in place of what the store asks for.
    """

    def connect(path: Any, **_options: Any) -> Connection:
        return Connection(path, vfs, synchronous)

    return SimpleNamespace(**{**vars(sqlite3), "connect": connect})


# -- what is left


@attrs.define
class _Image:
    # None: it is not there
    durable: bytearray | None = None
    pending: list[tuple[str, int, bytes]] = attrs.field(factory=list)


def _apply(image: bytearray, op: str, offset: int, data: bytes) -> None:
    if op == "truncate":
        del image[offset:]
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def cuts(log: Log, chance: random.Random, count: int) -> Iterator[tuple[dict[str, bytes], set[str]]]:
    """Cut the power ``count`` times at random.

    Yields:
        What is on the disk then, by name of the file, and what had been acknowledged.
    """
    moments = sorted(chance.choices(range(len(log.events) + 1), k=count))
    files: dict[str, _Image] = {}
    acked: set[str] = set()
    done = 0
    for moment in moments:
        for event in log.events[done:moment]:
            _happen(files, acked, *event)
        done = moment
        yield {name: left for name, image in files.items() if (left := _left(image, chance)) is not None}, set(acked)


def _happen(files: dict[str, _Image], acked: set[str], op: str, name: str, offset: int, data: bytes) -> None:
    if op == "ack":
        acked.add(name)
        return
    image = files.setdefault(name, _Image())
    if op == "sync":
        for pending in files.values():
            if pending.pending[-1:] == [("delete", 0, b"")]:
                pending.durable = None
                pending.pending.clear()
        image.durable = image.durable if image.durable is not None else bytearray()
        for one in image.pending:
            if one[0] == "delete":
                image.durable.clear()
            else:
                _apply(image.durable, *one)
        image.pending.clear()
    else:
        image.pending.append((op, offset, data))


def _left(image: _Image, chance: random.Random) -> bytes | None:
    """What is left of one file."""
    pending = image.pending
    if image.durable is None and (not pending or chance.random() < 0.5):
        return None
    left: bytearray | None = bytearray(image.durable or b"")
    mode = chance.choice(["none", "all", "first", "some", "torn"])
    upto = chance.randint(0, len(pending))
    for index, (op, offset, data) in enumerate(pending):
        if mode == "none" or (mode == "first" and index >= upto) or (mode == "some" and chance.random() < 0.5):
            continue
        if op == "delete":
            left = None
            continue
        left = bytearray() if left is None else left
        if op == "truncate":
            _apply(left, op, offset, data)
        elif mode == "torn":
            for start in range(0, len(data), SECTOR):
                if chance.random() < 0.5:
                    _apply(left, op, offset + start, data[start : start + SECTOR])
        else:
            _apply(left, op, offset, data)
    return None if left is None else bytes(left)
