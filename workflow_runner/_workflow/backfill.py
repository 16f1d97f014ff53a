"""Many partitions of one flow: what is to be done for each, and doing it, so many at once.

What becomes of a partition is decided by `plan`, over what the store knows of its key. The same decision is made again
when its turn comes: a plan is a picture of one moment, and other processes go on meanwhile. Every partition has a run
of its own under its own key, so a backfill has no state beside its runs: given again, it goes on.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import attrs

from workflow_runner._core import codec, secrets
from workflow_runner._core import scope as core
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.flow import Flow
from workflow_runner._workflow.context import PartitionKey
from workflow_runner._workflow.durable import FollowedExecution
from workflow_runner._workflow.journal import identity_of
from workflow_runner._workflow.result import WorkflowResult, WorkflowStatus
from workflow_runner._workflow.scope import Scope
from workflow_runner.errors import (
    ExecutionCancelled,
    IdempotencyConflict,
    InputError,
    StoreError,
    WorkflowFailed,
    WorkflowRunnerError,
)
from workflow_runner.store.base import RunRecord

# --- what is to be done -----------------------------------------------------------------------------------------------


class Only(StrEnum):
    """Which partitions are wanted: never run or left unfinished; failed, cancelled or left unfinished; all."""

    MISSING = "missing"
    FAILED = "failed"
    ALL = "all"


class Action(StrEnum):
    """What is done for a partition."""

    RUN = "run"
    RESUME = "resume"
    AGAIN = "run again"  # a new run: the old one has completed, and stays as it is
    DONE = "done"  # and nothing is to be done
    LEAVE = "leave"  # another process is at it
    PASS_OVER = "pass over"  # not among those that are wanted
    REFUSE = "refuse"  # its key is that of a run with another input

    @property
    def runs(self) -> bool:
        """Whether something is executed for it."""
        return self in (Action.RUN, Action.RESUME, Action.AGAIN)


@attrs.frozen(kw_only=True)
class Slot:
    """One run of many.

    Attributes:
        key: its idempotency key.
        as_of_date: the business date.
        partition: the partition, beside the date.
        scheduled_at: when it should have run, if it is one of a schedule; aware.
    """

    key: str
    as_of_date: dt.date
    partition: PartitionKey | None = None
    scheduled_at: dt.datetime | None = None

    def __str__(self) -> str:
        return f"{self.as_of_date} {self.partition}" if self.partition is not None else str(self.as_of_date)


@attrs.frozen(kw_only=True)
class Planned:
    """What is to be done for one slot.

    Attributes:
        slot: whose.
        action: what.
        why: in words.
        key: the key of the run; of one that is made again it is not the slot's.
        run_id: the run that is there.
        partial: that run has completed, but a step of it had failed that was allowed to.
    """

    slot: Slot
    action: Action
    why: str
    key: str
    run_id: str | None = None
    partial: bool = False


@attrs.frozen(kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        batch_id: the batch of all runs that are begun.
        only: which partitions are wanted; None: all but those that are done.
        partitions: each, in order.
    """

    batch_id: str
    only: Only | None
    partitions: tuple[Planned, ...]


Find = Callable[[str], RunRecord | None]
"""The run under a key."""

Identity = Callable[[Slot], str]
"""What identifies the input of a slot, as ``RunRecord.input_hash`` does."""


def identity_by(flow: Flow[Any, Any], make: Callable[[Slot], Any]) -> Identity:
    """What identifies the inputs that ``make`` gives ``flow``."""
    return lambda slot: codec.digest(identity_of(flow.prepare(make(slot))), where=f"the input of flow {flow.name!r}")


def slots(
    dates: Iterable[dt.date],
    partitions: Iterable[PartitionKey] = (),
    *,
    key: Callable[[dt.date, PartitionKey | None], str],
    backward: bool = False,
) -> tuple[Slot, ...]:
    """Every date with every partition.

    Args:
        dates: the business dates, oldest first.
        partitions: the partitions of each date; none: the date alone.
        key: makes the key of each.
        backward: the newest date first.

    Returns:
        The slots, by date and in each date in the order of the partitions.

    Raises:
        InputError: two of them have the same key.
    """
    coordinates: list[PartitionKey | None] = [*partitions] or [None]
    ordered = list(dates)[::-1] if backward else dates
    return distinct(
        Slot(key=key(date, partition), as_of_date=date, partition=partition)
        for date in ordered
        for partition in coordinates
    )


