"""Tasks: work that can be given to a thread and taken from it.

A `Task` settles exactly once, under its lock, by whoever comes first: the thread that ends the handler, the deadline,
a cancel while it waits in the queue, or the end of a grace. Schedules the lock decides:

1. the handler returns while the deadline fires: one ``_settle`` wins; the other finds a terminal status and changes
   nothing. If the deadline has won, the value is dropped.
2. ``cancel`` while a worker takes the task from the queue: ``_begin`` and ``cancel`` both look at the status under the
   lock; a cancelled task is never begun, a begun one gets the signal.
3. ``result()`` against ``_settle``: the gate is in the list before the settling thread takes the list, or the status is
   terminal already.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from workflow_runner._core.signal import TimedOut, run_callbacks
from workflow_runner._core.status import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, ExecutionStatus
from workflow_runner.errors import Aborted, ExecutionCancelled, ExecutionTimeout

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.slots import Work, Worker


def cancelled_by(reason: object, name: str) -> ExecutionCancelled:
    """The error that a reason means."""
    if isinstance(reason, TimedOut):
        return ExecutionTimeout(str(reason), reason=reason)
    try:
        text = "" if reason is None else f": {reason}"
    except Exception:  # a reason is anything; the end of an execution must not hang on its `__str__`
        text = f": {type(reason).__name__}"
    return ExecutionCancelled(f"{name} was cancelled{text}", reason=reason)


class Task:
    """One handler's run on a worker's thread, with a deadline of its own. Internal."""

    optional = False
    ticket = 0
    # when the time is over, its own or that of a task above; on the clock's monotonic seconds
    _due: float | None = None
    _deadline: Any = None
    _value: Any = None
    _error: BaseException | None = None
    _worker: Worker | None = None
    # closed by those who wait
    _gates: list[Any] | None = None
    # The workers that help in fan-outs below (guarded by the lock of the slots) and the timed children: all that has to
    # be let go with this task.
    _helpers: dict[Worker, Work] | None = None
    _subtasks: set[Task] | None = None
    # whether anybody wants to be told of the status, and what has not been told yet
    _followed = False
    _news: deque[Callable[[], object]] | None = None

    def __init__(self, ctx: FlowContext, timeout: float | None) -> None:
        self.ctx = ctx
        ctx._task = self
        self._scope = ctx._scope
        self._timeout = timeout
        self._lock = allocate_lock()
        self._contextvars: Context = copy_context()
        if self._scope._task_wraps:
            self._body = self._scope._carried(self._body)  # type: ignore[method-assign]

    def _body(self) -> Any:
        """The handler's run, in the context variables of the task."""
        raise NotImplementedError

    # -- a worker's side

    def run(self, worker: Worker) -> bool:
        """Run the handler in this thread; True if it is this thread that has settled it."""
        try:
            if not self._begin(worker):
                return True
            value = self._contextvars.run(self._body)
        except BaseException as error:
            return self._settle_error(error)
        return self._settle(COMPLETED, value, None)

    def left(self, worker: Worker) -> None:
        """Nothing to do: a task does not count its workers."""

    def describe(self) -> dict[str, str]:
        return {"run_id": self.ctx.root.id, "execution": self.ctx.name}

    def _begin(self, worker: Worker) -> bool:
        with self._lock:
            if self.ctx._status is not PENDING:
                return False
            self._worker = worker
            self.ctx._started = self._scope._time()
            self.ctx._status = RUNNING
            if self._followed:
                self._enqueue_news(RUNNING)
        if self._timeout is not None:
            self._arm(self._timeout)
        if self._news:
            self._tell_news()
        return True

    def _arm(self, timeout: float) -> None:
        watchdog = self._scope._watchdog
        due = self._scope._clock.monotonic() + timeout
        above = self.ctx._parent._task if self.ctx._parent is not None else None
        if above is not None and above._due is not None and above._due < due:
            timeout -= due - above._due
            due = above._due
        self._due = due
        deadline = self._deadline = watchdog.at(due, partial(self._expire, TimedOut(self.ctx._name, timeout)))
        if self.ctx._status.terminal:  # cancelled while the deadline was being set
            watchdog.cancel(deadline)

    def _settle_error(self, error: BaseException) -> bool:
        ctx = self.ctx
        signal = ctx._set_signal()
        if signal is None and not isinstance(error, Aborted):
            self._note(error)  # before the status is terminal: who sees that may raise the error at once
            return self._settle(FAILED, None, error)
        reason = signal._reason if signal is not None else getattr(error, "reason", None)
        cancelled = cancelled_by(reason, ctx._name)
        cancelled.__cause__ = error
        return self._settle(CANCELLED, None, cancelled)

    # -- the end

    def _settle(
        self,
        status: ExecutionStatus,
        value: Any,
        error: BaseException | None,
        *,
        only_from: ExecutionStatus | None = None,
        let_go: list[Worker] | None = None,
    ) -> bool:
        """Take the terminal ``status`` if nobody has.

        With ``let_go`` the threads that still work on this lose their slots, before a waiter is released, and are put
        there; the caller is the watchdog then, and nothing of the user's is called in this thread.
        """
        ctx = self.ctx
        with self._lock:
            if ctx._status.terminal or (only_from is not None and ctx._status is not only_from):
                return False
            self._value = value
            self._error = ctx._error = error
            ctx._ended = self._scope._time()
            ctx._status = status
            ctx._task = None  # or the two would keep each other until the garbage collector comes
            gates, self._gates = self._gates, None
            self._settled()
            if self._followed:
                self._enqueue_news(status)
        if let_go is not None:
            self._let_go_of_threads(let_go)
        if gates is not None:
            for gate in gates:
                gate.release()
        if self._deadline is not None:
            self._scope._watchdog.cancel(self._deadline)
        if ctx._cleanup:
            self._call(ctx._let_go, elsewhere=let_go is not None)
        elif ctx._signal is not None:
            ctx._signal._detach()
        if self._news:
            self._call(self._tell_news, elsewhere=let_go is not None)
        return True

    def _call(self, work: Callable[[], object], *, elsewhere: bool) -> None:
        if elsewhere:
            self._scope._slots.spare(work)
        else:
            work()

    def _note(self, error: BaseException) -> None:
        """Say in ``error`` where it happened."""

    def _settled(self) -> None:
        """The status has become terminal. Under the lock."""

    def _enqueue_news(self, status: ExecutionStatus) -> None:
        """Note who is to be told of ``status``. Under the lock, so that news keep the order of the changes."""

    def _tell_news(self) -> None:
        """Tell them."""

    # -- cancelling and letting go

    def _expire(self, reason: object) -> Callable[[], object] | None:
        """Set the signal, release the waiters, and take the slots from whoever still works on this.

        Runs on the watchdog, and never blocks; returns the part that may: the log.
        """
        if self.ctx._status.terminal:
            return None
        callbacks = self.ctx.signal._abort(reason)
        if callbacks:
            self._scope._slots.spare(partial(run_callbacks, callbacks))
        let_go: list[Worker] = []
        self._settle(CANCELLED, None, cancelled_by(reason, self.ctx._name), let_go=let_go)
        return partial(self._scope._slots.report, let_go) if let_go else None

    def _let_go_of_threads(self, let_go: list[Worker]) -> None:
        slots = self._scope._slots
        if self._worker is not None and slots.abandon(self._worker, self):
            let_go.append(self._worker)
        for worker, doing in list((self._helpers or {}).items()):
            if slots.abandon(worker, doing):
                let_go.append(worker)
        for task in list(self._subtasks or ()):
            task._let_go_of_threads(let_go)

    # -- waiting

    def _wait(self, timeout: float | None) -> bool:
        """Block until the task has settled, at most ``timeout`` seconds."""
        with self._lock:
            if self.ctx._status.terminal:
                return True
            gate = allocate_lock()
            gate.acquire()
            if self._gates is None:
                self._gates = []
            self._gates.append(gate)
        if timeout is None:
            return gate.acquire()
        if gate.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            return True
        with self._lock:
            if self._gates is not None:  # or a settling thread has just taken them
                self._gates.remove(gate)
            return self.ctx._status.terminal


class ChildTask(Task):
    """A child with a deadline, on a thread of its own."""

    def __init__(self, ctx: FlowContext, body: Callable[[], Any], timeout: float) -> None:
        super().__init__(ctx, timeout)
        self._child_body = body

    def _body(self) -> Any:
        return self._child_body()
