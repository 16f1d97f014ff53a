"""Runs a workflow: its steps in a row, or side by side as their needs allow.

A step gets a context and gives what it adds to it; contexts are only ever replaced. In a row each addition goes into
the context of the next step. In a DAG a step's context is folded from the additions of its ancestors, in one fixed
order, so that every order of finishing gives the same context.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from workflow_runner._core import codec, log
from workflow_runner._core.context import moment
from workflow_runner._core.fanout import FanOut
from workflow_runner._core.secrets import REDACTED, hold, shielded
from workflow_runner._workflow.context import ErrorCategory, QualityMetrics, StepResult, WorkflowContext
from workflow_runner._workflow.dag import Addition, Dag, add
from workflow_runner._workflow.graph import Graph, Inner, Node
from workflow_runner._workflow.journal import StoreJournal, check_size, stored
from workflow_runner._workflow.result import (
    NO_RECORDS,
    StepRecord,
    StepRecords,
    StepStatus,
    WorkflowResult,
    WorkflowStatus,
    in_order,
)
from workflow_runner.errors import (
    Aborted,
    ExecutionCancelled,
    InputError,
    MergeConflict,
    OwnershipLost,
    StepFailed,
    WorkflowFailed,
)

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner.store.base import StepRow


NO_SECRETS: frozenset[str] = frozenset()


class Run:
    """What is noted while one workflow runs. Steps that run side by side write under different keys."""

    def __init__(self, ctx: FlowContext, names: tuple[str, ...]) -> None:
        ctx._steps = self
        self.names = names
        # the step that was begun last
        self.latest: str | None = None
        # whether anybody wants to read of its steps
        self.told = log.LOGGER.isEnabledFor(logging.INFO)
        recorder = ctx._recorder
        self.journal = recorder if isinstance(recorder, StoreJournal) else None
        self.records: dict[str, StepRecord] = {}
        self.partial = False
        # as it was before the step that has stopped the workflow
        self.stopped_at: WorkflowContext | None = None

    def where(self, graph: Graph, error: BaseException | None) -> str | None:
        """The step that has failed with ``error``: the innermost, since a choice fails with its branch's."""
        failed = [name for name in graph.names if name in self.records and self.records[name].error is error]
        return failed[-1] if failed and error is not None else None

    def skip(self, names: Iterable[str], reason: str) -> None:
        for name in names:
            self.records[name] = StepRecord(name=name, status=StepStatus.SKIPPED, reason=reason)


def execute(ctx: FlowContext, graph: Graph, name: str, context: WorkflowContext) -> WorkflowResult:
    """Run a workflow in ``ctx``.

    Raises:
        WorkflowFailed: a step has failed and stopped it; its error is the cause.
        Aborted: it was told to stop.
    """
    clock = ctx._scope._clock
    began, started_at = clock.monotonic(), moment(ctx._scope._time())
    assert started_at is not None
    context = context._evolved({"run_id": ctx.run_id})
    run = Run(ctx, graph.names)

    def result(status: WorkflowStatus, context: WorkflowContext, error: Exception | None = None) -> WorkflowResult:
        return WorkflowResult(
            status=status,
            context=context,
            steps=in_order(graph.names, run.records),
            started_at=started_at,
            duration=clock.monotonic() - began,
            error=error,
            error_step=run.where(graph, error),
        )

    try:
        after = _run_level(run, ctx, graph, context)
    except OwnershipLost:  # the run goes on elsewhere, and how it ends is not ours to say
        raise
    except Exception as error:
        step = run.where(graph, error)
        where = f"step {step!r}" if step is not None else "merging its steps"
        raise WorkflowFailed(
            f"workflow {name!r} failed at {where}: {type(error).__name__}: {error}",
            result=result(WorkflowStatus.FAILED, run.stopped_at or context, error),
        ) from error
    return result(WorkflowStatus.PARTIAL if run.partial else WorkflowStatus.COMPLETED, after)


