"""``serve`` in a process of its own: where it is, who may act, how it ends."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from workflow_runner.store import open_store

from .conftest import LONG, Command, end, start
from .waiting import await_file


@attrs.frozen
class Served:
    """A server and what it has said."""

    process: subprocess.Popen[str]
    address: str
    token: str | None

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=LONG) as answer:
            return str(answer.read().decode())

    def post(self, path: str) -> str:
        """Give the address to which it leads."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(f"{self.address}{path}", data=b"", headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=LONG) as answer:
            return str(answer.url)

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return end(self.process).code


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


Serve = Callable[..., Served]


@pytest.fixture
def serve(store: str) -> Iterator[Serve]:
    """Starts servers, and ends those that a failed test has left."""
    started: list[subprocess.Popen[str]] = []

    def serve(*words: str) -> Served:
        process = start("serve", "--store", store, "--port", "0", *words)
        started.append(process)
        assert process.stderr is not None
        said = re.fullmatch(r"serving (http://127\.0\.0\.1:\d+/)\n", process.stderr.readline())
        assert said
        token = process.stderr.readline().split()[1] if words == ("--actions",) else None
        return Served(process, said[1].rstrip("/"), token)

    yield serve
    for process in started:
        process.kill()
        process.wait(LONG)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_it_says_where_it_is_and_answers_there(serve: Serve, command: Command, store: str) -> None:
    """The history of the store, read-only; Ctrl-C ends it well."""
    assert command("run", "--store", store, "sample_flows:place", "--ticker", "IBM", "--quantity", "3").code == 0
    served = serve()
    assert "place" in served.get("/")
    assert '"flow": "place"' in served.get("/runs.json")
    with pytest.raises(urllib.error.HTTPError) as refused:
        served.post("/flows/place/run-missing")
    assert refused.value.code in (403, 404, 405)
    refused.value.close()
    assert served.stop(signal.SIGINT) == 0


def test_what_was_started_there_is_handed_back(serve: Serve, store: str, command: Command, tmp_path: Path) -> None:
    """SIGTERM ends it with 0; a run of its own is pending then, for anybody to resume."""
    assert command("run", "--store", store, "sample_serve:again", "--folder", str(tmp_path)).code == 1
    (run,) = open_store(store).runs()
    served = serve("--actions")
    assert served.token
    page = served.post(f"/runs/{run.run_id}/resume")
    assert page.endswith(run.run_id)
    await_file(tmp_path / "begun")
    assert served.stop(signal.SIGTERM) == 0
    assert open_store(store).run(run.run_id).status == "pending"


def test_a_port_that_is_taken(command: Command, store: str) -> None:
    """Is a matter of configuration, named in one line; so is one that does not exist."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ran = command("serve", "--store", store, "--port", port)
        assert (ran.code, ran.out) == (78, "")
        assert f"cannot listen at 127.0.0.1:{port}" in ran.err
    ran = command("serve", "--store", store, "--port", "99999")
    assert ran.code == 78
    assert "99999" in ran.err
    ran = command("serve", "--store", store, "--host", "no.such.host.invalid", "--port", "0")
    assert ran.code == 78


def test_a_wrong_limit(command: Command, store: str) -> None:
    """Is refused before anything listens."""
    ran = command("serve", "--store", store, "--max-age", "soon")
    assert (ran.code, "--max-age" in ran.err) == (64, True)


def test_the_help_page(command: Command) -> None:
    """Says that it is read-only, and shows an example with options that there are."""
    page = command("serve", "--help").out
    assert "read-only" in page
    words = shlex.split(page.partition("Example:")[2])
    assert words[:2] == ["workflow-runner", "serve"]
    options: list[Any] = [word for word in words if word.startswith("--")]
    assert options
    assert all(option in page.partition("Example:")[0] for option in options)
