"""The clock: lengths of time, the real one and the one for tests."""

from __future__ import annotations

import datetime as dt
import math
import threading
from decimal import Decimal
from typing import Any

import pytest

from workflow_runner._core import clock as clock_module
from workflow_runner._core.clock import SYSTEM_CLOCK, Clock, seconds
from workflow_runner.testing import ManualClock

LONG = 20.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.25, 0.25),
        (dt.timedelta(minutes=2), 120.0),
        (1e300, 1e300),
        (dt.timedelta.max, dt.timedelta.max.total_seconds()),
        (5e-324, 5e-324),
    ],
)
def test_seconds_takes_numbers_and_timedeltas_of_any_size(value: Any, expected: float) -> None:
    """A length is a number of seconds or a timedelta; very large is fine."""
    result = seconds(value)
    assert result == expected
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [0, 0.0, -0.0, -1, -1e-9, math.nan, math.inf, -math.inf, 10**400, dt.timedelta(0), dt.timedelta(-1)],
)
def test_seconds_refuses_what_is_no_length(value: Any) -> None:
    """Zero, negative, NaN, infinite (or an int beyond every float): ValueError with the value's name."""
    with pytest.raises(ValueError, match=r"^timeout must be more than zero and finite, got "):
        seconds(value)


@pytest.mark.parametrize("value", [True, False, "5", Decimal(5), 5j, [5], object()])
def test_seconds_refuses_what_is_no_number(value: Any) -> None:
    """Only int, float and timedelta are lengths."""
    with pytest.raises(ValueError, match="must be a number of seconds or a timedelta"):
        seconds(value)


def test_seconds_may_allow_zero_and_names_what_it_checks() -> None:
    """``zero=True`` lets 0 pass, and nothing below it; the error has the given name."""
    assert seconds(0, zero=True) == 0.0
    with pytest.raises(ValueError, match="grace must be zero or more"):
        seconds(-1, what="grace", zero=True)


def test_the_real_clock_waits_for_the_event_or_the_time() -> None:
    """``wait`` answers whether the event is set, whatever the timeout."""
    event = threading.Event()
    assert SYSTEM_CLOCK.wait(event, 0) is False
    assert SYSTEM_CLOCK.wait(event, -5) is False
    assert SYSTEM_CLOCK.wait(event, 0.001) is False
    event.set()
    assert SYSTEM_CLOCK.wait(event, 0) is True
    assert SYSTEM_CLOCK.wait(event, None) is True
    assert SYSTEM_CLOCK.wait(event, 1e300) is True


def test_a_wait_is_cut_into_pieces_that_the_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait of 1e300 s neither overflows nor ends after the longest piece."""
    monkeypatch.setattr(clock_module, "LONGEST_WAIT", 0.001)
    pieces: list[float] = []

    class Counting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            pieces.append(timeout)
            if len(pieces) == 5:
                self.set()
            return super().wait(timeout)

    assert SYSTEM_CLOCK.wait(Counting(), 1e300) is True
    assert pieces == [0.001] * 5


def test_a_manual_clock_stands_still_until_it_is_advanced(clock: ManualClock) -> None:
    """Both its times move by what is advanced, and by nothing else."""
    fits: Clock = clock
    assert (fits.monotonic(), fits.time()) == (0.0, 1_704_067_200.0)
    clock.advance(1.5)
    clock.advance(0)
    assert (clock.monotonic(), clock.time()) == (1.5, 1_704_067_201.5)
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="a clock goes forward"):
            clock.advance(wrong)
    assert clock.monotonic() == 1.5


def test_advance_wakes_those_whose_time_has_come(clock: ManualClock, together: Any) -> None:
    """A waiter wakes with False when its time is advanced, with True when its event is set; the others wait on."""
    early, late, told = threading.Event(), threading.Event(), threading.Event()
    woken = threading.Event()

    def wait_early() -> bool:
        result = clock.wait(early, 5)
        woken.set()
        return result

    def drive() -> str:
        for length in (5, 50, 500):
            clock.block_until(length)
        clock.advance(5)
        assert woken.wait(LONG)
        clock.block_until(45)  # still waiting
        told.set()
        clock.advance(45)
        return "driven"

    outcomes = together(wait_early, lambda: clock.wait(late, 50), lambda: clock.wait(told, 500), drive)
    assert outcomes == [False, False, True, "driven"]


def test_a_manual_wait_of_nothing_or_for_a_set_event_is_over_at_once(clock: ManualClock) -> None:
    """Timeouts of zero and below do not wait; a set event is seen."""
    event = threading.Event()
    assert clock.wait(event, 0) is False
    assert clock.wait(event, -1) is False
    event.set()
    assert clock.wait(event, 5) is True
    assert clock.wait(event, None) is True


def test_a_manual_clock_gives_up_after_its_guard() -> None:
    """A forgotten ``advance`` ends the wait and fails ``block_until``, naming what is waited for."""
    clock = ManualClock(guard=0.01)
    assert clock.wait(threading.Event(), 3600) is False
    assert clock.wait(threading.Event(), None) is False
    with pytest.raises(TimeoutError, match=r"nobody waits for 7 s; there are waits of \[\]"):
        clock.block_until(7)


def test_many_threads_may_wait_on_one_manual_clock(clock: ManualClock, together: Any, tiny_switches: None) -> None:
    """No wake-up is lost between a waiter that looks at the time and an advance."""

    def waits() -> list[bool]:
        return [clock.wait(threading.Event(), 0.5) for _ in range(50)]

    ended = threading.Event()

    def drive() -> None:
        while not ended.wait(0):
            clock.advance(0.5)

    def all_waits() -> list[list[bool]]:
        try:
            return together(*[waits] * 8)
        finally:
            ended.set()

    outcomes, _ = together(all_waits, drive)
    assert outcomes == [[False] * 50] * 8