def distinct(slots: Iterable[Slot]) -> tuple[Slot, ...]:
    """The slots, each with a key of its own.

    Raises:
        InputError: two of them have the same key.
    """
    by_key: dict[str, Slot] = {}
    for slot in slots:
        other = by_key.setdefault(slot.key, slot)
        if other is not slot:
            raise InputError(f"{_exactly(other)} and {_exactly(slot)} have the same key {slot.key!r}")
    return tuple(by_key.values())


def _exactly(slot: Slot) -> str:
    return str(slot) if slot.scheduled_at is None else slot.scheduled_at.isoformat(" ", "minutes")


def plan(slots: Iterable[Slot], find: Find, *, identity: Identity, batch_id: str, only: Only | None = None) -> Plan:
    """Decide what is to be done for each slot.

    Args:
        slots: in the order in which they are begun.
        find: gives the run under a key. Each record is looked at and let go.
        identity: identifies the input that a slot would be run with: what was run with another one is no answer.
        batch_id: the batch. With ``Only.ALL``, what has completed in this batch is done; what had completed before is
            run again, once, under its key and the batch's id.
        only: which partitions are wanted; None: all but those that are done.

    Returns:
        The plan. Nothing is changed by making it.
    """
    decided = tuple(_decide(slot, find, identity, only, batch_id) for slot in slots)
    return Plan(batch_id=batch_id, only=only, partitions=decided)


def _decide(slot: Slot, find: Find, identity: Identity, only: Only | None, batch_id: str) -> Planned:
    key, found = slot.key, find(slot.key)
    if found is None:
        action = Action.PASS_OVER if only is Only.FAILED else Action.RUN
        return Planned(slot=slot, key=key, action=action, why="has never run")
    if only is Only.ALL and found.status == "completed" and found.batch_id != batch_id:
        key, old = f"{slot.key}@{batch_id}", found
        found = find(key)
        if found is None:
            why = f"completed on {_when(old)}, wanted anew"
            return Planned(slot=slot, key=key, action=Action.AGAIN, why=why, run_id=old.run_id)
    action, why = _judge(found, only)
    if found.input_hash != identity(slot):
        action, why = Action.REFUSE, f"its key {key!r} is that of a run with other parameters"
    partly = action is Action.DONE and _is_partial(found)
    return Planned(slot=slot, key=key, action=action, why=why, run_id=found.run_id, partial=partly)


def _judge(found: RunRecord, only: Only | None) -> tuple[Action, str]:
    """What to do about a run that is there, and why."""
    if found.alive:
        return Action.LEAVE, f"is being executed by {found.owner}"
    if found.status == "completed":
        return Action.DONE, f"completed on {_when(found)}"
    if found.crashed or found.status == "pending":
        return Action.RESUME, "crashed" if found.crashed else "was interrupted"
    return Action.PASS_OVER if only is Only.MISSING else Action.RESUME, f"{found.status} on {_when(found)}"


def _when(run: RunRecord) -> str:
    ended = run.created_at if run.finished_at is None else run.finished_at
    return f"{dt.datetime.fromtimestamp(ended).astimezone():%Y-%m-%d %H:%M}"


def _is_partial(run: RunRecord) -> bool:
    if run.shape is None:  # no workflow
        return False
    status: str = json.loads(run.result or "{}").get("status", "")
    return status == WorkflowStatus.PARTIAL


# --- what came of it --------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What has become of a partition."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # handed back; goes on when it is started again
    LEFT = "left"  # another process is at it
    PASSED_OVER = "passed over"
    NOT_STARTED = "not started"


# So often the thread that waits for the runs looks up. Seconds.
_LOOK = 0.25

FAILURES = (Outcome.FAILED, Outcome.CANCELLED)
"""What counts as a failure of a partition."""

_AT_ONCE = {
    Action.DONE: Outcome.COMPLETED,
    Action.LEAVE: Outcome.LEFT,
    Action.PASS_OVER: Outcome.PASSED_OVER,
    Action.REFUSE: Outcome.FAILED,
}


@attrs.frozen
class Failure:
    """What a run has failed with.

    Attributes:
        type: the class of the exception that stopped it.
        message: its text.
        step: the workflow's step.
    """

    type: str
    message: str
    step: str | None = None


