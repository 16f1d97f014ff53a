"""What tools need that follow work across threads by patching ``ThreadPoolExecutor.submit``, as Sentry's does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from workflow_runner import Extension, FlowContext, Scope, call, flow

LONG = 20.0


class Tool:
    """A tracer that knows its current transaction by thread, and takes it along where something is submitted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._here = threading.local()
        submit = ThreadPoolExecutor.submit

        def patched(pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return submit(pool, self.carry(fn), *args, **kwargs)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", patched)

    @property
    def current(self) -> str | None:
        return getattr(self._here, "current", None)

    @current.setter
    def current(self, name: str | None) -> None:
        self._here.current = name

    def carry(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        name = self.current

        def carried(*args: Any, **kwargs: Any) -> Any:
            before, self.current = self.current, name
            try:
                return fn(*args, **kwargs)
            finally:
                self.current = before

        return carried


def seen_by_each(tool: Tool, scope: Scope, event: Callable[[], threading.Event]) -> list[str | None]:
    """What executions see that were started in transactions a, b and c, while one thread has to do them all."""
    go, begun = event(), event()
    tool.current = "a"
    first = scope.exec(call(lambda: (begun.set(), go.wait(LONG), tool.current)))
    assert begun.wait(LONG)
    tool.current = "b"
    second = scope.exec(call(lambda: tool.current))
    tool.current = "c"

    @flow
    def fan(ctx: FlowContext, n: int) -> str | None:
        return ctx.parallel([call(lambda: tool.current)])[0]

    third = scope.exec(fan, 1)
    tool.current = None
    go.set()
    return [first.result(LONG)[2], second.result(LONG), third.result(LONG)]


def test_each_execution_belongs_to_who_has_started_it(
    monkeypatch: pytest.MonkeyPatch, make_scope: Callable[..., Scope], event: Callable[[], threading.Event]
) -> None:
    """Without the hook, what waits in the queue runs in the transaction of whoever made the thread start."""
    tool = Tool(monkeypatch)

    class Follows(Extension):
        def wrap_task(self, task: Callable[..., Any]) -> Callable[..., Any]:
            return tool.carry(task)

    assert seen_by_each(tool, make_scope(max_workers=1), event) == ["a", "a", "a"]
    assert seen_by_each(tool, make_scope(max_workers=1, extensions=[Follows()]), event) == ["a", "b", "c"]