def nested(ctx: FlowContext, graph: Graph, name: str, context: WorkflowContext) -> Inner:
    """Run a workflow as the body of a step: its outputs by step name are the step's output."""
    result = execute(ctx, graph, name, context)
    outputs = {step: result.context.step_outputs[step] for step in _completed(result.steps)}
    return Inner(
        StepResult.ok(outputs, context_updates=_changed(context, result.context)),
        steps=result.steps,
        partial=result.status is WorkflowStatus.PARTIAL,
    )


def _completed(records: Iterable[StepRecord]) -> list[str]:
    return [record.name for record in records if record.status is StepStatus.COMPLETED]


def _changed(before: WorkflowContext, after: WorkflowContext) -> Mapping[str, Any]:
    """The params that were updated: values pass from context to context as they are."""
    old, missing = before.params, object()
    return {key: value for key, value in after.params.items() if old.get(key, missing) is not value}


def _run_level(run: Run, ctx: FlowContext, graph: Graph, context: WorkflowContext) -> WorkflowContext:
    if not graph.row:
        return _run_dag(run, ctx, graph, context)
    for node in graph.nodes:
        addition = _run_node(run, ctx, node, context)
        if addition is not None:
            context = add(context, addition)
    return context


def _run_dag(run: Run, ctx: FlowContext, graph: Graph, context: WorkflowContext) -> WorkflowContext:
    def perform(dag: Dag, index: int) -> Addition | None:
        node = graph.nodes[index]
        try:
            seen = dag.context_before(index)
        except MergeConflict as error:
            _failed(run, node, context, error, attempts=0, started=None, duration=0.0)
            return None
        return _run_node(run, ctx, node, seen, dag, index)

    def skip(index: int, needed: str) -> None:
        run.skip(graph.nodes[index].names, f"it needs {needed!r}, which did not complete")

    return Dag(ctx, graph, context, perform, skip).execute()


def _run_node(
    run: Run, ctx: FlowContext, node: Node, context: WorkflowContext, fanout: FanOut | None = None, index: int = -1
) -> Addition | None:
    """Run one step with all its attempts; what it adds, or None if it has failed and may.

    Raises:
        Aborted: the workflow was told to stop.
        BaseException: what the step has failed with, if that stops the workflow.
    """
    scope = ctx._scope
    signal = ctx._set_signal()
    if signal is not None:
        raise Aborted(signal.reason)
    # A step that has steps inside is not recorded: they are.
    journal, path = None, ""
    if run.journal is not None and node.checkpoint:
        path = f"{ctx._path}/{node.name}".lstrip("/")
        journal = run.journal
        row = journal.find(path, node.name, None)
        if row is not None and node.flow is not None:
            return _answered(run, node, row)
    run.latest = node.name
    if run.told:
        _tell(ctx, node, "started")
    monotonic = scope._clock.monotonic
    started, began = scope._time(), monotonic()
    attempts = 1
    try:
        if journal is not None:
            journal.enter(path)
            if node.once:
                _begin_once(journal, path, node, started)
        if node.plain and not scope._wraps["step"] and node.flow is not None:
            child = type(ctx)(scope, ctx, node.name, fanout, index)
            child._segment = node.name
            value = child._run_here(child._perform, node.flow, context)
        else:
            flow = node.flow if node.flow is not None else node.as_flow(partial(_run_choice, run, node))
            attempts = 0

            def count(number: int) -> None:
                nonlocal attempts
                attempts = number
                if number > 1 and run.journal is not None:
                    run.journal.reload()

            value = ctx._run_child(
                flow, context, segment=node.name, fanout=fanout, index=index, kind="step", on_attempt=count
            )
        if type(value) is StepResult and value.context_updates:
            _shield_updates(run, ctx, context, value)
        if run.journal is not None and type(value) is StepResult:
            # of one that is not recorded, too: it is a part of the run's result
            text = step_text(node.name, value, getattr(context.params, "secret", NO_SECRETS))
            if journal is not None:
                status = "completed" if value.skipped is None else "skipped"
                before = journal.record(path, "step", node.name, text, started, attempt=attempts, status=status)
                if before is not None:
                    return _answered(run, node, before)
    except BaseException as error:
        duration = monotonic() - began
        if run.told:
            ending = "failed" if isinstance(error, Exception) else "cancelled"
            _tell(ctx, node, ending, seconds=round(duration, 6), error=repr(error))
        _failed(run, node, context, error, attempts=attempts, started=started, duration=duration)
        return None
    finally:
        if journal is not None:
            journal.leave(path)
    outputs: tuple[tuple[str, Any], ...] = ()
    steps = NO_RECORDS
    if type(value) is not StepResult:
        outputs, steps = value.outputs, value.steps
        run.partial |= value.partial
        value = value.result
    duration = monotonic() - began
    run.records[node.name] = _record(node.name, value, attempts, started, duration, steps)
    if run.told:
        _tell(ctx, node, "completed" if value.skipped is None else "skipped", seconds=round(duration, 6))
    if value.skipped is not None:
        return (), value.context_updates
    return ((node.name, value.output), *outputs), value.context_updates


