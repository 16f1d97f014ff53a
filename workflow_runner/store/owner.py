"""Who owns a run: a process, alive for as long as it holds the lock of its file.

The kernel gives the lock back at the very moment in which a process dies, however it dies; no clock is asked. A forked
child closes the descriptor it inherits, or it would keep a dead parent alive.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path


def boot_id() -> str:
    """What names this boot of this kernel; two containers on one machine agree on it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


class Owner:
    """This process, as an owner of runs in one store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._file: int | None = None
        self._id: str | None = None

    def id(self) -> str:
        """The owner's id; the first call takes the lock."""
        with self._lock:
            if self._id is None:
                self.directory.mkdir(exist_ok=True)
                name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}"
                file = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file, self._id = file, name
            return self._id

    @property
    def current(self) -> str | None:
        """The owner's id, if it has one."""
        return self._id

    def forked(self) -> None:
        """In a forked child: somebody else, without the parent's lock."""
        if self._file is not None:
            os.close(self._file)  # the parent's descriptor holds the lock on
        self._file = self._id = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the lock back."""
        with self._lock:
            if self._file is not None and self._id is not None:
                with suppress(OSError):
                    (self.directory / self._id).unlink()
                os.close(self._file)
            self._file = self._id = None


def alive(directory: Path, owner: str, host: str, boot: str) -> bool:
    """As `lives`; the file of a dead owner is removed."""
    if lives(directory, owner, host, boot):
        return True
    with suppress(OSError):
        (directory / owner).unlink()
    return False


def lives(directory: Path, owner: str, host: str, boot: str) -> bool:
    """Whether ``owner`` still holds its lock. One of another machine counts as alive: its locks are not seen here."""
    if boot != boot_id():
        return host != socket.gethostname()  # of this machine, but from before it was started again: dead
    return held(directory / owner)


def held(path: Path) -> bool:
    """Whether a living process holds the lock of a file; False if it is not there."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once do not see each other
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)
