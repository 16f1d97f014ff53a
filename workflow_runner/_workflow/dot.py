"""A workflow's shape in DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from workflow_runner._workflow.drawing import Box, Edge, shape

if TYPE_CHECKING:
    from workflow_runner._workflow.definition import Workflow

_SHAPES = {"step": "box", "choice": "diamond", "map": "box3d", "wait": "cds"}


def digraph(workflow: Workflow) -> str:
    """The workflow as a ``digraph``."""
    parts = shape(workflow.steps)
    boxes = {box.id: box for box in _boxes(parts)}
    return "\n".join(
        (
            f"digraph {_quoted(workflow.name)} {{",
            "    compound=true;",
            '    node [shape=box, style=rounded, fontname="Helvetica"];',
            '    edge [fontname="Helvetica"];',
            *_lines(parts, boxes, "    "),
            "}\n",
        )
    )


def _boxes(parts: Iterable[Box | Edge]) -> Iterator[Box]:
    for part in parts:
        if isinstance(part, Box):
            yield part
            yield from _boxes(part.inside)


def _lines(parts: Iterable[Box | Edge], boxes: dict[str, Box], indent: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Edge):
            yield f"{indent}{_edge(part, boxes)};"
        elif part.kind == "workflow":
            yield f"{indent}subgraph cluster_{part.id} {{"
            yield f"{indent}    label={_quoted(part.step.name)};"
            yield from _lines(part.inside, boxes, indent + "    ")
            yield f"{indent}}}"
        else:
            style = "" if part.kind == "step" else f', shape={_SHAPES[part.kind]}, style=""'
            yield f"{indent}{part.id} [label={_quoted(part.step.name)}{style}];"


def _edge(edge: Edge, boxes: dict[str, Box]) -> str:
    """DOT has no edges between clusters: one goes from a node inside to a node inside, and is clipped at the frame."""
    source, target = boxes[edge.source], boxes[edge.target]
    options = [f"label={_quoted(edge.label)}"] if edge.label else []
    if source.kind == "workflow":
        options.append(f"ltail=cluster_{source.id}")
    if target.kind == "workflow":
        options.append(f"lhead=cluster_{target.id}")
    end = f" [{', '.join(options)}]" if options else ""
    return f"{_node(source, last=True)} -> {_node(target, last=False)}{end}"


def _node(box: Box, *, last: bool) -> str:
    while box.kind == "workflow":
        inside = [part for part in box.inside if isinstance(part, Box)]
        box = inside[-1 if last else 0]
    return box.id


def _quoted(text: str) -> str:
    """A double-quoted string; a backslash is one, and not the begin of a line break of DOT."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
