"""Finding a flow again in another process: by the import path that is recorded with its runs."""

from __future__ import annotations

import sys
from typing import Any

from workflow_runner._core.flow import Flow, FunctionFlow
from workflow_runner._core.offload import find
from workflow_runner.errors import StoreError


def target_of(flow: Flow[Any, Any]) -> str | None:
    """``module:attribute`` under which ``flow`` stands at the top of a module; None if it stands nowhere."""
    name = getattr(flow.handler, "__qualname__", "")
    for module in (flow.module, getattr(flow.handler, "__module__", None)):
        namespace = vars(sys.modules.get(module or "", object)) if module in sys.modules else {}
        if namespace.get(name) is flow:
            return f"{module}:{name}"
        for attribute, value in list(namespace.items()):
            if value is flow:
                return f"{module}:{attribute}"
    return None


def find_flow(target: str | None, name: str, run_id: str) -> Flow[Any, Any]:
    """The flow at ``target``; a plain function there as the flow that ``call`` makes of it.

    Raises:
        StoreError: it is not there; says what to do.
    """
    advice = f"give it to resume: scope.resume({run_id!r}, flow=...)"
    if target is None:
        raise StoreError(
            f"the flow {name!r} of run {run_id} stands at the top of no module (it was made inside a function), so it"
            f" cannot be imported: {advice}"
        )
    try:
        flow = find(target)
    except Exception as error:  # whatever the module's own code raises
        raise StoreError(
            f"the flow {name!r} of run {run_id} is not at {target}: {type(error).__name__}: {error}; {advice}"
        ) from error
    if isinstance(flow, Flow):
        return flow
    if callable(flow):
        return FunctionFlow(name)
    raise StoreError(f"{target}, recorded with run {run_id}, is no flow: {flow!r}; {advice}")
