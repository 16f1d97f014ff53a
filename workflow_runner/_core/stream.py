"""Stream: a fan-out whose results are taken one by one, over endless input too."""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from workflow_runner._core.fanout import FanOut, as_call
from workflow_runner._core.flow import Call, Flow
from workflow_runner.errors import ContextError

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.slots import Worker


class Stream(FanOut):
    """Results one by one, with at most ``buffer`` items alive: started, or finished and not yet taken.

    The calls are read by the consumer, in its thread, whenever it asks for a result; helpers only take what was read.
    When the window is full they leave, and their slots with them.
    """

    def __init__(
        self,
        parent: FlowContext,
        segment: str,
        calls: Iterable[Call | Flow[Any, Any]],
        concurrency: int,
        timeout: float | None,
        on: str | None,
        *,
        ordered: bool,
        buffer: int,
    ) -> None:
        super().__init__(parent, segment, concurrency, timeout, on)
        self._calls = enumerate(calls)
        self._ordered = ordered
        self._buffer = buffer
        self._todo: deque[tuple[int, Call]] = deque()
        # index -> (value, error), in the order of finishing
        self._ready: dict[int, tuple[Any, BaseException | None]] = {}
        self._alive = 0
        self._taken = 0
        # an interrupt in an item, which does not wait for its turn
        self._interrupt: BaseException | None = None
        self._running[self] = None

    def has_more(self) -> bool:
        return bool(self._todo) and not (self._stopped or self._above_signal._aborted)

    def counts(self) -> tuple[int, int | None]:
        return self._taken, None

    def results(self) -> Iterator[Any]:
        """The generator behind ``ctx.stream``."""
        try:
            while True:
                self._check()
                self._read()
                if not self._alive:
                    return
                index = self._await_one()
                value, error = self._ready.pop(index)
                self._alive -= 1
                self._taken += 1
                if error is not None:
                    raise error
                yield value
        finally:
            self.close("the stream was closed")

    def close(self, reason: str) -> None:
        """Start nothing more, tell the running items and wait for them."""
        # Once: the generator may end much later, in the hands of the garbage collector, where no lock may be taken.
        if (self.parent._streams or {}).pop(self, self) is self:
            return
        self._stop(reason)
        self._join()
        self._end()

    def _check(self) -> None:
        """Raise what does not wait for its turn."""
        if self._interrupt is not None:
            raise self._interrupt
        self._above_signal.throw_if_aborted()
        if self._stopped:
            raise ContextError(f"stream {self.segment!r} has ended with execution {self.parent.name!r}")

    def _read(self) -> None:
        """Fill the window, and ask for helpers to work on it."""
        while self._alive < self._buffer:
            item = next(self._calls, None)
            if item is None:
                break
            self._todo.append((item[0], as_call(item[1], item[0])))
            self._alive += 1
        with self._slots.lock:
            missing = min(len(self._todo), self.concurrency - 1) - self.joined - self.wanted
        if missing > 0:
            self._slots.wish(self, missing)

    def _await_one(self) -> int:
        """The index of the next result; while there is none, the consumer works as well."""
        while True:
            self._check()
            with self._slots.lock:
                index = self._taken if self._ordered else next(iter(self._ready), -1)
                if index in self._ready:
                    return index
                item = self._todo.popleft() if self._todo else None
                if item is None:
                    self.gate = gate = allocate_lock()
                    gate.acquire()
            if item is None:
                gate.acquire()
            else:
                self._contextvars.copy().run(self._run_item, *item)

    def _work(self, worker: Worker | None) -> None:
        above, pending = self._above_signal, self._slots.pending
        while not (self._stopped or above._aborted):
            try:
                item = self._todo.popleft()
            except IndexError:
                return
            self._run_item(*item)
            if worker is not None and pending:
                return

    def _run_item(self, index: int, call: Call) -> None:
        value, error = None, None
        try:
            value = self._item(index, call.flow, call.input)
        except BaseException as caught:
            error = caught
            if not isinstance(error, Exception) and self._interrupt is None:
                self._interrupt = error
                self._stop(error)
        with self._slots.lock:
            self._ready[index] = value, error
            if self.gate is not None:
                self.open_gate()
