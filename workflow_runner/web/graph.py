"""A workflow's shape as a picture, as a tree of text and as data. Decided from the definition alone; nothing runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from workflow_runner._core.clock import seconds
from workflow_runner._core.flow import Flow
from workflow_runner._workflow.definition import Map, Step, Wait, Workflow
from workflow_runner._workflow.drawing import Box, Edge, shape
from workflow_runner.web.layers import Layered, layered
from workflow_runner.web.svg import STYLE, cut, escape, number, picture
from workflow_runner.web.units import exactly

GRAPH_STYLE = (
    STYLE + ".wf .box{fill:var(--wf-box);stroke:var(--wf-edge);stroke-width:1.2}"
    ".wf .frame{fill:none;stroke:var(--wf-edge);stroke-dasharray:5 4}"
    ".wf .edge{fill:none;stroke:var(--wf-edge);stroke-width:1.4}.wf .tip{fill:var(--wf-edge)}"
    ".wf .halo{stroke:var(--wf-bg);stroke-width:4;paint-order:stroke}"
)
"""The style sheet of a graph, for a page that has several: pass ``style=False`` then."""

_PAD, _HEADING, _FRAME = 20.0, 48.0, 34.0


def as_workflow(flow: Flow[Any, Any]) -> Workflow:
    """A flow as a workflow to be drawn: itself, or one with the flow as its only step."""
    return flow if isinstance(flow, Workflow) else Workflow(flow.name, steps=[Step(flow.name, flow)])


def notes(step: Step | Flow[Any, Any]) -> list[str]:
    """What is worth knowing of a step, or of a flow, beside its name.

    Args:
        step: its definition.

    Returns:
        A few words for each; empty for a plain step. A flow that is a step's body says what the step does not.
    """
    body = step.body if isinstance(step, Step) else step
    own = body if isinstance(body, Flow) and not isinstance(step, Map) else None
    found = []
    if isinstance(step, Map):
        of = f" of {step.items}" if isinstance(step.items, str) else ""
        found.append(f"for each{of}" + (f", {step.max_concurrency} at once" if step.max_concurrency else ""))
    if isinstance(step, Wait):
        found.append(exactly(seconds(step.body, zero=True)))
    retry = step.retry if step.retry is not None or own is None else own.retry
    if retry is not None:
        found.append(f"{retry.attempts} attempts")
    timeout = step.timeout if step.timeout is not None or own is None else own.timeout
    if timeout is not None:
        found.append(f"at most {exactly(seconds(timeout))}")
    if isinstance(step, Step):
        if step.on_error == "continue":
            found.append("may fail")
        if step.on_crash == "fail":
            found.append("never twice")
        if not step.checkpoint:
            found.append("not recorded")
    return found


# --- text -------------------------------------------------------------------------------------------------------------


def graph_text(flow: Flow[Any, Any], *, ascii_only: bool = False) -> str:
    """A flow as a tree of text: the steps of a workflow with their branches, in order of declaration.

    Args:
        flow: a workflow, or a flow, which is a tree of one.
        ascii_only: take characters that every encoding has.
    """
    marks = ("|- ", "`- ", "|  ", "   ") if ascii_only else ("├─ ", "└─ ", "│  ", "   ")
    kind = "workflow" if isinstance(flow, Workflow) else "flow"
    version = f", version {flow.version}" if flow.version is not None else ""
    about = "".join(f", {note}" for note in notes(flow))
    lines = [(flow.name, f"{kind}{version}{about}")]
    if isinstance(flow, Workflow):
        lines += _tree(flow.steps, "", marks)
    wide = min(48, max(len(name) for name, _ in lines))
    return "".join(f"{name:<{wide}}  {words}".rstrip() + "\n" for name, words in lines)


def _tree(steps: tuple[Step, ...], indent: str, marks: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for n, step in enumerate(steps):
        last = n == len(steps) - 1
        box = next(part for part in shape((attrs.evolve(step, needs=()),)) if isinstance(part, Box))
        words = [] if box.kind == "step" else [box.kind]
        words += notes(step)
        if step.needs is not None:
            words.append(f"needs {', '.join(step.needs)}" if step.needs else "needs nothing")
        yield f"{indent}{marks[1 if last else 0]}{_plain(step.name)}", ", ".join(words)
        below = indent + marks[3 if last else 2]
        if isinstance(step.body, Workflow):
            yield from _tree(step.body.steps, below, marks)
        branches = [(branch, inner) for branch, inner in step.branches() if inner]
        for m, (branch, inner) in enumerate(branches):
            end = m == len(branches) - 1
            yield f"{below}{marks[1 if end else 0]}{branch}:", ""
            yield from _tree(inner, below + marks[3 if end else 2], marks)


def _plain(text: str) -> str:
    """Whatever a terminal would obey is shown instead."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# --- data -------------------------------------------------------------------------------------------------------------


