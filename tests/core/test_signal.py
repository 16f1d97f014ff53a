"""The cancellation signal: a tree of events."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from workflow_runner import Signal, errors
from workflow_runner._core.clock import SYSTEM_CLOCK
from workflow_runner._core.signal import TimedOut, run_callbacks
from workflow_runner.testing import ManualClock

LONG = 20.0


def abort(signal: Signal, reason: object = None) -> None:
    run_callbacks(signal._abort(reason))


@pytest.fixture
def signal() -> Signal:
    return Signal(SYSTEM_CLOCK)


def test_a_new_signal_is_not_set(signal: Signal) -> None:
    """Not aborted: no reason, an unset event, nothing thrown, a wait that runs into its time."""
    assert (signal.aborted, signal.reason) == (False, None)
    assert not signal.event.is_set()
    signal.throw_if_aborted()
    assert signal.wait(0) is False


def test_a_set_signal_says_so_in_every_way(signal: Signal) -> None:
    """Aborted: the reason is kept, the event (whenever it is made) is set, ``Aborted`` is thrown with the reason."""
    early = signal.event
    reason = object()
    abort(signal, reason)
    assert signal.aborted
    assert signal.reason is reason
    assert early.is_set()
    assert signal.event is early
    assert signal.wait(None) is True
    with pytest.raises(errors.Aborted) as caught:
        signal.throw_if_aborted()
    assert caught.value.reason is reason

    late = Signal(SYSTEM_CLOCK)
    abort(late)
    assert late.event.is_set()


def test_aborted_is_no_exception(signal: Signal) -> None:
    """``except Exception`` in old code does not swallow ``throw_if_aborted``."""
    abort(signal, "stop")
    swallowed = False
    with pytest.raises(errors.Aborted, match=r"^aborted: stop$"):
        try:
            signal.throw_if_aborted()
        except Exception:
            swallowed = True
    assert not swallowed
    assert not issubclass(errors.Aborted, Exception)


def test_the_first_reason_stays(signal: Signal) -> None:
    """A second abort changes nothing and calls nobody."""
    calls: list[int] = []
    signal.on_abort(lambda: calls.append(1))
    abort(signal, "first")
    abort(signal, "second")
    assert (signal.reason, calls) == ("first", [1])


def test_abort_reaches_everything_below_and_nothing_above(signal: Signal) -> None:
    """A signal set sets its descendants with the same reason; parents and siblings stay."""
    middle, sibling = signal._below(), signal._below()
    leaf = middle._below()
    abort(middle, "why")
    assert [s.aborted for s in (signal, sibling, middle, leaf)] == [False, False, True, True]
    assert leaf.reason == "why"
    abort(signal, "all")
    assert (sibling.reason, middle.reason, leaf.reason) == ("all", "why", "why")


def test_a_signal_below_a_set_one_is_born_set(signal: Signal) -> None:
    """Children that come too late are aborted too."""
    abort(signal, "why")
    late = signal._below()
    assert (late.aborted, late.reason) == (True, "why")
    assert late.event.is_set()


def test_a_detached_signal_leaves_no_trace_in_its_parent(signal: Signal) -> None:
    """An execution that has ended is no longer in its parent's table."""
    children = [signal._below() for _ in range(100)]
    for child in children:
        child._detach()
        child._detach()  # again changes nothing
    assert not signal._children
    abort(signal)
    assert not any(child.aborted for child in children)


def test_on_abort_calls_once_and_can_be_taken_back(signal: Signal) -> None:
    """Each subscription is called once, in order; undone ones are not; undoing twice or late is harmless."""
    calls: list[str] = []
    undo_a = signal.on_abort(lambda: calls.append("a"))
    undo_b = signal.on_abort(lambda: calls.append("b"))
    signal.on_abort(lambda: calls.append("c"))
    undo_a()
    undo_a()
    abort(signal)
    undo_b()
    assert calls == ["b", "c"]


