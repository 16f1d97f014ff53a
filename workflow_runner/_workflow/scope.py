"""The scope with a store: runs that survive their process.

A run is inserted before it starts, its outcomes are appended while it runs, and it is finished before its result is
given out. Resuming is running again with a journal that answers what was recorded.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from workflow_runner._core import codec, log
from workflow_runner._core import scope as core
from workflow_runner._core.context import ExecutionContext
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.flow import Arguments, Flow, FunctionFlow
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.journal import Journal, MemoryJournal
from workflow_runner._core.offload import import_path
from workflow_runner._core.status import CANCELLED, COMPLETED, PENDING, RUNNING
from workflow_runner._workflow.context import CheckpointState, WorkflowContext
from workflow_runner._workflow.definition import Workflow
from workflow_runner._workflow.journal import StoreJournal
from workflow_runner._workflow.lookup import find_flow, target_of
from workflow_runner._workflow.result import WorkflowResult, describe
from workflow_runner.errors import (
    ExecutionCancelled,
    IdempotencyConflict,
    JournalMismatch,
    OwnershipLost,
    RecordedFailure,
    RunOwned,
    StoreError,
)
from workflow_runner.store import open_store
from workflow_runner.store.base import NewRun, RunRecord, StepRow, Store

In = TypeVar("In")
Out = TypeVar("Out")

# How often a scope asks its store whether somebody wants one of its runs cancelled, and how often a handle that follows
# a run of another process looks whether it has ended. Seconds.
POLL = 0.25


class DurableExecution(FlowExecution[Out]):
    """An execution whose run is in a store. What it ends with is recorded before it is given out."""

    def __init__(
        self, ctx: FlowContext, flow: Flow[Any, Out], input: Any, timeout: float | None, store: Store, fence: int
    ) -> None:
        super().__init__(ctx, flow, input, timeout)
        self._store = store
        self._fence = fence
        # The handler has returned in time and its result is being recorded: no deadline can overtake it.
        self._committing = False

    def _body(self) -> Any:
        try:
            value = super()._body()
            text = _result_text(self.flow, value)
            with self._lock:
                if self.ctx._status.terminal:
                    return value  # too late: the deadline has ended the run
                self._committing = True
            self._store.finish(self.ctx.id, self._fence, "completed", text, None)
        except BaseException as error:
            self._committing = False
            if not self.ctx._status.terminal:
                self._record_end(error)
            raise
        return value

    def _record_end(self, error: BaseException) -> None:
        """Record that the run has not completed; a run whose scope is closing is handed back."""
        signal = self.ctx._set_signal()
        try:
            if isinstance(error, OwnershipLost):
                return
            if signal is None:
                self._store.finish(self.ctx.id, self._fence, "failed", None, _error_text(error))
            elif isinstance(signal.reason, core.Closing):
                self._store.release(self.ctx.id, self._fence)
            else:
                self._store.finish(self.ctx.id, self._fence, "cancelled", None, _error_text(error))
        except OwnershipLost:
            pass  # whoever has it now writes its end
        except StoreError as failure:
            log.error("run.not_recorded", failure, run_id=self.ctx.id)

    def _expire(self, reason: object) -> Any:
        with self._lock:
            if self._committing or self.ctx._status.terminal:
                return None
        later = super()._expire(reason)
        if self.ctx._status is CANCELLED:
            error = self._error or ExecutionCancelled(str(reason), reason=reason)
            self._scope._slots.spare(lambda: self._record_end(error))
        return later

    def cancel(self, reason: object = None, *, grace: float | None = None) -> bool:
        cancelled = super().cancel(reason, grace=grace)
        if cancelled and self._worker is None and self.ctx._status is CANCELLED:  # it never began
            self._record_end(self._error or ExecutionCancelled(reason=reason))
        return cancelled


class FollowedExecution(FlowExecution[Out]):
    """The handle of a run that another process executes: waits for its end and answers with its result."""

    def __init__(self, ctx: FlowContext, flow: Flow[Any, Out], input: Any, store: Store) -> None:
        super().__init__(ctx, flow, input, None)
        self._store = store

    def _body(self) -> Any:
        while True:
            run = self._store.run(self.ctx.id)
            if run.status not in ("running", "pending"):
                return _outcome(self.flow, run)
            if run.crashed or run.status == "pending":
                raise RecordedFailure(
                    f"run {run.run_id} of flow {run.flow!r} was left unfinished by {run.owner}; resume it"
                )
            self.ctx.sleep(POLL)

    def cancel(self, reason: object = None, *, grace: float | None = None) -> bool:
        """Ask the process that executes the run to cancel it, and stop following."""
        self._store.request_cancel(self.ctx.id, str(reason or ""))
        return super().cancel(reason, grace=grace)


class Scope(core.Scope):
    __doc__ = core.Scope.__doc__

    def __init__(self, *, store: str | Store | None = None, **options: Any) -> None:
        self.store = open_store(store) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self._records = self.store is not None
        self._polling = False
        super().__init__(**options)

    # -- starting

    def _new(
        self,
        flow: Any,
        input: Any,
        timeout: Any,
        tags: Any,
        name: str | None,
        metadata: Any,
        run_id: str | None,
        idempotency_key: str | None,
        durable: bool | None,
    ) -> FlowExecution[Any]:
        if self.store is None or durable is False:
            if idempotency_key is not None and durable is False:
                raise StoreError("idempotency_key needs a durable run")
            return super()._new(flow, input, timeout, tags, name, metadata, run_id, idempotency_key, None)
        execution = super()._new(flow, input, timeout, tags, name, metadata, run_id, None, None)
        flow, input, ctx = execution.flow, execution.input, execution.ctx
        key = idempotency_key if idempotency_key is not None else getattr(input, "idempotency_key", None)
        run = _new_run(ctx.id, flow, input, key)
        record, created = self.store.submit(run)
        if created:
            return self._durable_execution(execution, record, [])
        if record.input_hash != run.input_hash:
            raise IdempotencyConflict(
                f"key {key!r} of flow {flow.name!r} is that of run {record.run_id}, which has another input"
            )
        return self._attached(execution, record)

    def _durable_execution(
        self, execution: FlowExecution[Any], record: RunRecord, rows: list[StepRow]
    ) -> DurableExecution[Any]:
        """``execution`` as the one that executes ``record``."""
        assert self.store is not None
        ctx = execution.ctx
        ctx._id = record.run_id
        durable: DurableExecution[Any] = DurableExecution(
            ctx, execution.flow, execution.input, execution._timeout, self.store, record.fence
        )
        ctx.__dict__["_journal"] = StoreJournal(
            self.store, record.run_id, record.fence, rows, self._time, self._call_later
        )
        self._poll_for_cancels()
        return durable

    def _attached(self, execution: FlowExecution[Any], record: RunRecord) -> FlowExecution[Any]:
        """A second start under one key: the run that is there, whatever its state."""
        assert self.store is not None
        for live in self.executions:
            if live.id == record.run_id:
                return live
        while not record.alive:
            if record.status == "completed":
                return self._ended(execution, record)
            _check_shape(execution.flow, record)
            try:
                claimed = self.store.claim(record.run_id, record.fence)
            except RunOwned:  # somebody else was quicker, and may have ended it
                record = self.store.run(record.run_id)
                continue
            try:
                if isinstance(
                    execution.input, WorkflowContext
                ):  # the run's own capture_id and metadata, as in `resume`
                    execution.input = WorkflowContext.from_json(record.input)
                return self._resumed(execution, claimed, None, False)
            except BaseException:
                self.store.release(record.run_id, claimed.fence)
                raise
        return self._followed(execution, record)

    def _ended(self, execution: FlowExecution[Any], record: RunRecord) -> FlowExecution[Any]:
        execution.ctx._id = record.run_id
        execution.ctx._status = RUNNING
        execution.answered = True
        try:
            execution._settle(COMPLETED, _outcome(execution.flow, record), None)
        except Exception as error:
            execution._settle_error(error)
        return execution

    def _followed(self, execution: FlowExecution[Any], record: RunRecord) -> FlowExecution[Any]:
        assert self.store is not None
        execution.ctx._id = record.run_id
        return FollowedExecution(execution.ctx, execution.flow, execution.input, self.store)

    def _submit(self, execution: FlowExecution[Any]) -> None:
        if execution.ctx._status is not PENDING or execution in self._live:
            return  # a second start under one key
        if isinstance(execution, FollowedExecution):
            self._live[execution] = None
            self._slots.lend(execution)  # it only waits: no slot
            return
        super()._submit(execution)

    def _run_here(self, execution: FlowExecution[Any]) -> bool:
        if execution.ctx._status is not PENDING or execution in self._live or isinstance(execution, FollowedExecution):
            return False
        return super()._run_here(execution)

    def _refuse(self, execution: FlowExecution[Any]) -> None:
        super()._refuse(execution)
        if isinstance(execution, DurableExecution):  # it was inserted and cannot start here
            execution._store.release(execution.id, execution._fence)

    # -- going on

    def resume(
        self,
        run_id: str,
        *,
        params_override: Mapping[str, Any] | None = None,
        flow: Flow[Any, Any] | None = None,
        start_from: str | None = None,
        allow_changed: bool = False,
        timeout: float | dt.timedelta | None = None,
        wait: bool = False,
    ) -> FlowExecution[Any]:
        """Go on with a run: what was recorded is answered, the rest runs.

        A run that has completed answers with its result.

        Args:
            run_id: the run.
            params_override: params that win over everything recorded, from now on; recorded with the run.
            flow: the flow, if it cannot be imported from where the run says.
            start_from: the name of a step: it and all recorded after it are made again.
            allow_changed: go on although the workflow's steps have changed.
            timeout: as for `exec`.
            wait: if another process executes it, return a handle that follows it instead of raising.

        Raises:
            RunNotFound: there is no such run.
            RunOwned: a living process executes it; names it.
            JournalMismatch: what was recorded does not fit the code; nothing was run.
            StoreError: the scope has no store, or the flow cannot be found.
        """
        store = self._store_for("resume")
        record = store.run(run_id)
        if flow is None:
            flow = find_flow(record.target, record.flow, run_id)
        input = _recorded_input(flow, record)
        execution = super()._new(flow, input, timeout, (), None, None, run_id, None, None)
        if record.status == "completed" and start_from is None and params_override is None:
            ended = self._ended(execution, record)
            return ended
        if not allow_changed:
            _check_shape(flow, record)
        try:
            claimed = store.claim(run_id, record.fence)
        except RunOwned:
            record = store.run(run_id)
            if record.status == "completed" and start_from is None and params_override is None:
                return self._ended(execution, record)  # by one who was quicker
            if not wait:
                raise
            following = self._attached(execution, record)
            self._submit(following)
            return following
        try:
            if start_from is not None:
                store.forget(run_id, claimed.fence, _paths_from(flow, start_from, store.steps(run_id)))
            resumed = self._resumed(execution, claimed, params_override, allow_changed)
        except BaseException:
            store.release(run_id, claimed.fence)
            raise
        self._submit(resumed)
        return resumed

    def retry(
        self, run_id: str, *, from_step: str | None = None, flow: Flow[Any, Any] | None = None
    ) -> FlowExecution[Any]:
        """Start a new run with the input of an ended one; it reuses that one's successes.

        Args:
            run_id: the old run, which stays as it is; the new one names it as its parent.
            from_step: the name of a step: it and all recorded after it are not reused.
            flow: as for `resume`.

        Raises:
            RunNotFound: there is no such run.
            RunOwned: it is still being executed.
            JournalMismatch: what was recorded does not fit the code; nothing was run.
        """
        store = self._store_for("retry")
        old = store.run(run_id)
        if old.alive:
            raise RunOwned(f"run {run_id} is still being executed by {old.owner}")
        if flow is None:
            flow = find_flow(old.target, old.flow, run_id)
        _check_shape(flow, old)
        execution = super()._new(flow, _recorded_input(flow, old), None, (), None, None, None, None, None)
        rows = [row for row in store.steps(run_id) if row.status == "completed"]
        if from_step is not None:
            dropped = set(_paths_from(flow, from_step, rows))
            rows = [row for row in rows if row.path not in dropped]
        new = attrs.evolve(_new_run(execution.id, flow, execution.input, None), parent=run_id)
        record, _ = store.submit(new)
        if rows:
            store.record(record.run_id, record.fence, rows)
        durable = self._resumed(execution, record, None, False)
        self._submit(durable)
        return durable

    def _resumed(
        self,
        execution: FlowExecution[Any],
        record: RunRecord,
        params_override: Mapping[str, Any] | None,
        allow_changed: bool,
    ) -> DurableExecution[Any]:
        assert self.store is not None
        if not allow_changed:
            _check_shape(execution.flow, record)
        rows = self.store.steps(record.run_id)
        # Each override wins over what had been recorded when it was given, and not over what came later.
        overrides = codec.loads(record.overrides) if record.overrides else []
        if params_override:
            overrides.append({"seq": max((row.seq for row in rows), default=0), "params": dict(params_override)})
            self.store.override(record.run_id, record.fence, codec.dumps(overrides, where="params_override"))
        if isinstance(execution.input, WorkflowContext):
            context = attrs.evolve(execution.input, checkpoint=_checkpoint(record.run_id, rows))
            for override in overrides:
                context = context.with_updates(override["params"])
            execution.input = context
        durable = self._durable_execution(execution, record, rows)
        durable.ctx.__dict__["_journal"].overrides = overrides
        return durable

    # -- the machinery

    def _store_for(self, verb: str) -> Store:
        if self.store is None:
            raise StoreError(f"{verb} needs a scope with a store")
        return self.store

    def _journal_of(self, root: ExecutionContext) -> Journal:
        journal = root.__dict__.get("_journal")
        if journal is None:
            journal = root.__dict__.setdefault("_journal", MemoryJournal())
        return journal  # type: ignore[no-any-return]

    def _call_later(self, seconds: float, work: Any) -> None:
        self._watchdog.at(self._clock.monotonic() + seconds, lambda: self._slots.spare(work))

    def _poll_for_cancels(self) -> None:
        """While durable runs are live, ask the store every now and then."""
        if not self._polling:
            self._polling = True
            self._call_later(POLL, self._look_for_cancels)

    def _look_for_cancels(self) -> None:
        self._polling = False
        live = {e.id: e for e in self.executions if isinstance(e, DurableExecution)}
        if not live or self.store is None:
            return
        try:
            for run_id, reason in self.store.cancel_requests(list(live)).items():
                live[run_id].cancel(reason or "cancelled through the store")
        except StoreError as error:
            log.error("store.failed", error, scope=self.name)
        self._poll_for_cancels()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._polling = False  # the watchdog that was asked to look for cancels is the parent's

    def close(
        self, *, cancel: bool = False, timeout: float | dt.timedelta | None = None, reason: str | None = None
    ) -> None:
        super().close(cancel=cancel, timeout=timeout, reason=reason)
        if self.store is not None and self._owns_store:
            self.store.close()


def _new_run(run_id: str, flow: Flow[Any, Any], input: Any, key: str | None) -> NewRun:
    where = f"the input of flow {flow.name!r}"
    batch_id = partition = as_of = None
    identity: Any = input
    if isinstance(input, WorkflowContext):
        batch_id, partition, as_of = input.batch_id, input.partition, input.as_of_date
        identity = (dict(input.params), partition.to_dict() if partition is not None else None, as_of)
        text = input.to_json()
    else:
        identity = _plain(input)
        text = codec.dumps(identity, where=where)
    return NewRun(
        run_id=run_id,
        flow=flow.name,
        target=import_path(input.function) if isinstance(flow, FunctionFlow) else target_of(flow),
        version=flow.version,
        shape=json.dumps(flow.step_names) if isinstance(flow, Workflow) else None,
        idem_key=key,
        input=text,
        input_hash=codec.digest(identity, where=where),
        batch_id=batch_id,
        partition=None if partition is None else str(partition),
        as_of=None if as_of is None else as_of.isoformat(),
        trace_id=flow.trace_id(input),
    )


def _plain(input: Any) -> Any:
    return (input.args, input.kwargs) if isinstance(input, Arguments) else input


def _recorded_input(flow: Flow[Any, Any], record: RunRecord) -> Any:
    if isinstance(flow, Workflow):
        return WorkflowContext.from_json(record.input)
    return codec.loads(record.input)


def _result_text(flow: Flow[Any, Any], value: Any) -> str:
    if isinstance(value, WorkflowResult):
        return json.dumps(value.to_dict(), allow_nan=False)
    return codec.dumps(value, where=f"the result of flow {flow.name!r}")


def _error_text(error: BaseException) -> str:
    return json.dumps(describe(error))


def _outcome(flow: Flow[Any, Any], record: RunRecord) -> Any:
    """What a run that has ended elsewhere, or before, has ended with."""
    if record.status == "completed":
        text = record.result or "null"
        return WorkflowResult.from_dict(json.loads(text)) if isinstance(flow, Workflow) else codec.loads(text)
    error = json.loads(record.error or "null") or {}
    message = (
        f"run {record.run_id} of flow {record.flow!r} {record.status}: {error.get('type')}: {error.get('message')}"
    )
    if record.status == "cancelled":
        raise ExecutionCancelled(message)
    raise RecordedFailure(message)


def _check_shape(flow: Flow[Any, Any], record: RunRecord) -> None:
    """A step added at the end fits; inserted, renamed, removed or reordered ones do not."""
    if record.shape is None or not isinstance(flow, Workflow):
        return
    recorded, now = list(json.loads(record.shape)), list(flow.step_names)
    if now[: len(recorded)] != recorded:
        raise JournalMismatch(
            f"run {record.run_id}: the steps of workflow {flow.name!r} have changed."
            f"\n  recorded: {', '.join(recorded)}\n  now:      {', '.join(now)}"
            "\nGo on with allow_changed=True if what is recorded still holds."
        )


def _paths_from(flow: Flow[Any, Any], step: str, rows: Sequence[StepRow]) -> list[str]:
    """The paths of ``step``, of everything below it, and of everything recorded after its first row."""
    if isinstance(flow, Workflow) and step not in flow.step_names:
        raise JournalMismatch(f"workflow {flow.name!r} has no step {step!r}; there are {', '.join(flow.step_names)}")
    first = min((row.seq for row in rows if step in row.path.split("/")), default=None)
    if first is not None:
        return [row.path for row in rows if row.seq >= first]
    order = list(flow.step_names) if isinstance(flow, Workflow) else []
    later = set(order[order.index(step) :]) if step in order else set()
    return [row.path for row in rows if later & set(row.path.split("/"))]


def _checkpoint(run_id: str, rows: list[StepRow]) -> CheckpointState | None:
    steps = [row for row in rows if row.kind == "step"]
    if not steps:
        return None
    return CheckpointState(
        run_id=run_id,
        step_name=steps[-1].path.rsplit("/", 1)[-1],
        completed_steps=tuple(row.path.rsplit("/", 1)[-1] for row in steps),
        created_at=dt.datetime.fromtimestamp(steps[-1].finished_at, dt.UTC),
    )
