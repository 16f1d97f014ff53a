"""A real Django project in this process; each trap on a bare pool first, so that the test could fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

django = pytest.importorskip("django")

from workflow_runner import FlowContext, Scope, call, errors, flow  # noqa: E402

LONG = 20.0
HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The project, set up once, with its tables."""
    folder = tmp_path_factory.mktemp("project")
    os.environ["PROJECT_DB"] = str(folder / "project.db")
    os.environ["PROJECT_STORE"] = f"sqlite:///{folder}/runs.db?durability=process"
    os.environ["DJANGO_SETTINGS_MODULE"] = "integrations.django_project.settings"
    sys.path.insert(0, str(HERE.parent))
    django.setup()
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0)
    yield
    from integrations.django_project.flows import scope

    scope.close(timeout=LONG)
    scope.store.close()
    connections.close_all()
    sys.path.remove(str(HERE.parent))


@pytest.fixture
def at_home(make_scope: Callable[..., Scope]) -> Scope:
    from workflow_runner.integrations.django import init

    return init(make_scope(max_workers=4))


def count_users() -> int:
    from django.contrib.auth.models import User

    return int(User.objects.count())


class Opened:
    """Counts the connections that are open, in any thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from django.db.backends.sqlite3.base import DatabaseWrapper

        self.open: dict[int, Any] = {}
        self.most = self.ever = 0
        self._lock = threading.Lock()
        connect, close = DatabaseWrapper.connect, DatabaseWrapper._close

        def connecting(wrapper: Any) -> None:
            connect(wrapper)
            with self._lock:
                self.open[id(wrapper)] = wrapper.connection
                self.ever += 1
                self.most = max(self.most, len(self.open))

        def closing(wrapper: Any) -> None:
            with self._lock:
                if wrapper.connection is not None:
                    self.open.pop(id(wrapper), None)
            close(wrapper)

        monkeypatch.setattr(DatabaseWrapper, "connect", connecting)
        monkeypatch.setattr(DatabaseWrapper, "_close", closing)

    def forget(self) -> None:
        """Close what threads have left behind, and count from 0."""
        for connection in self.open.values():
            connection.close()
        self.open, self.most = {}, 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    from django.db import connections

    connections.close_all()
    return Opened(monkeypatch)


def test_an_idle_scope_keeps_no_connection_open(at_home: Scope, opened: Opened) -> None:
    """200 tasks on 4 threads: at most 4 at once and none afterwards, while a bare pool keeps one in every thread."""
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: (barrier.wait(LONG), count_users()), range(4)))
        list(pool.map(lambda _: count_users(), range(196)))
        assert len(opened.open) == 4
    opened.forget()
    executions = [at_home.exec(call(count_users)) for _ in range(200)]
    assert [execution.result(LONG) for execution in executions] == [0] * 200
    assert 1 <= opened.most <= 4
    assert opened.open == {}


def test_persistent_connections_are_closed_too(at_home: Scope, opened: Opened) -> None:
    """To every database, whatever ``CONN_MAX_AGE`` says, and after a failure; a bare pool keeps one to each."""
    from django.db import connections

    def ask_both() -> None:
        with connections["other"].cursor() as cursor:
            cursor.execute("SELECT 1")
        count_users()
        raise LookupError

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask_both).exception(LONG)
        assert len(opened.open) == 2
    opened.forget()
    for execution in [at_home.exec(call(ask_both)) for _ in range(20)]:
        with pytest.raises(LookupError):
            execution.result(LONG)
    assert opened.ever == 2 + 40
    assert opened.open == {}


def test_children_use_the_connection_of_their_parent(at_home: Scope, opened: Opened) -> None:
    """On its thread they are inside its transaction; items on other threads have connections of their own, closed."""
    from django.db import connection, transaction

    @flow
    def parent(ctx: FlowContext, n: int) -> list[bool]:
        with transaction.atomic():
            inside = [connection.in_atomic_block, ctx.exec(call(lambda: connection.in_atomic_block))]
            inside.append(connection.in_atomic_block)
        ctx.parallel([call(count_users) for _ in range(50)])
        return inside

    assert at_home.exec(parent, 1).result(LONG) == [True, True, True]
    assert opened.open == {}


def test_run_in_a_view_leaves_the_views_connection_alone(at_home: Scope, opened: Opened) -> None:
    """It runs in the view's own thread, inside its transaction."""
    from django.db import connection, transaction

    with transaction.atomic():
        assert at_home.run(call(lambda: connection.in_atomic_block)) is True
        assert connection.connection is not None
    assert len(opened.open) == 1


