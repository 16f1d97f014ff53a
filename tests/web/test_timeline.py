"""A run as a picture: where everything stands, what is drawn, and that nobody's names do harm."""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from workflow_runner import Retry, Scope, Step, Workflow, errors, flow, open_store
from workflow_runner.cli.gantt import columns_of, gantt
from workflow_runner.web import units
from workflow_runner.web.layout import STATUSES, Timeline, layout
from workflow_runner.web.timeline import TIMELINE_STYLE, timeline_data, timeline_html, timeline_svg
from workflow_runner.web.trace import chrome_trace

from .pictures import PALETTES, SVG, T, a_run, contrast, event, failure, item, parsed, row, texts

EVIL = '<script>alert("x")&\x1b[31m\x00\u202e\ud800é'


def labels(timeline: Timeline) -> list[tuple[int, str]]:
    return [(lane.depth, lane.label) for lane in timeline.lanes if lane.label]


def pieces(timeline: Timeline, label: str) -> list[tuple[float, float, str]]:
    """Those of the group with this label, in seconds since the start."""
    found, inside = [], False
    for lane in timeline.lanes:
        inside = lane.label == label or (inside and not lane.label)
        if inside:
            found += [(round(p.start - T, 3), round(p.end - T, 3), p.status) for p in lane.pieces]
    return found


# --- the layout -------------------------------------------------------------------------------------------------------


def test_steps_stand_in_order_and_children_below_their_parent() -> None:
    """The run, its steps by time, and inside each what it called."""
    rows = [
        row("b", 4, 9),
        row("a/sub", 1, 2, kind="execution"),
        row("a", 0, 3),
        row("b/inner/deep", 5, 6),
    ]
    timeline = layout(a_run(), rows)
    assert labels(timeline) == [(0, "nightly"), (1, "a"), (2, "sub"), (1, "b"), (2, "inner"), (3, "deep")]
    assert pieces(timeline, "inner") == [(5, 6, "inside")]  # nobody has recorded it


def test_items_share_as_many_lanes_as_ran_side_by_side() -> None:
    """Three at once are three lanes; the fourth item takes the one that is free first."""
    rows = [item(f"m/items[{n}]", *span) for n, span in enumerate([(0, 4), (0.1, 2), (0.2, 3), (2, 5)])]
    lanes = [lane for lane in layout(a_run(), rows).lanes if lane.kind == "item"]
    assert [[piece.label for piece in lane.pieces] for lane in lanes] == [
        ["items[0]"],
        ["items[1]", "items[3]"],
        ["items[2]"],
    ]
    assert [(lane.label, lane.count) for lane in lanes] == [("price", 4), ("", 4), ("", 4)]


def test_repeated_calls_share_a_lane() -> None:
    """``child``, ``child#2`` ... under one parent are one group."""
    rows = [row(f"child#{n}" if n > 1 else "child", n, n + 1, kind="execution", flow="child") for n in range(1, 9)]
    timeline = layout(a_run(), rows)
    assert labels(timeline) == [(0, "nightly"), (1, "child")]
    assert timeline.lanes[1].count == 8


def test_a_choice_reaches_over_its_branch() -> None:
    """Its row is the decision, which takes no time; its bar ends with the last step of the branch."""
    timeline = layout(a_run(), [row("route", 1, 1), row("route/load", 1, 6)])
    assert pieces(timeline, "route") == [(1, 6, "completed")]


def test_failed_attempts_lie_on_the_bar_of_their_step() -> None:
    """What was repeated stands in the same lane, with its error."""
    timeline = layout(a_run(), [row("read", 0, 9, attempt=3)], [failure("read", 0, 2), failure("read", 4, 5, 2)])
    assert pieces(timeline, "read") == [(0, 9, "completed"), (0, 2, "retried"), (4, 5, "retried")]
    assert timeline.lanes[1].pieces[2].error == "OSError: away"
    assert timeline.failures == 2


