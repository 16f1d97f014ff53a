"""The shape of a workflow, drawn: boxes that do not overlap, edges that go down, every kind of step told apart."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import subprocess
from typing import Any
from xml.etree import ElementTree

import pytest

from workflow_runner import Flow, FlowContext, Retry, Step, Workflow, flow
from workflow_runner._workflow.dot import digraph
from workflow_runner.examples.market_close import nightly
from workflow_runner.web.graph import GRAPH_STYLE, as_workflow, graph_data, graph_svg, graph_text
from workflow_runner.web.layers import layered

from .pictures import SVG, parsed, texts

EVIL = '<script>alert("x")&\x1b[31m\u202e\\é'


def body(context: Any) -> None:
    """Does nothing; nothing runs here."""


@flow(retry=Retry(attempts=3), timeout=90)
def price(ctx: FlowContext, number: int) -> int:
    return number


inner = Workflow("inner", steps=[Step("i1", body), Step("i2", body)])
kinds = Workflow(
    "kinds",
    version="2",
    steps=[
        Step("a", body, retry=Retry(attempts=5), timeout=5400, on_error="continue"),
        Step.choice("c", when=bool, then=[Step("t", body)], otherwise=[Step("o", body)]),
        Step.map("m", price, items="numbers", max_concurrency=8),
        Step.wait("w", seconds=5),
        Step("n", inner),
        Step("p", price, on_crash="fail", checkpoint=False),
    ],
)


def dag(steps: int) -> Workflow:
    """Each step needs a few of those before it."""
    chance = random.Random(steps)
    made = [Step("s0", body, needs=())]
    for n in range(1, steps):
        pool = [step.name for step in made[max(0, n - 10) :]]
        made.append(
            Step(f"s{n}", body, needs=tuple(chance.sample(pool, min(len(pool), chance.choice([0, 1, 1, 2, 3])))))
        )
    return Workflow("dag", steps=made)


# --- svg --------------------------------------------------------------------------------------------------------------


def boxes(root: ElementTree.Element) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and lower side of each box that is a rectangle, by the first text in it."""
    found = {}
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        if rect is not None:
            x, y, w, h = (float(rect.get(name, 0)) for name in ("x", "y", "width", "height"))
            found[group.findtext(f"{SVG}text") or ""] = (x, y, x + w, y + h)
    return found


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_boxes_do_not_overlap_and_lie_in_the_picture(steps: int) -> None:
    """Whatever needs what."""
    root = parsed(graph_svg(dag(steps)))
    found = boxes(root)
    assert len(found) == steps
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for left, top, right, low in found.values():
        assert 0 <= left < right <= width
        assert 0 <= top < low <= height
    for one, other in itertools.combinations(found.values(), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_every_step_stands_below_what_it_needs() -> None:
    """Edges go down, and there are as many as needs."""
    workflow = dag(50)
    root = parsed(graph_svg(workflow))
    found = boxes(root)
    needs = [(need, step.name) for step in workflow.steps for need in step.needs or ()]
    assert all(found[need][3] < found[name][1] for need, name in needs)
    edges = [path for path in root.iter(f"{SVG}path") if path.get("class") == "edge"]
    assert len(edges) == len(needs)


def test_a_nested_workflow_is_a_frame_around_its_steps() -> None:
    """Its steps lie inside of it."""
    found = boxes(parsed(graph_svg(kinds)))
    left, top, right, low = found["n"]
    for name in ("i1", "i2"):
        assert left < found[name][0] < found[name][2] < right
        assert top < found[name][1] < found[name][3] < low


def test_what_is_worth_knowing_stands_in_the_boxes() -> None:
    """Kinds, attempts, deadlines, what may fail, and which branch an edge is."""
    assert {
        "5 attempts \xb7 at most 1 h 30 min \xb7 may fail",
        "choice",
        "map \xb7 for each of numbers, 8 at once",
        "wait \xb7 5 s",
        "workflow",
        "3 attempts \xb7 at most 1 min 30 s \xb7 never twice \xb7 not recorded",
        "then",
        "otherwise",
        "workflow, 8 steps, version 2",
    } <= set(texts(parsed(graph_svg(kinds))))


def test_whatever_a_step_is_called_is_only_text() -> None:
    """Names are escaped, and what no document can hold is replaced."""
    svg = graph_svg(Workflow(EVIL, steps=[Step(EVIL, body), Step("b", body)]))
    assert any("<script>alert" in text for text in texts(parsed(svg)))
    assert "<script" not in svg


def test_a_page_that_forbids_styles_has_them_in_a_file() -> None:
    """Without its style sheet the picture is the same."""
    with_style, without = graph_svg(kinds), graph_svg(kinds, style=False)
    assert with_style.replace(f"<style>{GRAPH_STYLE}</style>", "") == without
    assert "prefers-color-scheme:dark" in GRAPH_STYLE


@pytest.mark.parametrize("drawn", [graph_svg, graph_text, graph_data, lambda one: digraph(as_workflow(one))])
def test_a_flow_is_a_single_box(drawn: Any) -> None:
    """A flow that is no workflow has no steps."""
    assert isinstance(price, Flow)
    assert "price" in str(drawn(price))
    assert list(boxes(parsed(graph_svg(price)))) == ["price"]
    assert graph_text(price) == "price  flow, 3 attempts, at most 1 min 30 s\n"


def test_a_thousand_steps_in_a_row_can_be_drawn() -> None:
    """Nothing recurses along a row."""
    assert len(boxes(parsed(graph_svg(Workflow("row", steps=[Step(f"s{n}", body) for n in range(1500)]))))) == 1500


def test_the_layout_untangles_what_can_be() -> None:
    """Two lines that were declared crosswise do not cross."""
    sizes = dict.fromkeys("abcd", (80.0, 30.0))
    at = layered(sizes, [("a", "d"), ("b", "c")]).places
    assert (at["a"][0] < at["b"][0]) == (at["d"][0] < at["c"][0])
    assert at["a"][0] == pytest.approx(at["d"][0])


# --- text -------------------------------------------------------------------------------------------------------------


def test_the_tree_has_every_step_with_what_it_needs() -> None:
    """Branches below their choice, a nested workflow's steps below their step."""
    lines = [re.sub("  +", "  ", line.strip()) for line in graph_text(kinds).splitlines()]
    assert lines == [
        "kinds  workflow, version 2",
        "├─ a  5 attempts, at most 1 h 30 min, may fail",
        "├─ c  choice",
        "│  ├─ then:",
        "│  │  └─ t",
        "│  └─ otherwise:",
        "│  └─ o",
        "├─ m  map, for each of numbers, 8 at once",
        "├─ w  wait, 5 s",
        "├─ n  workflow",
        "│  ├─ i1",
        "│  └─ i2",
        "└─ p  3 attempts, at most 1 min 30 s, never twice, not recorded",
    ]
    assert "└─ s1  needs s0" in graph_text(
        Workflow("w", steps=[Step("s0", body, needs=()), Step("s1", body, needs=("s0",))])
    )


def test_the_tree_in_ascii() -> None:
    """For a terminal that has nothing else; control characters are shown and not obeyed."""
    graph_text(nightly, ascii_only=True).encode("ascii")
    assert "`- \\x1b[31m" in graph_text(Workflow("w", steps=[Step("\x1b[31m", body)]), ascii_only=True)


def test_the_shape_is_data() -> None:
    """Nodes and edges by their ids, as JSON."""
    data = json.loads(json.dumps(graph_data(kinds)))
    ids = {node["name"]: node["id"] for node in data["nodes"]}
    assert list(ids) == ["a", "c", "t", "o", "m", "w", "n", "i1", "i2", "p"]
    edges = {(edge["source"], edge["target"], edge["label"]) for edge in data["edges"]}
    assert {(ids["c"], ids["t"], "then"), (ids["o"], ids["m"], ""), (ids["i1"], ids["i2"], "")} <= edges
    assert next(node for node in data["nodes"] if node["name"] == "i1")["inside"] == ids["n"]


# --- dot --------------------------------------------------------------------------------------------------------------


def test_dot_draws_every_kind_of_step() -> None:
    """Choices are diamonds, nested workflows clusters, whose edges end at the frame."""
    assert kinds.to_dot() == digraph(kinds)
    lines = [line.strip() for line in digraph(kinds).splitlines()]
    assert lines[0] == 'digraph "kinds" {'
    for expected in (
        's1 [label="a"];',
        's2 [label="c", shape=diamond, style=""];',
        's2 -> s3 [label="then"];',
        's5 [label="m", shape=box3d, style=""];',
        "subgraph cluster_s7 {",
        "s6 -> s8 [lhead=cluster_s7];",
        "s9 -> s10 [ltail=cluster_s7];",
    ):
        assert expected in lines


def test_dot_quotes_names() -> None:
    """Quotes and backslashes are the name's, and not DOT's."""
    text = digraph(Workflow("w", steps=[Step('a"b\\N\nc', body)]))
    assert 's1 [label="a\\"b\\\\N c"];' in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it() -> None:
    """Without a warning."""
    ran = subprocess.run(["dot", "-Tsvg"], input=digraph(kinds), capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(re.findall("<g id=.node", ran.stdout)) == 9
