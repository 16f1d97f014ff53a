"""What programs read of the history: runs, steps, log records and health as JSON-ready data. Any thread."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import attrs

from workflow_runner._workflow.health import FlowHealth
from workflow_runner._workflow.history import RunSummary, RunView, output_of, plain_text
from workflow_runner._workflow.step_tree import StepView
from workflow_runner.store.base import Attempt, EventRow, LogRow


def moment(at: float | None) -> str | None:
    """A time of a record as ISO text in UTC."""
    return None if at is None else dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


def run_data(run: RunSummary) -> dict[str, Any]:
    """A run of a list."""
    return _dated(attrs.asdict(run))


def view_data(view: RunView) -> dict[str, Any]:
    """One run, whole."""
    return {
        **run_data(view.run),
        "input": view.input,
        "overrides": list(view.overrides),
        "steps": [step_data(step) for step in view.steps],
        "result": view.result,
        "retried_by": list(view.retried_by),
        "resumed": view.resumed,
        "events": [_event_data(event) for event in view.events],
    }


def step_data(step: StepView) -> dict[str, Any]:
    """A step, with what it has recorded and all that is inside."""
    data = _dated({name: getattr(step, name) for name in attrs.fields_dict(StepView)})
    del data["text"]
    recorded = plain_text(step.text) if step.kind == "step" else None
    return {
        **data,
        "duration": step.duration,
        "output": output_of(step),
        "updates": (recorded or {}).get("updates"),
        "quality": (recorded or {}).get("quality"),
        "failures": [failure_data(noted) for noted in step.failures],
        "steps": [step_data(inner) for inner in step.steps],
    }


def failure_data(noted: Attempt) -> dict[str, Any]:
    """A failed attempt."""
    return _dated({**noted._asdict(), "error": json.loads(noted.error or "null")})


def log_data(row: LogRow) -> dict[str, Any]:
    """A captured log record."""
    return {
        "at": moment(row.at),
        "level": row.level,
        "event": row.event,
        "path": row.path,
        "fields": json.loads(row.fields) if row.fields else {},
    }


def health_data(health: FlowHealth) -> dict[str, Any]:
    """How a flow is."""
    return {
        "flow": health.flow,
        "healthy": health.healthy,
        "age": health.age,
        "usual": health.usual,
        "troubles": [attrs.asdict(trouble) for trouble in health.troubles],
        "last": None if health.last is None else run_data(health.last),
        "last_success": None if health.last_success is None else run_data(health.last_success),
        "running": [run_data(run) for run in health.running],
    }


def _event_data(event: EventRow) -> dict[str, Any]:
    return {"at": moment(event.at), "kind": event.kind, "data": json.loads(event.data) if event.data else {}}


def _dated(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: moment(value) if name.endswith("_at") else value for name, value in data.items()}
