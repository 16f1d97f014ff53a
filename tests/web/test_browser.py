"""The pages as a person has them: in a real browser, from a real server."""

from __future__ import annotations

import datetime as dt
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from werkzeug.serving import make_server

from workflow_runner import FlowContext, Scope, Step, Workflow, WorkflowContext, flow
from workflow_runner.web.app import make_app

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")

LONG = 20.0
EVIL = "<script>document.title = 'taken over'<b>"
TOKEN = "open sesame"

begun, away = threading.Event(), threading.Event()


@attrs.frozen
class Params:
    limit: int = 3


def fetch(context: WorkflowContext) -> dict[str, Any]:
    if away.is_set():
        raise ConnectionError("the feed is away") from TimeoutError("no answer")
    return {"limit": context.get_param("limit"), "text": "x" * 300}


nightly = Workflow("nightly", params=Params, steps=[Step("fetch", fetch), Step(EVIL, fetch)])


@flow
def waits(ctx: FlowContext, n: int) -> None:
    ctx.exec(one, n)
    begun.set()
    ctx.signal.wait(LONG)
    ctx.throw_if_aborted()


@flow
def one(ctx: FlowContext, n: int) -> dict[str, str]:
    return {"text": "y" * 300}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@attrs.frozen
class Site:
    """A server, and the scope in which its runs are executed."""

    url: str
    scope: Scope

    def fill(self, *days: int) -> None:
        """Run the workflow for days of February 2013."""
        for day in days:
            self.scope.exec(nightly, WorkflowContext.new(as_of_date=dt.date(2013, 2, day))).exception(LONG)

    def fails(self) -> str:
        """A run that has failed, of something that would succeed now."""
        away.set()
        execution = self.scope.exec(nightly, WorkflowContext.new(as_of_date=dt.date(2013, 2, 5)))
        assert execution.exception(LONG) is not None
        away.clear()
        return execution.id

    def waits(self) -> Any:
        """A run that goes on until it is cancelled."""
        begun.clear()
        execution = self.scope.exec(waits, 1)
        assert begun.wait(LONG)
        return execution


@pytest.fixture
def site(tmp_path: Path, make_scope: Callable[..., Scope]) -> Iterator[Site]:
    scope = make_scope(store=f"sqlite:///{tmp_path}/runs.db?durability=process")
    app = make_app(scope.store, actions=True, token=TOKEN, scope=scope)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Site(f"http://127.0.0.1:{server.port}", scope)
    for execution in scope.executions:
        execution.cancel()
    server.shutdown()
    thread.join(LONG)
    server.server_close()