def _shield_updates(run: Run, ctx: FlowContext, context: WorkflowContext, result: StepResult) -> None:
    """A step has got new values for params that are secrets."""
    secret = getattr(context.params, "secret", NO_SECRETS)
    new = {name: value for name, value in result.context_updates.items() if name in secret}
    if new:
        hold(ctx.root, *new.values())
        if run.journal is not None:
            run.journal.veil_also(new)


def _tell(ctx: FlowContext, node: Node, what: str, **fields: Any) -> None:
    log.info(f"step.{what}", step=node.name, path=f"{ctx._path}/{node.name}".lstrip("/"), **fields)


def _record(
    name: str, result: StepResult, attempts: int, started: float, duration: float, steps: StepRecords = NO_RECORDS
) -> StepRecord:
    return StepRecord(
        name=name,
        status=StepStatus.COMPLETED if result.skipped is None else StepStatus.SKIPPED,
        attempts=attempts,
        started=started,
        duration=duration,
        output=result.output,
        reason=result.skipped,
        quality=result.quality,
        events=result.events,
        steps=steps,
    )


def _answered(run: Run, node: Node, row: StepRow) -> Addition:
    """What a recorded step adds, without running it."""
    assert run.journal is not None
    result = step_result(row.output or "{}")
    run.records[node.name] = _record(node.name, result, row.attempt, row.started_at, row.finished_at - row.started_at)
    overridden = run.journal.overridden(row)
    updates = {key: value for key, value in result.context_updates.items() if key not in overridden}
    return (() if result.skipped is not None else ((node.name, result.output),)), updates


def _begin_once(journal: StoreJournal, path: str, node: Node, started: float) -> None:
    if path in journal.begun:
        raise StepFailed(
            f"step {node.name!r} had begun when the process ended and is not recorded; it may have done its work, and"
            ' with on_crash="fail" it is not repeated',
            step=node.name,
            category=ErrorCategory.INTERNAL,
        )
    journal.started(path, 1, started)


def step_text(name: str, result: StepResult, secret: frozenset[str] = NO_SECRETS) -> str:
    """A step's result as typed JSON text, without what it does not have.

    Args:
        name: the step's name.
        result: what it has returned.
        secret: the params whose new values are not stored.

    Raises:
        SerializationError: names the step and the path to the value.
    """
    where = f"step {name!r}"
    updates = result.context_updates
    if not secret.isdisjoint(updates):
        updates = {key: shielded(value) if key in secret else value for key, value in updates.items()}
    data: dict[str, Any] = {}
    if result.output is not None:
        data["output"] = result.output
    if updates:
        data["updates"] = dict(updates)
    if result.quality is not None:
        data["quality"] = result.quality.to_dict()
    if result.events:
        data["events"] = list(result.events)
    if result.skipped is not None:
        data["skipped"] = result.skipped
    if updates is result.context_updates:
        return stored(data, where)
    others = {key: value for key, value in updates.items() if key not in secret}
    stored({**data, "updates": others}, where)  # refuses any other secret
    return check_size(codec.dumps(data, where=where), where)


