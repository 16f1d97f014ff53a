"""Noting an event that has no run, also for those who have no time to import the store."""

from __future__ import annotations

INSERT = "INSERT INTO events (target, at, kind, data) VALUES (?, ?, ?, ?)"
"""The statement, with the target, the time, the kind, and the JSON text of an object."""

# So long somebody who is in a hurry waits for another one who writes. Seconds.
_PATIENCE = 5.0


def note(path: str, kind: str, *, target: str, data: str | None = None) -> bool:
    """Note an event in a SQLite store, without the store.

    Args:
        path: the file.
        kind: and the others: as for ``Store.note``.

    Returns:
        Whether it is noted: not if the file is not there, cannot be written or is of another version, or if others
        write all the time.
    """
    import fcntl
    import os
    import sqlite3
    import time

    if not os.path.exists(path):  # connecting would make it
        return False
    try:
        # What queues all writers: a commit beside a checkpoint can be lost in SQLite before 3.51.3 (the WAL-reset bug).
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return False
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(0.01)
        connection = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")  # no sync: a power cut may take it
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(INSERT, (target, time.time(), kind, data))
        except sqlite3.Error:
            return False
        finally:
            connection.close()
    finally:
        os.close(lock)
    return True