def test_the_last_attempt_of_a_step_that_never_ended_well_has_failed() -> None:
    """The ones before it were repeated."""
    timeline = layout(a_run(status="failed"), [], [failure("load", 0, 1), failure("load", 2, 3, 2)])
    assert pieces(timeline, "load") == [(0, 1, "retried"), (2, 3, "failed")]


def test_a_start_that_was_never_recorded_is_interrupted() -> None:
    """A step that must not run twice was noted when it began."""
    from workflow_runner.store.base import Attempt

    run = a_run(status="running", finished_at=None)  # and nobody holds it
    timeline = layout(run, [row("a", 0, 2)], [Attempt("once", 1, T + 2), Attempt("a", 1, T)], now=T + 99)
    assert timeline.status == "crashed"
    assert [piece.status for piece in timeline.lanes[0].pieces] == ["interrupted"]
    assert pieces(timeline, "once") == [(2, 2, "interrupted")]
    assert pieces(timeline, "a") == [(0, 2, "completed")]


def test_a_running_run_reaches_until_now() -> None:
    """The axis ends at the present, given by the caller."""
    timeline = layout(a_run(status="running", finished_at=None, alive=True), [row("a", 0, 2)], now=T + 50)
    assert timeline.end == T + 50
    assert timeline.lanes[0].pieces[0].status == "running"


@pytest.mark.parametrize(
    ("events", "gap"),
    [
        ([event("claimed", 100_000)], (6, 100_000)),
        ([event("released", 8), event("claimed", 100_000)], (8, 100_000)),
        ([event("cancel_requested", 5)], None),
    ],
)
def test_the_time_between_two_sessions_is_a_gap(events: list[Any], gap: tuple[float, float] | None) -> None:
    """From the last sign of life, or the release, until the claim; a long one is cut out of the axis."""
    rows = [row("a", 0, 6), row("b", 100_000, 100_004)]
    timeline = layout(a_run(finished_at=T + 100_004), rows, [], events)
    found = [(round(g.start - T, 3), round(g.end - T, 3)) for g in timeline.gaps]
    assert found == ([gap] if gap else [])
    if gap:
        assert timeline.span < 20
        assert sum(lane.seconds for lane in timeline.lanes[1:]) == pytest.approx(10)
        assert [piece.status for piece in timeline.lanes[0].pieces] == ["stopped", "completed"]
        assert timeline.place(T) == 0
        assert timeline.place(timeline.end) == pytest.approx(1)
        places = [timeline.place(T + at) for at in (0, 3, 6, 50_000, 100_000, 100_002, 100_004)]
        assert places == sorted(places)
        assert [tick.label for tick in timeline.ticks(8) if tick.label.startswith("+")]


def test_a_short_gap_keeps_its_length() -> None:
    """Only what would squeeze the rest is cut."""
    timeline = layout(a_run(), [row("a", 0, 5), row("b", 5.1, 10)], [], [event("claimed", 5.1)])
    assert [gap.cut for gap in timeline.gaps] == [0]
    assert timeline.span == 10


@pytest.mark.parametrize("run", [a_run(finished_at=T), a_run(status="pending", started_at=None, finished_at=None)])
def test_a_run_of_nothing_can_be_drawn(run: Any) -> None:
    """No rows, no time: the run alone."""
    assert labels(layout(run, [])) == [(0, "nightly")]
    parsed(timeline_svg(run, []))


def test_what_is_below_a_dot_is_merged_and_counted() -> None:
    """Nothing is lost: the counts of the pieces of one status add up."""
    rows = [item(f"m/items[{n}]", n / 1000, (n + 1) / 1000) for n in range(10_000)]
    rows[5000] = item("m/items[5000]", 5, 5.001, status="failed")
    timeline = layout(a_run(), rows)
    lane = next(lane for lane in timeline.lanes if lane.kind == "item")
    assert len(lane.pieces) < 10
    counts = Counter({status: sum(p.count for p in lane.pieces if p.status == status) for status in STATUSES})
    assert (counts["completed"], counts["failed"]) == (9_999, 1)
    assert lane.pieces[-1].status == "failed"  # on top
    assert lane.pieces[-1].label == "items[5000]"


