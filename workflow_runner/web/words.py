"""Words of the pages: times, durations, values, as people read them. Used by the templates."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from workflow_runner._workflow.history import process_of
from workflow_runner.web.units import duration as duration

SHORT = 80


def time(at: float | None) -> str:
    """A moment in this machine's zone, to the second."""
    return "" if at is None else dt.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def iso(at: float | None) -> str:
    """A moment for programs."""
    return "" if at is None else dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


def ago(seconds: float | None) -> str:
    """How long ago something was, in one unit."""
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def value(data: Any, most: int = SHORT) -> str:
    """Plain data in one line of at most so many characters."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def whole(data: Any) -> str:
    """Plain data over as many lines as it needs."""
    return data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, indent=2)


def why(error: Mapping[str, Any]) -> str:
    """What an error says, in one line: of a workflow that failed, what its step has raised."""
    if error["type"] == "WorkflowFailed" and error.get("cause"):
        error = error["cause"]
    return f"{error['type']}: {error['message']}"


def percent(part: float) -> str:
    """A fraction of 1 in percent."""
    return f"{100 * part:.1f}".rstrip("0").rstrip(".") + " %"


def owner(text: str) -> str:
    """Who executes a run."""
    return process_of(text)


def error(text: str) -> str:
    """A recorded error and its causes, a line each."""
    lines: list[str] = []
    known = json.loads(text)
    while known is not None and len(lines) < 20:
        lines.append(f"{'caused by ' if lines else ''}{known['type']}: {known['message']}")
        known = known.get("cause")
    return "\n".join(lines)


def fields(text: str) -> str:
    """The fields of a log record, in one line."""
    return " ".join(f"{name}={value(data)}" for name, data in json.loads(text).items())
