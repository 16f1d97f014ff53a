"""Workflows that run synchronously, on threads, in the process that is already there.

The map:

    Scope                       owns everything live; starts executions
    flow, Flow, call            what can be executed
    FlowExecution               the handle of one execution; ExecutionStatus, Signal
    FlowContext                 what a handler gets: exec, parallel, stream; ExecutionContext, current()
    tag, Tag                    typed values seen by everything below
    Extension, Operation        observers and wrappers
    Retry                       how a failed attempt is repeated
    Workflow, Step              a flow made of named steps
    WorkflowContext             goes from step to step; PartitionKey, CheckpointState
    StepResult                  what a step returns; ErrorCategory, QualityMetrics
    WorkflowResult              what a workflow's run was
    errors                      every exception
"""

from workflow_runner import errors
from workflow_runner._core import flow_meta
from workflow_runner._core.context import ExecutionContext, current
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.extension import Extension, Operation
from workflow_runner._core.flow import Call, Flow, call, flow
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.retry import Retry
from workflow_runner._core.scope import Scope
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
    "tag",
]
