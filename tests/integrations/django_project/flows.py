"""The project's scope and its tasks."""

from __future__ import annotations

import os
import threading
from typing import Any

from workflow_runner import Scope

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

scope = Scope(name="project", max_workers=4, store=os.environ.get("PROJECT_STORE", "memory:"))
go = threading.Event()


@task()
def add(a: int, b: int) -> dict[str, Any]:
    return {"sum": a + b, "pair": (a, b)}


@task()
def fails(message: str) -> None:
    raise LookupError(message)


@task(takes_context=True)
def attempts(context: Any) -> int:
    return int(context.attempt)


@task()
async def later(n: int) -> int:
    return n + 1


@task()
def waits() -> bool:
    return go.wait(20)
