"""The pages against a real store: what they say, in HTML and in JSON, and what they never let through."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any

import attrs
import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from workflow_runner import FlowContext, Retry, Scope, Step, Workflow, WorkflowContext, flow
from workflow_runner._core.secrets import Secret
from workflow_runner.store import open_store
from workflow_runner.store.base import NewRun, StepRow
from workflow_runner.web import pages as pages_module
from workflow_runner.web.app import history, make_app

LONG = 20.0
ROOT = Path(__file__).parent.parent.parent
EVIL = "<script>alert('x')<b>"


@attrs.frozen
class Params:
    """What it is asked to do."""

    limit: int = 3
    names: tuple[str, ...] = ("a", "b")
    password: Annotated[str, Secret] = ""
    dry: bool = False


@flow
def item(ctx: FlowContext, n: int) -> int:
    return n


@flow
def fan(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    return {"sum": sum(ctx.parallel(item.each(range(5))))}


def evil(context: WorkflowContext) -> dict[str, str]:
    return {"text": EVIL}


def maybe(context: WorkflowContext) -> dict[str, int]:
    if context.get_param("limit", 3) > 5:
        raise ConnectionError(f"away {EVIL}") from TimeoutError("no answer")
    return {"n": 1}


nightly = Workflow(
    "nightly",
    params=Params,
    steps=[Step("fan", fan), Step(EVIL, evil), Step("maybe", maybe, retry=Retry(attempts=2, initial=0.001))],
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


@pytest.fixture
def runs(url: str, make_scope: Callable[..., Scope]) -> dict[str, str]:
    """The ids of one completed and one failed run."""
    scope = make_scope(store=url)
    found = {}
    for name, limit, day in (("completed", 3, 1), ("failed", 9, 4)):
        context = WorkflowContext.new(
            params={"limit": limit, "password": "hunter22"},
            as_of_date=dt.date(2013, 2, day),
            partition={"region": EVIL},
            batch_id="feb",
        )
        execution = scope.exec(nightly, context, metadata={"env": "prod"})
        execution.exception(LONG)
        found[name] = execution.id
    return found


@pytest.fixture
def client(url: str, runs: dict[str, str]) -> Any:
    return make_app(url).test_client()


class Elements(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        self.sources += [value or "" for name, value in attributes if name in ("src", "href") and tag != "a"]


def pages(runs: dict[str, str]) -> list[str]:
    both = f"/compare?a={runs['completed']}&b={runs['failed']}"
    return [
        "/",
        "/?status=failed&tag=env=prod&since=2000-01-01",
        f"/runs/{runs['completed']}",
        f"/runs/{runs['failed']}",
        "/flows",
        "/flows/nightly",
        "/batches/feb",
        "/compare",
        both,
    ]


def test_nothing_in_a_page_is_anybody_elses(client: Any, runs: dict[str, str]) -> None:
    """A step, a partition, an output and an error that are called <script> are text; nothing comes from elsewhere."""
    for path in pages(runs):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert EVIL not in answer.text
        elements = Elements(answer.text)
        assert elements.tags.count("script") == 2  # both from our own files
        assert elements.tags.count("style") == 0
        assert not [name for name, _ in elements.attributes if name.startswith("on") or name == "style"]
        assert all(source.startswith(("/", "#")) or source == "data:," for source in elements.sources)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert "&lt;script&gt;" in client.get(f"/runs/{runs['failed']}").text


def test_a_secret_is_on_no_page(client: Any, runs: dict[str, str]) -> None:
    """Neither in HTML nor in JSON."""
    for path in pages(runs):
        stem, _, query = path.partition("?")
        twin = f"{stem.rstrip('/') or '/runs'}.json?{query}"
        for page in (path, twin):
            assert "hunter22" not in client.get(page).text, page


def test_every_page_has_a_twin(client: Any, runs: dict[str, str]) -> None:
    """With the same content as data."""
    listed = client.get("/runs.json").json
    assert [run["run_id"] for run in listed["runs"]] == [runs["failed"], runs["completed"]]
    assert listed["schema"] == 1
    run = client.get(f"/runs/{runs['failed']}.json").json
    assert run["run"]["status"] == "failed"
    assert [cause["type"] for cause in run["causes"]] == ["WorkflowFailed", "ConnectionError", "TimeoutError"]
    assert "picture" not in run
    assert client.get("/flows/nightly.json").json["rates"]["succeeded"] == 0.5
    assert client.get("/flows/nightly.json").json["days"]["2013-02-04"]["status"] == "failed"
    assert client.get("/batches/feb.json").json["counts"] == {"completed": 1, "failed": 1}
    both = client.get(f"/compare.json?a={runs['completed']}&b={runs['failed']}").json
    assert {row["name"]: row["same"] for row in both["params"]}["limit"] is False
    assert client.get("/flows.json").json["flows"][0]["healthy"] is False
    json.dumps(run, allow_nan=False)


def test_filters(client: Any, runs: dict[str, str]) -> None:
    """Each alone; what makes no sense is said beside the list."""
    for query, count in {
        "flow=nightly": 2,
        "flow=other": 0,
        "status=failed": 1,
        "status=completed": 1,
        "batch=feb": 2,
        "tag=env%3Dprod": 2,
        "tag=env%3Dtest": 0,
        "since=2000-01-01": 2,
        "until=2000-01-01T10:00": 0,
        "limit=1": 1,
    }.items():
        assert len(client.get(f"/runs.json?{query}").json["runs"]) == count, query
    wrong = client.get("/?tag=env&since=yesterday&status=good").text
    for words in ("NAME=VALUE", "a date such as", "one of completed"):
        assert words in wrong


def test_what_has_not_changed_is_not_sent_again(client: Any, url: str, runs: dict[str, str]) -> None:
    """304 for the ETag and 204 for the page's own poll, until anybody writes; each costs one PRAGMA."""
    first = client.get("/")
    etag = first.headers["ETag"]
    for _ in range(3):  # the version has ten seconds in it as well
        again = client.get("/", headers={"If-None-Match": etag})
        if again.status_code == 304:
            break
        etag = again.headers["ETag"]
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(f"/?since_version={etag.strip(chr(34))}").status_code == 204
    with Scope(store=url) as other:
        other.run(item, 1)
    assert client.get("/", headers={"If-None-Match": etag}).status_code == 200