def test_a_picture_has_a_bounded_number_of_rows_and_pieces() -> None:
    """Neighbours share a lane when there are too many, and the deepest levels are left out; both are told."""
    many = layout(a_run(finished_at=T + 5000), [row(f"s{n}", n, n + 1) for n in range(5000)])
    assert len(many.lanes) <= 151
    assert many.lanes[1].label == "s0 … s33"
    assert sum(lane.count for lane in many.lanes[1:]) == 5000
    assert many.folded == 0
    deep = layout(a_run(), [row(f"a{n}/b{k}", 1, 2) for n in range(100) for k in range(10)])
    assert {lane.depth for lane in deep.lanes} == {0, 1}
    assert deep.folded == 1000
    wide = layout(a_run(), [item(f"m/items[{n}]", n % 7, 9) for n in range(3000)])
    assert len(wide.lanes) < 20


def test_any_depth_can_be_drawn() -> None:
    """Paths of thousands of parts, of which only the last is recorded."""
    deep = "/".join(f"d{n}" for n in range(3000))
    timeline = layout(a_run(), [row(deep, 1, 2)])
    assert timeline.lanes[-1].label == "d149"
    assert timeline.folded == 3000 - 150


def test_ticks_are_round_and_few() -> None:
    """1, 2 or 5 of a power of ten below seconds; what clocks have above."""
    for span in (1e-6, 3e-3, 0.7, 9, 47, 100, 1000, 7200, 40_000, 1e6, 1e9):
        ticks = layout(a_run(finished_at=T + span), []).ticks(8)
        assert 2 <= len(ticks) <= 9
        assert ticks[0].label == "0"
        assert len({tick.label for tick in ticks}) == len(ticks)
    assert units.tick_step(3600, 8) == 600
    assert [units.tick_label(at, 1800) for at in (1800, 3600, 5400)] == ["30 min", "1 h", "1 h 30 min"]
    assert [units.tick_label(at, step) for at, step in ((0.02, 0.02), (0.5, 0.5), (75, 15))] == [
        "20 ms",
        "0.5 s",
        "1 min 15 s",
    ]


# --- svg and html -----------------------------------------------------------------------------------------------------


def test_whatever_a_step_is_called_is_only_text() -> None:
    """Names, errors and ids are escaped in SVG and HTML, and what no document can hold is replaced."""
    run = a_run(run_id=f'"><script>{EVIL}', flow=EVIL, target=EVIL, error='{"type":"<b>","message":"<i>"}')
    records = (run, [row(EVIL, 0, 3), item(f"{EVIL}/items[0]", 0, 9)], [failure("x", 0, 9, message=EVIL)])
    svg, page = timeline_svg(*records), timeline_html(*records)
    root = parsed(svg)
    assert any("<script>alert" in text for text in texts(root))
    for text in (svg, page):
        assert "<script" not in text
        assert not re.search("[\x00-\x08\x0b-\x1f]|&#(x1b|27|0|55296|8238);", text)
    assert "<b>" not in page
    assert "&lt;b&gt;: &lt;i&gt;" in page


