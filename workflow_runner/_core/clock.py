"""Time as an argument: what waits or measures asks a clock, so that a test can hold it."""

from __future__ import annotations

import datetime as dt
import math
import threading
import time
from typing import Protocol

# One wait of the operating system is never longer than this: `threading` refuses waits beyond about 292 years, and
# waking once an hour costs nothing.
LONGEST_WAIT = 3600.0


class Clock(Protocol):
    """What the library needs to know of time. Called from any thread."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back. Deadlines and durations are measured with it."""

    def time(self) -> float:
        """Seconds since the epoch, for people to read."""

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """Block until ``event`` is set or ``timeout`` seconds have passed (``None``: for ever); True if it is set."""


class SystemClock:
    """The real time."""

    # C functions, not methods: a started and an ended time are taken for every item of a fan-out.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        if timeout is None:
            return event.wait()
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if event.wait(max(0.0, min(left, LONGEST_WAIT))):
                return True
            if left <= LONGEST_WAIT:
                return False


SYSTEM_CLOCK = SystemClock()


def seconds(value: float | dt.timedelta, *, what: str = "timeout", zero: bool = False) -> float:
    """A length of time in seconds.

    Args:
        value: seconds, or a timedelta.
        what: the name that the error gives it.
        zero: whether 0 is allowed.

    Raises:
        ValueError: it is negative, NaN, infinite, no number, or zero where that makes no sense.
    """
    number = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(f"{what} must be a number of seconds or a timedelta, got {value!r}")
    try:
        number = float(number)
    except OverflowError:  # an int beyond every float
        number = math.inf
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{what} must be {'zero or more' if zero else 'more than zero'} and finite, got {value!r}")
    return number
