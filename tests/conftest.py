"""What all tests share."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from workflow_runner import Scope
from workflow_runner.testing import ManualClock

# So long a test waits for what must happen; far beyond what it takes.
LONG = 20.0


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def make_scope() -> Iterator[Callable[..., Scope]]:
    """Makes scopes, closes them after the test and asserts that they have left nothing behind."""
    made: list[Scope] = []

    def make(**options: Any) -> Scope:
        scope = Scope(name=f"scope-{len(made)}-{id(made):x}", **options)
        made.append(scope)
        return scope

    yield make
    for scope in made:
        scope.close(timeout=LONG)
    for scope in made:
        for thread in threading.enumerate():
            if thread.name.startswith(scope.name):
                thread.join(LONG)
                assert not thread.is_alive(), f"{thread.name} still runs"
        stats = scope.stats()
        assert (stats.active, stats.pending, stats.abandoned, stats.deadlines) == (0, 0, 0, 0)
        assert stats.free == stats.max_workers
        assert scope.executions == ()
        assert not scope._tracked
        assert not scope._slots.wishes
        assert not scope._watchdog._heap


@pytest.fixture
def scope(make_scope: Callable[..., Scope]) -> Scope:
    """A scope with two slots."""
    return make_scope(max_workers=2)


@pytest.fixture
def event() -> Iterator[Callable[[], threading.Event]]:
    """Makes events and sets them all after the test, so that a failed test holds no thread."""
    made: list[threading.Event] = []

    def make() -> threading.Event:
        made.append(threading.Event())
        return made[-1]

    yield make
    for one in made:
        one.set()


@pytest.fixture
def interrupt() -> Iterator[Callable[..., None]]:
    """Sends a signal (SIGINT) to the main thread, from any thread.

    A signal that comes just before a thread goes to sleep is noticed when the thread wakes; so it is woken again and
    again, by SIGURG, which does nothing.
    """
    main, sent, over = threading.main_thread().ident, threading.Event(), threading.Event()
    assert main is not None
    before = signal.signal(signal.SIGURG, lambda *_: None)

    def wake() -> None:
        sent.wait()
        while not over.wait(0.02):
            signal.pthread_kill(main, signal.SIGURG)

    def send(number: int = signal.SIGINT) -> None:
        signal.pthread_kill(main, number)
        sent.set()

    thread = threading.Thread(target=wake, daemon=True)
    thread.start()
    yield send
    over.set()
    sent.set()
    thread.join(LONG)
    signal.signal(signal.SIGURG, before)


@pytest.fixture
def tiny_switches() -> Iterator[None]:
    """Lets the interpreter switch threads as often as it can, so that a race shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _together(*functions: Callable[[], Any]) -> list[Any]:
    barrier = threading.Barrier(len(functions))
    outcomes: list[Any] = [None] * len(functions)

    def run(index: int, function: Callable[[], Any]) -> None:
        try:
            barrier.wait(LONG)
            outcomes[index] = function()
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive(), "one of the racing threads hangs"
    return outcomes


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """Runs functions on threads that start as one; what each returned or raised, in order."""
    return _together
