"""Lengths of time as a person writes them: ``45s``, ``90m``, ``12h``, ``2d``, ``4w``, ``1h30m``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from workflow_runner._workflow.health import EVERY
from workflow_runner.cli.exits import CommandError, Exit

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def duration(text: str) -> float:
    """Read a length of time.

    Args:
        text: numbers with units: s, m (minutes), h, d (24 hours), w. A number without a unit is refused: whoever
            deletes what is older than 30 means days as often as seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: it is none.
    """
    parts = _PART.findall(text)
    length = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or _PART.sub("", text).strip() or not math.isfinite(length):
        raise ValueError(f"expected a length of time such as 2d, 12h or 90m, got {text!r}")
    return length


def _convert(_: Any, tokens: Any) -> float:
    try:
        return duration(tokens[-1].value)
    except ValueError as error:
        raise ValueError(f"{tokens[-1].keyword}: {error}") from None


Duration = Annotated[float | None, Parameter(converter=_convert, metavar="DURATION")]
"""The type of an option that takes one; the command gets seconds."""

Limits = Annotated[list[str] | None, Parameter(negative=(), metavar="DURATION")]
"""The type of an option that takes one for all flows, or FLOW=DURATION for one; may be repeated."""


def limits(option: str, texts: Sequence[str] | None) -> dict[str, float]:
    """What such an option says: seconds by the name of a flow, or by `EVERY`.

    Raises:
        CommandError: a length of time is none.
    """
    found = {}
    for text in texts or ():
        flow, equals, length = text.rpartition("=")
        try:
            found[flow if equals else EVERY] = duration(length)
        except ValueError as error:
            raise CommandError(Exit.USAGE, f"{option}: {error}", hint=f"such as {option} 26h") from error
    return found
