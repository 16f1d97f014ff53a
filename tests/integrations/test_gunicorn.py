"""A real gunicorn that loads the application before it forks, with real signals and requests."""

from __future__ import annotations

import ctypes
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
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from workflow_runner import Scope, call
from workflow_runner.integrations.gunicorn import _QUICK, Drain
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

    def __init__(
        self, folder: Path, workers: int, worker_class: str, graceful_timeout: int, job: bool, options: tuple[str, ...]
    ) -> None:
        self.folder = folder
        (folder / "conf.py").write_text(CONFIG)
        path = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)])
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", *options, "--bind", "127.0.0.1:0", "--config", "conf.py"),
                *("--workers", str(workers), "--worker-class", worker_class),
                # gunicorn takes gthread for a sync worker that is given threads
                *(("--threads", "4") if worker_class == "gthread" else ()),
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

        def ask() -> None:
            with suppress(OSError, http.client.HTTPException):  # the worker has gone
                answers.append(self.get(path))

        thread = threading.Thread(target=ask, daemon=True)
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
        *options: str,
        workers: int = 1,
        worker_class: str = "gthread",
        graceful_timeout: int = 20,
        job: bool = False,
        preload: bool = True,
    ) -> Service:
        if preload:
            options = ("--preload", *options)
        started.append(Service(tmp_path, workers, worker_class, graceful_timeout, job, options))
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


def test_every_worker_says_the_same_of_all_runs(serve: Callable[..., Service]) -> None:
    """Whichever is scraped: the metrics of the store count what the others have done, too."""
    service = serve(workers=2)
    for _ in range(20):
        assert service.get("/fan")[0] == 200
    said: dict[str, str] = {}

    def scrape() -> bool:
        for answer in [service.get_meanwhile("/metrics") for _ in range(4)]:
            pid, _, text = answer()[1].partition("\n")
            (said[pid],) = [line for line in text.splitlines() if 'flow="fan",status="completed"' in line]
        return len(said) == 2

    until(scrape, service.log)
    assert set(said.values()) == {'workflow_runner_store_runs{flow="fan",status="completed"} 20.0'}


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
    """A blocking call that never looks is left behind: its request is answered, and the worker ends by itself."""
    service = serve(graceful_timeout=4)
    stuck = service.get_meanwhile("/stuck")
    until(lambda: "stuck begins" in service.notes(), service.log)
    assert service.stop() == 0
    assert stuck()[0] == 503
    assert "SIGKILL" not in service.log()


def run_of(service: Service) -> tuple[str, bool]:
    """Status of the one run of two steps, and whether its process is there."""
    store = open_store(f"sqlite:///{service.folder}/runs.db")
    (run,) = store.runs(flow="two_steps")
    store.close()
    return run.status, run.alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_does_not_wait(serve: Callable[..., Service], number: int) -> None:
    """Ctrl-C on gunicorn cancels at once what a worker would otherwise let finish; durable runs can be resumed."""
    service = serve(graceful_timeout=10 * int(LONG))
    assert service.get("/background")[0] == 200
    until(lambda: "second begins" in service.notes(), service.log)
    service.process.send_signal(number)
    service.process.wait(LONG)
    assert run_of(service) == ("pending", False)


def test_a_worker_that_gunicorn_gives_up_hands_back(serve: Callable[..., Service]) -> None:
    """A sync worker whose view waits for too long is aborted; the next one goes on with the run under its key."""
    service = serve("--timeout", "2", worker_class="sync", graceful_timeout=10 * int(LONG))
    service.get_meanwhile("/waits")
    until(lambda: "WORKER TIMEOUT" in service.log(), service.log)
    until(lambda: len(service.pids()) == 2, service.log)
    assert run_of(service) == ("pending", False)
    (service.folder / "go").touch()
    assert service.get("/waits") == (200, "done")
    assert service.notes().count("first") == 1
    assert service.stop() == 0


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("how", ["SIGHUP", "max_requests"])
def test_a_worker_that_is_replaced_lets_its_flows_finish(
    serve: Callable[..., Service], how: str, preload: bool
) -> None:
    """On a reload, and after its last request, while the next one answers already."""
    options = ("--max-requests", "1") if how == "max_requests" else ()
    service = serve(*options, preload=preload)
    assert service.get("/background")[0] == 200
    until(lambda: "second begins" in service.notes(), service.log)
    if how == "SIGHUP":
        service.process.send_signal(signal.SIGHUP)
        until(lambda: len(service.pids()) == 2, service.log)
        assert json.loads(service.get("/fan")[1])["pid"] in service.pids()
    (service.folder / "go").touch()
    until(lambda: run_of(service) == ("completed", False), service.log)
    until(lambda: len(service.pids()) == 2, service.log)
    assert service.get("/fan")[0] == 200
    assert service.notes().count("second begins") == 1
    assert service.stop() == 0


def test_the_master_keeps_its_scope(make_scope: Callable[..., Scope]) -> None:
    """It calls ``worker_exit`` itself for a worker that it finds gone; those that it forks later need the scope."""
    scope = make_scope(max_workers=1)
    Drain(scope).worker_exit(None, SimpleNamespace(pid=os.getpid() + 1))
    assert scope.run(call(int)) == 0


def test_a_signal_interrupts_no_system_call(make_scope: Callable[..., Scope]) -> None:
    """Of a database client in C, say; gunicorn sees to that, and a bare ``signal.signal`` undoes it."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, *_QUICK)}

    def reads() -> int:
        """What ``read`` gives while a signal comes: 1, or -1 if it was interrupted."""
        reader, writer = os.pipe()

        def disturb() -> None:
            for _ in range(20):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.005)
            os.write(writer, b"x")

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            return int(libc.read(reader, ctypes.create_string_buffer(1), 1))
        finally:
            thread.join()
            os.close(reader)
            os.close(writer)

    try:
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        assert reads() == -1
        signal.siginterrupt(signal.SIGTERM, False)
        assert reads() == 1
        scope = make_scope(max_workers=1)
        Drain(scope).post_worker_init(SimpleNamespace(cfg=SimpleNamespace(graceful_timeout=0.0)))
        assert reads() == 1
        scope.close()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