def test_language_and_time_zone_go_along(at_home: Scope) -> None:
    """On a bare pool they are the default again."""
    from django.utils import timezone, translation

    def active() -> tuple[str | None, str]:
        return translation.get_language(), timezone.get_current_timezone_name()

    with translation.override("fr"), timezone.override("Asia/Tokyo"):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(active).result(LONG) == ("en-us", "UTC")
        assert at_home.exec(call(active)).result(LONG) == ("fr", "Asia/Tokyo")
    assert at_home.exec(call(active)).result(LONG) == ("en-us", "UTC")


def test_a_flow_starts_when_its_rows_are_there(at_home: Scope) -> None:
    """A bare submit inside the transaction does not see them; and after a rollback nothing starts."""
    from django.contrib.auth.models import User
    from django.db import connections, transaction

    from workflow_runner.integrations.django import start_on_commit

    @flow
    def sees(ctx: FlowContext, name: str) -> bool:
        return User.objects.filter(username=name).exists()

    def sees_bare(name: str) -> bool:
        try:
            return User.objects.filter(username=name).exists()
        finally:
            connections.close_all()

    started: list[Any] = []
    try:
        with transaction.atomic(), ThreadPoolExecutor(1) as pool:
            User.objects.create(username="ada")
            start_on_commit(sees, "ada", scope=at_home, then=started.append)
            assert pool.submit(sees_bare, "ada").result(LONG) is False
            assert started == []
        assert [execution.result(LONG) for execution in started] == [True]
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            start_on_commit(sees, "ada", scope=at_home, then=started.append)
            raise ZeroDivisionError
        assert len(started) == 1
        start_on_commit(sees, "ada", scope=at_home, then=started.append)  # no transaction: at once
        assert started[1].result(LONG) is True
    finally:
        User.objects.all().delete()


def test_an_input_that_does_not_fit_is_refused_before_the_commit(at_home: Scope) -> None:
    """So that the transaction can still be rolled back."""
    from django.db import transaction

    from workflow_runner.integrations.django import start_on_commit

    @flow
    def takes(ctx: FlowContext, n: int) -> int:
        return n

    with pytest.raises(errors.InputError), transaction.atomic():
        start_on_commit(takes, {"no": "number"}, scope=at_home)


def test_the_scope_of_the_settings(settings_without: Callable[[], None]) -> None:
    """Is found by its import path and at home; without one the error says what to write."""
    from django.core.exceptions import ImproperlyConfigured

    from integrations.django_project.flows import scope
    from workflow_runner.integrations.django import InProject, default_scope, scope_at

    assert default_scope() is scope
    assert [type(extension) for extension in scope.extensions] == [InProject]
    for path in ("nowhere.scope", "os.path", "integrations.django_project.flows.go"):
        with pytest.raises(ImproperlyConfigured, match=path):
            scope_at(path)
    settings_without()
    with pytest.raises(ImproperlyConfigured, match="WORKFLOW_RUNNER_SCOPE"):
        default_scope()


@pytest.fixture
def settings_without() -> Iterator[Callable[[], None]]:
    """Takes the scope out of the settings, until the end of the test."""
    from django.conf import settings

    kept = settings.WORKFLOW_RUNNER_SCOPE
    yield lambda: setattr(settings, "WORKFLOW_RUNNER_SCOPE", None)
    settings.WORKFLOW_RUNNER_SCOPE = kept


