"""Every exception of workflow_runner, in one tree.

    Exception
    └── WorkflowRunnerError
        ├── InputError              an input does not fit the flow (also ValueError)
        ├── DefinitionError         a flow, step or workflow is built wrongly (also ValueError)
        ├── TagNotFound             a tag without value and without default (also LookupError)
        ├── ContextError            a context is used after its end or outside an execution
        ├── SerializationError      a value cannot be stored with its type
        ├── ExecutionCancelled      (also concurrent.futures.CancelledError)   .reason
        │   └── ExecutionTimeout    (also TimeoutError)
        ├── ScopeClosed             the scope takes no more work
        ├── ScopeSaturated          the queue is full or too many threads are abandoned
        ├── WorkflowFailed          a step failed and stopped its workflow      .result
        ├── StepFailed              a step returned StepResult.fail             .step .category
        ├── MergeConflict           two side-by-side steps disagree on a param
        ├── JournalConflict         one key, two inputs, in one run
        ├── JournalMismatch         the recorded run does not fit the code
        ├── IdempotencyConflict     one idempotency key, two inputs
        ├── RecordedFailure         a failure of another process, as it was recorded
        └── StoreError              the store cannot do it
            ├── RunNotFound
            ├── RunOwned            the run lives in another process
            └── OwnershipLost       another process took the run over

    BaseException
    └── Aborted                     raised inside a flow by throw_if_aborted()  .reason

``Aborted`` is no ``Exception``: an ``except Exception`` in the code that a flow calls must not swallow it.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_runner._workflow.context import ErrorCategory, StepResult
    from workflow_runner._workflow.result import WorkflowResult


class WorkflowRunnerError(Exception):
    """Base of every error that this library raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between processes; those with keyword-only arguments could not be made from `args` alone.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(cls: type[WorkflowRunnerError], args: tuple[Any, ...], state: dict[str, Any]) -> WorkflowRunnerError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class InputError(WorkflowRunnerError, ValueError):
    """An input does not fit the type its flow declares; the message names the offending field."""


class DefinitionError(WorkflowRunnerError, ValueError):
    """A flow, step or workflow is defined wrongly; the message lists everything that is wrong."""


class TagNotFound(WorkflowRunnerError, LookupError):
    """A tag was asked for that has no value here, in no parent, in no scope, and no default."""


class ContextError(WorkflowRunnerError):
    """A context was used after its end, or one was needed where no execution runs."""


class SerializationError(WorkflowRunnerError):
    """A value cannot be written with its type; the message names the step and the path to the value."""


class ExecutionCancelled(WorkflowRunnerError, concurrent.futures.CancelledError):
    """An execution was cancelled before it could complete.

    Attributes:
        reason: what the canceller gave as its reason.
    """

    def __init__(self, message: str = "", *, reason: object = None) -> None:
        super().__init__(message)
        self.reason = reason


class ExecutionTimeout(ExecutionCancelled, TimeoutError):
    """An execution was cancelled because its time was over."""


class ScopeClosed(WorkflowRunnerError):
    """The scope is closed, or closing, and takes no more work."""


class ScopeSaturated(WorkflowRunnerError):
    """The scope refuses new work: its queue is full, or too many of its threads are abandoned."""


class WorkflowFailed(WorkflowRunnerError):
    """A step failed and its workflow stopped there; the step's own exception is the ``__cause__``.

    Attributes:
        result: the ``WorkflowResult`` up to the failure.
    """

    def __init__(self, message: str, *, result: WorkflowResult) -> None:
        super().__init__(message)
        self.result = result


class StepFailed(WorkflowRunnerError):
    """A step returned ``StepResult.fail(...)``.

    Attributes:
        step: the step's name.
        category: the ``ErrorCategory`` it gave.
        result: the ``StepResult`` itself.
    """

    def __init__(self, message: str, *, step: str, category: ErrorCategory, result: StepResult | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.category = category
        self.result = result


class MergeConflict(WorkflowRunnerError):
    """Two steps that may run side by side wrote different values to one param."""


class JournalConflict(WorkflowRunnerError):
    """One journal key was used with two different inputs in one run."""


class JournalMismatch(WorkflowRunnerError):
    """What a run recorded does not fit the code that should go on with it."""


class IdempotencyConflict(WorkflowRunnerError):
    """One idempotency key was used with two different inputs."""


class RecordedFailure(WorkflowRunnerError):
    """What a run, or a step of it, has failed with in another process; the message names the type and its text."""


class StoreError(WorkflowRunnerError):
    """The store could not do what was asked; the message names it."""


class RunNotFound(StoreError, LookupError):
    """No run has this id."""


class RunOwned(StoreError):
    """The run is executed by another process right now; the message names the owner."""


class OwnershipLost(StoreError):
    """Another process took the run over; nothing more of it is written here."""


class Aborted(BaseException):
    """Raised inside a flow by ``throw_if_aborted()``.

    Attributes:
        reason: what the canceller gave as its reason.
    """

    def __init__(self, reason: object = None) -> None:
        super().__init__("aborted" if reason is None else f"aborted: {reason}")
        self.reason: Any = reason
