"""The journal: what a run has answered once it answers again, and never does again.

Without a store it lives in memory, for calls with an explicit ``key=``. A store brings its own to the scope.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from workflow_runner.errors import ExecutionTimeout, JournalConflict

if TYPE_CHECKING:
    from workflow_runner._core.signal import Signal


class Journal(Protocol):
    """One run's journal. Called from any thread. ``records``: whether it is a `Recorder`."""

    records: bool

    def once(
        self, path: str, identity: Any, body: Callable[[], Any], signal: Callable[[], Signal], timeout: float | None
    ) -> Any:
        """The recorded value of ``path``; without one that of ``body()``, which is then recorded.

        Args:
            path: the call's path in the run.
            identity: what the call was made with, compared with ``==``.
            body: runs the call; what it raises is not recorded.
            signal: gives the caller's signal, on which it waits while another one runs the same path.
            timeout: seconds it waits at most; None for as long as it takes.

        Raises:
            JournalConflict: the path was recorded, or is running, with another identity.
            Aborted: the signal was set while waiting.
            ExecutionTimeout: the other one took longer than ``timeout``.
        """
        ...

    def reset(self, prefix: str, pattern: str | None) -> None:
        """Forget what is recorded below ``prefix``: all, or the keys that match the shell-style ``pattern``."""
        ...


class Recorder(Journal, Protocol):
    """The journal of a run that has a store: it records every call, not only those with a key."""

    def answer(self, path: str, flow: str, input: Any, body: Callable[[], Any]) -> Any:
        """The recorded value of ``path``, or that of ``body()``, which is recorded before it is returned."""
        ...

    def item(self, path: str, flow: str, input: Any, body: Callable[[], Any]) -> Any:
        """The same for an item of a fan-out, which is recorded with others, by `flush` at the latest."""
        ...

    def flush(self) -> None:
        """Wait until every item is recorded."""
        ...

    def failed(self, path: str, attempt: int, started: float, error: BaseException) -> None:
        """Note that an attempt of ``path`` has failed; never raises."""
        ...

    def transaction(self, path: str) -> AbstractContextManager[Any]:
        """A transaction that is committed with the record of ``path``."""
        ...


class _Entry:
    """One path's call. ``waiters``: set when it has ended; None from then on."""

    __slots__ = ("identity", "recorded", "value", "waiters")

    def __init__(self, identity: Any) -> None:
        self.identity = identity
        self.recorded = False
        self.value: Any = None
        self.waiters: list[threading.Event] | None = []


class MemoryJournal:
    """A journal that lives as long as its run."""

    records = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def once(
        self, path: str, identity: Any, body: Callable[[], Any], signal: Callable[[], Signal], timeout: float | None
    ) -> Any:
        while True:
            ended = threading.Event()
            with self._lock:
                entry = self._entries.get(path)
                mine = entry is None
                if entry is None:
                    entry = self._entries[path] = _Entry(identity)
                elif entry.waiters is not None:
                    entry.waiters.append(ended)
            if mine:
                return self._run(path, entry, body)
            if entry.identity != identity:
                raise JournalConflict(
                    f"journal key {path!r} was used with {entry.identity!r} and now with {identity!r}"
                )
            if not entry.recorded:
                _wait(path, ended, signal(), timeout)
            if entry.recorded:
                return entry.value
            # the one that ran it has failed, and failures are no answers: the next one runs it

    def _run(self, path: str, entry: _Entry, body: Callable[[], Any]) -> Any:
        try:
            entry.value = body()
            entry.recorded = True
            return entry.value
        finally:
            with self._lock:
                if not entry.recorded and self._entries.get(path) is entry:
                    del self._entries[path]
                waiters, entry.waiters = entry.waiters or [], None
            for ended in waiters:
                ended.set()

    def reset(self, prefix: str, pattern: str | None) -> None:
        with self._lock:
            for path, entry in list(self._entries.items()):
                if entry.recorded and path.startswith(prefix) and fnmatchcase(path[len(prefix) :], pattern or "*"):
                    del self._entries[path]


def _wait(path: str, ended: threading.Event, signal: Signal, timeout: float | None) -> None:
    undo = signal.on_abort(ended.set)
    in_time = signal._clock.wait(ended, timeout)
    undo()
    signal.throw_if_aborted()
    if not in_time:
        raise ExecutionTimeout(f"{path} is still running elsewhere after {timeout:g} s")