def test_an_unknown_run_is_a_404(client: Any, runs: dict[str, str]) -> None:
    """That names near ones; the beginning of an id is enough for a known one."""
    near = client.get(f"/runs/{runs['failed'][:-1]}x")
    assert near.status_code == 404
    assert "did you mean" in near.text
    assert client.get("/runs/nope.json").json["error"].startswith("there is no run")
    assert client.get(f"/runs/{runs['failed'][:20]}").status_code == 200
    assert client.get("/flows/nobody").status_code == client.get("/batches/none").status_code == 404
    assert client.get("/nowhere").status_code == 404


def test_reading_is_all_there_is(client: Any, url: str, runs: dict[str, str]) -> None:
    """Without actions nothing can be posted; actions without somebody to decide are refused."""
    for path in (f"/runs/{runs['failed']}/cancel", f"/runs/{runs['failed']}/resume", "/flows/nightly/run", "/log-in"):
        assert client.post(path, headers={"Sec-Fetch-Site": "same-origin"}).status_code in (403, 404, 405)
    assert 'method="post"' not in client.get(f"/runs/{runs['failed']}").text
    with pytest.raises(ValueError, match="token"):
        make_app(url, actions=True)
    with pytest.raises(ValueError, match="authorize"):
        history(url, actions=True)


def test_only_by_its_own_name(url: str, runs: dict[str, str]) -> None:
    """A page of this machine is not served under somebody else's name (DNS rebinding), unless that was allowed."""
    app = make_app(url, hosts=("runs.example.com",))
    client = app.test_client()
    for host, code in {
        "localhost": 200,
        "localhost:8080": 200,
        "127.0.0.1:1": 200,
        "[::1]:80": 200,
        "runs.example.com": 200,
        "RUNS.example.com:443": 200,
        "evil.example.com": 421,
        "10.0.0.1": 421,
    }.items():
        assert client.get("/", headers={"Host": host}).status_code == code, host


# --- actions ----------------------------------------------------------------------------------------------------------

OWN = {"Sec-Fetch-Site": "same-origin"}
TOKEN = {"Authorization": "Bearer open sesame"}


