"""What a workflow's run was: its status, its steps, its context."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, SupportsIndex, overload

import attrs

from workflow_runner._core import codec
from workflow_runner._core.context import moment
from workflow_runner._core.secrets import mask
from workflow_runner._workflow.context import ErrorCategory, QualityMetrics, WorkflowContext
from workflow_runner.errors import RecordedFailure, StepFailed, WorkflowFailed


class StepStatus(StrEnum):
    """How a step ended. ``PENDING``: it was never reached."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class WorkflowStatus(StrEnum):
    """How a workflow ended. ``PARTIAL``: a step failed that was allowed to."""

    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"


@attrs.frozen(kw_only=True, slots=False, eq=False)
class StepRecord:
    """One step of a run.

    Attributes:
        name: the step's name.
        status: see `StepStatus`.
        attempts: how many were made.
        duration: seconds from the start of the first attempt to the end of the last.
        output: what it returned; None without one.
        error: what it failed with.
        category: why it failed.
        reason: why it was skipped.
        quality: the quality it reported.
        events: what it reported beside.
        steps: the steps of a nested workflow.
    """

    name: str
    status: StepStatus
    attempts: int = 0
    # seconds since the epoch: a datetime is made when somebody asks
    _started: float | None = attrs.field(default=None, alias="started", repr=False)
    duration: float = 0.0
    output: Any = None
    error: BaseException | None = None
    category: ErrorCategory | None = None
    reason: str | None = None
    quality: QualityMetrics | None = None
    events: tuple[Any, ...] = ()
    steps: StepRecords = attrs.field(factory=lambda: StepRecords())

    @property
    def started_at(self) -> dt.datetime | None:
        """When the first attempt began; aware, in UTC."""
        return moment(self._started)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepRecord:
        """What `to_dict` has written; the error comes back as a ``RecordedFailure``."""
        started = data["started_at"]
        return cls(
            name=data["name"],
            status=StepStatus(data["status"]),
            attempts=data["attempts"],
            started=None if started is None else dt.datetime.fromisoformat(started).timestamp(),
            duration=data["duration"],
            output=codec.decode(data["output"]),
            error=recorded(data["error"]),
            category=None if data["category"] is None else ErrorCategory(data["category"]),
            reason=data["reason"],
            quality=None if data["quality"] is None else QualityMetrics.from_dict(data["quality"]),
            events=tuple(codec.decode(data["events"])),
            steps=StepRecords.from_list(data["steps"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; outputs as typed JSON.

        Raises:
            SerializationError: an output cannot be written with its type.
        """
        started_at, events = self.started_at, self.events
        return {
            "name": self.name,
            "status": str(self.status),
            "attempts": self.attempts,
            "started_at": None if started_at is None else started_at.isoformat(),
            "duration": self.duration,
            "output": codec.encode(self.output, where=f"step {self.name!r}: output"),
            "error": describe(self.error),
            "category": None if self.category is None else str(self.category),
            "reason": self.reason,
            "quality": None if self.quality is None else self.quality.to_dict(),
            "events": codec.encode(list(events), where=f"step {self.name!r}: events") if events else [],
            "steps": self.steps.to_list(),
        }


class StepRecords(tuple[StepRecord, ...]):
    """Records in order of declaration; ``records["name"]`` finds one by its name."""

    __slots__ = ()

    @overload
    def __getitem__(self, key: SupportsIndex) -> StepRecord: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[StepRecord, ...]: ...

    @overload
    def __getitem__(self, key: str) -> StepRecord: ...

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        for record in self:
            if record.name == key:
                return record
        raise KeyError(key)

    def names(self, status: StepStatus) -> tuple[str, ...]:
        """The names of the steps that ended so."""
        return tuple(record.name for record in self if record.status is status)

    @classmethod
    def from_list(cls, data: Iterable[Mapping[str, Any]]) -> StepRecords:
        """What `to_list` has written."""
        return cls(StepRecord.from_dict(record) for record in data)

    def to_list(self) -> list[dict[str, Any]]:
        """As JSON-ready data."""
        return [record.to_dict() for record in self]


NO_RECORDS = StepRecords()


@attrs.frozen(kw_only=True, slots=False, eq=False)
class WorkflowResult:
    """What a workflow's run was.

    Attributes:
        status: see `WorkflowStatus`.
        context: as the last step left it.
        steps: a record for every step, in order of declaration, branches included; ``steps["name"]`` works too.
        started_at: aware, in UTC.
        duration: seconds.
        error: what the run failed with; None unless it failed.
        error_step: the name of the step that stopped it.
    """

    status: WorkflowStatus
    context: WorkflowContext
    steps: StepRecords
    started_at: dt.datetime
    duration: float
    error: BaseException | None = None
    error_step: str | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.context.run_id

    @property
    def completed_at(self) -> dt.datetime:
        """When it ended; aware, in UTC."""
        return self.started_at + dt.timedelta(seconds=self.duration)

    @property
    def completed_steps(self) -> tuple[str, ...]:
        """The names of the steps that completed, in order of declaration."""
        return self.steps.names(StepStatus.COMPLETED)

    @property
    def failed_steps(self) -> tuple[str, ...]:
        """The names of the steps that failed."""
        return self.steps.names(StepStatus.FAILED)

    @property
    def skipped_steps(self) -> tuple[str, ...]:
        """The names of the steps that were skipped."""
        return self.steps.names(StepStatus.SKIPPED)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkflowResult:
        """What `to_dict` has written; errors come back as ``RecordedFailure``."""
        return cls(
            status=WorkflowStatus(data["status"]),
            context=WorkflowContext.from_dict(data["context"]),
            steps=StepRecords.from_list(data["steps"]),
            started_at=dt.datetime.fromisoformat(data["started_at"]),
            duration=data["duration"],
            error=recorded(data["error"]),
            error_step=data["error_step"],
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data.

        Raises:
            SerializationError: an output or a param cannot be written with its type.
        """
        return {
            "status": str(self.status),
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(),
            "completed_at": self.completed_at.isoformat(),
            "duration": self.duration,
            "completed_steps": list(self.completed_steps),
            "failed_steps": list(self.failed_steps),
            "skipped_steps": list(self.skipped_steps),
            "error_step": self.error_step,
            "error": describe(self.error),
            "steps": self.steps.to_list(),
            "context": self.context.to_dict(),
        }


# So many causes of an error are described.
_CAUSES = 20


def describe(error: BaseException | None, causes: int = _CAUSES) -> Mapping[str, Any] | None:
    """An exception as data: its class and message, the step it names, and the same of its causes. Never fails.

    Secrets are masked.
    """
    if error is None or causes < 0:  # somebody's error may be its own cause
        return None
    try:
        message = str(error)
    except Exception:
        message = codec.short_repr(error)
    step = error.step if isinstance(error, StepFailed) else None
    if isinstance(error, WorkflowFailed):
        step = error.result.error_step
    return {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": mask(message),
        **({} if step is None else {"step": step}),
        "notes": [mask(str(note)) for note in getattr(error, "__notes__", ())],
        "cause": describe(error.__cause__, causes - 1),
    }


def recorded(data: Mapping[str, Any] | None) -> RecordedFailure | None:
    """The error that `describe` has written."""
    if data is None:
        return None
    error = RecordedFailure(f"{data['type']}: {data['message']}")
    error.__cause__ = recorded(data["cause"])
    return error


def in_order(names: Iterable[str], records: Mapping[str, StepRecord]) -> StepRecords:
    """The records of ``names``; a step without one was never reached."""
    return StepRecords(records.get(name) or StepRecord(name=name, status=StepStatus.PENDING) for name in names)