@attrs.frozen(kw_only=True)
class Ended:
    """One partition after its turn.

    Attributes:
        planned: what was decided for it then.
        outcome: what has become of it.
        run_id: its run, if it has one.
        duration: seconds of running time now.
        before: it was done before, and nothing was run now.
        failure: what it failed with.
    """

    planned: Planned
    outcome: Outcome
    run_id: str | None = None
    duration: float = 0.0
    before: bool = False
    failure: Failure | None = None


def failure_of(error: BaseException) -> Failure:
    """What has stopped a run: of a workflow that failed, what its step has raised or returned."""
    step: str | None = None
    while isinstance(error, WorkflowFailed) and error.__cause__ is not None:
        step = step or error.result.error_step
        error = error.__cause__
    message = str(error).removeprefix(f"step {getattr(error, 'step', None)!r} failed: ")
    return Failure(type(error).__name__, secrets.mask(message), step)


def grouped(ended: Iterable[Ended]) -> list[list[Ended]]:
    """The failures, those of one cause together: the same exception, step and message, whatever numbers are in it.

    Returns:
        Groups, the largest first; in each the partitions in their order.
    """
    groups: dict[tuple[str, str, str | None], list[Ended]] = {}
    for one in ended:
        if one.failure is not None:
            cause = one.failure.type, _without_numbers(one.failure.message), one.failure.step
            groups.setdefault(cause, []).append(one)
    return sorted(groups.values(), key=len, reverse=True)


def _without_numbers(text: str) -> str:
    """The text with ``#`` for every number and for what looks like an id."""
    text = re.sub(r"\b0x[0-9a-fA-F]+|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", "#", text)
    return re.sub(r"\d+", "#", text)


# --- doing it ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Stop:
    reason: str | None
    grace: float | None


