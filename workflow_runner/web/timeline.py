"""A run as a Gantt chart: an SVG element, and one HTML page to send to somebody."""

from __future__ import annotations

import datetime as dt
import heapq
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from workflow_runner.store.base import Attempt, EventRow, RunRecord, StepRow
from workflow_runner.web.layout import Lane, Piece, Timeline, layout, said
from workflow_runner.web.svg import FONT, STYLE, cut, escape, number, picture
from workflow_runner.web.units import duration, moment

WIDTH = 1120
"""How wide a picture is, in dots."""

_LEFT, _RIGHT, _TOP = 230, 96, 84
# With the tables of the page it stays below 300 kB.
_MOST_BYTES = 180_000
# A character of the text, on average; text is cut or left out where it would not fit.
_CHARACTER = 6.3

_MARKS = ("completed", "skipped", "running", "pending", "stopped", "cancelled", "interrupted", "retried", "failed")

TIMELINE_STYLE = (
    STYLE
    + "".join(f".wf .{name}{{fill:var(--wf-{name})}}" for name in _MARKS)
    + ".wf .skipped{fill-opacity:.25;stroke:var(--wf-skipped)}"
    ".wf .inside{fill:none;stroke:var(--wf-inside);stroke-width:1.5}"
    ".wf .hatch{stroke:var(--wf-bg);stroke-width:2.5}.wf .many{stroke:var(--wf-bg);stroke-width:1;stroke-opacity:.45}"
    ".wf .gap{stroke:var(--wf-muted);stroke-width:1;stroke-opacity:.55}.wf .veil{fill:var(--wf-bg);fill-opacity:.72}"
)
"""The style sheet of a timeline, for a page that has several: pass ``style=False`` then."""

_MEANING = {
    "inside": "has steps inside",
    "stopped": "left unfinished",
    "interrupted": "begun, not recorded",
    "retried": "failed attempt",
}

# These have a pattern too, so that no colour has to be told from another.
_HATCHED = ("failed", "retried", "interrupted")


def timeline_svg(
    run: RunRecord,
    rows: Iterable[StepRow],
    attempts: Iterable[Attempt] = (),
    events: Iterable[EventRow] = (),
    *,
    width: int = WIDTH,
    zone: dt.tzinfo | None = dt.UTC,
    style: bool = True,
    heading: bool = True,
    now: float | None = None,
) -> str:
    """Draw a run as a Gantt chart.

    Args:
        run: as ``store.run`` gives it.
        rows: as ``store.steps`` gives them.
        attempts: as ``store.attempts`` gives them.
        events: as ``store.events(run_id=...)`` gives them.
        width: dots, at least 480.
        zone: of the times; None: this machine's.
        style: whether the style sheet is in it. A page whose policy allows none has `TIMELINE_STYLE` in a file.
        heading: whether the flow's name and what there is to say of the run stand above it.
        now: where the axis of a running run ends, seconds since the epoch; default: the present.

    Returns:
        An ``<svg>`` element in ASCII, without scripts, handlers and anything from elsewhere. It is a file of its own
        as well. Any thread.
    """
    known = run, list(rows), list(attempts), list(events)
    return _fitting(*known, width=max(480, width), zone=zone, style=style, heading=heading, now=now)[1]


def _fitting(
    run: RunRecord,
    rows: Sequence[StepRow],
    attempts: Sequence[Attempt],
    events: Sequence[EventRow],
    *,
    width: int,
    zone: dt.tzinfo | None,
    style: bool,
    now: float | None,
    heading: bool = True,
) -> tuple[Timeline, str]:
    """The layout and the picture, of fewer pieces if long names make it too large."""
    pieces = 1200
    while True:
        plot = width - _LEFT - _RIGHT
        timeline = layout(run, rows, attempts, events, width=plot, most_pieces=pieces, now=now)
        drawn = _drawn(timeline, width, zone, style, heading)
        if len(drawn) <= _MOST_BYTES or pieces < 50:
            return timeline, drawn
        pieces //= 3


