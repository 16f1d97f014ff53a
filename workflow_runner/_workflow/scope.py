"""The scope with a store: runs that survive their process.

A run is inserted before it starts, its outcomes are appended while it runs, and it is finished before its result is
given out. Resuming is running again with a journal that answers what was recorded.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import attrs

from workflow_runner._core import codec, log
from workflow_runner._core import scope as core
from workflow_runner._core.context import ExecutionContext
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.flow import Arguments, Flow, FunctionFlow
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.journal import Journal, MemoryJournal
from workflow_runner._core.offload import find, import_path
from workflow_runner._core.status import CANCELLED, COMPLETED, PENDING, RUNNING
from workflow_runner._workflow.context import CheckpointState, WorkflowContext
from workflow_runner._workflow.definition import Step, Workflow
from workflow_runner._workflow.journal import StoreJournal, check_size, stored
from workflow_runner._workflow.lookup import find_flow, target_of
from workflow_runner._workflow.result import WorkflowResult, describe
from workflow_runner.errors import (
    Aborted,
    DefinitionError,
    ExecutionCancelled,
    IdempotencyConflict,
    InputError,
    JournalMismatch,
    OwnershipLost,
    RecordedFailure,
    RunOwned,
    ScopeClosed,
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

    def _body(self) -> Any:
        try:
            value = super()._body()
            text = _result_text(self.flow, value)
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
                self._store.finish(self.ctx.id, self._fence, "failed", None, _error_text(error))
            elif signal is not None and isinstance(signal.reason, core.Closing):
                self._store.release(self.ctx.id, self._fence)
            else:
                self._store.finish(self.ctx.id, self._fence, "cancelled", None, _error_text(error))
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
                self._store.finish(self.ctx.id, self._fence, "cancelled", None, _error_text(error))
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
        """Ask the process that executes the run to cancel it, and stop following; a closing scope only does that."""
        if not isinstance(reason, core.Closing):
            self._store.request_cancel(self.ctx.id, str(reason or ""))
        return super().cancel(reason, grace=grace)

    def _settle_error(self, error: BaseException) -> bool:
        if isinstance(error, ExecutionCancelled):  # the run was: so is this
            return self._settle(CANCELLED, None, error)
        return super()._settle_error(error)


class Scope(core.Scope):
    __doc__ = core.Scope.__doc__

    def __init__(self, *, store: str | Store | None = None, **options: Any) -> None:
        self.store = open_store(store) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self._records = self.store is not None
        self._polling = False
        # runs that a deadline has ended, while that is being recorded
        self._ending: dict[str, threading.Event] = {}
        try:
            super().__init__(**options)
        except BaseException:
            if self.store is not None and self._owns_store:
                self.store.close()
            raise

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
            ctx, execution.flow, execution.input, execution._timeout, self.store, record.fence, self._ending
        )
        ctx.__dict__["_journal"] = StoreJournal(
            self.store, record.run_id, record.fence, rows, self._time, self._call_later, lambda: ctx._attempt
        )
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
        self._live[execution] = None
        if isinstance(execution, FollowedExecution):
            try:
                self._slots.lend(execution)  # it only waits: no slot
            except BaseException:
                self._refuse(execution)
                raise
            return
        self._poll_for_cancels()
        super()._submit(execution)

    def _run_here(self, execution: FlowExecution[Any]) -> bool:
        if execution.ctx._status is not PENDING or execution in self._live or isinstance(execution, FollowedExecution):
            return False
        self._live[execution] = None
        self._poll_for_cancels()
        return super()._run_here(execution)

    def _refuse(self, execution: FlowExecution[Any]) -> None:
        super()._refuse(execution)
        if isinstance(execution, DurableExecution):
            execution._hand_back(sys.exception() or ScopeClosed("refused"))

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
        self._await_end(run_id)
        record = store.run(run_id)
        if flow is None:
            flow = find_flow(record.target, record.flow, run_id)
        input = _recorded_input(flow, record)
        execution = super()._new(flow, input, timeout, (), None, None, run_id, None, None)
        anew = start_from is not None or bool(params_override)
        if record.status == "completed" and not anew:
            return self._ended(execution, record)
        # every check comes before the claim, which ends what the run was
        if not allow_changed:
            _check_shape(flow, record)
        if params_override:
            _check_override(flow, input, params_override)
        forgotten: list[str] = []
        if start_from is not None:
            begun = [path for path, *_ in store.attempts(run_id)]
            forgotten = _paths_from(flow, start_from, store.steps(run_id), begun)
        try:
            if record.alive:  # by the time a claim looks it may have ended
                raise RunOwned(f"run {run_id} is being executed by {record.owner}")
            claimed = store.claim(run_id, record.fence)
        except RunOwned:
            record = store.run(run_id)
            if record.status == "completed" and not anew:
                return self._ended(execution, record)  # by one who was quicker
            if not wait:
                raise
            following = self._attached(execution, record)
            self._submit(following)
            return following
        try:
            if forgotten:
                store.forget(run_id, claimed.fence, forgotten)
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
        self._await_end(run_id)
        old = store.run(run_id)
        if old.alive:
            raise RunOwned(f"run {run_id} is still being executed by {old.owner}")
        if flow is None:
            flow = find_flow(old.target, old.flow, run_id)
        _check_shape(flow, old)
        execution = super()._new(flow, _recorded_input(flow, old), None, (), None, None, None, None, None)
        rows = [row for row in store.steps(run_id) if row.status != "failed"]
        if from_step is not None:
            dropped = set(_paths_from(flow, from_step, rows))
            rows = [row for row in rows if row.path not in dropped]
        new = attrs.evolve(_new_run(execution.id, flow, execution.input, None), parent=run_id)
        record, _ = store.submit(new)
        try:
            if rows:
                store.record(record.run_id, record.fence, rows)
            if old.overrides is not None:
                store.override(record.run_id, record.fence, old.overrides)
            durable = self._resumed(execution, store.run(record.run_id), None, False)
        except BaseException as error:
            with suppress(StoreError):
                store.finish(record.run_id, record.fence, "cancelled", None, _error_text(error))
            raise
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
            execution.input = execution.flow.prepare(context)
        durable = self._durable_execution(execution, record, rows)
        durable.ctx.__dict__["_journal"].overrides = overrides
        return durable

    # -- the machinery

    def _store_for(self, verb: str) -> Store:
        if self.store is None:
            raise StoreError(f"{verb} needs a scope with a store")
        return self.store

    def _await_end(self, run_id: str) -> None:
        """Wait until the end that a deadline has made of this run is recorded."""
        recorded = self._ending.get(run_id)
        if recorded is not None:
            recorded.wait()

    def _journal_of(self, root: ExecutionContext) -> Journal:
        journal = root.__dict__.get("_journal")
        if journal is None:
            journal = root.__dict__.setdefault("_journal", MemoryJournal())
        return journal  # type: ignore[no-any-return]

    def _call_later(self, seconds: float, work: Any) -> None:
        self._watchdog.at(self._clock.monotonic() + seconds, lambda: self._slots.spare(work))

    def _poll_for_cancels(self) -> None:
        """While durable runs are live, ask the store every now and then. Called when there is one, and not before."""
        if self._records and not self._polling:
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

    def _close(self, grace: float | None, stop: core.Closing) -> None:
        super()._close(grace, stop)
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
    check_size(text, where)
    return NewRun(
        run_id=run_id,
        flow=flow.name,
        target=_target(flow, input),
        version=flow.version,
        shape=json.dumps(_shape(flow.steps)) if isinstance(flow, Workflow) else None,
        idem_key=key,
        input=text,
        input_hash=codec.digest(identity, where=where),
        batch_id=batch_id,
        partition=None if partition is None else str(partition),
        as_of=None if as_of is None else as_of.isoformat(),
        trace_id=flow.trace_id(input),
    )


def _target(flow: Flow[Any, Any], input: Any) -> str | None:
    if not isinstance(flow, FunctionFlow):
        return target_of(flow)
    try:
        return import_path(input.function)
    except DefinitionError:  # a function of a function, or a method: nobody can find it by a path
        return None


def _plain(input: Any) -> Any:
    return (input.args, input.kwargs) if isinstance(input, Arguments) else input


def _recorded_input(flow: Flow[Any, Any], record: RunRecord) -> Any:
    if isinstance(flow, Workflow):
        return WorkflowContext.from_json(record.input)
    input = codec.loads(record.input)
    if isinstance(flow, FunctionFlow) and record.target is not None:
        return Arguments(find(record.target), *input)
    return input


def _result_text(flow: Flow[Any, Any], value: Any) -> str:
    if isinstance(value, WorkflowResult):
        return json.dumps(value.to_dict(), allow_nan=False)
    return stored(value, f"the result of flow {flow.name!r}")


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


def _shape(steps: Iterable[Step], above: str = "") -> list[str]:
    """The names of all steps, in order; those of a workflow inside a step below the name of that step."""
    names = []
    for step in steps:
        names.append(above + step.name)
        for _, branch in step.branches():
            names += _shape(branch, above)
        if isinstance(step.body, Workflow):
            names += _shape(step.body.steps, f"{above}{step.name}/")
    return names


def _levels(shape: Iterable[str]) -> dict[str, list[str]]:
    levels: dict[str, list[str]] = {}
    for name in shape:
        levels.setdefault(name.rpartition("/")[0], []).append(name)
    return levels


def _check_shape(flow: Flow[Any, Any], record: RunRecord) -> None:
    """A step added at the end of its workflow fits; inserted, renamed, removed or reordered ones do not."""
    if flow.name != record.flow:
        raise JournalMismatch(f"run {record.run_id} is one of flow {record.flow!r}, and this is flow {flow.name!r}")
    if record.shape is None or not isinstance(flow, Workflow):
        return
    recorded, now = list(json.loads(record.shape)), _shape(flow.steps)
    levels = _levels(now)
    if any(levels.get(above, [])[: len(names)] != names for above, names in _levels(recorded).items()):
        raise JournalMismatch(
            f"run {record.run_id}: the steps of workflow {flow.name!r} have changed."
            f"\n  recorded: {', '.join(recorded)}\n  now:      {', '.join(now)}"
            "\nGo on with allow_changed=True if what is recorded still holds."
        )


def _check_override(flow: Flow[Any, Any], input: Any, params: Mapping[str, Any]) -> None:
    if not isinstance(input, WorkflowContext):
        raise InputError(f"flow {flow.name!r} is no workflow and has no params to override")
    codec.dumps(dict(params), where="params_override")
    flow.prepare(input.with_updates(params))


def _paths_from(flow: Flow[Any, Any], start: str, rows: Sequence[StepRow], begun: Iterable[str] = ()) -> list[str]:
    """The paths of a step (of a flow: of a child), of all below it, and of all that was recorded after its first row.

    Args:
        begun: paths that were noted when they began; those of the step are among the answer.
    """
    places = _places(flow.steps) if isinstance(flow, Workflow) else {start: start}
    if start not in places:
        raise JournalMismatch(f"workflow {flow.name!r} has no step {start!r}; there are {', '.join(places)}")
    noted = [path for path in begun if _inside(path, places[start])]
    first = min((row.seq for row in rows if _inside(row.path, places[start])), default=None)
    if first is not None:
        return [*noted, *(row.path for row in rows if row.seq >= first)]
    if not isinstance(flow, Workflow):
        raise JournalMismatch(f"flow {flow.name!r} has recorded nothing at {start!r}")
    later = list(places.values())[list(places).index(start) :]
    return [*noted, *(row.path for row in rows if any(_inside(row.path, place) for place in later))]


def _places(steps: Iterable[Step], above: str = "") -> dict[str, str]:
    """The path of every step by its name: those of a branch stand below the choice."""
    places = {}
    for step in steps:
        places[step.name] = above + step.name
        for _, branch in step.branches():
            places |= _places(branch, f"{above}{step.name}/")
    return places


def _inside(path: str, place: str) -> bool:
    return path == place or path.startswith((f"{place}/", f"{place}["))


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
