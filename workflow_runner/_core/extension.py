"""Extensions: observers and wrappers around everything a scope does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from workflow_runner._core.execution import FlowExecution
    from workflow_runner._core.flow import Flow
    from workflow_runner._core.scope import Scope
    from workflow_runner._core.status import ExecutionStatus
    from workflow_runner._core.tags import TagStore


KINDS = ("execution", "item", "step", "parallel", "journal")


@attrs.frozen(kw_only=True)
class Operation:
    """What ``Extension.wrap`` is wrapped around.

    Attributes:
        kind: "execution" (a flow, a child or an item of a fan-out), "step", "parallel" (a whole fan-out) or "journal"
            (a call with a key: ``next()`` answers it from the journal or runs it).
        name: the name it runs under.
        flow: the flow; None for a whole fan-out.
        input: what the handler gets.
        key: the journal key, or None.
        context: the tags as the operation sees them.
        parent: the name of the execution above, or None.
        depth: 0 for a root.
        attempt: counts from 1.
    """

    kind: str
    name: str
    flow: Flow[Any, Any] | None
    input: Any
    key: str | None
    context: TagStore
    parent: str | None
    depth: int
    attempt: int


class Extension:
    """Base of all extensions; every method does nothing until it is overridden, and then costs nothing.

    The first extension of a scope is the outermost. `wrap` and `wrap_task` belong to the run: they may replace the
    result, skip, catch, or call ``next`` again. `on_status` and `dispose` only observe: what they raise is logged.
    """

    name: str = ""
    around: Collection[str] = KINDS
    """What `wrap` is called around: kinds of operations, and "item" for a child that is an item of a fan-out. What
    nobody is around of takes the short way, so name no more than is needed."""

    def init(self, scope: Scope) -> None:
        """Called once, in the thread that makes the scope. What it raises stops the scope from being made."""

    def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
        """Called around every operation, in the thread that performs it; returns the operation's result."""
        return next()

    def wrap_task(self, task: Callable[..., Any]) -> Callable[..., Any]:
        """Carry over to another thread what belongs to this one, such as a tracer's current span.

        Called in the thread that hands work on: when an execution starts, a timed child, or a fan-out.

        Args:
            task: what the other thread will do; takes positional arguments.

        Returns:
            What it does instead: it calls ``task`` with the arguments it gets, in any number of threads at once, or not
            at all. Context variables go along without this.
        """
        return task

    def on_status(self, execution: FlowExecution[Any], status: ExecutionStatus) -> None:
        """Called for each change of a root execution's status, in order, from the thread that changes it."""

    def dispose(self, scope: Scope) -> None:
        """Called once when the scope has closed, last extension first."""


def overriding(extensions: Sequence[Extension], method: str) -> tuple[Any, ...]:
    """The bound ``method`` of those extensions that override it."""
    base = getattr(Extension, method)
    return tuple(getattr(e, method) for e in extensions if getattr(type(e), method) is not base)


def wrapped(wraps: Sequence[Any], scope: Scope, operation: Operation, body: Callable[[], Any]) -> Any:
    """``body()`` with every wrap around it, the first outermost."""
    for wrap in reversed(wraps):
        body = partial(wrap, scope, body, operation)
    return body()
