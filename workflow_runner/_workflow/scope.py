"""The scope with a store: runs that survive their process.

A run is inserted before it starts, its outcomes are appended while it runs, and it is finished before its result is
given out. Resuming is running again with a journal that answers what was recorded.
"""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import attrs

from workflow_runner._core import codec, log
from workflow_runner._core import scope as core
from workflow_runner._core.clock import SYSTEM_CLOCK, Clock
from workflow_runner._core.context import ExecutionContext
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.extension import Extension
from workflow_runner._core.flow import Flow
from workflow_runner._core.journal import Journal, MemoryJournal
from workflow_runner._core.status import COMPLETED, PENDING, RUNNING
from workflow_runner._core.tags import Tagged
from workflow_runner._workflow.context import WorkflowContext, new_trace_id
from workflow_runner._workflow.durable import POLL, DurableExecution, FollowedExecution
from workflow_runner._workflow.journal import StoreJournal
from workflow_runner._workflow.lookup import find_flow
from workflow_runner._workflow.mapping import SecretDict
from workflow_runner._workflow.resume import (
    check_override,
    check_shape,
    checkpoint,
    error_text,
    new_run,
    outcome,
    paths_from,
)
from workflow_runner._workflow.supply import (
    by_name,
    from_environment,
    left_input,
    parted,
    root_of,
    same_place,
    supplied,
)
from workflow_runner._workflow.veil import Veil
from workflow_runner.errors import (
    IdempotencyConflict,
    RunOwned,
    ScopeClosed,
    StoreError,
)
from workflow_runner.store import open_store
from workflow_runner.store.base import RunRecord, StepRow, Store

# So long a scope that closes waits for the disk to take the end of a run that did not stop in time. Seconds.
LAST_RECORD = 10.0