def test_on_abort_of_a_set_signal_calls_at_once_in_this_thread(signal: Signal) -> None:
    """Subscribing late is answered at once, by the subscriber's thread."""
    abort(signal)
    threads: list[threading.Thread] = []
    undo = signal.on_abort(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    undo()


def test_the_same_callback_may_subscribe_twice(signal: Signal) -> None:
    """Subscriptions are kept apart: undoing one leaves the other."""
    calls: list[int] = []

    def callback() -> None:
        calls.append(1)

    undo = signal.on_abort(callback)
    signal.on_abort(callback)
    undo()
    abort(signal)
    assert calls == [1]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), errors.Aborted("mine"), GeneratorExit()])
def test_a_callback_that_raises_hurts_nobody(
    signal: Signal, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Whatever it raises is logged, and the others are called."""

    def bad() -> None:
        raise error

    calls: list[int] = []
    signal.on_abort(bad)
    signal.on_abort(lambda: calls.append(1))
    abort(signal)
    assert calls == [1]
    (record,) = caplog.records
    assert (record.levelno, record.event) == (logging.ERROR, "callback.failed")  # type: ignore[attr-defined]
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_an_interrupt_in_a_callback_is_for_the_process(signal: Signal) -> None:
    """KeyboardInterrupt is raised on, after the other callbacks were called."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    calls: list[int] = []
    signal.on_abort(interrupt)
    signal.on_abort(lambda: calls.append(1))
    with pytest.raises(KeyboardInterrupt):
        abort(signal)
    assert calls == [1]


def test_callbacks_may_use_the_signal(signal: Signal) -> None:
    """No lock is held while they run: they may subscribe, undo, make children and abort."""
    calls: list[Any] = []

    def busy() -> None:
        undo()
        signal.on_abort(lambda: calls.append("nested"))
        calls.append(signal._below().aborted)
        abort(signal, "again")
        calls.append(signal.reason)

    undo = signal.on_abort(busy)
    abort(signal, "why")
    assert calls == ["nested", True, "why"]


def test_wait_uses_the_clock(clock: ManualClock, together: Any) -> None:
    """``wait`` ends when the signal is set, or when its time has passed on the scope's clock."""
    signal = Signal(clock)

    def drive() -> None:
        clock.block_until(5)
        clock.advance(5)
        clock.block_until(7)
        abort(signal)

    assert together(lambda: (signal.wait(5), signal.wait(7)), drive) == [(False, True), None]


def test_on_abort_against_abort_calls_exactly_once(together: Any, tiny_switches: None) -> None:
    """Racing subscribers are called once each: neither lost nor doubled."""
    for _ in range(200):
        signal = Signal(SYSTEM_CLOCK)
        calls: list[int] = []

        def subscribe(signal: Signal = signal, calls: list[int] = calls) -> None:
            for number in range(5):
                signal.on_abort(lambda number=number: calls.append(number))  # type: ignore[misc]

        together(subscribe, subscribe, lambda signal=signal: abort(signal))
        assert sorted(calls) == sorted([*range(5)] * 2)


def test_below_against_abort_loses_no_child(together: Any, tiny_switches: None) -> None:
    """A child that is made while its parent is set is set as well, with its event."""
    for _ in range(200):
        signal = Signal(SYSTEM_CLOCK)

        def grow(signal: Signal = signal) -> list[Signal]:
            grown = [signal._below() for _ in range(5)]
            for child in grown:
                child.event  # made while the abort runs
            return grown

        first, second, _ = together(grow, grow, lambda signal=signal: abort(signal, "why"))
        assert all(child.aborted and child.reason == "why" and child.event.is_set() for child in first + second)


def test_the_reason_of_a_deadline_reads_well() -> None:
    """A timeout's reason names the execution and the seconds."""
    assert str(TimedOut("load", 60.0)) == "load timed out after 60 s"
    assert repr(TimedOut("load", 0.5)) == "<load timed out after 0.5 s>"
