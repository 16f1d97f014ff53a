"""Deadlines: one thread, one heap, nothing left behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workflow_runner._core import watchdog as module
from workflow_runner._core.clock import SYSTEM_CLOCK
from workflow_runner._core.watchdog import Watchdog
from workflow_runner.testing import ManualClock

LONG = 20.0


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"{name}-watchdog"]


@pytest.fixture
def watchdog(clock: ManualClock, request: pytest.FixtureRequest) -> Iterator[Watchdog]:
    dog = Watchdog(clock, request.node.name, lambda work: work())
    yield dog
    dog.close()
    for thread in threads(request.node.name):
        thread.join(LONG)
        assert not thread.is_alive()


def fires(event: threading.Event) -> Callable[[], None]:
    return lambda: event.set()


def test_no_deadline_no_thread(watchdog: Watchdog, request: pytest.FixtureRequest) -> None:
    """The thread starts with the first deadline, and there is one for all of them."""
    assert threads(request.node.name) == []
    for when in range(1, 100):
        watchdog.at(when, lambda: None)
    assert len(threads(request.node.name)) == 1
    assert len(watchdog) == 99


def test_an_action_runs_at_its_time_and_not_before(watchdog: Watchdog, clock: ManualClock) -> None:
    """Nothing runs early; what is due runs, in the order of time, then of arrival."""
    order: list[str] = []
    last = threading.Event()
    watchdog.at(20, lambda: order.append("late"))
    watchdog.at(10, lambda: order.append("a"))
    watchdog.at(5, lambda: order.append("early"))
    watchdog.at(10, lambda: order.append("b"))
    watchdog.at(10, fires(last))
    clock.block_until(5)
    clock.advance(4.999)
    clock.block_until(0.001)
    assert order == []
    clock.advance(5.001)
    assert last.wait(LONG)
    assert order == ["early", "a", "b"]
    assert len(watchdog) == 1


def test_an_earlier_deadline_wakes_the_thread(watchdog: Watchdog, clock: ManualClock) -> None:
    """A deadline before the one that is waited for is not late."""
    fired = threading.Event()
    watchdog.at(100, lambda: None)
    clock.block_until(100)
    watchdog.at(1, fires(fired))
    clock.block_until(1)
    clock.advance(1)
    assert fired.wait(LONG)


def test_a_deadline_in_the_past_fires_at_once(watchdog: Watchdog, clock: ManualClock) -> None:
    """What is due already needs no advance."""
    fired = threading.Event()
    clock.advance(10)
    watchdog.at(3, fires(fired))
    assert fired.wait(LONG)


def test_a_cancelled_deadline_keeps_nothing_and_never_fires(watchdog: Watchdog, clock: ManualClock) -> None:
    """Taking back frees the action at once; taking back twice, or after the time, changes nothing."""

    class Action:
        def __call__(self) -> None:
            fired.append(self)

    fired: list[Any] = []
    action = Action()
    gone = weakref.ref(action)
    deadline = watchdog.at(5, action)
    later = threading.Event()
    keeps = watchdog.at(6, fires(later))
    watchdog.cancel(deadline)
    watchdog.cancel(deadline)
    del action
    gc.collect()
    assert gone() is None
    assert len(watchdog) == 1
    clock.advance(6)
    assert later.wait(LONG)
    watchdog.cancel(keeps)
    assert (len(watchdog), fired) == (0, [])


def test_ten_thousand_deadlines_leave_an_empty_heap(watchdog: Watchdog, request: pytest.FixtureRequest) -> None:
    """10,000 pending deadlines need one thread; taken back, in any order, they leave nothing."""
    pending = [watchdog.at(60 + number, lambda: None) for number in range(10_000)]
    assert len(watchdog) == 10_000
    assert len(threads(request.node.name)) == 1
    for deadline in pending[::2] + pending[1::2][::-1]:
        watchdog.cancel(deadline)
        assert len(watchdog._heap) <= 2 * max(len(watchdog), 1)
    assert len(watchdog) == 0
    assert watchdog._heap == []


def test_ten_thousand_deadlines_fire(watchdog: Watchdog, clock: ManualClock) -> None:
    """10,000 deadlines of one moment all fire, once each."""
    fired: list[int] = []
    last = threading.Event()
    for number in range(10_000):
        watchdog.at(5, lambda number=number: fired.append(number))  # type: ignore[misc]
    watchdog.at(5, fires(last))
    clock.advance(5)
    assert last.wait(LONG)
    assert fired == list(range(10_000))
    assert (len(watchdog), watchdog._heap) == (0, [])


def test_one_action_that_raises_takes_no_other_down(
    watchdog: Watchdog, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of an action, and of the work it returns, are logged; the rest goes on."""

    def bad() -> None:
        raise ValueError("no")

    fired, again = threading.Event(), threading.Event()
    watchdog.at(1, bad)
    watchdog.at(1, lambda: bad)
    watchdog.at(1, fires(fired))
    clock.advance(1)
    assert fired.wait(LONG)
    watchdog.at(2, fires(again))
    clock.advance(1)
    assert again.wait(LONG)
    assert [record.event for record in caplog.records] == [  # type: ignore[attr-defined]
        "watchdog.failed",
        "callback.failed",
    ]