class Scope(core.Scope):
    """Owns everything live: slots and threads, one watchdog, tags, extensions, a store. Nothing starts unneeded.

    Use it as a context manager, or `close` it. Leaving the block waits for what runs; leaving it by an interrupt
    (``KeyboardInterrupt``, ``SystemExit``) cancels it. Every member may be used from any thread, and in a forked child.

    Args:
        name: in logs and thread names.
        max_workers: how many executions make progress at once; default ``min(32, cores + 4)``.
        max_pending: how many more may wait; None for any number.
        max_abandoned: with so many abandoned threads new work is refused; default ``max(64, 4 * max_workers)``.
        tags: tagged values that every execution sees.
        extensions: the first is the outermost.
        store: where runs are recorded: a URL such as ``sqlite:///runs.db``, see `open_store`, or a store, which stays
            its owner's to close. None keeps runs in memory.
        timeout: seconds of running time for root executions that are given none.
        executors: name -> ``Executor``, or a function that makes one, for ``on=``.
        clock: what to measure time with.

    Raises:
        ValueError: a number makes no sense.
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        *,
        name: str = "scope",
        max_workers: int | None = None,
        max_pending: int | None = None,
        max_abandoned: int | None = None,
        tags: Iterable[Tagged[Any]] = (),
        extensions: Iterable[Extension] = (),
        store: str | Store | None = None,
        timeout: float | dt.timedelta | None = None,
        executors: Mapping[str, Executor | Callable[[], Executor]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.store = open_store(store) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self._records = self.store is not None
        self._polling = False
        # runs that a deadline has ended, while that is being recorded
        self._ending: dict[str, threading.Event] = {}
        try:
            super().__init__(
                name=name,
                max_workers=max_workers,
                max_pending=max_pending,
                max_abandoned=max_abandoned,
                tags=tags,
                extensions=extensions,
                timeout=timeout,
                executors=executors,
                clock=clock,
            )
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
            return super()._new(flow, input, timeout, tags, name, metadata, run_id, idempotency_key, durable)
        execution = super()._new(flow, input, timeout, tags, name, metadata, run_id, None, None)
        flow, input, ctx = execution.flow, execution.input, execution.ctx
        key = idempotency_key if idempotency_key is not None else getattr(input, "idempotency_key", None)
        run = new_run(ctx.id, flow, input, key, metadata)
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
        ctx._id, ctx._trace_id = record.run_id, record.trace_id
        if record.fence > 1:
            ctx._follows = record.run_id, record.trace_id or record.run_id
        durable: DurableExecution[Any] = DurableExecution(
            ctx, execution.flow, execution.input, execution._timeout, self.store, record.fence, self._ending
        )
        ctx.__dict__["_journal"] = journal = StoreJournal(
            self.store, record.run_id, record.fence, rows, self._time, self._call_later, lambda: ctx._attempt
        )
        if execution.flow._takes_secrets:
            journal.veil = Veil.over(root_of(execution.input))
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
            check_shape(execution.flow, record)
            input = execution.input
            if isinstance(input, WorkflowContext):  # the run's own capture_id and metadata, as in `resume`
                input, secret = left_input(execution.flow, record, self.store.steps)
                if secret:
                    sources = same_place(execution.input), from_environment
                    input = supplied(execution.flow, record.run_id, input, *sources)
            try:
                claimed = self.store.claim(record.run_id, record)
            except RunOwned:  # somebody else was quicker, and may have ended it
                record = self.store.run(record.run_id)
                continue
            try:
                execution.input = input
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
            execution._settle(COMPLETED, outcome(execution.flow, record), None)
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
        if not self._records:
            return super()._run_here(execution)
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
            params_override: params that win over everything recorded, from now on; recorded with the run. And secrets,
                which are not recorded, of flows that are no workflows too; one that is not given is taken from the
                environment: ``WORKFLOW_RUNNER_PARAM_PASSWORD`` for ``password``.
            flow: the flow, if it cannot be imported from where the run says.
            start_from: the name of a step: it and all recorded after it are made again.
            allow_changed: go on although the workflow's steps have changed.
            timeout: as for `exec`.
            wait: if another process executes it, return a handle that follows it instead of raising.

        Raises:
            RunNotFound: there is no such run.
            RunOwned: a living process executes it; names it.
            InputError: a param does not fit, or a secret is missing; nothing was run.
            JournalMismatch: what was recorded does not fit the code; nothing was run.
            StoreError: the scope has no store, or the flow cannot be found.
        """
        store = self._store_for("resume")
        self._await_end(run_id)
        record = store.run(run_id)
        if flow is None:
            flow = find_flow(record.target, record.flow, run_id)
        input, secret = left_input(flow, record, store.steps)
        secrets, params_override = parted(params_override, secret)
        anew = start_from is not None or bool(params_override)
        if record.status == "completed" and not anew:
            return self._ended(self._handle(flow, input), record)
        if secret:
            input = supplied(flow, run_id, input, by_name(secrets), from_environment)
        execution = super()._new(flow, input, timeout, (), None, None, run_id, None, None)
        # every check comes before the claim, which ends what the run was
        if not allow_changed:
            check_shape(flow, record)
        if params_override:
            check_override(flow, input, params_override)
        forgotten: list[str] = []
        if start_from is not None:
            begun = [path for path, *_ in store.attempts(run_id)]
            forgotten = paths_from(flow, start_from, store.steps(run_id), begun)
        try:
            if record.alive:  # by the time a claim looks it may have ended
                raise RunOwned(f"run {run_id} is being executed by {record.owner}")
            claimed = store.claim(run_id, record)
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
        self,
        run_id: str,
        *,
        from_step: str | None = None,
        reuse: bool = True,
        params_override: Mapping[str, Any] | None = None,
        flow: Flow[Any, Any] | None = None,
        timeout: float | dt.timedelta | None = None,
    ) -> FlowExecution[Any]:
        """Start a new run with the input of an ended one; it reuses that one's successes.

        Args:
            run_id: the old run, which stays as it is; the new one names it as its parent.
            from_step: the name of a step: it and all recorded after it are not reused.
            reuse: False: nothing is reused, everything runs again.
            params_override: as for `resume`.
            flow: as for `resume`.
            timeout: as for `exec`.

        Raises:
            RunNotFound: there is no such run.
            RunOwned: it is still being executed.
            InputError: as for `resume`.
            JournalMismatch: what was recorded does not fit the code; nothing was run.
        """
        store = self._store_for("retry")
        self._await_end(run_id)
        old = store.run(run_id)
        if old.alive:
            raise RunOwned(f"run {run_id} is still being executed by {old.owner}")
        if flow is None:
            flow = find_flow(old.target, old.flow, run_id)
        if reuse:
            check_shape(flow, old)
        input, secret = left_input(flow, old, store.steps if reuse else lambda _: ())
        secrets, params_override = parted(params_override, secret)
        if secret:
            input = supplied(flow, run_id, input, by_name(secrets), from_environment)
        if isinstance(input, WorkflowContext):
            input = input._evolved({"trace_id": new_trace_id()})
        execution = super()._new(flow, input, timeout, (), None, None, None, None, None)
        if params_override:
            check_override(flow, input, params_override)
        rows = [row for row in store.steps(run_id) if reuse and row.status != "failed"]
        if from_step is not None:
            dropped = set(paths_from(flow, from_step, rows))
            rows = [row for row in rows if row.path not in dropped]
        new = attrs.evolve(new_run(execution.id, flow, execution.input, None), parent=run_id, tags=old.tags)
        record, _ = store.submit(new)
        try:
            if rows:
                store.record(record.run_id, record.fence, rows)
            if old.overrides is not None:
                # they win over what is reused, and not over what is made anew
                last = max((row.seq for row in rows), default=0)
                given = [{**each, "seq": min(each["seq"], last)} for each in codec.loads(old.overrides)]
                store.override(record.run_id, record.fence, codec.dumps(given, where="params_override"))
            durable = self._resumed(execution, store.run(record.run_id), params_override, False)
            durable.ctx._follows = old.run_id, old.trace_id or old.run_id
        except BaseException as error:
            with suppress(StoreError):
                store.finish(record.run_id, record.fence, "cancelled", None, error_text(error))
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
            check_shape(execution.flow, record)
        rows = self.store.steps(record.run_id)
        # Each override wins over what had been recorded when it was given, and not over what came later.
        overrides = codec.loads(record.overrides) if record.overrides else []
        if params_override:
            params = SecretDict(params_override, execution.flow.secret_params)
            overrides.append({"seq": max((row.seq for row in rows), default=0), "params": params})
            self.store.override(record.run_id, record.fence, codec.dumps(overrides, where="params_override"))
        if isinstance(execution.input, WorkflowContext):
            context = attrs.evolve(execution.input, checkpoint=checkpoint(record.run_id, rows))
            for override in overrides:
                context = context.with_updates(override["params"])
            if codec.has_secret(record.overrides):
                context = supplied(execution.flow, record.run_id, context, same_place(execution.input))
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
        self._ending = {}

    def _close(self, grace: float | None, stop: core.Closing) -> None:
        super()._close(grace, stop)
        for recorded in list(self._ending.values()):  # handed back before the process ends, which may be right now
            recorded.wait(LAST_RECORD)
        if self.store is not None and self._owns_store:
            self.store.close()
