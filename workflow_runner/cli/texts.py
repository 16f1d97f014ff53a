"""Short texts that are printed with rich and without it, which takes longer to import than a flow to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_runner.web.units import duration

if TYPE_CHECKING:
    from workflow_runner.cli.run import Outcome

STYLES = {
    "completed": "green",
    "partial": "yellow",
    "running": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "cancelled": "red",
    "crashed": "red",
}


def seconds(length: float) -> str:
    """A duration as people say it."""
    return duration(length)


def ending(outcome: Outcome, about: str) -> list[tuple[str, str]]:
    """The line that says how a run ended, as texts with their styles."""
    before = ", before; nothing was run now" if outcome.answered else ""
    return [
        (outcome.flow, "bold"),
        (f"  {about}" if about else "", ""),
        ("  ", ""),
        (outcome.status, f"bold {STYLES[outcome.status]}"),
        (f" in {seconds(outcome.duration)}{before}  ", ""),
        (f"run {outcome.run_id}", "dim"),
    ]
