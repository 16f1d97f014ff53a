"""Executions: work that can be given to a thread and taken from it.

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
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from workflow_runner._core.clock import seconds
from workflow_runner._core.context import CURRENT, add_note, on_slot_of
from workflow_runner._core.log import FLOW, RUN_ID, STEP, TRACE_ID
from workflow_runner._core.retry import retrying
from workflow_runner._core.signal import Signal, TimedOut, run_callbacks
from workflow_runner._core.status import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, ExecutionStatus
from workflow_runner.errors import Aborted, ExecutionCancelled, ExecutionTimeout

if TYPE_CHECKING:
    from workflow_runner._core.flow import Flow
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.slots import Work, Worker

Out = TypeVar("Out")


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


class Abort:
    """The controller of an execution's cancellation."""

    __slots__ = ("_execution",)

    def __init__(self, execution: FlowExecution[Any]) -> None:
        self._execution = execution

    def abort(self, reason: object = None) -> bool:
        """Cancel the execution; see `FlowExecution.cancel`."""
        return self._execution.cancel(reason)

    @property
    def signal(self) -> Signal:
        """The execution's signal."""
        return self._execution.ctx.signal


class ExecutionFuture(Future[Out]):
    """The execution as a ``concurrent.futures.Future``, for ``wait``, ``as_completed`` and ``asyncio.wrap_future``.

    Cancelling it cancels the execution. A cancelled execution is an *exception* of the future (`ExecutionCancelled`),
    so that its reason is kept and an asyncio task that awaits it does not look cancelled itself.
    """

    def __init__(self, execution: FlowExecution[Out]) -> None:
        super().__init__()
        self._execution = execution

    def cancel(self) -> bool:
        return self._execution.cancel()

    def running(self) -> bool:
        return self._execution.running()

    def add_done_callback(self, fn: Callable[[Future[Out]], object]) -> None:
        # not the base class's: its callbacks would run on the watchdog's thread at a deadline
        self._execution.add_done_callback(lambda _execution: fn(self))

    def settle(self) -> None:
        """Take over the result of the execution, which has ended."""
        if self._execution._error is not None:
            self.set_exception(self._execution._error)
        else:
            self.set_result(self._execution._value)