def test_the_page_needs_nothing_else() -> None:
    """One file: no scripts, no links, and a policy that allows none."""
    page = timeline_html(a_run(), [row("read", 0, 9)])
    assert not re.search(r"<(script|link|img|iframe|object|a)\b|src=|href=|@import|\son\w+=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    inside = page[page.index("<svg") : page.index("</svg>") + 6]
    assert parsed(inside).find(f"{SVG}style") is None  # the page has it


def test_the_page_tells_what_took_longest_and_what_failed() -> None:
    """The facts of the run, the slowest rows first, the failed attempts, and the error with its causes."""
    error = {"type": "WorkflowFailed", "message": "at load", "cause": {"type": "OSError", "message": "full disk"}}
    run = a_run(status="failed", error=json.dumps(error), as_of="2013-02-28", batch_id="b7", idem_key="k1")
    rows = [row("quick", 0, 1), row("slow", 1, 9)]
    page = timeline_html(run, rows, [failure("load", 9, 10, message="no space")])
    table = page[page.index("What took longest") :]
    assert table.index("slow") < table.index("quick")
    for expected in ("WorkflowFailed: at load", "caused by OSError: full disk", "OSError: no space", "2013-02-28"):
        assert expected in page
    assert "b7" in page
    assert "k1" in page


def test_the_picture_says_in_words_what_it_shows() -> None:
    """Its accessible name has the run and its status, its description the facts and the zone of the times."""
    root = parsed(timeline_svg(a_run(status="failed"), [row("a", 0, 4)], [failure("load", 4, 9)]))
    title, description = (root.findtext(f"{SVG}{name}") or "" for name in ("title", "desc"))
    assert title == "Timeline of run r1 of nightly: failed"
    assert "2013-02-28 22:00:00 UTC" in description
    assert "Failed: load." in description
    zone = dt.timezone(dt.timedelta(hours=-5), "EST")
    assert "2013-02-28 17:00:00 EST" in timeline_svg(a_run(), [], zone=zone)


def test_items_keep_their_names() -> None:
    """A bar that has room for its name has it inside, one that has not beside it; each has it as its tooltip."""
    rows = [item("m/items[0]", 0, 9), item("m/items[1]", 0, 0.1), row("m", 0, 9)]
    root = parsed(timeline_svg(a_run(), rows))
    assert {"items[0]", "items[1]"} <= set(texts(root))
    tooltips = [element.findtext(f"{SVG}title") or "" for element in root.iter(f"{SVG}rect")]
    assert any(tooltip.startswith("m/items[1]: completed") for tooltip in tooltips)


@pytest.mark.parametrize("width", [480, 1120])
def test_nothing_is_drawn_outside_of_the_picture(width: int) -> None:
    """Bars, also those that end the run, and the whole legend."""
    rows = [item(f"m/items[{n}]", n / 10, n / 10 + 0.1) for n in range(100)] + [row("end", 10, 10)]
    rows += [row("no", 3, 4, status="skipped"), row("bad", 3, 4, status="failed")]
    records = a_run(status="cancelled"), rows, [failure("no", 3, 4), failure("x", 4, 5)], [event("claimed", 5)]
    root = parsed(timeline_svg(*records, width=width))
    height = float(root.get("height", 0))
    for element in (*root.iter(f"{SVG}rect"), *root.iter(f"{SVG}text")):
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        assert 0 <= x <= x + float(element.get("width", 0)) <= width
        assert 0 <= y <= y + float(element.get("height", 0)) <= height


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(scheme: str) -> None:
    """Text 4.5 to 1 on what is behind it, bars and lines that mean something 3 to 1 on the background."""
    palette = PALETTES[scheme]
    for name in ("fg", "muted"):
        assert contrast(palette[name], palette["bg"]) >= 4.5
        assert contrast(palette[name], palette["box"]) >= 4.5
    for status in STATUSES:
        assert contrast(palette[status], palette["bg"]) >= 3
    for status in ("completed", "failed", "running", "cancelled", "interrupted"):  # which have text on them
        assert contrast(palette["on"], palette[status]) >= 4.5, status
    assert contrast(palette["edge"], palette["bg"]) >= 3


def test_every_status_has_its_colour_in_both_schemes() -> None:
    """The style sheet knows every status, by day and by night."""
    for status in STATUSES:
        assert f".wf .{status}{{" in TIMELINE_STYLE
        assert TIMELINE_STYLE.count(f"--wf-{status}:") == 2
    assert "prefers-color-scheme:dark" in TIMELINE_STYLE


def big(shape: str, count: int) -> tuple[Any, list[Any], list[Any]]:
    """Records of so many steps, with long names that are no ASCII in the last shape."""
    if shape == "row":
        rows = [row(f"s{n}", n, n + 1) for n in range(count)]
    else:
        name = "m/items[{}]" if shape == "fan-out" else "é" * 150 + "[{}]"
        rows = [item(name.format(n), n // 8, n // 8 + 0.2 + n % 7 / 10) for n in range(count)]
    failures = [failure(one.path, one.started_at - T, one.started_at - T + 0.1) for one in rows[::50]]
    return a_run(finished_at=max(one.finished_at for one in rows)), rows, failures


@pytest.mark.parametrize("shape", ["row", "fan-out", "long names"])
@pytest.mark.parametrize("count", [1_000, 100_000])
def test_pictures_stay_below_300_kilobytes(shape: str, count: int) -> None:
    """However many steps there are, and however they are called."""
    if shape == "long names" and count > 1_000:
        count = 5_000
    records = big(shape, count)
    page = timeline_html(*records)
    assert 5_000 < len(page) < 300_000
    parsed(page[page.index("<svg") : page.index("</svg>") + 6])


# --- text -------------------------------------------------------------------------------------------------------------


def drawn(timeline: Timeline, width: int, **options: Any) -> list[str]:
    return [line.plain for line in gantt(timeline, width, zone=dt.UTC, **options)]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_text_fits_the_terminal(width: int, ascii_only: bool) -> None:
    """No line is longer than the terminal, whatever the steps are called; in ASCII nothing else is in it."""
    rows = [row(EVIL * 20, 0, 3), row("数" * 60, 3, 6), *[item(f"m/items[{n}]", 6, 9) for n in range(3000)]]
    events = [event("claimed", 6)]
    timeline = layout(a_run(), rows, [], events, width=columns_of(width)[1], narrowest=1.0, lanes_each=4)
    for line in gantt(timeline, width, zone=dt.UTC, ascii_only=ascii_only):
        assert line.cell_len <= width
        assert line.plain.isprintable()
        if ascii_only:
            line.plain.encode("ascii")


def test_text_tells_statuses_apart_without_colour() -> None:
    """Each has a character of its own, which the legend explains."""
    rows = [row("read", 0, 4, attempt=2), row("gone", 4, 6, status="skipped")]
    run = a_run(status="failed")
    timeline = layout(run, rows, [failure("read", 0, 2), failure("load", 6, 10)], width=columns_of(80)[1])
    lines = drawn(timeline, 80)
    bars = {line.split()[0]: line[27:66] for line in lines if line.startswith("  ")}
    assert set(bars["read"].strip()) == {"▞", "█"}
    assert set(bars["gone"].strip()) == {"░"}
    assert set(bars["load"].strip()) == {"\u2573"}
    assert lines[-1] == "░ skipped   █ completed   ▞ failed attempt   \u2573 failed"
    assert lines[:2] == ["nightly", "failed · 10.0 s · 2 records · 2 failed attempts · run r1"]


def test_text_shows_gaps_in_every_line() -> None:
    """A column of its own, and how long it was."""
    rows = [row("a", 0, 5), row("b", 1000, 1005)]
    timeline = layout(a_run(finished_at=T + 1005), rows, [], [event("claimed", 1000)], width=columns_of(80)[1])
    lines = drawn(timeline, 80, ascii_only=True)
    assert all(":" in line[27:] for line in lines if line.startswith(("nightly ", "  ")) and "|" not in line)
    assert lines[-1].endswith(": not running for 16 min 35 s")
    assert "10.0 s (16 min 45 s with the gaps)" in lines[1]


# --- the trace --------------------------------------------------------------------------------------------------------


def checked(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a trace, after checks by the rules of the Trace Event Format."""
    trace = json.loads(json.dumps(trace, allow_nan=False))
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    common = {"name": str, "ph": str, "pid": int, "tid": int, "args": dict}
    more = {"X": {"cat": str, "ts": int, "dur": int}, "M": {}, "i": {"cat": str, "ts": int, "s": str}}
    named = set()
    threads: dict[int, list[tuple[int, int]]] = {}
    for one in trace["traceEvents"]:
        fields = common | more[one["ph"]]
        assert set(one) == set(fields)
        assert all(type(one[name]) is kind for name, kind in fields.items())
        if one["ph"] == "M":
            argument = {"process_name": "name", "thread_name": "name", "thread_sort_index": "sort_index"}[one["name"]]
            assert set(one["args"]) == {argument}
            named.add((one["name"], one["tid"]))
        elif one["ph"] == "X":
            assert one["dur"] >= 0
            threads.setdefault(one["tid"], []).append((one["ts"], one["ts"] + one["dur"]))
    for thread, slices in threads.items():
        assert {("thread_name", thread), ("thread_sort_index", thread)} <= named
        open_until: list[int] = []
        assert slices == sorted(slices, key=lambda span: (span[0], -span[1]))
        for start, end in slices:  # side by side or one in the other, never across
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
    return list(trace["traceEvents"])


def test_the_trace_has_every_record_and_is_valid() -> None:
    """One complete event for each row and each failed attempt, in microseconds, in threads that nest."""
    rows = [item(f"m/items[{n}]", n / 100, n / 100 + 0.05, attempt=1) for n in range(500)]
    rows += [row("m", 0, 6), row("read", 6, 9, attempt=2), row("tiny", 9, 9)]
    found = checked(chrome_trace(a_run(), rows, [failure("read", 6, 7)], [event("claimed", 3)]))
    slices = {(one["args"]["path"], one["args"]["status"]): one for one in found if one["ph"] == "X"}
    assert len(slices) == len(rows) + 2 + 1 - 1  # the attempt, and two sessions of the run that share a path
    read, attempt = slices["read", "completed"], slices["read", "retried"]
    assert (read["ts"], read["dur"]) == (6_000_000, 3_000_000)
    assert read["tid"] == attempt["tid"]
    assert attempt["args"] == {"path": "read", "status": "retried", "attempt": 1, "error": "OSError: away"}
    assert [one["name"] for one in found if one["ph"] == "i"] == ["claimed"]


def test_the_trace_of_many_side_by_side_is_valid() -> None:
    """However many there are at once, each has a thread to itself."""
    rows = [item(f"m/items[{n}]", n % 13 / 7, 8 + n % 5) for n in range(300)]
    found = checked(chrome_trace(a_run(finished_at=T + 13), rows))
    assert sum(one["ph"] == "X" for one in found) == 302


def test_a_layout_is_data() -> None:
    """As JSON, with every lane and piece."""
    data = json.loads(json.dumps(timeline_data(layout(a_run(), [row("read", 0, 9)]))))
    assert data["lanes"][1]["pieces"][0]["path"] == "read"
    assert data["status"] == "completed"


# --- a real run -------------------------------------------------------------------------------------------------------

broken = threading.Event()


def read(context: Any) -> dict[str, int]:
    return {"rows": 3}


@flow
def price(ctx: Any, number: int) -> int:
    return number


def load(context: Any) -> dict[str, int]:
    if broken.is_set():
        raise OSError("full disk")
    return {"loaded": 3}


bulk = Workflow(
    "bulk",
    steps=[
        Step("read", read),
        Step.map("prices", price, items="numbers"),
        Step("load", load, retry=Retry(attempts=2, initial=0.01, jitter=False)),
        Step("<script>", read),
    ],
)


def test_a_run_that_failed_and_was_resumed(tmp_path: Path) -> None:
    """Real records: a thousand items, a failure that was retried, a resume."""
    url = f"sqlite:///{tmp_path}/runs.db?durability=process"
    broken.set()
    with Scope(store=url) as scope:
        execution = scope.exec(bulk, {"numbers": list(range(1000))})
        with pytest.raises(errors.WorkflowFailed):
            execution.result()
    broken.clear()
    with Scope(store=url) as scope:
        scope.resume(execution.id, flow=bulk).result()
    store = open_store(url)
    try:
        run = store.run(execution.id)
        records = run, store.steps(run.run_id), store.attempts(run.run_id), store.events(run_id=run.run_id)
    finally:
        store.close()
    timeline = layout(*records)
    assert [label for depth, label in labels(timeline) if depth == 1] == ["read", "prices", "load", "<script>"]
    assert len(timeline.gaps) == 1
    root = parsed(timeline_svg(*records))
    assert {"<script>", "price \xd71,000"} <= set(texts(root))
    checked(chrome_trace(*records))
