"""FlowExecution: the handle of one execution, and the ways to follow and cancel it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from workflow_runner._core import log, secrets
from workflow_runner._core.clock import seconds
from workflow_runner._core.context import CURRENT, add_note, on_slot_of
from workflow_runner._core.log import FLOW, LOGGER, RUN_ID, STEP, TRACE_ID
from workflow_runner._core.retry import retrying
from workflow_runner._core.signal import Signal, run_callbacks
from workflow_runner._core.status import CANCELLED, PENDING, RUNNING, ExecutionStatus
from workflow_runner._core.task import Task, cancelled_by
from workflow_runner._core.traceparent import JOINED, current_trace_id

if TYPE_CHECKING:
    from workflow_runner._core.flow import Flow
    from workflow_runner._core.flow_context import FlowContext

Out = TypeVar("Out")


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
    # what the log says of its beginning and its end; None: by its status
    _begins = "run.started"
    _ends: str | None = None
    _future: ExecutionFuture[Out] | None = None
    _subscribers: dict[Callable[[ExecutionStatus, FlowExecution[Out]], object], None] | None = None
    _done_callbacks: list[Callable[[FlowExecution[Out]], object]] | None = None
    _telling = False

    def __init__(self, ctx: FlowContext, flow: Flow[Any, Out], input: Any, timeout: float | None) -> None:
        super().__init__(ctx, timeout)
        self.flow = flow
        self.input = input
        self._followed = bool(self._scope._watchers) or LOGGER.isEnabledFor(logging.INFO)

    def _body(self) -> Any:
        ctx, flow, input = self.ctx, self.flow, self.input
        run_id = ctx.id
        if flow._takes_secrets:
            secrets.hold(ctx, *(secret for _, secret in secrets.secrets_in(input)))
        wraps = self._scope._wraps["execution"]
        trace_id = flow.trace_id(input) or ctx._trace_id
        if trace_id is None and (wraps or JOINED.get() is not None):  # asking a tracer takes a microsecond
            trace_id = current_trace_id()
        ctx._trace_id = trace_id = trace_id or run_id
        RUN_ID.set(run_id)
        TRACE_ID.set(trace_id)
        if STEP.get() is not ...:  # a run inside a step of another one
            STEP.set(...)
        if flow.retry is None and not wraps:
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
        if LOGGER.isEnabledFor(logging.INFO):
            self._add_news([partial(self._log, status)])
        self._add_news([partial(watch, self, status) for watch in self._scope._watchers])
        self._add_news([partial(callback, status, self) for callback in self._subscribers or ()])
        if status.terminal:
            self._add_news([partial(fn, self) for fn in self._done_callbacks or ()])
            self._done_callbacks = self._subscribers = None

    def _log(self, status: ExecutionStatus) -> None:
        ctx = self.ctx
        fields: dict[str, Any] = {"run_id": ctx.id, "flow": self.flow.name}
        if status is RUNNING:
            log.info(self._begins, **fields)
            return
        if ctx._started is not None and ctx._ended is not None:
            fields["seconds"] = round(ctx._ended - ctx._started, 6)
        if self._error is not None:
            fields["error"] = repr(self._error)
        log.info(self._ends or ("run.answered" if self.answered else f"run.{status}"), **fields)

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
