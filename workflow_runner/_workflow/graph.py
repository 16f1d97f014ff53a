"""Steps compiled for running: once, when the workflow is defined."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from workflow_runner._core import flow_meta
from workflow_runner._core.clock import seconds
from workflow_runner._core.flow import Each, Flow, call
from workflow_runner._core.log import FLOW, STEP
from workflow_runner._workflow.context import StepResult, WorkflowContext
from workflow_runner._workflow.mapping import FrozenDict
from workflow_runner._workflow.result import NO_RECORDS, StepRecords
from workflow_runner.errors import InputError, StepFailed

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._workflow.definition import Map, Step

NO_CONFIG: Mapping[str, Any] = FrozenDict()


@attrs.frozen
class Inner:
    """What a step with steps inside gives beside its own result: theirs.

    Attributes:
        result: the step's own.
        outputs: of the steps of the branch that was taken, which belong to the same workflow.
        steps: the records of a nested workflow, which is one of its own.
        partial: a step inside has failed that was allowed to.
    """

    result: StepResult
    outputs: tuple[tuple[str, Any], ...] = ()
    steps: StepRecords = NO_RECORDS
    partial: bool = False


Handler = Callable[["FlowContext", WorkflowContext], StepResult | Inner]


class Graph:
    """The steps of one level: a workflow's, or a branch's.

    Attributes:
        nodes: in order of declaration.
        names: of all steps, those of branches included.
        row: whether each step just follows the one before it; the rest is there only if not.
        before: for each index those it needs.
        after: for each index those that need it.
        order: indices in topological order, by declaration where several may come first.
        rank: for each index its place in ``order``.
        ancestors: for each index all that come before it, as the bits of a number.
        height: for each index how many steps are in the longest chain below it.
    """

    def __init__(self, steps: tuple[Step, ...], workflow: str) -> None:
        self.nodes = tuple(Node(step, workflow) for step in steps)
        self.names: tuple[str, ...] = tuple(name for node in self.nodes for name in node.names)
        self.row = all(step.needs is None for step in steps)
        if self.row:
            return
        index = {step.name: i for i, step in enumerate(steps)}
        self.before = [
            tuple(range(max(0, i - 1), i)) if step.needs is None else tuple({index[need]: None for need in step.needs})
            for i, step in enumerate(steps)
        ]
        self.after: list[list[int]] = [[] for _ in steps]
        for i, before in enumerate(self.before):
            for b in before:
                self.after[b].append(i)
        self.order = self._topological()
        self.rank = {i: place for place, i in enumerate(self.order)}
        self.ancestors = [0] * len(steps)
        for i in self.order:
            for b in self.before[i]:
                self.ancestors[i] |= self.ancestors[b] | 1 << b
        self.height = [0] * len(steps)
        for i in reversed(self.order):
            self.height[i] = 1 + max((self.height[a] for a in self.after[i]), default=0)

    def _topological(self) -> list[int]:
        missing = [len(before) for before in self.before]
        ready = [i for i, count in enumerate(missing) if not count]
        order = []
        while ready:
            i = heapq.heappop(ready)
            order.append(i)
            for a in self.after[i]:
                missing[a] -= 1
                if not missing[a]:
                    heapq.heappush(ready, a)
        return order


class Node:
    """One step.

    Attributes:
        step: its definition.
        name: its name.
        names: with those of the steps in its branches.
        stops: whether its failure ends the workflow.
        checkpoint: whether its outcome is recorded.
        once: whether it must not run twice.
        named: the needs that were named: their failure skips it.
        flow: runs it; None for a choice, which needs the run.
        plain: whether nothing is to be done around the flow: no deadline, retry, tags, branches.
    """

    def __init__(self, step: Step, workflow: str) -> None:
        from workflow_runner._workflow.definition import Choice, Map, Wait, takes

        self.step = step
        self.name = step.name
        self.stops = step.on_error == "stop"
        self.checkpoint = step.checkpoint
        self.once = step.on_crash == "fail"
        self.named = frozenset(step.needs or ())
        self.branches = {branch: Graph(steps, workflow) for branch, steps in step.branches()}
        self.names = (step.name, *(name for graph in self.branches.values() for name in graph.names))
        self.timeout = None if step.timeout is None else seconds(step.timeout)
        self.retry = step.retry
        self.tags: tuple[Any, ...] = ()
        self.workflow = workflow
        config = NO_CONFIG if step.config is None else FrozenDict(step.config)
        body: Callable[..., Any]
        if isinstance(step, Choice):
            self.flow = None
            self.plain = False
            return
        if isinstance(step, Map):
            body = partial(_run_map, step)
        elif isinstance(step, Wait):
            body = partial(_run_wait, seconds(step.body, zero=True))
        elif isinstance(step.body, Flow):
            body = partial(_run_flow, step.body)
            self.timeout = step.body.timeout if step.timeout is None else self.timeout
            self.retry = step.body.retry if step.retry is None else step.retry
            self.tags = (*step.body.tags, *((flow_meta.config(config),) if config else ()))
        elif takes(step.body, 2, 1) == 1:
            body = partial(_run_short, step.body)
        else:
            body = partial(_run_function, step.body, config)
        self.flow = self.as_flow(body)
        self.plain = self.timeout is None and self.retry is None and not self.tags

    def as_flow(self, body: Callable[[FlowContext, WorkflowContext], Any]) -> Flow[Any, Any]:
        """``body`` as the flow that runs this step: with the log's context, its outcome as a result."""
        workflow, name = self.workflow, self.name

        def handler(ctx: FlowContext, context: WorkflowContext) -> StepResult | Inner:
            FLOW.set(workflow)
            STEP.set(name)
            value = body(ctx, context)
            if type(value) is dict:
                return StepResult.ok(value)
            if type(value) is StepResult and value.success:
                return value
            return as_result(name, value, ctx, context)

        return Flow(
            handler, name=name, timeout=self.timeout, retry=self.retry, tags=self.tags, input_type=WorkflowContext
        )


