"""The calendar alone: what it draws of which dates, in colours that can be read."""

from __future__ import annotations

import datetime as dt
import re
import xml.etree.ElementTree as ElementTree

import pytest

from workflow_runner._workflow.history import STATUSES
from workflow_runner.web.calendar import CALENDAR_STYLE, calendar_svg
from workflow_runner.web.svg import DARK, LIGHT

SVG = "{http://www.w3.org/2000/svg}"
FRIDAY = dt.date(2013, 3, 1)


def cells(svg: str) -> dict[str, str]:
    """The class of every cell, by the title of the cell."""
    root = ElementTree.fromstring(svg)
    return {str(one.findtext(f"{SVG}title")): one.attrib["class"] for one in root.iter(f"{SVG}rect")}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_cell_of_its_own(status: str) -> None:
    """With its name in the title of the cell and in the description, and a rule in the style sheet."""
    svg = calendar_svg({FRIDAY: status})
    assert cells(svg)[f"Fri 2013-03-01 {status}"] == status
    assert f"2013-03-01: 1 {status}" in str(ElementTree.fromstring(svg).findtext(f"{SVG}desc"))
    assert f".wf .{status}{{fill:var(--wf-" in CALENDAR_STYLE


def test_what_is_missing_is_dashed() -> None:
    """Weekdays between the first and the last date; weekends as well, if anything ran at one."""
    days = {dt.date(2013, 2, 28): "completed", dt.date(2013, 3, 5): "failed"}
    found = cells(calendar_svg(days))
    assert [title for title, kind in found.items() if kind == "absent"] == [
        "Fri 2013-03-01 missing",
        "Mon 2013-03-04 missing",
    ]
    assert found["Sat 2013-03-02"] == found["Wed 2013-03-06"] == "none"
    weekends = cells(calendar_svg({**days, dt.date(2013, 3, 2): "completed"}))
    assert weekends["Sun 2013-03-03 missing"] == "absent"


def test_a_window_of_many_years() -> None:
    """At most so many weeks, up to a date; what is missing at its edge is seen from all dates."""
    days = {dt.date(2011, 1, 3): "completed", FRIDAY: "completed"}
    svg = calendar_svg(days, until=dt.date(2012, 12, 31), weeks=2)
    assert len(cells(svg)) == 14
    assert cells(svg)["Mon 2012-12-31 missing"] == "absent"
    assert "2012-12-24 to 2012-12-31: 6 missing" in svg
    assert "Fri 2013-03-01" not in svg


def test_links_and_titles_are_escaped() -> None:
    """Whatever an address or a name is made of, it is text; a file of its own is well-formed."""
    evil = "\"><script>alert('x')</script>"
    svg = calendar_svg({FRIDAY: "failed"}, title=evil, links={FRIDAY: f"/runs/{evil}"})
    assert "<script" not in svg
    root = ElementTree.fromstring(svg)
    assert root.findtext(f"{SVG}title") == evil
    (link,) = root.iter(f"{SVG}a")
    assert link.attrib["href"] == f"/runs/{evil}"
    assert svg.isascii()


def test_no_dates() -> None:
    """Are a picture as well."""
    assert ElementTree.fromstring(calendar_svg({})).findtext(f"{SVG}desc") == "no dates"


def test_alone_or_in_a_page() -> None:
    """Alone it brings its style, by day and by night; in a page that has the sheet it brings none."""
    alone = calendar_svg({FRIDAY: "completed"})
    assert "prefers-color-scheme:dark" in alone
    assert "<style" not in calendar_svg({FRIDAY: "completed"}, style=False)
    colours = set(re.findall(r"var\((--wf-[a-z]+)\)", CALENDAR_STYLE))
    assert colours
    assert all(f"{colour}:" in CALENDAR_STYLE for colour in colours)


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_cells_and_their_marks_can_be_told(colours: dict[str, str]) -> None:
    """3 to 1 between a cell and the background, and between a mark and its cell; no status by colour alone."""
    for name in ("completed", "interrupted", "failed", "cancelled", "running", "pending"):
        assert contrast(colours[name], colours["bg"]) >= 3, name
        assert contrast(colours["on"], colours[name]) >= 3, name
    marks = {status: re.findall(r'mid"[^>]*>([^<]*)<', calendar_svg({FRIDAY: status})) for status in STATUSES}
    assert marks["completed"] == []
    assert all(mark for status, mark in marks.items() if status != "completed")


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
