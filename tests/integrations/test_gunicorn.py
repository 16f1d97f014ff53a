"""A real gunicorn that loads the application before it forks, with real signals and requests."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workflow_runner.store import open_store

LONG = 30.0
HERE = Path(__file__).parent

CONFIG = """
from workflow_runner.integrations.gunicorn import Drain
import integrations.gunicorn_app as service

drain = Drain("integrations.gunicorn_app:scope")
worker_exit = drain.worker_exit

def post_worker_init(worker):
    drain.post_worker_init(worker)
    service.post_worker_init(worker)
"""


class Service:
    """A gunicorn in a process of its own."""

    def __init__(self, folder: Path, workers: int, worker_class: str, graceful_timeout: int, job: bool) -> None:
        self.folder = folder
        (folder / "conf.py").write_text(CONFIG)
        path = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0", "--config", "conf.py"),
                *("--workers", str(workers), "--worker-class", worker_class, "--threads", "4"),
                *("--graceful-timeout", str(graceful_timeout), "integrations.gunicorn_app:create_app()"),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "SERVICE_FOLDER": str(folder), "SERVICE_JOB": "1" if job else ""},
            stderr=self.errors,
        )

    def await_workers(self, workers: int) -> None:
        until(lambda: len(self.pids()) == workers or self.process.poll() is not None, self.log)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log())
        assert found, self.log()
        self.port = int(found[1])

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def pids(self) -> set[int]:
        return {int(note.split()[1]) for note in self.notes() if note.startswith("worker ")}

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def get_meanwhile(self, path: str) -> Callable[[], tuple[int, str]]:
        """Ask in a thread of its own; gives what waits for the answer."""
        answers: list[tuple[int, str]] = []
        thread = threading.Thread(target=lambda: answers.append(self.get(path)), daemon=True)
        thread.start()

        def answer() -> tuple[int, str]:
            thread.join(LONG)
            assert answers, self.log()
            return answers[0]

        return answer

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONG)


def until(condition: Callable[[], bool], log: Callable[[], str]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, log()
        time.sleep(0.02)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def serve(
        *, workers: int = 1, worker_class: str = "gthread", graceful_timeout: int = 20, job: bool = False
    ) -> Service:
        started.append(Service(tmp_path, workers, worker_class, graceful_timeout, job))
        started[-1].await_workers(workers)
        return started[-1]

    yield serve
    for service in started:
        service.process.terminate()
        try:
            service.process.wait(LONG)
        finally:
            service.process.kill()
            service.errors.close()


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_scope_from_before_the_fork_works_in_every_worker(serve: Callable[..., Service], worker_class: str) -> None:
    """With fan-outs on threads of each worker; and a job that every worker starts under one key runs once."""
    service = serve(workers=4, worker_class=worker_class, job=True)
    answered: dict[int, list[int]] = {}

    def ask() -> bool:
        for answer in [service.get_meanwhile("/fan") for _ in range(8)]:
            status, text = answer()
            assert status == 200, service.log()
            answered[json.loads(text)["pid"]] = json.loads(text)["squares"]
        return len(answered) == 4

    until(ask, service.log)
    assert set(answered) == service.pids()
    assert set(map(tuple, answered.values())) == {(0, 1, 4, 9, 16)}
    assert len([note for note in service.notes() if note.startswith("job ")]) == 1
    assert service.stop() == 0


def test_a_stopping_worker_lets_its_flows_finish(serve: Callable[..., Service]) -> None:
    """In requests and beside them; the requests are answered, and nothing is left to be resumed."""
    service = serve()
    slow = service.get_meanwhile("/slow")
    until(lambda: "second begins" in service.notes(), service.log)
    assert service.get("/background")[0] == 200
    until(lambda: service.notes().count("second begins") == 2, service.log)
    service.process.send_signal(signal.SIGTERM)
    until(lambda: "Handling signal: term" in service.log(), service.log)
    (service.folder / "go").touch()
    assert slow() == (200, "done")
    assert service.process.wait(LONG) == 0
    store = open_store(f"sqlite:///{service.folder}/runs.db")
    assert {run.status for run in store.runs(flow="two_steps")} == {"completed"}
    store.close()


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_what_does_not_finish_in_time_can_be_resumed(serve: Callable[..., Service], worker_class: str) -> None:
    """The worker cancels it within its budget, answers the request, hands the run back, and ends by itself."""
    service = serve(worker_class=worker_class, graceful_timeout=4)
    slow = service.get_meanwhile("/slow")
    until(lambda: "second begins" in service.notes(), service.log)
    assert service.stop() == 0
    status, text = slow()
    assert (status, "the gunicorn worker stops" in text) == (503, True)
    assert "SIGKILL" not in service.log()
    store = open_store(f"sqlite:///{service.folder}/runs.db")
    (run,) = store.runs(flow="two_steps")
    assert (run.status, run.alive) == ("pending", False)
    assert [step.path for step in store.steps(run.run_id)] == ["first"]
    store.close()


def test_a_view_that_is_stuck_does_not_keep_the_worker(serve: Callable[..., Service]) -> None:
    """A blocking call that never looks is left behind: its request is answered, and the worker ends before it is killed."""
    service = serve(graceful_timeout=4)
    stuck = service.get_meanwhile("/stuck")
    until(lambda: "stuck begins" in service.notes(), service.log)
    assert service.stop() == 0
    assert stuck()[0] == 503
    assert "SIGKILL" not in service.log()