def test_what_may_block_runs_elsewhere_after_all_that_is_due(clock: ManualClock, together: Any) -> None:
    """Work that an action returns holds up no deadline, not even when it never ends."""
    stuck, second, elsewhere = threading.Event(), threading.Event(), []
    done = threading.Event()

    def spare(work: Callable[[], object]) -> None:
        elsewhere.append(threading.Thread(target=work, daemon=True))
        elsewhere[0].start()

    watchdog = Watchdog(clock, "blocked", spare)
    try:
        watchdog.at(1, lambda: lambda: stuck.wait(LONG) and done.set())
        watchdog.at(1, lambda: None)
        watchdog.at(2, fires(second))
        clock.advance(1)
        clock.block_until(1)
        clock.advance(1)
        assert second.wait(LONG)
        assert not done.is_set()
    finally:
        stuck.set()
        watchdog.close()
    assert done.wait(LONG)


def test_an_idle_thread_ends_and_comes_back(
    watchdog: Watchdog, clock: ManualClock, request: pytest.FixtureRequest
) -> None:
    """Without deadlines the thread ends after a while; the next deadline starts another one."""
    deadline = watchdog.at(5, lambda: None)
    (thread,) = threads(request.node.name)
    clock.block_until(5)
    watchdog.cancel(deadline)
    clock.advance(5)
    clock.block_until(module.IDLE)
    clock.advance(module.IDLE)
    thread.join(LONG)
    assert not thread.is_alive()
    fired = threading.Event()
    watchdog.at(clock.monotonic() + 1, fires(fired))
    clock.advance(1)
    assert fired.wait(LONG)


def test_close_drops_everything(clock: ManualClock) -> None:
    """After ``close`` nothing fires, and the thread has gone."""
    watchdog = Watchdog(clock, "closing", lambda work: work())
    fired: list[int] = []
    watchdog.at(5, lambda: fired.append(1))
    (thread,) = threads("closing")
    watchdog.close()
    thread.join(LONG)
    assert not thread.is_alive()
    clock.advance(5)
    assert (fired, len(watchdog)) == ([], 0)


def test_a_deadline_for_which_there_is_no_thread_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no thread can be started ``at`` says so, and the next one tries again."""
    watchdog = Watchdog(SYSTEM_CLOCK, "threadless", lambda work: work())

    def fail(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            watchdog.at(5, lambda: None)
    assert (len(watchdog), watchdog._heap) == (0, [])
    fired = threading.Event()
    watchdog.at(0, fires(fired))
    assert fired.wait(LONG)
    watchdog.close()


def test_at_and_cancel_from_many_threads(clock: ManualClock, together: Any, tiny_switches: None) -> None:
    """Deadlines set, taken back and fired side by side: each fires once or was taken back, and nothing stays."""
    watchdog = Watchdog(clock, "busy", lambda work: work())
    fired: list[int] = []

    def use(base: int) -> set[int]:
        taken_back = set()
        for number in range(base, base + 200):
            deadline = watchdog.at(clock.monotonic() + number % 3, lambda number=number: fired.append(number))  # type: ignore[misc]
            if number % 2:
                watchdog.cancel(deadline)
                taken_back.add(number)
            clock.advance(0.01)
        return taken_back

    taken_back = set().union(*together(*(lambda base=base: use(base) for base in range(0, 1600, 200))))
    last = threading.Event()
    clock.advance(10)
    watchdog.at(clock.monotonic(), fires(last))
    assert last.wait(LONG)
    assert len(fired) == len(set(fired))
    assert set(range(1600)) - taken_back <= set(fired)  # what was taken back may have been due before
    assert (len(watchdog), watchdog._heap) == (0, [])
    watchdog.close()
