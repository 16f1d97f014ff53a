"""Flows inside a Django project.

    # settings.py
    INSTALLED_APPS = [..., "workflow_runner.integrations.django"]
    WORKFLOW_RUNNER_SCOPE = "shop.flows.scope"

    # shop/flows.py
    scope = Scope(store="sqlite:///runs.db", max_pending=100)

Threads of the scope close their database connections before and after each task, so that none is left open in a thread
that does nothing. ``scope.run`` in a view runs in the view's own thread while a slot is free, and leaves its
connections alone. The active language and time zone go along. `start_on_commit` starts a flow when the rows that it is
about are there for all to see. ``manage.py workflow ...`` are the commands of ``workflow-runner`` on the scope's store.

A transaction belongs to one thread. What is started inside ``atomic`` (or ``ATOMIC_REQUESTS``) may see its rows or not:
the items of a fan-out, and ``scope.run`` when all slots are taken, run on other threads, outside of it. Commit first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connections, transaction
from django.utils import timezone, translation
from django.utils.module_loading import import_string

from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.extension import Extension, Operation
from workflow_runner._core.flow import Call, Flow
from workflow_runner._core.scope import Scope

__all__ = ["InProject", "default_scope", "init", "start_on_commit"]


class InProject(Extension):
    """Carries language and time zone along, and closes the connections of the scope's threads; `init` adds it."""

    name = "django"

    def __init__(self) -> None:
        self._busy = threading.local()

    def wrap_task(self, task: Callable[..., Any]) -> Callable[..., Any]:
        # asgiref, in which Django keeps them, hides them from every other thread
        language, zone = translation.get_language(), timezone.get_current_timezone()

        def carried(*args: Any) -> Any:
            with translation.override(language), timezone.override(zone):
                return task(*args)

        return carried

    def wrap(self, scope: Any, next: Callable[[], Any], operation: Operation) -> Any:
        # what runs inside a task on the task's own thread uses the task's connection, and its transaction
        if operation.kind != "execution" or getattr(self._busy, "yes", False) or not scope.is_own_thread():
            return next()
        self._busy.yes = True
        try:
            close_old_connections()
            return next()
        finally:
            self._busy.yes = False
            connections.close_all()


def init(scope: Scope) -> Scope:
    """Make flows of ``scope`` at home in this project; again is harmless. The app does it for the default scope."""
    if not any(isinstance(extension, InProject) for extension in scope.extensions):
        scope.use(InProject())
    return scope


def default_scope() -> Scope:
    """The scope that ``settings.WORKFLOW_RUNNER_SCOPE`` names by its import path.

    Raises:
        django.core.exceptions.ImproperlyConfigured: there is no such setting, or it names no scope.
    """
    from django.core.exceptions import ImproperlyConfigured

    path = getattr(settings, "WORKFLOW_RUNNER_SCOPE", None)
    if path is None:
        raise ImproperlyConfigured('WORKFLOW_RUNNER_SCOPE is missing: the import path of a scope, "shop.flows.scope"')
    return scope_at(path)


def scope_at(path: str) -> Scope:
    """The scope with this import path, at home in this project."""
    from django.core.exceptions import ImproperlyConfigured

    try:
        scope = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"the scope {path!r} cannot be imported: {error}") from error
    if not isinstance(scope, Scope):
        raise ImproperlyConfigured(f"{path!r} is no Scope but {type(scope).__name__}")
    return init(scope)


def start_on_commit(
    flow: Flow[Any, Any] | Call,
    input: Any = None,
    *,
    scope: Scope | None = None,
    using: str | None = None,
    then: Callable[[FlowExecution[Any]], object] | None = None,
    **options: Any,
) -> None:
    """Start a flow when the current transaction is committed, and never if it is rolled back.

    Outside of a transaction it starts at once.

    Args:
        flow: what to start.
        input: its input, checked now: one that does not fit is refused before anything is committed.
        scope: where; default: the one of the settings.
        using: the database alias of the transaction.
        then: called with the execution when it has started.
        options: as for ``scope.exec``.

    Raises:
        InputError: the input does not fit the flow.
        ScopeSaturated, ScopeClosed, StoreError: as ``scope.exec``, out of the commit; the rows are committed by then.
    """
    own = default_scope() if scope is None else init(scope)
    call = flow if isinstance(flow, Call) else flow.bind(input)
    call = Call(call.flow, call.flow.prepare(call.input))

    def start() -> None:
        execution: FlowExecution[Any] = own.exec(call, **options)
        if then is not None:
            then(execution)

    transaction.on_commit(start, using=using)