def graph_data(flow: Flow[Any, Any]) -> dict[str, Any]:
    """A flow's shape as plain data.

    Args:
        flow: a workflow, or a flow, which is one node.

    Returns:
        JSON-ready data: nodes, and edges between them by their ids.
    """
    data = {"name": flow.name, "version": flow.version}
    if not isinstance(flow, Workflow):
        node = {"id": "s1", "name": flow.name, "kind": "flow", "notes": notes(flow), "needs": None, "inside": None}
        return {**data, "kind": "flow", "nodes": [node], "edges": []}
    nodes: list[dict[str, Any]] = []
    edges: list[dict[str, str]] = []

    def add(parts: Iterable[Box | Edge], inside: str | None) -> None:
        for part in parts:
            if isinstance(part, Edge):
                edges.append({"source": part.source, "target": part.target, "label": part.label})
                continue
            needs = None if part.step.needs is None else list(part.step.needs)
            node = {"id": part.id, "name": part.step.name, "kind": part.kind, "notes": notes(part.step)}
            nodes.append({**node, "needs": needs, "inside": inside})
            add(part.inside, part.id)

    add(shape(flow.steps), None)
    return {**data, "kind": "workflow", "nodes": nodes, "edges": edges}


# --- svg --------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Level:
    """The boxes of one level, placed; ``inside``: the levels of nested workflows, by box."""

    boxes: dict[str, Box]
    edges: list[Edge]
    sizes: dict[str, tuple[float, float]]
    inside: dict[str, _Level]
    at: Layered


def graph_svg(flow: Flow[Any, Any], *, style: bool = True) -> str:
    """Draw a workflow.

    Args:
        flow: a workflow, or a flow, which is one box.
        style: whether the style sheet is in it. A page whose policy allows none has `GRAPH_STYLE` in a file.

    Returns:
        An ``<svg>`` element in ASCII, without scripts, handlers and anything from elsewhere. It is a file of its own
        as well. Any thread.
    """
    name = "wf-" + re.sub(r"[^A-Za-z0-9-]", "-", flow.name)
    if isinstance(flow, Workflow):
        level = _level(shape(flow.steps))
        count = len(flow.step_names)
        about = f"workflow, {count} {'step' if count == 1 else 'steps'}"
    else:
        level = _level(shape(as_workflow(flow).steps))
        about = "flow"
    about += f", version {flow.version}" if flow.version is not None else ""
    width = max(level.at.width + 2 * _PAD, 240.0)
    body = (
        f'<defs><marker id="{name}-a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<text class="h" x="{number(_PAD)}" y="26">{escape(cut(flow.name, int(width / 9)))}</text>'
        f'<text class="m" x="{number(_PAD)}" y="44">{escape(about)}</text>'
        + "".join(_drawn(level, (width - level.at.width) / 2, _HEADING + _PAD, name))
    )
    edges = "; ".join(
        f"{level.boxes[edge.source].step.name} to {level.boxes[edge.target].step.name}" for edge in level.edges[:40]
    )
    return picture(
        body,
        name=name,
        width=width,
        height=level.at.height + _HEADING + 2 * _PAD,
        title=f"Shape of {flow.name}",
        description=f"{about}. {edges}" if edges else about,
        style=GRAPH_STYLE if style else None,
    )


def _level(parts: Iterable[Box | Edge]) -> _Level:
    boxes: dict[str, Box] = {}
    edges: list[Edge] = []
    for part in parts:
        if isinstance(part, Box):
            boxes[part.id] = part
        else:
            edges.append(part)
    inside = {box.id: _level(box.inside) for box in boxes.values() if box.inside}
    sizes = {box.id: _size(box, inside.get(box.id)) for box in boxes.values()}
    at = layered(sizes, [(edge.source, edge.target) for edge in edges])
    return _Level(boxes, edges, sizes, inside, at)


