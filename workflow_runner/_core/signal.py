"""The cancellation signal: one ``threading.Event`` tree.

A signal that is set stays set, and sets everything below it. Signals and their events are made at first use: most
executions are never asked whether they are aborted.

The lock of a tree guards its links (``_children``, ``_callbacks``) and the step from not aborted to aborted. Nothing of
the user's runs under it. Schedules it decides:

1. ``below()`` against ``abort()``: the child either is linked before the walk and is set by it, or sees ``aborted``
   when it links and is born set.
2. ``on_abort(f)`` against ``abort()``: ``f`` either is in the table when it is collected, or finds ``aborted`` set and
   runs in the subscriber's thread. Never both, never neither.
3. two ``abort()``: the second finds ``aborted`` and changes nothing; the first reason stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from workflow_runner._core import log
from workflow_runner._core.clock import Clock
from workflow_runner.errors import Aborted

if TYPE_CHECKING:
    from collections.abc import Iterable


class TimedOut:
    """The reason of a signal that a deadline has set."""

    __slots__ = ("name", "seconds")

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds

    def __str__(self) -> str:
        return f"{self.name} timed out after {self.seconds:g} s"

    def __repr__(self) -> str:
        return f"<{self}>"


class Signal:
    """Tells a handler that it should stop. Every member may be used from any thread.

    Handlers look at it (``aborted``, ``throw_if_aborted``), wait on it instead of sleeping (``wait``) or are called
    by it (``on_abort``).
    """

    __slots__ = ("_aborted", "_callbacks", "_children", "_clock", "_event", "_lock", "_parent", "_reason")

    def __init__(self, clock: Clock, parent: Signal | None = None) -> None:
        self._clock = clock
        self._parent = parent
        self._lock: threading.Lock = threading.Lock() if parent is None else parent._lock
        self._aborted = False
        self._reason: object = None
        self._event: threading.Event | None = None
        self._children: dict[Signal, None] | None = None
        self._callbacks: dict[object, Callable[[], object]] | None = None

    @property
    def aborted(self) -> bool:
        """Whether the signal is set."""
        return self._aborted

    @property
    def reason(self) -> object:
        """What the canceller gave as its reason; None while the signal is not set."""
        return self._reason

    @property
    def event(self) -> threading.Event:
        """The event behind the signal, for code that waits on events. Setting it yourself cancels nothing."""
        event = self._event
        if event is None:
            with self._lock:
                event = self._event
                if event is None:
                    event = threading.Event()
                    if self._aborted:
                        event.set()
                    self._event = event
        return event

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the signal is set, at most ``timeout`` seconds; returns whether it is set."""
        return self._aborted or self._clock.wait(self.event, timeout)

    def on_abort(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call ``callback()`` once, when the signal is set; at once if it is set already.

        It is called from the thread that cancels (a thread of the pool, when that is a deadline). What it raises is
        logged and hurts nobody.

        Returns:
            A function that takes the subscription back.
        """
        key = object()
        with self._lock:
            born_set = self._aborted
            if not born_set:
                if self._callbacks is None:
                    self._callbacks = {}
                self._callbacks[key] = callback
        if born_set:
            run_callbacks([callback])

        def undo() -> None:
            with self._lock:
                if self._callbacks is not None:
                    self._callbacks.pop(key, None)

        return undo

    def throw_if_aborted(self) -> None:
        """Raise ``Aborted`` (a ``BaseException``) if the signal is set.

        Raises:
            Aborted: with the canceller's reason.
        """
        if self._aborted:
            raise Aborted(self._reason)

    # What follows belongs to the executions.

    def _below(self) -> Signal:
        """A signal that is set with this one and can be set alone."""
        child = Signal(self._clock, self)
        with self._lock:
            if self._aborted:
                child._aborted, child._reason = True, self._reason
            else:
                if self._children is None:
                    self._children = {}
                self._children[child] = None
        return child

    def _detach(self) -> None:
        """Take the signal of an execution that has ended out of its parent's table."""
        parent = self._parent
        if parent is not None and parent._children is not None:
            with self._lock:
                parent._children.pop(self, None)

    def _abort(self, reason: object) -> list[Callable[[], object]]:
        """Set the signal and everything below; returns the callbacks, which the caller has to run."""
        callbacks: list[Callable[[], object]] = []
        with self._lock:
            reached = [self]
            while reached:
                signal = reached.pop()
                if signal._aborted:
                    continue
                # the reason first: whoever sees `aborted` may read it without the lock
                signal._reason = reason
                signal._aborted = True
                if signal._event is not None:
                    signal._event.set()
                if signal._callbacks:
                    callbacks.extend(signal._callbacks.values())
                    signal._callbacks = None
                if signal._children:
                    reached.extend(signal._children)
                    signal._children = None
        return callbacks


def run_callbacks(callbacks: Iterable[Callable[[], object]]) -> None:
    """Call each one; what it raises is logged, ``Aborted`` and ``SystemExit`` too: the thread is not theirs to end.

    Raises:
        KeyboardInterrupt: when all were called; it is meant for the process, not for the callback.
    """
    interrupt: KeyboardInterrupt | None = None
    for callback in callbacks:
        try:
            callback()
        except KeyboardInterrupt as error:
            interrupt = error
        except BaseException as error:
            log.error("callback.failed", error, callback=getattr(callback, "__qualname__", repr(callback)))
    if interrupt is not None:
        raise interrupt