class FlowExecution(Task, Generic[Out]):
    """One execution of a flow: the handle that ``scope.exec`` returns. Every member may be used from any thread."""

    answered = False
    """Whether nothing runs: the run had ended before, and this handle answers with what was recorded."""
    _future: ExecutionFuture[Out] | None = None
    _subscribers: dict[Callable[[ExecutionStatus, FlowExecution[Out]], object], None] | None = None
    _done_callbacks: list[Callable[[FlowExecution[Out]], object]] | None = None
    _telling = False

    def __init__(self, ctx: FlowContext, flow: Flow[Any, Out], input: Any, timeout: float | None) -> None:
        super().__init__(ctx, timeout)
        self.flow = flow
        self.input = input
        self._followed = bool(self._scope._watchers)

    def _body(self) -> Any:
        ctx, flow, input = self.ctx, self.flow, self.input
        run_id = ctx.id
        ctx._trace_id = trace_id = flow.trace_id(input) or run_id
        RUN_ID.set(run_id)
        TRACE_ID.set(trace_id)
        if STEP.get() is not ...:  # a run inside a step of another one
            STEP.set(...)
        if flow.retry is None and not self._scope._wraps:
            CURRENT.set(ctx)
            FLOW.set(flow.name)
            try:
                return flow.handler(ctx, input)
            finally:
                if ctx._streams:
                    ctx._close_streams()

        def attempt(number: int) -> Any:
            ctx._attempt = number
            ctx.__dict__.pop("_names", None)  # the paths of every attempt are the same
            return ctx._wrapped("execution", partial(ctx._perform, flow, input), ctx._name, flow=flow, input=input)

        return retrying(attempt, flow.retry, lambda: ctx.signal)

    # -- what it is

    @property
    def id(self) -> str:
        """The run's id; the same as ``ctx.id``."""
        return self.ctx.id

    @property
    def flow_name(self) -> str:
        """The name of the flow."""
        return self.flow.name

    @property
    def status(self) -> ExecutionStatus:
        """Where it stands; terminal before `result` returns."""
        return self.ctx._status

    def done(self) -> bool:
        """Whether it has completed, failed or been cancelled."""
        return self.ctx._status.terminal

    def running(self) -> bool:
        """Whether its handler runs right now."""
        return self.ctx._status is RUNNING

    def cancelled(self) -> bool:
        """Whether it was cancelled, by somebody or by its deadline."""
        return self.ctx._status is CANCELLED

    # -- its outcome

    def result(self, timeout: float | None = None) -> Out:
        """Wait for the result.

        Called inside a flow of the same scope, while the execution still waits for a slot, it lends it the caller's.
        If the time is over first, both go on, and one slot less is given to what comes next.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: it has not ended in time (and goes on).
            ExecutionTimeout: its own deadline has passed.
            ExecutionCancelled: it was cancelled.
            BaseException: the handler's own exception object, with a note naming flow and run.
        """
        if not self.ctx._status.terminal:
            self._await(timeout)
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the traceback holds this frame
        value: Out = self._value
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end; what `result` would raise, or None.

        Args:
            timeout: seconds to wait; None for as long as it takes.

        Raises:
            TimeoutError: it has not ended in time.
        """
        self._await(timeout)
        return self._error

    def _await(self, timeout: float | None) -> None:
        slots, lent = self._scope._slots, None
        # a flow that waits for one that waits for a slot must not keep the slot: on one slot, that is for ever
        if self.ctx._status is PENDING and on_slot_of(self._scope) and slots.may_lend(timeout):
            lent = slots.lend(self) if slots.withdraw(self) else None
        if not self._wait(timeout):
            if lent is not None:
                slots.take_back(lent, self)
            raise TimeoutError(f"execution of flow {self.flow.name!r} has not ended after {timeout:g} s")

    @property
    def future(self) -> Future[Out]:
        """A real ``concurrent.futures.Future`` of this execution; always the same one."""
        with self._lock:
            if self._future is None:
                self._future = ExecutionFuture(self)
                self._future.set_running_or_notify_cancel()
                if self.ctx._status.terminal:
                    self._future.settle()
            return self._future

    def __await__(self) -> Generator[Any, None, Out]:
        """``await execution`` inside asyncio; cancelling the awaiting task cancels the execution."""
        import asyncio

        return asyncio.wrap_future(self.future).__await__()

    # -- cancelling

    def cancel(self, reason: object = None, *, grace: float | None = None) -> bool:
        """Tell the execution to stop.

        While it waits for a slot it is cancelled at once and its handler never runs. While it runs its signal is set,
        and it ends when the handler does, or ``grace`` seconds later: then waiters are released, and the thread is
        abandoned.

        Args:
            reason: anything; ``signal.reason`` and the error's ``reason``.
            grace: seconds, 0 or more; None waits for the handler.

        Returns:
            False if it had ended before.
        """
        if grace is not None:
            grace = seconds(grace, what="grace", zero=True)
        if self.ctx._status.terminal:
            return False
        callbacks = self.ctx.signal._abort(reason)
        if self.ctx._status is PENDING and self._settle(
            CANCELLED, None, cancelled_by(reason, self.ctx._name), only_from=PENDING
        ):
            self._scope._slots.withdraw(self)
        elif grace is not None:
            give_up = partial(self._expire, self.ctx.signal.reason)
            deadline = self._scope._watchdog.at(self._scope._clock.monotonic() + grace, give_up)
            with self._lock:
                self.ctx._cleanup += (partial(self._scope._watchdog.cancel, deadline),)
            if self.ctx._status.terminal:
                self._scope._watchdog.cancel(deadline)
        run_callbacks(callbacks)
        return True

    @property
    def abort(self) -> Abort:
        """A controller that can be handed to those who may only cancel: ``.abort(reason)``, ``.signal``."""
        return Abort(self)

    def throw_if_aborted(self) -> None:
        """Raise ``Aborted`` if the execution was told to stop."""
        self.ctx.throw_if_aborted()

    # -- following it

    def add_done_callback(self, fn: Callable[[FlowExecution[Out]], object]) -> None:
        """Call ``fn(execution)`` once when it has ended; at once if it has. What ``fn`` raises is logged.

        It is called from the thread that ends the execution, or from a spare one at a deadline.
        """
        with self._lock:
            if self.ctx._status.terminal:
                self._add_news([partial(fn, self)])
            else:
                self._followed = True
                self._done_callbacks = [*(self._done_callbacks or ()), fn]
        self._tell_news()

    def on_status_change(self, callback: Callable[[ExecutionStatus, FlowExecution[Out]], object]) -> Callable[[], None]:
        """Call ``callback(status, execution)`` for every change, once and in order.

        Subscribing after the end calls at once with the terminal status. The same callable registers once. What it
        raises is logged.

        Returns:
            A function that unsubscribes.
        """
        with self._lock:
            if self.ctx._status.terminal:
                self._add_news([partial(callback, self.ctx._status, self)])
            else:
                self._followed = True
                self._subscribers = {**(self._subscribers or {}), callback: None}
        self._tell_news()

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = {c: None for c in self._subscribers or () if c != callback}

        return unsubscribe

    def _settled(self) -> None:
        self._scope._live.pop(self, None)
        if self._future is not None:
            self._future.settle()

    def _note(self, error: BaseException) -> None:
        add_note(error, f"in flow {self.flow.name!r}, run {self.ctx.id}")

    def _enqueue_news(self, status: ExecutionStatus) -> None:
        self._add_news([partial(watch, self, status) for watch in self._scope._watchers])
        self._add_news([partial(callback, status, self) for callback in self._subscribers or ()])
        if status.terminal:
            self._add_news([partial(fn, self) for fn in self._done_callbacks or ()])
            self._done_callbacks = self._subscribers = None

    def _add_news(self, news: list[Callable[[], object]]) -> None:
        if self._news is None:
            self._news = deque()
        self._news.extend(news)

    def _tell_news(self) -> None:
        """Call everything that is queued, in order; while another thread is at it, that one does it."""
        with self._lock:
            if self._telling:
                return
            self._telling = True
        while True:
            with self._lock:
                if not self._news:
                    self._telling = False
                    return
                tell = self._news.popleft()
            try:
                run_callbacks([tell])
            except BaseException:  # an interrupt; the next to come here tells the rest
                self._telling = False
                raise

    def __repr__(self) -> str:
        return f"<FlowExecution {self.flow.name!r} {self.ctx._status} {self.ctx.id}>"
