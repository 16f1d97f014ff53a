"""One process at a time: a locked file for each job, beside the store, that says who holds it.

The kernel gives the lock back at the moment in which its process dies, however it dies. The file stays, and tells the
next one what the last one did. Needs nothing that takes time to import.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# So often somebody who finds the file locked looks who it is: the holder writes that right after it has the lock.
_LOOKS = 50

_open: set[int] = set()
_hooked = False


class Locked(Exception):
    """Another process holds the lock.

    Attributes:
        text: its line of JSON; "null" if it has not written it.
        words: the same for people.
    """

    def __init__(self, text: str, words: str) -> None:
        super().__init__(f"locked by {words}")
        self.text = text
        self.words = words


class Lock:
    """A lock that this process holds. Forked children and programs that it starts do not.

    Attributes:
        path: its file.
        before: what the last holder has left there: its line of JSON, and its mark.
    """

    def __init__(self, path: str, file: int, **facts: Any) -> None:
        self.path = path
        self._file = file
        text, _, mark = _read(file)
        self.before = text, mark
        self._facts: dict[str, Any] = {"pid": os.getpid(), "host": os.uname().nodename, "since": _now(), **facts}
        self.tell()
        _close_in_children(file)

    def tell(self, mark: str = "", **facts: Any) -> None:
        """Write down who holds the lock, and since when, and what it is doing.

        Args:
            mark: for the next holder alone.
            facts: JSON-ready data by name, beside that which was told before.
        """
        import json

        self._facts |= facts
        known = self._facts
        run = f", run {known['run_id']}" if known.get("run_id") else ""
        words = f"process {known['pid']} on {known['host']} since {known['since']}{run}"
        content = f"{json.dumps(known)}\n{words}\n{mark}\n".encode()
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))

    def release(self) -> None:
        """Let the next one have it."""
        if self._file in _open:
            _open.discard(self._file)
            fcntl.flock(self._file, fcntl.LOCK_UN)  # also for a child that was forked just now, and has not closed it
            os.close(self._file)


def digest(*asked: Any) -> str:
    """A mark that says what was asked for to those who ask for the same, and nothing to others."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()


def take(path: str, *, wait: bool = False, **facts: Any) -> Lock:
    """Lock the file, or find out who has locked it.

    Args:
        path: the file; its folder is made, the folder above is not.
        wait: until it is free; a signal interrupts that.
        facts: JSON-ready data that tells what the lock is held for.

    Raises:
        Locked: another process holds it, and this one does not wait.
        OSError: the file cannot be made or locked.
    """
    if not os.path.isdir(folder := os.path.dirname(path)):
        _make(folder)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, file):
                return Lock(path, file, **facts)
            os.close(file)  # it was deleted while we waited, and somebody may have made a new one
        except BlockingIOError:
            holder = _holder(file)
            os.close(file)
            raise Locked(*holder) from None
        except BaseException:
            os.close(file)
            raise


def holder(path: str) -> Locked | None:
    """Who holds the lock of a file right now; None if nobody does.

    Raises:
        OSError: the file cannot be looked at.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return Locked(*_holder(file))
    else:
        return None
    finally:
        os.close(file)


def _holder(file: int) -> tuple[str, str]:
    """The lines of the one that holds the lock now, and not of one before."""
    for _ in range(_LOOKS):
        text, words, _ = _read(file)
        pid, _, rest = words.removeprefix("process ").partition(" on ")
        if rest and (rest.partition(" ")[0] != os.uname().nodename or _lives(int(pid))):
            return text, words
        _pause()
    return "null", "another process"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(file: int) -> tuple[str, str, str]:
    lines = os.pread(file, 65536, 0).decode("utf-8", "replace").splitlines()
    return (lines[0], lines[1], lines[2]) if len(lines) > 2 else ("null", "", "")


def _is_at(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _now() -> str:
    import datetime as dt

    return dt.datetime.now().astimezone().isoformat(timespec="seconds")


def _pause() -> None:
    import time

    time.sleep(0.01)


def _make(folder: str) -> None:
    from contextlib import suppress

    with suppress(FileExistsError):  # another one was quicker
        os.mkdir(folder)


def _close_in_children(file: int) -> None:
    """A forked child shares what its parent has locked, and may outlive it."""
    global _hooked
    _open.add(file)
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    while _open:
        os.close(_open.pop())
