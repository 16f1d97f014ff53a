"""Executions whose runs are in a store: those that run here, and those that follow a run of another process."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

from workflow_runner._core import log
from workflow_runner._core import scope as core
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.flow import Flow
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.status import CANCELLED
from workflow_runner._workflow.resume import error_text, outcome, result_text
from workflow_runner.errors import (
    Aborted,
    ExecutionCancelled,
    OwnershipLost,
    RecordedFailure,
    StoreError,
)
from workflow_runner.store.base import Store

Out = TypeVar("Out")

# How often a scope asks its store whether somebody wants one of its runs cancelled, and how often a handle that follows
# a run of another process looks whether it has ended. Seconds.
POLL = 0.25


class DurableExecution(FlowExecution[Out]):
    """An execution whose run is in a store. What it ends with is recorded before it is given out."""

    def __init__(
        self,
        ctx: FlowContext,
        flow: Flow[Any, Out],
        input: Any,
        timeout: float | None,
        store: Store,
        fence: int,
        ending: dict[str, threading.Event],
    ) -> None:
        super().__init__(ctx, flow, input, timeout)
        self._store = store
        self._fence = fence
        # Decides between the end of the handler and a deadline; whoever comes first has its end recorded.
        self._deciding = threading.Lock()
        self._in_time = False
        # the scope's
        self._ending = ending
        if fence > 1:
            self._begins = "run.resumed"

    def _body(self) -> Any:
        try:
            value = super()._body()
            text = self.ctx.__dict__["_journal"].veil.hide(result_text(self.flow, value))
            if self._ends_in_time():
                self._store.finish(self.ctx.id, self._fence, "completed", text, None)
        except BaseException as error:
            if self._ends_in_time():
                self._record_end(error)
            raise
        return value

    def _ends_in_time(self) -> bool:
        """Whether no deadline has ended the run; from now on none can."""
        with self._deciding:
            self._in_time = self._in_time or not self.ctx._status.terminal
            return self._in_time

    def _record_end(self, error: BaseException) -> None:
        """Record that the run has not completed; a run whose scope is closing is handed back."""
        signal = self.ctx._set_signal()
        try:
            if isinstance(error, OwnershipLost):
                return
            if signal is None and not isinstance(error, Aborted):
                self._store.finish(self.ctx.id, self._fence, "failed", None, error_text(error))
            elif signal is not None and isinstance(signal.reason, core.Closing):
                self._store.release(self.ctx.id, self._fence)
            else:
                self._store.finish(self.ctx.id, self._fence, "cancelled", None, error_text(error))
        except OwnershipLost:
            pass  # whoever has it now writes its end
        except StoreError as failure:
            log.error("run.not_recorded", failure, run_id=self.ctx.id)

    def _expire(self, reason: object) -> Any:
        with self._deciding:
            if self._in_time or self.ctx._status.terminal:
                return None
            self._ending[self.ctx.id] = threading.Event()
            later = super()._expire(reason)
        self._scope._slots.spare(self._record_deadline)
        return later

    def _record_deadline(self) -> None:
        try:
            self.ctx.__dict__["_journal"].close()
            self._record_end(self._error or ExecutionCancelled())
        finally:
            self._ending.pop(self.ctx.id).set()

    def _hand_back(self, error: BaseException) -> None:
        """Record that the run could not be started here: one that is new will never run."""
        try:
            if self._fence == 1:
                self._store.finish(self.ctx.id, self._fence, "cancelled", None, error_text(error))
            else:
                self._store.release(self.ctx.id, self._fence)
        except StoreError as failure:
            log.error("run.not_recorded", failure, run_id=self.ctx.id)

    def cancel(self, reason: object = None, *, grace: float | None = None) -> bool:
        cancelled = super().cancel(reason, grace=grace)
        if cancelled and self._worker is None and self.ctx._status is CANCELLED:  # it never began
            self._record_end(self._error or ExecutionCancelled(reason=reason))
        return cancelled


class FollowedExecution(FlowExecution[Out]):
    """The handle of a run that another process executes: waits for its end and answers with its result."""

    _begins = "run.followed"
    _ends = "run.answered"

    def __init__(self, ctx: FlowContext, flow: Flow[Any, Out], input: Any, store: Store) -> None:
        super().__init__(ctx, flow, input, None)
        self._store = store

    def _body(self) -> Any:
        while True:
            run = self._store.run(self.ctx.id)
            if run.status not in ("running", "pending"):
                return outcome(self.flow, run)
            if run.crashed or run.status == "pending":
                raise RecordedFailure(
                    f"run {run.run_id} of flow {run.flow!r} was left unfinished by {run.owner}; resume it"
                )
            self.ctx.sleep(POLL)

    def cancel(self, reason: object = None, *, grace: float | None = None) -> bool:
        """Ask the process that executes the run to cancel it, and stop following; a closing scope only does that."""
        if not isinstance(reason, core.Closing):
            self._store.request_cancel(self.ctx.id, str(reason or ""))
        return super().cancel(reason, grace=grace)

    def _settle_error(self, error: BaseException) -> bool:
        if isinstance(error, ExecutionCancelled):  # the run was: so is this
            return self._settle(CANCELLED, None, error)
        return super()._settle_error(error)