def _drawn(timeline: Timeline, width: int, zone: dt.tzinfo | None, style: bool, heading: bool) -> str:
    run = timeline.run
    name = "wf-" + re.sub(r"[^A-Za-z0-9-]", "-", run.run_id)
    drawing = _Drawing(timeline, width, name, _TOP if heading else _TOP - 50)
    lanes = "".join(drawing.lanes())
    bottom = drawing.y + 6
    legend = "".join(drawing.legend(bottom + 34))
    body = "".join(
        (
            _patterns(name),
            f'<text class="h" x="16" y="26">{escape(cut(run.flow, 60))}</text>' if heading else "",
            f'<text class="m" x="16" y="46">{escape(" · ".join(about(timeline)))}</text>' if heading else "",
            f'<text class="m" x="16" y="{drawing.top - 12}">{escape(f"from {moment(timeline.start, zone)}")}</text>',
            *drawing.axis(bottom),
            lanes,
            *drawing.gaps(bottom),
            legend,
        )
    )
    return picture(
        body,
        name=name,
        width=width,
        height=drawing.y,
        title=f"Timeline of run {run.run_id} of {run.flow}: {timeline.status}",
        description=_description(timeline, zone),
        style=TIMELINE_STYLE if style else None,
    )


def meaning(status: str) -> str:
    """A status in words that explain it."""
    return _MEANING.get(status, status)


def about(timeline: Timeline) -> Iterator[str]:
    """What there is to say of a run in one line."""
    run = timeline.run
    yield timeline.status
    yield _length(timeline)
    yield f"{timeline.steps:,} {'record' if timeline.steps == 1 else 'records'}"
    if timeline.failures:
        yield f"{timeline.failures:,} failed {'attempt' if timeline.failures == 1 else 'attempts'}"
    if timeline.gaps:
        yield f"resumed {'once' if len(timeline.gaps) == 1 else f'{len(timeline.gaps)} times'}"
    if run.as_of or run.partition:
        yield run.partition or run.as_of or ""
    yield f"run {run.run_id}"
    if timeline.folded:
        yield f"{timeline.folded:,} more lie inside of these"


def _length(timeline: Timeline) -> str:
    whole = timeline.end - timeline.start
    gaps = sum(gap.end - gap.start for gap in timeline.gaps)
    return f"{duration(whole - gaps)} ({duration(whole)} with the gaps)" if gaps else duration(whole)


def _description(timeline: Timeline, zone: dt.tzinfo | None) -> str:
    """What the picture shows, for whoever does not see it."""
    steps = [lane for lane in timeline.lanes if lane.label and lane.depth == 1]
    slowest = heapq.nlargest(3, steps, key=lambda lane: lane.seconds)
    said = ", ".join(f"{lane.label} {duration(lane.seconds)}" for lane in slowest)
    failed = [lane.label for lane in steps if any(piece.status == "failed" for piece in lane.pieces)]
    parts = [f"From {moment(timeline.start, zone)}: {', '.join(about(timeline))}."]
    if said:
        parts.append(f"The longest: {said}.")
    if failed:
        parts.append(f"Failed: {', '.join(failed[:5])}.")
    return " ".join(parts)


def _patterns(name: str) -> str:
    return (
        f'<defs><pattern id="{name}-h" width="7" height="7" patternUnits="userSpaceOnUse">'
        '<path class="hatch" d="M-2 9L9-2M-2 2L2-2M5 9L9 5"/></pattern>'
        f'<pattern id="{name}-n" width="4" height="4" patternUnits="userSpaceOnUse">'
        '<path class="many" d="M.5 0V4"/></pattern>'
        f'<pattern id="{name}-g" width="8" height="8" patternUnits="userSpaceOnUse">'
        '<path class="gap" d="M-2 2L2-2M0 8L8 0M6 10L10 6"/></pattern></defs>'
    )


