"""Workflows that run synchronously, on threads, in the process that is already there.

The map:

    Scope                       owns everything live; starts executions
    flow, Flow, call, Call      what can be executed
    FlowExecution               the handle of one execution; ExecutionStatus, Signal
    FlowContext                 what a handler gets: exec, parallel, stream; ExecutionContext, current()
    tag, Tag, flow_meta         typed values seen by everything below
    Secret                      marks a field that is never shown and never stored
    Extension, Operation        observers and wrappers
    Retry                       how a failed attempt is repeated
    Workflow, Step              a flow made of named steps
    WorkflowContext             goes from step to step; PartitionKey, CheckpointState
    StepResult                  what a step returns; ErrorCategory, QualityMetrics
    WorkflowResult              what a workflow's run was
    open_store                  runs on disk
    errors                      every exception
    testing                     what tests need: ManualClock, assert_resumable

Each name is loaded when it is first asked for: a command that only prints its version imports none of them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost as much as the interpreter's start
if TYPE_CHECKING:
    from workflow_runner import errors
    from workflow_runner._core import flow_meta
    from workflow_runner._core.context import ExecutionContext, current
    from workflow_runner._core.execution import FlowExecution
    from workflow_runner._core.extension import Extension, Operation
    from workflow_runner._core.flow import Call, Flow, call, flow
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.retry import Retry
    from workflow_runner._core.secrets import Secret
    from workflow_runner._core.signal import Signal
    from workflow_runner._core.status import ExecutionStatus
    from workflow_runner._core.tags import Tag, tag
    from workflow_runner._workflow.context import (
        CheckpointState,
        ErrorCategory,
        PartitionKey,
        QualityMetrics,
        StepResult,
        WorkflowContext,
    )
    from workflow_runner._workflow.definition import Step, Workflow
    from workflow_runner._workflow.result import WorkflowResult
    from workflow_runner._workflow.scope import Scope
    from workflow_runner.store import open_store

__version__ = "0.1.0"

_HOMES = {
    "_core.context": ("ExecutionContext", "current"),
    "_core.execution": ("FlowExecution",),
    "_core.extension": ("Extension", "Operation"),
    "_core.flow": ("Call", "Flow", "call", "flow"),
    "_core.flow_context": ("FlowContext",),
    "_core.retry": ("Retry",),
    "_core.secrets": ("Secret",),
    "_core.signal": ("Signal",),
    "_core.status": ("ExecutionStatus",),
    "_core.tags": ("Tag", "tag"),
    "_workflow.context": (
        "CheckpointState",
        "ErrorCategory",
        "PartitionKey",
        "QualityMetrics",
        "StepResult",
        "WorkflowContext",
    ),
    "_workflow.definition": ("Step", "Workflow"),
    "_workflow.result": ("WorkflowResult",),
    "_workflow.scope": ("Scope",),
    "store": ("open_store",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Call",
    "CheckpointState",
    "ErrorCategory",
    "ExecutionContext",
    "ExecutionStatus",
    "Extension",
    "Flow",
    "FlowContext",
    "FlowExecution",
    "Operation",
    "PartitionKey",
    "QualityMetrics",
    "Retry",
    "Scope",
    "Secret",
    "Signal",
    "Step",
    "StepResult",
    "Tag",
    "Workflow",
    "WorkflowContext",
    "WorkflowResult",
    "call",
    "current",
    "errors",
    "flow",
    "flow_meta",
    "open_store",
    "tag",
]


def __getattr__(name: str) -> object:
    import importlib

    if name == "flow_meta":
        value: object = importlib.import_module("workflow_runner._core.flow_meta")
    elif name == "errors":
        value = importlib.import_module("workflow_runner.errors")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"workflow_runner.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