def _run_function(body: Callable[..., Any], config: Mapping[str, Any], _ctx: FlowContext, context: Any) -> Any:
    return body(context, config)


def _run_short(body: Callable[..., Any], _ctx: FlowContext, context: WorkflowContext) -> Any:
    return body(context)


def _run_flow(body: Flow[Any, Any], ctx: FlowContext, context: WorkflowContext) -> Any:
    from workflow_runner._workflow.definition import Workflow

    return body if isinstance(body, Workflow) else body.handler(ctx, body.prepare(context))


def _run_map(step: Map, ctx: FlowContext, context: WorkflowContext) -> Any:
    items: Iterable[Any]
    if not isinstance(step.items, str):
        items = step.items(context)
    elif step.items in context.params:
        items = context.params[step.items]
    else:
        raise InputError(f"step {step.name!r}: there is no param {step.items!r} to take the items from")
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise InputError(f"step {step.name!r}: items must be an iterable of items, got {items!r}")
    calls = Each(step.body, items) if isinstance(step.body, Flow) else [call(step.body, item) for item in items]
    return {"items": ctx.parallel(calls, max_concurrency=step.max_concurrency, timeout=step.item_timeout, name="items")}


def _run_wait(length: float, ctx: FlowContext, _context: WorkflowContext) -> None:
    ctx.sleep(length)


def as_result(name: str, value: Any, ctx: FlowContext, context: WorkflowContext) -> StepResult | Inner:
    """What a step's body gave, as a result.

    Raises:
        StepFailed: it gave a failure.
        InputError: it gave something that is no result.
        WorkflowFailed: it gave a workflow, and that has failed.
    """
    from workflow_runner._workflow.definition import Workflow

    if value is None:
        return StepResult.ok()
    if isinstance(value, Inner):
        return value
    if isinstance(value, StepResult):
        if value.success:
            return value
        assert value.category is not None
        failed = StepFailed(f"step {name!r} failed: {value.error}", step=name, category=value.category, result=value)
        raise failed from (value.error if isinstance(value.error, BaseException) else None)
    if isinstance(value, Workflow):
        return value.nested(ctx, context)
    if isinstance(value, Mapping):
        return StepResult.ok(value)
    raise InputError(f"step {name!r} returned {value!r}: a step returns a StepResult, a mapping, None or a Workflow")