class _Drawing:
    """Goes down the picture; ``y`` is how far it has come."""

    def __init__(self, timeline: Timeline, width: int, name: str, top: float) -> None:
        self.timeline = timeline
        self.width = width
        self.name = name
        self.plot = width - _LEFT - _RIGHT
        self.top = self.y = top
        # few lanes have room for the names of the items in them
        self.roomy = len(timeline.lanes) <= 40
        self.seen: set[str] = set()

    def x(self, at: float) -> float:
        return _LEFT + self.plot * self.timeline.place(at)

    def axis(self, bottom: float) -> Iterator[str]:
        yield f'<path class="line" d="M{_LEFT} {self.top - 6}H{self.width - _RIGHT}"/>'
        free = 0.0
        for tick in self.timeline.ticks(max(2, self.plot // 110)):
            x = self.x(tick.at)
            yield f'<path class="line" d="M{number(x)} {self.top - 6}V{number(bottom)}"/>'
            reach = len(tick.label) * _CHARACTER / 2
            if x - reach >= free:
                yield f'<text class="m mid" x="{number(x)}" y="{self.top - 12}">{escape(tick.label)}</text>'
                free = x + reach + 8

    def lanes(self) -> Iterator[str]:
        lanes = self.timeline.lanes
        for n, lane in enumerate(lanes):
            alone = bool(lane.label) and (n + 1 == len(lanes) or bool(lanes[n + 1].label))
            if lane.label:
                self.y += 4 if n else 0
                yield from self._label(lane)
            height = 16.0 if alone or (self.roomy and lane.kind != "run") else 8.0
            yield from self._pieces(lane, height, named=lane.count > 1 and lane.kind != "run")
            self.y += height + (4 if alone else 2)
        self.y += 4

    def _label(self, lane: Lane) -> Iterator[str]:
        x = 16 + 14 * min(lane.depth, 6)
        y = number(self.y + 12)
        many = f" \u00d7{lane.count:,}" if lane.count > 1 and lane.kind != "run" else ""
        room = int((_LEFT - 8 - x) / _CHARACTER)
        kind = {0: "b", 1: ""}.get(lane.depth, "m")
        yield (
            f'<text class="{kind}" x="{x}" y="{y}">{escape(cut(lane.label, room - len(many)) + many)}'
            f"<title>{escape(cut(lane.label, 100) + many)}</title></text>"
        )
        took = duration(lane.seconds / lane.count) + " each" if many else duration(lane.seconds)
        yield f'<text class="m e" x="{self.width - 16}" y="{y}">{took}</text>'

    def _pieces(self, lane: Lane, height: float, *, named: bool) -> Iterator[str]:
        y, h = number(self.y), number(height)
        starts = sorted(self.x(piece.start) for piece in lane.pieces) if named and height > 8 else []
        for piece in lane.pieces:
            x, end = self.x(piece.start), self.x(piece.end)
            w = max(end - x, 1.5)
            x = min(x, self.width - _RIGHT - w)
            self.seen.add(piece.status)
            title = f"<title>{escape(_tooltip(piece, self.timeline.start))}</title>"
            if piece.status == "inside":
                low = number(self.y + height - 1)
                high = number(self.y + height - 6)
                yield (f'<path class="inside" d="M{number(x)} {low}V{high}H{number(x + w)}V{low}">{title}</path>')
                continue
            # Many failures among many others, which have to be seen as well.
            below = piece.count > 1 and piece.status in _HATCHED and lane.pieces[0].status != piece.status
            at, high = (number(self.y + height / 2), number(height / 2)) if below else (y, h)
            shape = f'x="{number(x)}" y="{at}" width="{number(w)}" height="{high}"'
            if height > 8 and w > 6:
                shape += ' rx="2"'
            yield f'<rect class="{piece.status}" {shape}>{title}</rect>'
            pattern = "h" if piece.status in _HATCHED else "n" if piece.count > 1 else ""
            if pattern and w > 5:
                yield f'<rect fill="url(#{self.name}-{pattern})" pointer-events="none" {shape}/>'
            if starts and not pattern:
                yield from self._name(piece, x, w, starts)

    def _name(self, piece: Piece, x: float, w: float, starts: Sequence[float]) -> Iterator[str]:
        """The name of one of many: in its bar, or beside it where nothing else is."""
        needed = len(piece.label) * 5.4 + 8
        y = number(self.y + 11.5)
        if needed <= w:
            yield f'<text class="on s" x="{number(x + 4)}" y="{y}">{escape(piece.label)}</text>'
            return
        after = next((start for start in starts if start > x + 0.05), float(self.width - _RIGHT))
        if x + w + needed <= after:
            yield f'<text class="m s" x="{number(x + w + 4)}" y="{y}">{escape(piece.label)}</text>'

    def gaps(self, bottom: float) -> Iterator[str]:
        free = 0.0
        for gap in self.timeline.gaps:
            x, end = self.x(gap.start), self.x(gap.end)
            w = max(2.0, end - x)
            shape = f'x="{number(x)}" y="{self.top - 6}" width="{number(w)}" height="{number(bottom - self.top + 6)}"'
            words = f"not running for {duration(gap.end - gap.start)}"
            yield f'<rect class="veil" {shape}/><rect fill="url(#{self.name}-g)" {shape}><title>{words}</title></rect>'
            reach = len(words) * _CHARACTER / 2
            middle = min(max(x + w / 2, _LEFT + reach), self.width - 16 - reach)
            if middle - reach >= free:
                yield f'<text class="m mid" x="{number(middle)}" y="{number(bottom + 14)}">{words}</text>'
                free = middle + reach + 8

    def legend(self, y: float) -> Iterator[str]:
        """In as many lines as it needs; ``y`` of the drawing is then below the last."""
        x = float(_LEFT)
        for status in (*_MARKS, "inside"):
            if status not in self.seen:
                continue
            words = meaning(status)
            wide = 19 + len(words) * _CHARACTER
            if x > _LEFT and x + wide > self.width - 16:
                x, y = float(_LEFT), y + 18
            shape = f'x="{number(x)}" y="{number(y - 9)}" width="14" height="10"'
            yield f'<rect class="{status}" {shape}/>'
            if status in _HATCHED:
                yield f'<rect fill="url(#{self.name}-h)" {shape}/>'
            yield f'<text class="m" x="{number(x + 19)}" y="{number(y)}">{words}</text>'
            x += wide + 18
        self.y = y + 16


def _tooltip(piece: Piece, origin: float) -> str:
    took = duration(piece.end - piece.start)
    since = f"+{duration(max(0.0, piece.start - origin))}"
    if piece.count > 1:
        return f"{cut(piece.label, 100)}: {piece.count:,} {piece.status} in {took} at {since}"
    attempt = f", attempt {piece.attempt}" if piece.path and piece.attempt > 1 else ""
    status = meaning(piece.status)
    error = "" if piece.error is None else f"\n{cut(piece.error, 100)}"
    return f"{cut(piece.path or piece.label, 100)}: {status}{attempt}, {took} at {since}{error}"


# --- one page ---------------------------------------------------------------------------------------------------------

_PAGE_STYLE = (
    f"body{{margin:0 auto;padding:24px;max-width:{WIDTH}px;font:14px/1.5 {FONT};"
    "background:var(--wf-bg);color:var(--wf-fg)}"
    "h1{font-size:22px;margin:0 0 4px}h2{font-size:16px;margin:28px 0 8px}"
    ".status{display:inline-block;padding:1px 10px;border-radius:10px;font-size:13px;font-weight:600;"
    "vertical-align:3px;margin-left:8px;color:var(--wf-on)}"
    + "".join(f".status.{name}{{background:var(--wf-{name})}}" for name in _MARKS)
    + "dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:8px 24px;margin:16px 0 24px}"
    "dt{color:var(--wf-muted);font-size:12px}dd{margin:0;overflow-wrap:anywhere}"
    ".scroll{overflow-x:auto}svg{display:block}"
    "table{border-collapse:collapse;width:100%}th{color:var(--wf-muted);font-weight:600;font-size:12px;text-align:left}"
    "th,td{padding:5px 12px 5px 0;border-bottom:1px solid var(--wf-line);vertical-align:top;overflow-wrap:anywhere}"
    "th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--wf-box);border:1px solid var(--wf-line);"
    "border-left:4px solid var(--wf-failed);border-radius:4px;padding:10px 14px;margin:0;font-size:13px}"
    "footer{margin-top:28px;color:var(--wf-muted);font-size:12px}"
    "@media print{body{padding:0;max-width:none}svg{width:100%;height:auto}.scroll{overflow:visible}"
    "h2,tr,pre{break-inside:avoid}h2{break-after:avoid}@page{size:landscape;margin:12mm}}"
)


def timeline_html(
    run: RunRecord,
    rows: Iterable[StepRow],
    attempts: Iterable[Attempt] = (),
    events: Iterable[EventRow] = (),
    *,
    zone: dt.tzinfo | None = dt.UTC,
    slowest: int = 20,
    now: float | None = None,
) -> str:
    """A run as one HTML page that needs nothing else: its facts, its timeline, what took longest, what failed.

    Args:
        run: as ``store.run`` gives it.
        rows: as ``store.steps`` gives them.
        attempts: as ``store.attempts`` gives them.
        events: as ``store.events(run_id=...)`` gives them.
        zone: of the times; None: this machine's.
        slowest: how many steps the table of the slowest has.
        now: where the axis of a running run ends, seconds since the epoch; default: the present.

    Returns:
        The page, in ASCII, without scripts, links and anything from elsewhere. Any thread.
    """
    rows, attempts = list(rows), list(attempts)
    known = run, rows, attempts, list(events)
    timeline, drawn = _fitting(*known, width=WIDTH, zone=zone, style=False, heading=False, now=now)
    status = "interrupted" if timeline.status == "crashed" else timeline.status
    facts = "".join(
        f"<div><dt>{name}</dt><dd>{escape(cut(text, 300))}</dd></div>" for name, text in _facts(timeline, zone)
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">""",
            f"<title>{escape(f'{run.flow} {run.run_id}: {timeline.status}')}</title>",
            f'<style>{TIMELINE_STYLE}{_PAGE_STYLE}</style></head><body class="wf"><main>',
            f'<h1>{escape(run.flow)}<span class="status {status}">{timeline.status}</span></h1><dl>{facts}</dl>',
            _error_html(run.error),
            '<h2>Timeline</h2><div class="scroll" tabindex="0" role="region" aria-label="Timeline">',
            drawn,
            "</div>",
            _slowest_html(heapq.nlargest(slowest, rows, key=_took), timeline),
            _failures_html([attempt for attempt in attempts if attempt.error is not None], timeline),
            "</main><footer>Recorded by workflow-runner. The axis counts from the start of the run.</footer>",
            "</body></html>\n",
        )
    )


def _facts(timeline: Timeline, zone: dt.tzinfo | None) -> Iterator[tuple[str, str]]:
    run = timeline.run
    yield "Run", run.run_id
    yield "Started", moment(timeline.start, zone)
    if run.finished_at is not None:
        yield "Finished", moment(run.finished_at, zone)
    yield "Took", _length(timeline)
    yield "Steps and items recorded", f"{timeline.steps:,}"
    if timeline.failures:
        yield "Failed attempts", f"{timeline.failures:,}"
    if timeline.gaps:
        yield "Resumed", ", ".join(moment(gap.end, zone) for gap in timeline.gaps[-3:])
    named = {
        "As of": run.as_of,
        "Partition": run.partition,
        "Batch": run.batch_id,
        "Key": run.idem_key,
        "Version": run.version,
        "Trace": run.trace_id,
        "Retries run": run.parent,
        "Runs": run.target,
        "Cancel requested": run.cancel_requested,
    }
    yield from ((name, text) for name, text in named.items() if text)


def _error_html(error: str | None) -> str:
    if error is None:
        return ""
    lines: list[str] = []
    try:
        data: Any = json.loads(error)
        while data is not None and len(lines) < 20:
            lines.append(cut(f"{'caused by ' if lines else ''}{data['type']}: {data['message']}", 1000))
            data = data.get("cause")
    except (ValueError, TypeError, KeyError, AttributeError):  # whoever wrote it
        lines = [cut(error, 1000)]
    return f"<h2>Error</h2><pre>{escape(chr(10).join(lines))}</pre>"


def _took(row: StepRow) -> float:
    return row.finished_at - row.started_at


def _slowest_html(rows: Sequence[StepRow], timeline: Timeline) -> str:
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td>{escape(cut(row.path, 120))}</td><td>{escape(cut(row.flow, 60))}</td><td>{escape(row.status)}</td>"
        f'<td class="n">{row.attempt}</td><td class="n">{_since(row.started_at, timeline)}</td>'
        f'<td class="n">{duration(_took(row))}</td></tr>'
        for row in rows
    )
    return (
        "<h2>What took longest</h2><table><thead><tr><th>Path</th><th>Flow</th><th>Status</th>"
        '<th class="n">Attempt</th><th class="n">Begun at</th><th class="n">Took</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _failures_html(attempts: Sequence[Attempt], timeline: Timeline) -> str:
    if not attempts:
        return ""
    shown = attempts[-20:]
    lines = "".join(
        f'<tr><td>{escape(cut(attempt.path, 120))}</td><td class="n">{attempt.attempt}</td>'
        f'<td class="n">{_since(attempt.started_at, timeline)}</td>'
        f"<td>{escape(cut(said(attempt.error or ''), 300))}</td></tr>"
        for attempt in shown
    )
    more = f"<p>The last {len(shown)} of {len(attempts):,}.</p>" if len(shown) < len(attempts) else ""
    return (
        '<h2>Attempts that failed</h2><table><thead><tr><th>Path</th><th class="n">Attempt</th>'
        f'<th class="n">Begun at</th><th>Error</th></tr></thead><tbody>{lines}</tbody></table>{more}'
    )


def _since(at: float, timeline: Timeline) -> str:
    return f"+{duration(at - timeline.start)}" if at > timeline.start else "0"


# --- as data ----------------------------------------------------------------------------------------------------------


def timeline_data(timeline: Timeline) -> dict[str, Any]:
    """A layout as plain data.

    Args:
        timeline: as `layout` gives it.

    Returns:
        JSON-ready data; all times are seconds since the epoch.
    """
    return {
        "run_id": timeline.run.run_id,
        "flow": timeline.run.flow,
        "status": timeline.status,
        "started_at": timeline.start,
        "ended_at": timeline.end,
        "records": timeline.steps,
        "failed_attempts": timeline.failures,
        "folded": timeline.folded,
        "gaps": [{"started_at": gap.start, "ended_at": gap.end} for gap in timeline.gaps],
        "lanes": [attrs.asdict(lane) for lane in timeline.lanes],
    }
