"""Records to draw, and what every picture has to be."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from workflow_runner.store.base import Attempt, EventRow, RunRecord, StepRow
from workflow_runner.web.svg import DARK, LIGHT

SVG = "{http://www.w3.org/2000/svg}"
# 2013-02-28 22:00 UTC
T = 1_362_088_800.0


def a_run(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "run_id": "r1",
        "flow": "nightly",
        "input": "null",
        "input_hash": "",
        "status": "completed",
        "overrides": None,
        "result": None,
        "error": None,
        "owner": None,
        "fence": 1,
        "cancel_requested": None,
        "created_at": T,
        "started_at": T,
        "finished_at": T + 10,
    }
    return RunRecord(**{**fields, **changes})


def row(path: str, start: float, end: float, **changes: Any) -> StepRow:
    """A row that began and ended so many seconds after the run."""
    fields = {"seq": 0, "kind": "step", "flow": path.rpartition("/")[2]}
    return StepRow(path=path, started_at=T + start, finished_at=T + end, **{**fields, **changes})


def item(path: str, start: float, end: float, **changes: Any) -> StepRow:
    return row(path, start, end, **{"kind": "item", "flow": "price", **changes})


def failure(path: str, start: float, end: float, attempt: int = 1, message: str = "away") -> Attempt:
    error = json.dumps({"type": "OSError", "message": message, "notes": [], "cause": None})
    return Attempt(path, attempt, T + start, error, T + end)


def event(kind: str, at: float) -> EventRow:
    return EventRow(id=0, run_id="r1", target=None, at=T + at, kind=kind, data=None)


def parsed(svg: str) -> ElementTree.Element:
    """The picture, after checks of what holds for all of them."""
    svg.encode("ascii")
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root.iter() if element.tag in (f"{SVG}title", f"{SVG}desc")}
    assert all(named.get(name) for name in (root.get("aria-labelledby") or "").split())
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            *("svg", "title", "desc", "style", "defs", "pattern", "marker", "g", "path", "rect", "text")
        }
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert "href" not in name
            assert name != "style"  # which a strict policy forbids
            assert "url(" not in value or re.fullmatch(r"url\(#[\w-]+\)", value)
    style = "".join(element.text or "" for element in root.iter(f"{SVG}style"))
    assert "url(" not in style
    assert "@import" not in style
    return root


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def contrast(colour: str, other: str) -> float:
    """By WCAG 2."""

    def luminance(text: str) -> float:
        parts = [int(text[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(colour), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


PALETTES = {"light": LIGHT, "dark": DARK}
