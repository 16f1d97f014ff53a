"""A workflow's shape as a Mermaid flowchart. Decided from the definition alone; nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workflow_runner._workflow.definition import Step, Workflow

# Mermaid reads these as syntax, even between quotes.
_ESCAPES = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " "}


def flowchart(workflow: Workflow) -> str:
    """The workflow as a ``flowchart TD``."""
    return "\n".join(["flowchart TD", *_Drawing().steps(workflow.steps, [], "    ")]) + "\n"


# where an edge comes from, and its label
Edge = tuple[str, str]


class _Drawing:
    """Numbers the nodes: names may hold any character, ids may not."""

    def __init__(self) -> None:
        self._count = 0
        self.exits: list[Edge] = []

    def steps(self, steps: tuple[Step, ...], entries: list[Edge], indent: str) -> Iterator[str]:
        """The nodes and edges of one level; ``entries``: the edges that lead into it. Leaves its ends in ``exits``."""
        nodes: dict[str, str] = {}
        ends: dict[str, list[Edge]] = {}
        for step in steps:
            self._count += 1
            nodes[step.name] = f"s{self._count}"
            yield from self._step(step, nodes[step.name], indent)
            ends[step.name] = self.exits
        followed: set[str] = set()
        for index, step in enumerate(steps):
            needs = step.needs if step.needs is not None else tuple(s.name for s in steps[max(0, index - 1) : index])
            followed.update(needs)
            for source, label in [end for need in needs for end in ends[need]] if needs else entries:
                yield f"{indent}{source} -->{f'|{label}|' if label else ''} {nodes[step.name]}"
        self.exits = [end for step in steps if step.name not in followed for end in ends[step.name]]

    def _step(self, step: Step, node: str, indent: str) -> Iterator[str]:
        from workflow_runner._workflow.definition import Choice, Map, Wait, Workflow

        label = f'"{_escape(step.name)}"'
        if isinstance(step.body, Workflow):
            yield f"{indent}subgraph {node}[{label}]"
            yield from self.steps(step.body.steps, [], indent + "    ")
            yield f"{indent}end"
        elif isinstance(step, Choice):
            yield f"{indent}{node}{{{label}}}"
        elif isinstance(step, Map):
            yield f"{indent}{node}[[{label}]]"
        elif isinstance(step, Wait):
            yield f"{indent}{node}([{label}])"
        else:
            yield f"{indent}{node}[{label}]"
        exits: list[Edge] = []
        for branch, steps in step.branches():
            yield from self.steps(steps, [(node, branch)], indent)
            exits += self.exits or [(node, branch)]
        self.exits = exits or [(node, "")]


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)
