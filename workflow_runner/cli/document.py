"""What programs read: any value as plain JSON data, and a run as one JSON document."""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Mapping, Sequence, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from workflow_runner._core import codec
from workflow_runner._workflow.result import StepRecord, describe
from workflow_runner.cli.exits import CommandError
from workflow_runner.cli.run import Outcome

# What is added to the document leaves its version, what is renamed or removed raises it.
SCHEMA = 1


def document(outcome: Outcome, *, exit_on_interrupt: int | None = None) -> dict[str, Any]:
    """A run as the data of one document.

    Args:
        outcome: the run.
        exit_on_interrupt: what the process exits with after a signal, instead of dying of it.

    Returns:
        JSON-ready data. ``signal`` is the name of the one that ended the run; ``exit_code`` is None when the process
        dies of it. ``resume`` is the command that goes on with the run, or None.
    """
    interrupted = outcome.interrupted_by
    return {
        "schema": SCHEMA,
        "status": outcome.status,
        "exit_code": int(outcome.code) if interrupted is None else exit_on_interrupt,
        "signal": None if interrupted is None else interrupted.name,
        "flow": outcome.flow,
        "run_id": outcome.run_id,
        "duration": outcome.duration,
        "answered": outcome.answered,
        "result": plain(outcome.result),
        "outputs": plain(outcome.outputs),
        "steps": [_step(step) for step in outcome.steps],
        "error": _error(outcome.error, step=outcome.error_step),
        "resume": outcome.resume,
    }


def refusal(error: CommandError) -> dict[str, Any]:
    """A command that ran nothing as the data of one document."""
    return {
        "schema": SCHEMA,
        "status": "refused",
        "exit_code": int(error.code),
        "error": {"type": "CommandError", "message": str(error), "hint": error.hint},
    }


def plain(value: Any) -> Any:
    """Turn any value into what JSON has, for readers who do not know Python.

    The store's typed JSON keeps every type and refuses the rest. This is for output: there a text is better than a tag,
    and what cannot be written with its type is better written without than lost.

    Args:
        value: anything.

    Returns:
        None, bool, int, finite float, str, and lists and str-keyed dicts of these. What has fields becomes a dict;
        dates and times ISO text, a timedelta seconds, bytes base64; NaN and the infinities None; what is unknown its
        repr.
    """
    try:
        return _plain(value)
    except RecursionError:
        return repr(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID, PurePath)):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    cls: Any = type(value)
    fields = codec.record_fields(cls)
    if fields is not None:
        return {name: _plain(getattr(value, name)) for name in fields if hasattr(value, name)}
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, (bytearray, memoryview)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # the arrays and scalars of NumPy and its kin
        return _plain(value.tolist())
    return repr(value)


def _step(step: StepRecord) -> dict[str, Any]:
    return {
        "name": step.name,
        "status": str(step.status),
        "attempts": step.attempts,
        "started_at": plain(step.started_at),
        "duration": step.duration,
        "reason": step.reason,
        "error": _error(step.error),
        "category": plain(step.category),
        "quality": plain(step.quality),
        "steps": [_step(inner) for inner in step.steps],
    }


def _error(error: BaseException | None, **more: Any) -> dict[str, Any] | None:
    described = describe(error)
    return None if described is None else {**described, **more}
