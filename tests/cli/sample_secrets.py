"""Flows with secrets, for test_secrets."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import attrs

from workflow_runner import Secret, Step, Workflow, WorkflowContext, flow


@attrs.frozen
class Params:
    """What the job needs.

    Args:
        user: Who.
        password: How.
        pin: And with which number.
    """

    user: str = "me"
    password: Annotated[str, Secret] = "default-word"
    pin: Annotated[int, Secret] | None = None


def login(context: WorkflowContext) -> dict[str, Any]:
    logging.getLogger("sample").warning("login with %s", context.params["password"])
    return {"dsn": f"db://{context.params['password']}@host", "length": len(context.params["password"])}


def load(context: WorkflowContext) -> dict[str, Any]:
    if os.path.exists("works"):
        return {"dsn": context.get_output("login", "dsn")}
    raise RuntimeError(f"refused {context.params['password']!r} of {context!r}")


nightly = Workflow("nightly", steps=[Step("login", login), Step("load", load)], params=Params)


@flow
def report(ctx: Any, params: Params) -> dict[str, Any]:
    """Say what there is."""
    return {"table": [{"password": params.password, "pin": params.pin, "length": len(params.password)}]}


@flow
def fetch(ctx: Any, params: Params) -> int:
    """Fails until there is a file."""
    if not os.path.exists("works"):
        raise RuntimeError("refused")
    return len(params.password) + (params.pin or 0)
