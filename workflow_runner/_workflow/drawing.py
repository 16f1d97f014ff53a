"""A workflow's shape as boxes and edges, for whoever draws it. Decided from the definition alone; nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from workflow_runner._workflow.definition import Step


@attrs.frozen(eq=False)
class Box:
    """A step.

    Attributes:
        id: unique in the drawing: names may hold any character, ids of most languages may not.
        step: its definition.
        kind: "step", "choice", "map", "wait" or "workflow".
        inside: of a nested workflow the shape.
    """

    id: str
    step: Step
    kind: str
    inside: tuple[Box | Edge, ...] = ()


@attrs.frozen
class Edge:
    """From one box to another, by their ids; ``label`` is the branch of a choice, or empty."""

    source: str
    target: str
    label: str


def shape(steps: tuple[Step, ...]) -> tuple[Box | Edge, ...]:
    """The boxes and edges of a workflow's steps; each box stands before its edges."""
    return tuple(_Drawing().steps(steps, []))


# where an edge comes from, and its label
_End = tuple[str, str]


class _Drawing:
    """Numbers the boxes."""

    def __init__(self) -> None:
        self._count = 0
        self.exits: list[_End] = []

    def steps(self, steps: tuple[Step, ...], entries: list[_End]) -> Iterator[Box | Edge]:
        """The boxes and edges of one level; ``entries``: the edges that lead into it. Leaves its ends in ``exits``."""
        boxes: dict[str, str] = {}
        ends: dict[str, list[_End]] = {}
        for step in steps:
            self._count += 1
            boxes[step.name] = f"s{self._count}"
            yield from self._step(step, boxes[step.name])
            ends[step.name] = self.exits
        followed: set[str] = set()
        for index, step in enumerate(steps):
            needs = step.needs if step.needs is not None else tuple(s.name for s in steps[max(0, index - 1) : index])
            followed.update(needs)
            for source, label in [end for need in needs for end in ends[need]] if needs else entries:
                yield Edge(source, boxes[step.name], label)
        self.exits = [end for step in steps if step.name not in followed for end in ends[step.name]]

    def _step(self, step: Step, box: str) -> Iterator[Box | Edge]:
        from workflow_runner._workflow.definition import Choice, Map, Wait, Workflow

        kinds = {Choice: "choice", Map: "map", Wait: "wait"}
        inside: tuple[Box | Edge, ...] = ()
        kind = next((kind for cls, kind in kinds.items() if isinstance(step, cls)), "step")
        if isinstance(step.body, Workflow):
            kind, inside = "workflow", tuple(self.steps(step.body.steps, []))
        yield Box(box, step, kind, inside)
        exits: list[_End] = []
        for branch, steps in step.branches():
            yield from self.steps(steps, [(box, branch)])
            exits += self.exits or [(box, branch)]
        self.exits = exits or [(box, "")]