@pytest.fixture
def acting(url: str, runs: dict[str, str], make_scope: Callable[..., Scope]) -> Any:
    app = make_app(url, actions=True, token="open sesame", scope=make_scope(store=url))
    return app.test_client()


def test_acting_needs_the_token_and_our_own_page(acting: Any, runs: dict[str, str]) -> None:
    """A post from elsewhere, without origin, or without the token is refused, whatever it is; and nothing happens."""
    path = f"/runs/{runs['failed']}/retry"
    for headers in (
        {},
        OWN,
        {"Sec-Fetch-Site": "cross-site", "Cookie": "workflow_runner_token=x"},
        {"Origin": "http://evil.example.com"},
        {"Authorization": "Bearer wrong"},
    ):
        assert acting.post(path, headers=headers).status_code == 403, headers
    assert len(acting.get("/runs.json").json["runs"]) == 2
    assert acting.get(path).status_code == 405  # no change by GET


def test_a_browser_unlocks_with_the_token_once(acting: Any, runs: dict[str, str]) -> None:
    """Then its cookie is enough, from our own pages only; the cookie is not the token."""
    assert "Unlock" in acting.get("/").text
    assert acting.post("/log-in", data={"token": "wrong"}, headers=OWN).status_code == 403
    assert (
        acting.post("/log-in", data={"token": "open sesame"}, headers={"Sec-Fetch-Site": "cross-site"}).status_code
        == 403
    )
    unlocked = acting.post("/log-in", data={"token": "open sesame", "back": "/flows"}, headers=OWN)
    assert (unlocked.status_code, unlocked.headers["Location"]) == (303, "/flows")
    cookie = unlocked.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "sesame" not in cookie
    assert "Unlock" not in acting.get("/").text
    assert acting.post(f"/runs/{runs['failed']}/retry", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert acting.post(f"/runs/{runs['failed']}/retry", headers={"Origin": "http://localhost"}).status_code in (
        303,
        409,
    )


def test_nobody_is_sent_away(acting: Any) -> None:
    """After unlocking one comes back to a page of this site, wherever the form wanted to go."""
    for back in ("//evil.example.com", "https://evil.example.com", "/\\evil.example.com", ""):
        answer = acting.post("/log-in", data={"token": "open sesame", "back": back}, headers=OWN)
        assert answer.headers["Location"] == "/"


def test_cancel_is_for_what_runs(acting: Any, url: str, make_scope: Callable[..., Scope], event: Any) -> None:
    """A running run is told to stop, with the reason; one that has ended stays as it is."""
    begun = event()

    @flow
    def waits(ctx: FlowContext, n: int) -> None:
        begun.set()
        assert ctx.signal.wait(LONG)
        ctx.throw_if_aborted()

    execution = make_scope(store=url).exec(waits, 1)
    assert begun.wait(LONG)
    assert "Cancel" in acting.get(f"/runs/{execution.id}", headers=TOKEN).text
    answer = acting.post(f"/runs/{execution.id}/cancel", data={"reason": "enough"}, headers=TOKEN)
    assert answer.status_code == 303
    assert execution.exception(LONG) is not None
    page = acting.get(f"/runs/{execution.id}.json").json
    assert (page["run"]["status"], page["live"]) == ("cancelled", False)


def test_a_failed_run_is_gone_on_with_and_retried(acting: Any, runs: dict[str, str], monkeypatch: Any) -> None:
    """In the process of the page; what cannot be done is a 409 that says why."""
    refused = acting.post(f"/runs/{runs['failed']}/resume", headers=TOKEN)
    assert refused.status_code == 409  # its password is in no store
    assert "password" in refused.text
    monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_PASSWORD", "hunter22")
    answer = acting.post(f"/runs/{runs['failed']}/retry", data={"step": "fan"}, headers=TOKEN)
    assert answer.status_code == 303, answer.text
    new = answer.headers["Location"].rpartition("/")[2]
    assert acting.get(f"/runs/{new}.json").json["run"]["retry_of"] == runs["failed"]


def test_the_form_of_a_flow(acting: Any, runs: dict[str, str]) -> None:
    """Made from the params class; a wrong value is named beside its field and kept; a right one starts a run."""
    form = acting.get("/flows/nightly/run", headers=TOKEN).text
    for words in ('name="limit" value="3"', 'type="password"', 'type="checkbox"', 'value="a, b"', 'name="as_of_date"'):
        assert words in form
    wrong = acting.post("/flows/nightly/run", data={"limit": "many", "as_of_date": "soon"}, headers=TOKEN)
    assert wrong.status_code == 422
    assert 'value="many"' in wrong.text
    assert wrong.text.count('aria-invalid="true"') == 2
    assert len(acting.get("/runs.json").json["runs"]) == 2
    right = acting.post(
        "/flows/nightly/run",
        data={"limit": "2", "names": "x, y", "dry": "on", "as_of_date": "2013-02-05"},
        headers=TOKEN,
    )
    assert right.status_code == 303, right.text
    run = acting.get(f"{right.headers['Location']}.json").json
    assert (run["run"]["as_of"], run["view"]["input"]["limit"]) == ("2013-02-05", 2)
    assert (run["view"]["input"]["names"], run["view"]["input"]["dry"]) == (["x", "y"], True)


def test_the_calendar_runs_what_is_missing(acting: Any) -> None:
    """The weekdays between the first and the last date that have no run, each once, in one batch."""
    page = acting.get("/flows/nightly", headers=TOKEN)
    assert acting.get("/flows/nightly.json").json["missing"] == []
    assert "Run 1 missing" not in page.text
    acting.post("/flows/nightly/run", data={"as_of_date": "2013-02-07"}, headers=TOKEN)
    assert acting.get("/flows/nightly.json").json["missing"] == ["2013-02-05", "2013-02-06"]
    answer = acting.post("/flows/nightly/run-missing", headers=TOKEN)
    assert answer.status_code == 303
    batch = acting.get(f"{answer.headers['Location']}.json").json
    assert sorted(cell["run"]["as_of"] for cell in batch["cells"]) == ["2013-02-05", "2013-02-06"]
    assert acting.post("/flows/nightly/run-missing", headers=TOKEN).status_code == 409


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_that_nothing_is_new_costs_one_pragma(url: str, runs: dict[str, str]) -> None:
    """However large the page is; the page itself asks no more often for more runs."""
    store = open_store(url)
    client = make_app(store).test_client()
    asked: list[str] = []
    page = client.get("/")
    store._reader.set_trace_callback(asked.append)  # type: ignore[attr-defined]
    for _ in range(3):  # the version has ten seconds in it as well
        asked.clear()
        again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
        if again.status_code == 304:
            break
        page = again
    assert (again.status_code, asked) == (304, ["PRAGMA data_version"])
    asked.clear()
    client.get("/?limit=1000")
    few = len(asked)
    with Scope(store=store) as scope:
        for n in range(30):
            scope.run(item, n)
        asked.clear()
        client.get("/?flow=item")
    assert len(asked) <= few + 2
    store.close()


def test_a_large_run_is_a_small_page(url: str) -> None:
    """Its first steps are listed, the others counted; its picture comes by itself, as an image."""
    store = open_store(url)
    run, _ = store.submit(NewRun(run_id="large", flow="many", input="null", input_hash=""))
    rows = [
        StepRow(path=f"step {n}", seq=n, kind="step", flow="f", output="null", started_at=n, finished_at=n + 1.0)
        for n in range(pages_module.LARGE + 1)
    ]
    store.record("large", run.fence, rows)
    store.finish("large", run.fence, "completed", "null", None)
    client = make_app(store).test_client()
    page = client.get("/runs/large")
    assert len(page.data) < 300_000
    assert f"{pages_module.LARGE + 1 - pages_module.TREE:,} more" in page.text
    (link,) = re.findall('href="([^"]*steps=[^"]*)"', page.text)
    assert len(client.get(link.replace("&amp;", "&")).json["steps"]) == pages_module.LARGE + 1
    (source,) = re.findall('<img src="([^"]*)"', page.text)
    picture = client.get(source)
    assert picture.mimetype == "image/svg+xml"
    assert "script" not in picture.headers["Content-Security-Policy"]
    assert 'class="wf"' in picture.text
    assert client.get("/runs/nope/timeline.svg").status_code == 404
    store.close()


def test_flows_that_are_overdue_or_have_partitions(url: str, make_scope: Callable[..., Scope]) -> None:
    """A limit of age makes a flow overdue; partitions that are no dates stand in a grid, each with its newest run."""
    scope = make_scope(store=url)
    for region in ("EU", "US", "EU"):
        scope.exec(nightly, WorkflowContext.new(partition={"region": region})).exception(LONG)
    client = make_app(url, max_age={"nightly": 1e-6}).test_client()
    data = client.get("/flows/nightly.json").json
    assert [cell["partition"] for cell in data["cells"]] == ["region=EU", "region=US"]
    assert [trouble["kind"] for trouble in data["health"]["troubles"]] == ["overdue"]
    assert "overdue" in client.get("/flows").text
    assert make_app(url).test_client().get("/flows/nightly.json").json["health"]["healthy"] is True


def test_a_date_is_as_good_as_its_worst_partition(url: str, make_scope: Callable[..., Scope]) -> None:
    """And as the newest run of each."""
    scope = make_scope(store=url)
    day = dt.date(2013, 2, 1)
    for region, limit in (("EU", 9), ("US", 3), ("UK", 9), ("UK", 3)):
        context = WorkflowContext.new(params={"limit": limit}, as_of_date=day, partition={"region": region})
        scope.exec(nightly, context).exception(LONG)
    client = make_app(url).test_client()
    found = client.get("/flows/nightly.json").json["days"]["2013-02-01"]
    assert (found["status"], client.get(f"/runs/{found['run_id']}.json").json["run"]["partition"]) == (
        "failed",
        "region=EU",
    )


# --- at home elsewhere ------------------------------------------------------------------------------------------------


def test_in_a_flask_application(url: str, runs: dict[str, str]) -> None:
    """Under a prefix, with the application's own authentication deciding who may act."""
    app = flask.Flask("host")
    allowed: list[bool] = [False]
    app.register_blueprint(history(url, actions=True, authorize=lambda: allowed[0]), url_prefix="/history")
    client = app.test_client()
    page = client.get("/history/", headers={"Host": "intranet.example.com"})
    assert page.status_code == 200
    assert "/history/runs/" in page.text
    path = f"/history/runs/{runs['failed']}/cancel"
    assert client.post(path, headers=OWN).status_code == 403
    allowed[0] = True
    assert client.post(path, headers=OWN).status_code == 303
    assert client.post(path, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_mounted_in_any_wsgi_application(url: str, runs: dict[str, str]) -> None:
    """Every address on its pages has the prefix, the polling too."""
    mounted = Client(DispatcherMiddleware(lambda environ, start: [], {"/ops": make_app(url)}))
    for path in pages(runs):
        page = mounted.get(f"/ops{path}", headers={"Host": "localhost"})
        assert page.status_code == 200, path
        links = re.findall(r'(?:href|src|action|hx-get)="([^"]*)"', page.text)
        assert links
        assert all(link.startswith(("/ops/", "#")) or link == "data:," for link in links), links


DJANGO = """
import sys
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="__main__", SECRET_KEY="x")
import django
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("home", lambda request: HttpResponse("home of the host"))]
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client
from workflow_runner.web.app import make_app
application = DispatcherMiddleware(get_wsgi_application(), {"/history": make_app(sys.argv[1], hosts=("*",))})
client = Client(application)
for address in ("/home", "/history/", "/history/flows/nightly"):
    answer = client.get(address, headers={"Host": "intranet.example.com"})
    print(answer.status_code, "home of the host" in answer.text, "/history/runs/" in answer.text)
"""


def test_in_front_of_django(url: str, runs: dict[str, str]) -> None:
    """Both answer, each under its own addresses."""
    pytest.importorskip("django")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO, url], capture_output=True, text=True, timeout=LONG, check=True, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["200 True False", "200 False True", "200 False True"]


def test_htmx_is_the_file_that_was_looked_at() -> None:
    """The vendored file is pinned by its hash."""
    import hashlib

    from workflow_runner.web import app as module

    file = Path(module.__file__).parent / "static" / "htmx.min.js"
    pinned = "71ea67185bfa8c98c39d31717c6fce5d852370fcdfd129db4543774d3145c0de"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == pinned