def _words(box: Box) -> tuple[str, str]:
    """What stands in a box: the name, and below it the rest."""
    kind = [] if box.kind == "step" else [box.kind]
    return cut(box.step.name, 36), cut(" · ".join(kind + notes(box.step)), 64)


def _size(box: Box, inside: _Level | None) -> tuple[float, float]:
    name, rest = _words(box)
    wide = max(len(name) * 7.2, len(rest) * 5.6) + (52 if box.kind == "choice" else 32)
    if inside is not None:
        return max(wide, inside.at.width + 2 * _PAD), inside.at.height + _FRAME + 2 * _PAD
    return max(84.0, wide), 46.0 if rest else 34.0


def _drawn(level: _Level, left: float, top: float, name: str) -> Iterator[str]:
    """The level with its corner at ``left``, ``top``."""
    labels = []
    for edge, points in zip(level.edges, level.at.bends, strict=True):
        moved = [(left + x, top + y) for x, y in points]
        yield f'<path class="edge" d="{_curve(moved)}" marker-end="url(#{name}-a)"/>'
        if edge.label:
            (x, y), (to_x, to_y) = moved[0], moved[1]
            side, by = ("e", -4) if to_x < x - 1 else ("", 4) if to_x > x + 1 else ("mid", 0)
            at_x, at_y = x + (to_x - x) * 0.8 + by, y + (to_y - y) * 0.55
            labels.append(
                f'<text class="m s {side} halo" x="{number(at_x)}" y="{number(at_y)}">{escape(edge.label)}</text>'
            )
    yield from labels
    for box in level.boxes.values():
        x, y = level.at.places[box.id]
        w, h = level.sizes[box.id]
        yield from _box(box, left + x, top + y, w, h)
        if box.id in level.inside:
            inner = level.inside[box.id]
            yield from _drawn(inner, left + x - inner.at.width / 2, top + y - h / 2 + _FRAME + _PAD, name)


def _box(box: Box, x: float, y: float, w: float, h: float) -> Iterator[str]:
    """A box around its middle: the outline tells the kind."""
    left, top = x - w / 2, y - h / 2
    shape = f'x="{number(left)}" y="{number(top)}" width="{number(w)}" height="{number(h)}"'
    name, rest = _words(box)
    yield f"<g><title>{escape(', '.join([box.step.name, box.kind, *notes(box.step)]))}</title>"
    if box.kind == "choice":
        points = [(left, y), (left + 14, top), (left + w - 14, top), (left + w, y)]
        points += [(left + w - 14, top + h), (left + 14, top + h)]
        yield f'<path class="box" d="M{"L".join(f"{number(a)} {number(b)}" for a, b in points)}z"/>'
    elif box.kind == "map":
        for shift in (6.0, 3.0, 0.0):
            at = f'x="{number(left + shift)}" y="{number(top + shift)}" width="{number(w)}" height="{number(h)}"'
            yield f'<rect class="box" rx="6" {at}/>'
    elif box.kind == "workflow":
        yield f'<rect class="frame" rx="8" {shape}/>'
    else:
        yield f'<rect class="box" rx="{number(h / 2 if box.kind == "wait" else 6)}" {shape}/>'
    line = top + 20 if box.kind == "workflow" else y + (-2 if rest else 4.5)
    yield f'<text class="mid b" x="{number(x)}" y="{number(line)}">{escape(name)}</text>'
    if rest:
        yield f'<text class="mid m s" x="{number(x)}" y="{number(line + 15)}">{escape(rest)}</text>'
    yield "</g>"


def _curve(points: list[tuple[float, float]]) -> str:
    """Through the points, down in each of them."""
    (x, y), path = points[0], [f"M{number(points[0][0])} {number(points[0][1])}"]
    for to_x, to_y in points[1:]:
        if abs(to_x - x) < 0.5:
            path.append(f"L{number(to_x)} {number(to_y)}")
        else:
            middle = (y + to_y) / 2
            path.append(f"C{number(x)} {number(middle)} {number(to_x)} {number(middle)} {number(to_x)} {number(to_y)}")
        x, y = to_x, to_y
    return "".join(path)
