"""A backend for ``django.tasks``: enqueued tasks run on the scope's threads, in the process that is already there.

    TASKS = {"default": {"BACKEND": "workflow_runner.integrations.django.tasks.ThreadBackend"}}

Each task is a run of its own. With a store it is recorded: its result can be read from every process, it is in the
history beside all other runs, and one whose process died can be resumed. Options of the backend: ``scope``, the import
path of a scope; default: that of ``settings.WORKFLOW_RUNNER_SCOPE``.

Works with the tasks of Django 6 and with the package ``django-tasks`` for older versions.
"""

from __future__ import annotations

import datetime as dt
import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from django.utils.module_loading import import_string

try:  # the two have one interface and different homes
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json
except ImportError:
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json

from workflow_runner import FlowContext, FlowExecution, flow
from workflow_runner._core import codec
from workflow_runner.errors import RunNotFound
from workflow_runner.integrations.django import default_scope, scope_at
from workflow_runner.store.base import RunRecord

_STATUSES = {
    "pending": TaskResultStatus.READY,
    "running": TaskResultStatus.RUNNING,
    "completed": TaskResultStatus.SUCCESSFUL,
    "failed": TaskResultStatus.FAILED,
    "cancelled": TaskResultStatus.FAILED,
}


@attrs.frozen(kw_only=True)
class Enqueued:
    """A task that was enqueued, as the input of its run.

    Attributes:
        task: the import path of the ``Task``.
        args: JSON data.
        kwargs: JSON data.
        backend: the alias of the backend.
        queue_name: the queue.
    """

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    queue_name: str


@flow(name="django.task")
def run_task(ctx: FlowContext, enqueued: Enqueued) -> Any:
    """Run one enqueued task; its result is JSON data."""
    task = import_string(enqueued.task).using(backend=enqueued.backend, queue_name=enqueued.queue_name)
    backend = task.get_backend()
    started = ctx.details.started_at
    result = _result(task, ctx.run_id, enqueued, started=started, status=TaskResultStatus.RUNNING)
    task_started.send(type(backend), task_result=result)
    context = (TaskContext(task_result=result),) if task.takes_context else ()
    try:
        value = normalize_json(task.call(*context, *enqueued.args, **enqueued.kwargs))
    except BaseException as error:
        _end(result, TaskResultStatus.FAILED, error=_task_error(error))
        task_finished.send(type(backend), task_result=result)
        raise
    _end(result, TaskResultStatus.SUCCESSFUL, value=value)
    task_finished.send(type(backend), task_result=result)
    return value


class ThreadBackend(BaseTaskBackend):  # type: ignore[misc]
    """The backend; see above."""

    supports_async_task = True

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        path = self.options.get("scope")
        self.scope = default_scope() if path is None else scope_at(path)
        self.supports_get_result = getattr(self.scope, "store", None) is not None

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Start a task; returns at once.

        Raises:
            ScopeSaturated: the scope has no room for it now.
            TypeError: the arguments are no JSON data.
        """
        self.validate_task(task)
        enqueued = Enqueued(
            task=task.module_path,
            args=normalize_json(list(args)),
            kwargs=normalize_json(dict(kwargs)),
            backend=self.alias,
            queue_name=task.queue_name,
        )
        tags = {"task": task.module_path, "queue": task.queue_name}
        execution: FlowExecution[Any] = self.scope.exec(run_task, enqueued, name=task.name, metadata=tags)
        result = _result(task, execution.id, enqueued)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:
        """The result of a task that was enqueued by any process on this store.

        Raises:
            TaskResultDoesNotExist: there is no such run, or it is none of a task.
        """
        store = getattr(self.scope, "store", None)
        if store is None:
            return super().get_result(result_id)
        try:
            record: RunRecord = store.run(result_id)
        except RunNotFound as error:
            raise TaskResultDoesNotExist(result_id) from error
        if record.flow != run_task.name:
            raise TaskResultDoesNotExist(result_id)
        return _recorded(record)


def _result(
    task: Any, run_id: str, enqueued: Enqueued, *, started: dt.datetime | None = None, status: Any = None
) -> Any:
    return TaskResult(
        task=task,
        id=run_id,
        status=status or TaskResultStatus.READY,
        enqueued_at=dt.datetime.now(dt.UTC) if started is None else started,
        started_at=started,
        finished_at=None,
        last_attempted_at=started,
        args=enqueued.args,
        kwargs=enqueued.kwargs,
        backend=enqueued.backend,
        errors=[],
        worker_ids=[] if started is None else [run_id],
    )


def _end(result: Any, status: Any, *, value: Any = None, error: Any = None) -> None:
    # what Django's own backends do to their frozen results
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", dt.datetime.now(dt.UTC))
    object.__setattr__(result, "_return_value", value)
    if error is not None:
        result.errors.append(error)


def _recorded(record: RunRecord) -> Any:
    enqueued: Enqueued = codec.structure(codec.loads(record.input), Enqueued, what="input")
    task = import_string(enqueued.task).using(backend=enqueued.backend, queue_name=enqueued.queue_name)
    result = _result(task, record.run_id, enqueued, started=_moment(record.started_at), status=_STATUSES[record.status])
    object.__setattr__(result, "enqueued_at", _moment(record.created_at))
    object.__setattr__(result, "finished_at", _moment(record.finished_at))
    if record.status == "completed":
        object.__setattr__(result, "_return_value", codec.loads(record.result or "null"))
    if record.error is not None:
        error = json.loads(record.error)
        result.errors.append(
            TaskError(exception_class_path=f"{error['module']}.{error['type']}", traceback=_chain(error))
        )
    return result


def _moment(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def _task_error(error: BaseException) -> Any:
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    return TaskError(exception_class_path=path, traceback="".join(traceback.format_exception(error)))


def _chain(error: Mapping[str, Any] | None) -> str:
    """What a store knows of an error in the place of a traceback: it and its causes."""
    lines = []
    while error is not None:
        lines.append(f"{error['module']}.{error['type']}: {error['message']}\n")
        error = error["cause"]
    return "Caused by ".join(lines)
