"""A flow's business dates as a calendar: a cell for each day, by what became of its run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from workflow_runner.web.svg import STYLE, escape, picture

_CELL, _GAP, _LEFT, _TOP = 15, 3, 44, 40
_STATUSES = ("completed", "partial", "failed", "cancelled", "running", "crashed", "pending")
_MARKS = {"partial": "!", "failed": "×", "cancelled": "–", "running": "›", "crashed": "×", "pending": "…"}  # noqa: RUF001
_COLOURS = {"partial": "interrupted", "crashed": "failed"}

CALENDAR_STYLE = (
    STYLE
    + "".join(f".wf .{name}{{fill:var(--wf-{_COLOURS.get(name, name)})}}" for name in _STATUSES)
    + ".wf .none{fill:var(--wf-box);stroke:var(--wf-line)}.wf .absent{fill:none;stroke:var(--wf-failed);"
    "stroke-dasharray:2 2}"
)
"""The style sheet of a calendar, for a page that has several pictures: pass ``style=False`` then."""


def calendar_svg(
    days: Mapping[dt.date, str],
    *,
    title: str = "Business dates",
    style: bool = True,
    weeks: int = 53,
    until: dt.date | None = None,
    links: Mapping[dt.date, str] | None = None,
) -> str:
    """Draw business dates, a column for each week, from Monday down to Sunday.

    Args:
        days: the status of each date, one of ``history.STATUSES``.
        title: its accessible name.
        style: whether the style sheet is in it. A page whose policy allows none has `CALENDAR_STYLE` in a file.
        weeks: at most so many, the last ones.
        until: the last date to be drawn; default: the last of ``days``.
        links: addresses by date, for a pointer; who has none reads the dates beside the picture.

    Returns:
        An ``<svg>`` element in ASCII. Weekdays without a run between the first and the last of ``days`` are dashed,
        weekends too if there is a run at one. Any thread.
    """
    if not days:
        return picture("", name="calendar", width=1, height=1, title=title, description="no dates", style=None)
    first, final = min(days), max(days)
    last = final if until is None else min(final, until)
    monday = max(first - dt.timedelta(first.weekday()), last - dt.timedelta(last.weekday(), weeks=weeks - 1))
    columns = (last - monday).days // 7 + 1
    weekends = any(day.weekday() >= 5 for day in days)
    parts = [
        f'<text class="m s e" x="{_LEFT - 8}" y="{_TOP + row * (_CELL + _GAP) + 11}">{name}</text>'
        for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"))
    ]
    counts: dict[str, int] = {}
    for n in range(columns * 7):
        day = monday + dt.timedelta(n)
        x, y = _LEFT + (n // 7) * (_CELL + _GAP), _TOP + day.weekday() * (_CELL + _GAP)
        if day.day <= 7 and day.weekday() == 0:
            year = f" {day.year}" if day.month == 1 or n < 7 else ""
            parts.append(f'<text class="m s" x="{x}" y="{_TOP - 8}">{day:%b}{year}</text>')
        status = days.get(day) if day <= last else None
        if status is None:
            absent = first <= day <= last and (weekends or day.weekday() < 5)
            status, kind = ("missing", "absent") if absent else ("", "none")
        else:
            kind = status
        if status:
            counts[status] = counts.get(status, 0) + 1
        cell = (
            f'<rect class="{escape(kind)}" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="3">'
            f"<title>{f'{day:%a} {day.isoformat()} {escape(status)}'.rstrip()}</title></rect>"
        )
        if status in _MARKS:
            cell += f'<text class="on s mid" x="{x + _CELL / 2}" y="{y + 11}">{escape(_MARKS[status])}</text>'
        if status and links and day in links:
            cell = f'<a href="{escape(links[day])}" tabindex="-1">{cell}</a>'
        parts.append(cell)
    said = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return picture(
        "".join(parts),
        name=f"calendar-{last.isoformat()}",
        width=_LEFT + columns * (_CELL + _GAP) + 8,
        height=_TOP + 7 * (_CELL + _GAP) + 4,
        title=title,
        description=f"{max(first, monday).isoformat()} to {last.isoformat()}: {said}",
        style=CALENDAR_STYLE if style else None,
    )
