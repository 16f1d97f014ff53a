"""Run one flow in this process, until it ends, its time is over, or a signal comes."""

from __future__ import annotations

import signal
from collections.abc import Container, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

import attrs

from workflow_runner import Flow, FlowExecution, Scope, Step, Workflow, WorkflowResult
from workflow_runner._workflow.result import StepRecord, StepStatus, WorkflowStatus
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.signals import told
from workflow_runner.errors import ExecutionTimeout, WorkflowFailed

# Seconds that a run which was told to stop has for it; then its threads are left behind.
GRACE = 2.0


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        flow: its name.
        run_id: the run's id.
        status: completed, partial, failed or cancelled.
        code: what the process exits with.
        result: what was computed: a flow's result, or the output of a workflow's last step that has one.
        outputs: all outputs of a workflow, by step; None for a flow.
        steps: those of a workflow; of one that was cancelled there is no record.
        error: what it failed with.
        error_step: the step that stopped it.
        duration: seconds.
        answered: the run was there already, and this is what it had ended with.
        interrupted_by: the signal that ended it.
    """

    flow: str
    run_id: str
    status: str
    code: Exit
    result: Any = None
    outputs: dict[str, Any] | None = None
    steps: tuple[StepRecord, ...] = ()
    error: BaseException | None = None
    error_step: str | None = None
    duration: float = 0.0
    answered: bool = False
    interrupted_by: signal.Signals | None = None


def run_here(
    flow: Flow[Any, Any], input: Any, *, timeout: float | None = None, store: str | None = None, key: str | None = None
) -> Outcome:
    """Run a flow and wait for its end; SIGINT and SIGTERM cancel it, and leave a run in a store to be gone on with.

    Threads that do not stop are left behind, so this returns a few seconds after the deadline or the signal at the
    latest. A second signal does what signals do without us: it ends the process.

    Args:
        flow: what to run.
        input: its input.
        timeout: seconds of running time.
        store: the URL of the store that records the run.
        key: its idempotency key there; a run that is there already is gone on with, or answers with its result.

    Returns:
        The outcome; whatever the flow has raised is in it.

    Raises:
        InputError: the input does not fit the flow; nothing was started.
        IdempotencyConflict: the key belongs to a run with another input.
        StoreError: the store cannot be used.
    """
    # The main thread does nothing but wait for whichever comes first.
    news: SimpleQueue[FlowExecution[Any] | signal.Signals] = SimpleQueue()
    scope = Scope(name="command", store=store)
    first: FlowExecution[Any] | signal.Signals | None = None
    try:
        with told(news.put):
            execution = scope.exec(flow, input, timeout=timeout, idempotency_key=key)
            execution.add_done_callback(news.put)
            first = news.get()
        interrupted_by = first if isinstance(first, signal.Signals) else None
    finally:
        # Closing, not cancelling, after a signal too: somebody wants this process to end, and not the run.
        reason = f"interrupted by {first.name}" if isinstance(first, signal.Signals) else None
        scope.close(cancel=True, timeout=GRACE, reason=reason)
    return _outcome(execution, interrupted_by)


def _outcome(execution: FlowExecution[Any], interrupted_by: signal.Signals | None) -> Outcome:
    error = execution.exception()
    result = execution.result() if error is None else None
    if error is None:
        status, code = "completed", Exit.DONE
    elif not execution.cancelled():
        status, code = "failed", Exit.FAILED
    else:
        status, code = "cancelled", Exit.TIMEOUT if isinstance(error, ExecutionTimeout) else Exit.FAILED
    started, ended = execution.ctx.details.started_at, execution.ctx.details.completed_at
    outcome = Outcome(
        flow=execution.flow_name,
        run_id=execution.id,
        status=status,
        code=code,
        result=result,
        error=error,
        duration=(ended - started).total_seconds() if started and ended else 0.0,
        answered=execution.answered,
        interrupted_by=interrupted_by,
    )
    workflow = error.result if isinstance(error, WorkflowFailed) else result
    if not isinstance(workflow, WorkflowResult):
        return outcome
    choices = set(_choices(execution.flow.steps)) if isinstance(execution.flow, Workflow) else set()
    return _with_steps(outcome, workflow, choices)


def _choices(steps: Iterable[Step]) -> Iterator[str]:
    """The names of the choices, whose output says which way they went and is no result."""
    for step in steps:
        for _, branch in step.branches():
            yield step.name
            yield from _choices(branch)


def _with_steps(outcome: Outcome, workflow: WorkflowResult, choices: Container[str]) -> Outcome:
    outputs = [
        step.output
        for step in workflow.steps
        if step.status is StepStatus.COMPLETED and step.output is not None and step.name not in choices
    ]
    partial = workflow.status is WorkflowStatus.PARTIAL
    return attrs.evolve(
        outcome,
        status="partial" if partial else outcome.status,
        code=Exit.PARTIAL if partial else outcome.code,
        result=outputs[-1] if outputs and outcome.error is None else None,
        outputs=dict(workflow.context.step_outputs),
        duration=workflow.duration,
        steps=tuple(workflow.steps),
        error_step=workflow.error_step,
    )
