"""A clock that stands still until the test moves it.

clock = ManualClock()
with Scope(clock=clock) as scope:
    execution = scope.exec(nightly, timeout=60)
    ...                     # wait until its handler has begun
    clock.advance(60)       # the deadline fires now
"""

from __future__ import annotations

import threading
import time


class ManualClock:
    """A clock whose time passes in `advance` only. Every member may be used from any thread.

    It fits ``Scope(clock=...)``: deadlines, graces, retries and ``ctx.sleep`` then wait for `advance`. What waits for
    other threads (``execution.result(timeout=...)``, ``scope.close(timeout=...)``) still waits in real time.

    Args:
        now: the seconds since the epoch at which it starts; default: 2024-01-01 00:00 UTC.
        guard: real seconds, after which a `wait` gives up as if its time had come, and `block_until` fails: a test that
            forgets to advance ends with a failure and does not hang.
    """

    def __init__(self, *, now: float = 1_704_067_200.0, guard: float = 30.0) -> None:
        self._start = now
        self._guard = guard
        # Guards what follows. `wait` holds the condition of its event first and this second.
        self._lock = threading.Lock()
        self._passed = 0.0
        self._waiting: dict[object, tuple[threading.Event, float]] = {}
        self._changed = threading.Condition(self._lock)

    def monotonic(self) -> float:
        """Seconds that have passed since the clock was made."""
        return self._passed

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._start + self._passed

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Block until ``event`` is set or ``timeout`` seconds were advanced (``None``: for ever); True if it is set."""
        give_up = time.monotonic() + self._guard
        # `threading.Event` is a flag and a condition; on that very condition `advance` can wake who waits for the flag.
        with event._cond:  # type: ignore[attr-defined]
            due = float("inf") if timeout is None else self._passed + timeout
            me = object()
            with self._lock:
                self._waiting[me] = event, due
                self._changed.notify_all()
            try:
                while not event.is_set() and self._passed < due and time.monotonic() < give_up:
                    event._cond.wait(give_up - time.monotonic())  # type: ignore[attr-defined]
            finally:
                with self._lock:
                    del self._waiting[me]
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, and wake everybody whose time has come.

        Args:
            seconds: 0 or more.

        Raises:
            ValueError: the time would go back.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock goes forward, got {seconds!r} seconds")
        with self._lock:
            self._passed += seconds
            woken = [event for event, due in self._waiting.values() if due <= self._passed]
        for event in woken:
            with event._cond:  # type: ignore[attr-defined]
                event._cond.notify_all()  # type: ignore[attr-defined]

    def block_until(self, seconds: float) -> None:
        """Block until a thread waits for the moment ``seconds`` ahead (to a microsecond), so that `advance` reaches it.

        Args:
            seconds: how long that thread still has to wait.

        Raises:
            TimeoutError: nobody did, in ``guard`` real seconds; the message says who waits for what.
        """

        def waited_for() -> bool:
            return any(abs(due - self._passed - seconds) < 1e-6 for _, due in self._waiting.values())

        with self._lock:
            if not self._changed.wait_for(waited_for, self._guard):
                left = sorted(round(due - self._passed, 6) for _, due in self._waiting.values())
                raise TimeoutError(f"nobody waits for {seconds:g} s; there are waits of {left}")
