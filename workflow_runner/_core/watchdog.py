"""Deadlines: one thread for a scope, started with the first of them.

A heap of ``[when, sequence, action]``. Taking a deadline back empties its entry at once (so that it keeps nothing
alive) and the heap is swept when half of it is empty: a finished execution leaves nothing behind, and taking back costs
amortised O(1).

``_lock`` guards the heap, the two counts and the choice to start or end the thread. Actions run on the watchdog's
thread without it and must not block: what may block (callbacks of the user, formatting and logging stacks) is returned
by the action as a function, and runs elsewhere after every action that is due.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from workflow_runner._core import log
from workflow_runner._core.clock import LONGEST_WAIT, Clock
from workflow_runner._core.signal import run_callbacks

# An action may return work for later; see above.
Action = Callable[[], Callable[[], object] | None]
Deadline = list[Any]

# A thread without deadlines ends after this many seconds: a scope that nobody closed leaves no thread.
IDLE = 10.0


class Watchdog:
    """Runs actions at their time. ``at`` and ``cancel`` may be called from any thread."""

    def __init__(self, clock: Clock, name: str, elsewhere: Callable[[Callable[[], object]], object]) -> None:
        self._clock = clock
        self._name = name
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._heap: list[Deadline] = []
        self._live = 0
        self._sequence = itertools.count()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many deadlines are pending."""
        return self._live

    def at(self, when: float, action: Action) -> Deadline:
        """Run ``action`` at ``when`` (the clock's monotonic seconds); returns what ``cancel`` takes."""
        deadline: Deadline = [when, next(self._sequence), action]
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=f"{self._name}-watchdog", daemon=True)
                thread.start()  # before anything is changed: there may be no thread to be had
                self._thread = thread
            heapq.heappush(self._heap, deadline)
            self._live += 1
            if self._heap[0] is deadline:
                self._wake.set()
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Take ``deadline`` back; nothing happens if its time has come."""
        with self._lock:
            if deadline[2] is None:
                return
            deadline[2] = None
            self._live -= 1
            if not self._live:
                self._heap.clear()
            elif len(self._heap) > 2 * self._live:
                self._heap = [entry for entry in self._heap if entry[2] is not None]
                heapq.heapify(self._heap)

    def close(self) -> None:
        """Drop every deadline and let the thread end."""
        with self._lock:
            for entry in self._heap:
                entry[2] = None
            self._heap.clear()
            self._live = 0
            self._closed = True
            self._wake.set()

    def _run(self) -> None:
        clock, wake = self._clock, self._wake
        while True:
            due: list[Action] = []
            with self._lock:
                if self._closed:
                    return
                wake.clear()
                now = clock.monotonic()
                while self._heap and (self._heap[0][2] is None or self._heap[0][0] <= now):
                    entry = heapq.heappop(self._heap)
                    if entry[2] is not None:
                        due.append(entry[2])
                        entry[2] = None
                        self._live -= 1
                wait = min(self._heap[0][0] - now, LONGEST_WAIT) if self._heap else None
            if due:
                self._act(due)
            elif not clock.wait(wake, IDLE if wait is None else wait) and wait is None:
                with self._lock:
                    if not self._heap:
                        self._thread = None
                        return

    def _act(self, due: list[Action]) -> None:
        later = []
        for action in due:
            try:
                later.append(action())
            except Exception as error:  # one deadline must never take the others down
                log.error("watchdog.failed", error)
        work = [work for work in later if work is not None]
        if work:
            self._elsewhere(partial(run_callbacks, work))