def step_secrets(row: StepRow) -> list[str]:
    """The params that a recorded step has updated and that are secrets."""
    if row.kind != "step" or not codec.has_secret(row.output):
        return []
    updates = codec.loads(row.output or "{}").get("updates") or {}
    return [name for name, value in updates.items() if value is REDACTED]


def step_result(text: str) -> StepResult:
    """The result that `step_text` has written."""
    data = codec.loads(text)
    updates = data.get("updates")
    if updates and codec.has_secret(text):  # those that are secrets are as whoever resumed the run supplied them
        updates = {name: value for name, value in updates.items() if value is not REDACTED}
    if "skipped" in data:
        return StepResult.skip(data["skipped"])
    return StepResult.ok(
        data.get("output"),
        context_updates=updates,
        quality=QualityMetrics.from_dict(data["quality"]) if "quality" in data else None,
        events=data.get("events", ()),
    )


def _failed(
    run: Run,
    node: Node,
    context: WorkflowContext,
    error: BaseException,
    *,
    attempts: int,
    started: float | None,
    duration: float,
) -> None:
    """Note a failure; raise it again if it stops the workflow, or is none of the step's own."""
    result = getattr(error, "result", None) if isinstance(error, (StepFailed, WorkflowFailed)) else None
    run.records[node.name] = StepRecord(
        name=node.name,
        status=StepStatus.FAILED,
        attempts=attempts,
        started=started,
        duration=duration,
        output=result.output if isinstance(result, StepResult) else None,
        error=error,
        category=category_of(error),
        quality=result.quality if isinstance(result, StepResult) else None,
        steps=result.steps if isinstance(result, WorkflowResult) else NO_RECORDS,
    )
    if not isinstance(error, Exception) or isinstance(error, OwnershipLost):
        raise error  # nothing that a step may have
    if node.stops:
        run.stopped_at = run.stopped_at or context
        raise error
    run.stopped_at = None  # what has stopped a branch does not stop the workflow
    run.partial = True


def _run_choice(run: Run, node: Node, ctx: FlowContext, context: WorkflowContext) -> Inner:
    taken = _decide(run, node, ctx, context)
    for branch, graph in node.branches.items():
        if branch != taken:
            run.skip(graph.names, f"{node.name!r} took {taken!r}")
    graph = node.branches[taken]
    after = _run_level(run, ctx, graph, context)
    done = _completed(run.records[name] for name in graph.names)
    return Inner(
        StepResult.ok({"branch": taken}, context_updates=_changed(context, after)),
        outputs=tuple((name, after.step_outputs[name]) for name in done),
    )


def _decide(run: Run, node: Node, ctx: FlowContext, context: WorkflowContext) -> str:
    """The branch to take: the one that was taken before, if that is recorded."""
    row = run.journal.find(ctx._path, node.name, None) if run.journal is not None else None
    if row is not None:
        branch: str = step_result(row.output or "{}").output["branch"]
        return branch
    started = ctx._scope._time()
    taken = "then" if node.step.body(context) else "otherwise"
    if run.journal is not None:
        decision = StepResult.ok({"branch": taken})
        before = run.journal.record(ctx._path, "step", node.name, step_text(node.name, decision), started)
        if before is not None:
            taken = step_result(before.output or "{}").output["branch"]
    return taken


def category_of(error: BaseException) -> ErrorCategory:
    """What kind of failure an exception is."""
    if isinstance(error, StepFailed):
        return error.category
    if isinstance(error, WorkflowFailed) and error.__cause__ is not None:
        return category_of(error.__cause__)
    for types, category in _CATEGORIES:
        if isinstance(error, types):
            return category
    return ErrorCategory.INTERNAL


_CATEGORIES: tuple[tuple[tuple[type[BaseException], ...], ErrorCategory], ...] = (
    ((TimeoutError,), ErrorCategory.TIMEOUT),
    ((ExecutionCancelled, Aborted, KeyboardInterrupt), ErrorCategory.CANCELLED),
    ((ConnectionError,), ErrorCategory.DEPENDENCY),
    ((PermissionError,), ErrorCategory.PERMISSION),
    ((MemoryError, OSError), ErrorCategory.RESOURCE),
    ((InputError,), ErrorCategory.VALIDATION),
)