class Backfill:
    """Executes a plan, so many runs at once, on one scope with a store.

    Args:
        scope: has a store, and as many workers as there are to be runs at once.
        flow: what is run.
        plan: what is to be done.
        make: makes the input of a slot: a new one for each.
        max_active: so many run at once, 1 or more.
        stop_after_failures: after so many failures nothing more is begun; what runs then ends. None: never.
        timeout: seconds of running time for each run; default: the flow's.
        on_begin: called when a run begins.
        on_end: called with every partition after its turn. Both are called in the thread that calls `run`.
    """

    def __init__(
        self,
        scope: Scope,
        flow: Flow[Any, Any],
        plan: Plan,
        make: Callable[[Slot], Any],
        *,
        max_active: int = 1,
        stop_after_failures: int | None = None,
        timeout: float | None = None,
        on_begin: Callable[[Planned], object] = lambda planned: None,
        on_end: Callable[[Ended], object] = lambda ended: None,
    ) -> None:
        self._scope = scope
        self._flow = flow
        self._plan = plan
        self._make = make
        self._identity = identity_by(flow, make)
        self._max_active = max_active
        self._most_failures = stop_after_failures
        self._timeout = timeout
        self._on_begin = on_begin
        self._on_end = on_end
        # The thread in `run` does nothing but begin runs and wait for news.
        self._news: SimpleQueue[FlowExecution[Any] | _Stop] = SimpleQueue()
        self._live: dict[FlowExecution[Any], tuple[int, Planned]] = {}
        self._ended: list[Ended | None] = []
        self._failures = 0
        self._stopped = False
        self._closing: core.Closing | None = None

    def run(self) -> tuple[Ended, ...]:
        """Execute the plan.

        Returns:
            What has become of each partition, in the order of the plan. Of an execution nothing is kept but this.

        Raises:
            StoreError: the store cannot be used; nothing more is begun, and what runs goes on.
        """
        self._ended = [None] * len(self._plan.partitions)
        waiting = iter(enumerate(self._plan.partitions))
        while True:
            while self._may_begin() and (next_ := next(waiting, None)) is not None:
                self._begin(*next_)
            if not self._live:
                break
            with suppress(Empty):  # a signal's handler that calls `stop` does not run before this thread looks up
                self._hear(self._news.get(timeout=_LOOK))
        for index, planned in enumerate(self._plan.partitions):
            if self._ended[index] is None:
                self._ended[index] = Ended(planned=planned, outcome=Outcome.NOT_STARTED, run_id=_own_run(planned))
        return tuple(one for one in self._ended if one is not None)

    def stop(self, reason: str | None = None, *, grace: float | None = None) -> None:
        """Begin nothing more, and tell what runs to stop; it is handed back to the store, to be gone on with.

        May be called from any thread, from a signal's handler, and again with another grace.

        Args:
            reason: why.
            grace: so many seconds later the threads of runs that have not stopped are left behind; None: never.
        """
        self._stopped = True
        self._news.put(_Stop(reason, grace))

    def _may_begin(self) -> bool:
        if self._most_failures is not None and self._failures >= self._most_failures:
            return False
        return not self._stopped and len(self._live) < self._max_active

    def _begin(self, index: int, planned: Planned) -> None:
        store = self._scope.store
        assert store is not None
        plan, flow = self._plan, self._flow
        find = partial(store.find, flow.name)
        planned = _decide(planned.slot, find, self._identity, plan.only, plan.batch_id)
        if not planned.action.runs:
            self._end(index, _at_once(planned))
            return
        try:
            execution = self._scope.exec(
                flow, self._make(planned.slot), timeout=self._timeout, idempotency_key=planned.key
            )
        except StoreError:
            raise
        except WorkflowRunnerError as error:  # this one is refused: its code has changed, or another start was quicker
            failed = Ended(planned=planned, outcome=Outcome.FAILED, run_id=_own_run(planned), failure=failure_of(error))
            self._end(index, failed)
            return
        if isinstance(execution, FollowedExecution):  # another process was quicker
            execution.cancel(core.Closing(self._scope.name, "left to its owner"))
            self._end(index, Ended(planned=planned, outcome=Outcome.LEFT, run_id=execution.id))
            return
        self._live[execution] = index, planned
        self._on_begin(planned)
        execution.add_done_callback(self._news.put)

    def _hear(self, news: FlowExecution[Any] | _Stop) -> None:
        if isinstance(news, FlowExecution):
            index, planned = self._live.pop(news)
            self._end(index, self._ending(news, planned))
            return
        if self._closing is None:
            self._closing = core.Closing(self._scope.name, news.reason)
        for execution in list(self._live):
            execution.cancel(self._closing, grace=news.grace)

    def _end(self, index: int, ended: Ended) -> None:
        self._ended[index] = ended
        self._failures += ended.outcome in FAILURES
        self._on_end(ended)

    def _ending(self, execution: FlowExecution[Any], planned: Planned) -> Ended:
        error = execution.exception()
        outcome, failure = Outcome.COMPLETED, None
        if error is None:
            result = execution.result()
            if isinstance(result, WorkflowResult) and result.status is WorkflowStatus.PARTIAL:
                outcome = Outcome.PARTIAL
        elif execution.cancelled() and self._closing is not None and execution.ctx.signal.reason is self._closing:
            outcome = Outcome.INTERRUPTED
        else:
            outcome = Outcome.CANCELLED if isinstance(error, ExecutionCancelled) else Outcome.FAILED
            failure = failure_of(error)
        started, ended = execution.ctx.details.started_at, execution.ctx.details.completed_at
        return Ended(
            planned=planned,
            outcome=outcome,
            run_id=execution.id,
            duration=(ended - started).total_seconds() if started and ended else 0.0,
            before=execution.answered,
            failure=failure,
        )


def _at_once(planned: Planned) -> Ended:
    """A partition for which nothing is executed."""
    refused = planned.action is Action.REFUSE
    return Ended(
        planned=planned,
        outcome=Outcome.PARTIAL if planned.partial else _AT_ONCE[planned.action],
        run_id=planned.run_id,
        before=planned.action is Action.DONE,
        failure=Failure(IdempotencyConflict.__name__, planned.why) if refused else None,
    )


def _own_run(planned: Planned) -> str | None:
    """The run that would go on; the one that is run again is another."""
    return None if planned.action is Action.AGAIN else planned.run_id


def counted(ended: Iterable[Ended]) -> Iterator[tuple[Outcome, int]]:
    """How many partitions have come to each outcome; only those that there are."""
    outcomes = [one.outcome for one in ended]
    for outcome in Outcome:
        if count := outcomes.count(outcome):
            yield outcome, count
