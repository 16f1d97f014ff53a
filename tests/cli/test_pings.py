"""Pings: what is asked of which service, and that it never costs more than its time."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.pings import LONGEST_BODY, LONGEST_MESSAGE, Pings, Request, Sending

LONG = 20.0
RUN = "0193f0c0a1b2" + "0" * 19 + "7"
UUID = "0193f0c0-a1b2-0000-0000-000000000007"

HC = "https://hc-ping.com/8a7c2b1d-0000-4000-8000-000000000000"
CRONITOR = "https://cronitor.link/p/KEY/nightly"


@attrs.frozen
class Asked:
    """What the server was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: str


@attrs.define
class Server:
    """A monitoring service on loopback."""

    url: str
    asked: list[Asked] = attrs.field(factory=list)
    status: int = 200


@pytest.fixture
def server() -> Iterator[Server]:
    """Answers with what it is told to, and notes what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            split = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            there.asked.append(Asked(self.command, split.path, parse_qs(split.query), body))
            self.send_response(there.status)
            self.end_headers()
            self.wfile.write(b"OK")

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = Server(f"http://127.0.0.1:{http.server_port}")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield there
    http.shutdown()
    http.server_close()
    thread.join(LONG)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refused() -> str:
    """A URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


# -- what is asked


def ended(pings: Pings, code: int, **changes: Any) -> Request:
    options: dict[str, Any] = {"seconds": 1.5, "message": "nightly failed", "tail": ["one", "two"]} | changes
    return pings.ended(RUN, code, **options)


def test_healthchecks() -> None:
    """The start, success and the exit code have their own URLs; the log is the body; a run has one rid."""
    pings = Pings.parse(HC)
    assert pings.begun(RUN) == Request(url=f"{HC}/start?rid={UUID}")
    assert ended(pings, 0) == Request(url=f"{HC}?rid={UUID}", body=b"one\ntwo\nnightly failed")
    assert ended(pings, 124).url == f"{HC}/124?rid={UUID}"


def test_healthchecks_by_slug() -> None:
    """What the URL asks for itself is kept, and a slash at its end makes no difference."""
    pings = Pings.parse("https://hc.example.com/ping/KEY/nightly/?create=1")
    assert pings.begun(RUN).url == f"https://hc.example.com/ping/KEY/nightly/start?create=1&rid={UUID}"


def test_cronitor() -> None:
    """The state is in the query, with the run as the series, the exit code, the duration and a message."""
    pings = Pings.parse(CRONITOR)
    assert pings.begun(RUN) == Request(url=f"{CRONITOR}?state=run&series={RUN}")
    for code, state in ((0, "complete"), (1, "fail")):
        asked = ended(pings, code)
        assert asked.body is None
        assert parse_qs(urlsplit(asked.url).query) == {
            "state": [state],
            "series": [RUN],
            "status_code": [str(code)],
            "metric": ["duration:1.500"],
            "message": ["nightly failed"],
        }


def test_nothing_is_longer_than_the_services_take() -> None:
    """The end of a log and the beginning of a message."""
    body = ended(Pings.parse(HC), 1, tail=["é" * LONGEST_BODY]).body
    assert body is not None
    assert len(body) == LONGEST_BODY
    assert body.endswith(b"nightly failed")
    asked = ended(Pings.parse(CRONITOR), 1, message="m" * 9999)
    assert parse_qs(urlsplit(asked.url).query)["message"] == ["m" * LONGEST_MESSAGE]


def test_a_run_with_an_id_of_its_own_has_a_uuid_that_stays() -> None:
    """Whatever the id is."""
    pings = Pings.parse(HC)
    assert pings.begun("my run").url == pings.begun("my run").url != pings.begun("other").url


@pytest.mark.parametrize(
    ("text", "service"),
    [
        (HC, "healthchecks"),
        (CRONITOR, "cronitor"),
        ("https://www.cronitor.io/p/k/m", "cronitor"),
        ("https://notcronitor.io/p", "healthchecks"),
        ("http://localhost:8000/ping/x", "healthchecks"),
        ("cronitor+http://localhost:8000/p/k/m", "cronitor"),
        ("healthchecks+https://cronitor.io/odd", "healthchecks"),
    ],
)
def test_whose_url_it_is(text: str, service: str) -> None:
    """The host tells, or who gives it; what is not Cronitor's is a healthchecks of somebody's own."""
    assert Pings.parse(text).service == service