Open = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a page as a new visitor; at the end nothing may have been complained about."""
    contexts, complaints = [], []

    def visit(url: str, *, unlock: bool = False, **options: Any) -> Any:
        context = browser.new_context(**options)
        context.set_default_timeout(LONG * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        if unlock:
            page.get_by_label("Token").fill(TOKEN)
            page.get_by_role("button", name="Unlock").click()
            page.get_by_label("Token").wait_for(state="detached")
        return page

    yield visit
    for context in contexts:
        context.close()
    expected = "responded with a status of 422"  # a form that does not fit
    assert [text for text in complaints if expected not in text] == []


def test_from_the_list_to_a_run(site: Site, visit: Open) -> None:
    """The list is filtered, and leads to a run with its timeline, its steps and what they have put out."""
    site.fill(1, 4)
    failed = site.fails()
    page = visit(site.url)
    assert page.locator("tbody tr").count() == 3
    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**status=failed**")
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name=failed[:16]).click()
    page.get_by_role("heading", name="Why").wait_for()
    assert "caused by TimeoutError no answer" in page.locator("section.error").inner_text()
    assert page.get_by_role("img", name="Timeline of run").is_visible()
    assert page.get_by_role("button", name="Resume").count() == 0  # it is read-only


def test_a_step_called_script_does_nothing(site: Site, visit: Open) -> None:
    """It is a name like another one, on every page."""
    site.fill(1)
    page = visit(site.url)
    page.locator("tbody a.id").first.click()
    assert page.get_by_role("cell", name=EVIL).is_visible()
    assert page.title().startswith("nightly completed")


def test_a_running_run_is_cancelled_before_ones_eyes(site: Site, visit: Open) -> None:
    """The page is not loaded again when the state changes."""
    execution = site.waits()
    page = visit(f"{site.url}/runs/{execution.id}", unlock=True)
    page.get_by_role("heading", name="running").wait_for()
    page.evaluate("window.here = true")
    site.scope.store.request_cancel(execution.id, "enough")
    page.get_by_role("heading", name="cancelled").wait_for()
    assert page.evaluate("window.here") is True
    assert page.get_by_role("button", name="Cancel").count() == 0
    assert page.title().startswith("waits cancelled")


def test_the_cancel_button(site: Site, visit: Open) -> None:
    """Cancels, and the page then shows it by itself."""
    execution = site.waits()
    page = visit(f"{site.url}/runs/{execution.id}", unlock=True)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("heading", name="cancelled").wait_for()
    assert execution.cancelled()


def test_an_update_disturbs_nobody(site: Site, visit: Open) -> None:
    """What was opened stays open, and nothing is exchanged below a selection or a field that is being filled in."""
    execution = site.waits()
    page = visit(f"{site.url}/runs/{execution.id}")
    page.locator("details summary").first.click()

    def news(name: str) -> None:
        """Something is written into the store, and the page has asked for news after that."""
        with page.expect_response(lambda answer: "since_version" in answer.url and answer.status == 200):
            site.scope.run(one, 1, name=name)

    page.evaluate("document.getElementById('live').mark = 'old'")
    news("a")
    page.wait_for_function("document.getElementById('live').mark === undefined")
    assert page.locator("details").first.get_attribute("open") is not None
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"

    page.evaluate("getSelection().selectAllChildren(document.querySelector('pre'))")
    asks = "new Promise(done => document.addEventListener('htmx:beforeRequest', e => done(!e.defaultPrevented)))"
    assert page.evaluate(asks) is False
    page.evaluate("getSelection().removeAllRanges()")
    assert page.evaluate(asks) is True


def test_a_failed_run_is_resumed(site: Site, visit: Open) -> None:
    """With the token, on its page."""
    failed = site.fails()
    page = visit(f"{site.url}/runs/{failed}", unlock=True)
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("heading", name="completed").wait_for()
    assert failed in page.url


def test_the_form_of_a_flow(site: Site, visit: Open) -> None:
    """A wrong value is named beside its field and kept; a right one starts the run."""
    site.fill(1)
    page = visit(f"{site.url}/flows/nightly", unlock=True)
    page.get_by_role("link", name="Run…").click()
    page.get_by_label("limit").fill("1e5")
    page.get_by_role("button", name="Run", exact=True).click()
    field = page.get_by_label("limit")
    assert field.get_attribute("aria-invalid") == "true"
    assert "limit" in page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()
    field.fill("7")
    page.get_by_label("as_of_date").fill("2013-02-28")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("heading", name="2013-02-28").wait_for()
    page.get_by_role("heading", name="completed").wait_for()
    assert page.locator("section:has(#h-input) code").inner_text() == "7"


def test_the_calendar_runs_what_is_missing(site: Site, visit: Open) -> None:
    """One click starts the dates between the first and the last that have no run."""
    site.fill(1, 6)
    page = visit(f"{site.url}/flows/nightly", unlock=True)
    calendar = page.get_by_role("img", name="Business dates")
    assert calendar.locator("rect.absent").count() == 2
    page.get_by_role("button", name="Run 2 missing").click()
    page.get_by_text("2013-02-04").wait_for()
    page.locator(".counts", has_text="completed 2").wait_for()
    page.goto(f"{site.url}/flows/nightly")
    assert calendar.locator("rect.absent").count() == 0
    assert page.get_by_role("button", name="missing").count() == 0


def test_without_javascript(site: Site, visit: Open) -> None:
    """Everything can be read and done."""
    failed = site.fails()
    page = visit(site.url, unlock=True, java_script_enabled=False)
    page.get_by_role("link", name=failed[:16]).click()
    assert "the feed is away" in page.locator("section.error").inner_text()
    page.locator("details summary").first.click()
    assert page.locator("details pre").first.is_visible()
    page.get_by_role("button", name="Retry").click()
    page.get_by_text("Retry of").wait_for()
    page.get_by_role("link", name="nightly").click()
    assert page.get_by_role("heading", name="Business dates").is_visible()


def test_at_night(site: Site, visit: Open) -> None:
    """Who prefers dark colours gets them, in the pictures too."""
    site.fill(1)
    page = visit(f"{site.url}/flows/nightly", color_scheme="dark")

    def background(selector: str) -> int:
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")
        return max(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert background("html") < 40
    assert background("svg.wf") < 40
    page.emulate_media(color_scheme="light")
    assert background("html") > 240


def test_on_a_phone(site: Site, visit: Open) -> None:
    """No page is wider than the screen; what is wider scrolls inside it."""
    site.fill(1, 4)
    failed = site.fails()
    page = visit(site.url, unlock=True, viewport={"width": 390, "height": 844})
    run = f"/runs/{failed}"
    both = f"/compare?a={failed}&b={site.scope.store.runs()[1].run_id}"
    for path in ("/", run, "/flows", "/flows/nightly", "/flows/nightly/run", both):
        page.goto(f"{site.url}{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
