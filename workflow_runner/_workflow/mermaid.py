"""A workflow's shape as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from workflow_runner._workflow.drawing import Box, Edge, shape

if TYPE_CHECKING:
    from workflow_runner._workflow.definition import Workflow

# Mermaid reads these as syntax, even between quotes.
_ESCAPES = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " "}
_BRACKETS = {"step": ("[", "]"), "choice": ("{", "}"), "map": ("[[", "]]"), "wait": ("([", "])")}


def flowchart(workflow: Workflow) -> str:
    """The workflow as a ``flowchart TD``."""
    return "\n".join(["flowchart TD", *_lines(shape(workflow.steps), "    ")]) + "\n"


def _lines(parts: Iterable[Box | Edge], indent: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Edge):
            yield f"{indent}{part.source} -->{f'|{part.label}|' if part.label else ''} {part.target}"
            continue
        label = f'"{_escape(part.step.name)}"'
        if part.kind == "workflow":
            yield f"{indent}subgraph {part.id}[{label}]"
            yield from _lines(part.inside, indent + "    ")
            yield f"{indent}end"
        else:
            left, right = _BRACKETS[part.kind]
            yield f"{indent}{part.id}{left}{label}{right}"


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)
