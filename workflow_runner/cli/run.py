"""Run one flow in this process, until it ends, its time is over, or a signal comes."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from workflow_runner import FlowExecution, Scope, Step, Workflow, WorkflowResult
from workflow_runner._core.scope import Closing
from workflow_runner._workflow.durable import FollowedExecution
from workflow_runner._workflow.result import StepRecord, StepStatus, WorkflowStatus
from workflow_runner.cli import NAME
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.signals import awaited, told
from workflow_runner.errors import ExecutionTimeout, OwnershipLost, RunOwned, WorkflowFailed
from workflow_runner.store.base import RunRecord

if TYPE_CHECKING:
    from workflow_runner import Extension

# Seconds that a run which was told to stop has for it, unless --grace says otherwise.
GRACE = 10.0
# Seconds that threads have to end after their run has.
LAST_THREADS = 2.0

# Somebody else executes the run: that is no failure of it.
_TAKEN_OVER = (OwnershipLost, RunOwned)

Start = Callable[[Scope], FlowExecution[Any]]
"""Starts a run: ``scope.exec``, ``scope.resume`` or ``scope.retry`` with its arguments."""

Watch = Callable[[Scope, FlowExecution[Any]], AbstractContextManager[object]]
"""Makes what is entered when a run exists, and left when its scope has closed: bars, pings, captured logs."""


@attrs.frozen(kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        flow: its name.
        run_id: the run's id.
        status: completed, partial, failed, cancelled, or interrupted: by a signal.
        code: what the process exits with.
        result: what was computed: a flow's result, or the output of a workflow's last step that has one.
        outputs: all outputs of a workflow, by step; None for a flow.
        steps: those of a workflow; of one that was cancelled there is no record.
        error: what it failed with.
        error_step: the step that stopped it.
        duration: seconds.
        answered: the run was there already, and this is what it had ended with.
        interrupted_by: the signal that ended it.
        resume: the command that goes on with it; None if there is nothing to go on with.
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
    resume: str | None = None


class Elsewhere(Exception):
    """The run is there, and another process executes it."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"run {record.run_id} of flow {record.flow!r} is being executed by {record.owner}")
        self.record = record


class Here:
    """A scope in which runs are executed until a signal comes. A context manager; it closes the scope.

    The main thread does nothing but wait for what is in the news. Closing after a signal hands the runs back to their
    store instead of cancelling them there: somebody wants this process to end, and not the run.

    Args:
        store: the URL of the store that records runs.
        max_workers: as for `Scope`.
        grace: seconds that what runs has to stop after a signal.
        extensions: as for `Scope`.

    Attributes:
        scope: the scope.
        news: the executions that have ended, if their ``add_done_callback`` is ``news.put``, and the signals.
        interrupted_by: the signal that came.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        *,
        store: str | None = None,
        max_workers: int | None = None,
        grace: float = GRACE,
        extensions: Iterable[Extension] = (),
    ) -> None:
        self.scope = Scope(name="command", store=store, max_workers=max_workers, extensions=extensions)
        self.news: SimpleQueue[FlowExecution[Any] | signal.Signals] = SimpleQueue()
        self.interrupted_by: signal.Signals | None = None
        self._grace = grace
        self._told = told(self.news.put)

    def wait(self) -> FlowExecution[Any] | None:
        """Wait until an execution has ended, or a signal has come.

        After the first signal everything is told to stop, and gets the grace for it; a second signal ends that. What
        has not ended then is left behind when the scope closes.

        Returns:
            The execution that has ended; None after a signal.
        """
        first = awaited(self.news)
        if isinstance(first, FlowExecution):
            return first
        self.interrupted_by = first
        live = set(self.scope.executions)
        stop = Closing(self.scope.name, self._why())
        for execution in live:
            execution.add_done_callback(self.news.put)
            execution.cancel(stop)
        end = monotonic() + self._grace
        with suppress(Empty):
            while live and not isinstance(ended := self.news.get(timeout=max(0.0, end - monotonic())), signal.Signals):
                live.discard(ended)
        return None

    def _why(self) -> str | None:
        return f"interrupted by {self.interrupted_by.name}" if self.interrupted_by is not None else None

    def __enter__(self) -> Self:
        self._told.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            # what has had its time gets no more
            left = 0.0 if self.interrupted_by is not None and self.scope.executions else LAST_THREADS
            self.scope.close(cancel=True, timeout=left, reason=self._why())
        finally:
            self._told.__exit__(kind, error, tb)


def run_here(
    start: Start,
    *,
    store: str | None = None,
    max_workers: int | None = None,
    grace: float = GRACE,
    extensions: Iterable[Extension] = (),
    watch: Sequence[Watch] = (),
    follow: bool = True,
) -> Outcome:
    """Start a run and wait for its end; SIGINT and SIGTERM stop it, and leave a run in a store to be gone on with.

    Threads that do not stop are left behind, so this returns soon after the deadline, or after the grace.

    Args:
        start: starts it in the scope that it is given.
        store: the URL of the store that records the run.
        max_workers: as for `Scope`.
        grace: seconds that the run has to stop after the first signal; the second signal ends that, the third the
            process.
        extensions: as for `Scope`.
        watch: makes what watches the run; the first is the outermost.
        follow: wait for a run that another process executes.

    Returns:
        The outcome; whatever the flow has raised is in it.

    Raises:
        Elsewhere: another process executes the run, and it is not to be followed.
        StoreError: the store cannot be used.
        WorkflowRunnerError: what ``start`` raises; nothing was started.
    """
    with ExitStack() as watching:
        with Here(store=store, max_workers=max_workers, grace=grace, extensions=extensions) as here:
            execution = start(here.scope)
            if isinstance(execution, FollowedExecution) and not follow:
                assert here.scope.store is not None
                raise Elsewhere(here.scope.store.run(execution.id))
            for each in watch:
                watching.enter_context(each(here.scope, execution))
            execution.add_done_callback(here.news.put)
            here.wait()
    return outcome_of(execution, interrupted_by=here.interrupted_by, store=store)


def outcome_of(
    execution: FlowExecution[Any], *, interrupted_by: signal.Signals | None = None, store: str | None = None
) -> Outcome:
    """What an execution has ended with; waits for that.

    Args:
        execution: the execution.
        interrupted_by: the signal that has ended it.
        store: the URL of the store that has recorded it, for the command that goes on with it.
    """
    error = execution.exception()
    result = execution.result() if error is None else None
    if error is None:
        status, code = "completed", Exit.DONE
    elif isinstance(error, _TAKEN_OVER) or isinstance(error.__cause__, _TAKEN_OVER):
        status, code = "failed", Exit.TEMPORARY
    elif not execution.cancelled():
        status, code = "failed", Exit.FAILED
    else:
        timed_out = isinstance(error, ExecutionTimeout)
        status = "interrupted" if interrupted_by is not None and not timed_out else "cancelled"
        code = Exit.TIMEOUT if timed_out else Exit.FAILED
    goes_on = error is not None and code is not Exit.TEMPORARY and store not in (None, "memory:")
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
        resume=resume_command(execution.id, store) if goes_on else None,
    )
    workflow = error.result if isinstance(error, WorkflowFailed) else result
    if not isinstance(workflow, WorkflowResult):
        return outcome
    choices = set(_choices(execution.flow.steps)) if isinstance(execution.flow, Workflow) else set()
    return _with_steps(outcome, workflow, choices)


def resume_command(run_id: str, store: str | None) -> str:
    """What goes on with a run, to be typed."""
    return shlex.join((NAME, "resume", run_id, *(() if store is None else ("--store", store))))


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