@pytest.mark.parametrize("text", ["", "hc-ping.com/x", "ftp://hc-ping.com/x", "cronitor+", "https://", "https://[::1"])
def test_what_is_no_url_is_refused(text: str) -> None:
    """With an example of each, before anything is run."""
    with pytest.raises(CommandError, match="--ping") as caught:
        Pings.parse(text)
    assert caught.value.code is Exit.USAGE
    assert "https://hc-ping.com/UUID" in (caught.value.hint or "")


# -- asking it


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "ping.failed"]


def test_it_is_asked(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A body is posted, and success is silent."""
    assert Sending(Request(url=f"{server.url}/x/start?rid=1"), service="s").wait()
    assert Sending(Request(url=f"{server.url}/x", body=b"log"), service="s").wait()
    assert server.asked == [Asked("GET", "/x/start", {"rid": ["1"]}, ""), Asked("POST", "/x", {}, "log")]
    assert warnings(caplog) == []


def test_a_refusal_is_a_warning_without_the_url(server: Server, refused: str, caplog: pytest.LogCaptureFixture) -> None:
    """The URL of a check is a password."""
    server.status = 404
    assert not Sending(Request(url=f"{server.url}/secret"), service="healthchecks").wait()
    assert not Sending(Request(url=f"{refused}/secret"), service="cronitor").wait()
    first, second = warnings(caplog)
    assert first == "ping.failed service=healthchecks error='HTTP 404'"
    assert second.startswith("ping.failed service=cronitor error=")
    assert "refused" in second
    assert "secret" not in first + second


def test_who_never_answers_is_given_up(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    """The wait has an end, and the thread that may hang for ever keeps nobody alive."""
    assert not Sending(Request(url=silent), service="s", longest=0.05).wait()
    (warning,) = warnings(caplog)
    assert "no answer after" in warning or "timed out" in warning
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "ping")


def test_the_time_that_is_left_to_it_can_be_less(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who cannot wait for all of it gives it up before."""
    assert not Sending(Request(url=silent), service="s", longest=LONG).wait(0.01)
    assert len(warnings(caplog)) == 1


# -- from the command


def test_a_run_is_told_from_beginning_to_end(server: Server, command: Callable[..., Any]) -> None:
    """Start and success, or the exit code with the end of the log, under one rid."""
    assert command("run", "--ping", f"{server.url}/x", "sample_flows:double", "--number", "2").code == 0
    start, success = server.asked
    assert (start.path, success.path) == ("/x/start", "/x")
    assert start.query == success.query
    assert "double completed" in success.body
    server.asked.clear()
    assert command("run", "--ping", f"{server.url}/x", "sample_flows:fails").code == 1
    assert [asked.path for asked in server.asked] == ["/x/start", "/x/1"]
    assert "RuntimeError: no such [red]key[/red]" in server.asked[1].body
    server.asked.clear()
    run = command("run", "--json", "--ping", f"cronitor+{server.url}/p", "sample_flows:double", "--number", "2")
    assert [asked.query["state"] for asked in server.asked] == [["run"], ["complete"]]
    assert server.asked[0].query["series"] == [json.loads(run.out)["run_id"]]


def test_a_ping_changes_nothing_in_the_run(refused: str, command: Callable[..., Any]) -> None:
    """The code and the output are what they are without."""
    ran = command("run", "--ping", refused, "sample_flows:double", "--number", "2")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "4")
    assert ran.err.count("event=ping.failed") == 2


def test_a_wrong_url_stops_nothing_half_way(command: Callable[..., Any]) -> None:
    """It is refused before the run."""
    ran = command("run", "--ping", "hc-ping.com/x", "sample_flows:double", "--number", "2")
    assert (ran.code, ran.out) == (64, "")
    assert "--ping" in ran.err