# --- django.tasks -----------------------------------------------------------------------------------------------------


def finished(result: Any) -> Any:
    """Wait for the end of an enqueued task."""
    from integrations.django_project.flows import scope

    for execution in scope.executions:
        if execution.id == result.id:
            execution.exception(LONG)
    result.refresh()
    return result


def test_an_enqueued_task_has_a_result(project: None) -> None:
    """Of plain functions and coroutines, with its context; in JSON, as in every backend."""
    from integrations.django_project import flows

    result = finished(flows.add.enqueue(1, b=2))
    assert result.return_value == {"sum": 3, "pair": [1, 2]}
    assert (result.args, result.kwargs, result.attempts, result.is_finished) == ([1], {"b": 2}, 1, True)
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert flows.add.get_result(result.id).return_value == result.return_value
    assert finished(flows.attempts.enqueue()).return_value == 1
    assert finished(flows.later.enqueue(n=1)).return_value == 2


def test_a_task_that_fails_says_with_what(project: None) -> None:
    """The class of the exception can be had, and its message."""
    from integrations.django_project import flows

    result = finished(flows.fails.enqueue("not here"))
    assert (result.status, result.is_finished) == ("FAILED", True)
    assert result.errors[0].exception_class is LookupError
    assert "not here" in result.errors[0].traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


def test_a_running_task_is_seen_as_running(project: None) -> None:
    """Enqueueing does not wait, and the result can be looked at meanwhile."""
    from integrations.django_project import flows

    result = flows.waits.enqueue()
    try:
        result.refresh()
        assert result.status == "RUNNING"
        with pytest.raises(ValueError, match="not finished"):
            _ = result.return_value
    finally:
        flows.go.set()
    assert finished(result).return_value is True


def test_tasks_are_in_the_history(project: None) -> None:
    """Each is a run with its task as a tag."""
    from integrations.django_project import flows

    result = finished(flows.add.enqueue(2, 3))
    runs = flows.scope.store.runs(tag=("task", "integrations.django_project.flows.add"))
    assert result.id in [run.run_id for run in runs]
    assert {run.status for run in runs} == {"completed"}


def test_an_unknown_result_does_not_exist(project: None) -> None:
    """Also if the run is one of a flow that is no task."""
    from integrations.django_project import flows

    missing = type("Missing", (Exception,), {})
    backend = flows.add.get_backend()
    other = flows.scope.exec(call(int))
    other.result(LONG)
    for result_id in ("nobody", other.id):
        try:
            backend.get_result(result_id)
        except Exception as error:
            missing = type(error)
        assert missing.__name__ == "TaskResultDoesNotExist"


def test_signals_are_sent(project: None) -> None:
    """For the three moments of a task, in order, with its id."""
    from integrations.django_project import flows
    from workflow_runner.integrations.django import tasks

    heard: list[tuple[str, str]] = []
    both = threading.Event()

    def hear(name: str) -> Any:
        def receiver(sender: Any, task_result: Any, **_: Any) -> None:
            heard.append((name, task_result.id))
            if len(heard) == 3:
                both.set()

        return receiver

    receivers = {name: hear(name) for name in ("enqueued", "started", "finished")}
    for name, receiver in receivers.items():
        getattr(tasks, f"task_{name}").connect(receiver)
    try:
        result = finished(flows.add.enqueue(1, 1))
        assert both.wait(LONG)
    finally:
        for name, receiver in receivers.items():
            getattr(tasks, f"task_{name}").disconnect(receiver)
    assert sorted(heard) == sorted((name, result.id) for name in receivers)
    assert heard.index(("started", result.id)) < heard.index(("finished", result.id))


def test_manage_py_has_the_commands(project: None) -> None:
    """In a process of its own, on the store of the project."""
    from integrations.django_project import flows

    result = finished(flows.add.enqueue(1, 1))
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
    ran = subprocess.run(
        [sys.executable, "-m", "django", "workflow", "show", result.id, "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["run_id"] == result.id
