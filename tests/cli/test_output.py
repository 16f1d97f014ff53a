"""What is printed: any value as data or as tables, durations, documents."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from collections import namedtuple
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_runner.cli import render
from workflow_runner.cli.document import SCHEMA, plain
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.run import Outcome

from .conftest import Command, on_a_terminal


@attrs.frozen
class Point:
    x: int
    _y: Any = None


@dataclass
class Line:
    start: Point


Pair = namedtuple("Pair", "left right")


class Colour(Enum):
    RED = "r"


class Array:
    def tolist(self) -> list[float]:
        return [1.0, math.nan]


# --- plain data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dt.date(2013, 2, 28), "2013-02-28"),
        (dt.datetime(2013, 2, 28, tzinfo=dt.UTC), "2013-02-28T00:00:00+00:00"),
        (dt.timedelta(minutes=1.5), 90.0),
        (Decimal("1.10"), "1.10"),
        (Path("a/b"), "a/b"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"ab", "YWI="),
        (Colour.RED, "r"),
        (Point(1, Decimal(2)), {"x": 1, "_y": "2"}),
        (Line(Point(1)), {"start": {"x": 1, "_y": None}}),
        (Pair(1, 2), {"left": 1, "right": 2}),
        ({1: {2, 1}, dt.date(2013, 2, 28): (None, True)}, {"1": [1, 2], "2013-02-28": [None, True]}),
        (range(3), [0, 1, 2]),
        ([math.nan, math.inf, 0.5], [None, None, 0.5]),
        (Array(), [1.0, None]),
    ],
)
def test_values_become_plain_data(value: Any, expected: Any) -> None:
    """Scalars become texts and numbers, what has fields a dict, and collections lists."""
    assert plain(value) == expected


def test_what_cannot_be_written_is_described() -> None:
    """An unknown object is its repr, and so is a list that contains itself."""
    assert plain([object]) == ["<class 'object'>"]
    endless: list[Any] = []
    endless.append(endless)
    assert plain(endless) == "[[...]]"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.decimals() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(Point, st.integers(), inner)
    ),
    max_leaves=10,
)


@given(anything)
def test_plain_data_is_strict_json(value: Any) -> None:
    """Whatever the value, the data is JSON that comes back as it was written."""
    data = plain(value)
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@given(anything)
def test_every_value_can_be_shown(value: Any) -> None:
    """Whatever the value, there is a way to print it."""
    console = render.new_console()
    with console.capture():
        for part in render.parts_of(plain(value)):
            console.print(part)


# --- tables -----------------------------------------------------------------------------------------------------------


def shown(result: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that stand before the last one and its blank."""
    render.show(Outcome(flow="f", run_id="r", status="completed", code=Exit.DONE, result=result))
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "f  completed in 0.0 ms  run r"
    return [line.rstrip() for line in lines]


def test_a_list_of_mappings_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """All keys are columns; numbers stand right under each other, texts left, and nothing is nothing."""
    rows = [{"name": "a", "rate": 0.5, "n": 1}, {"name": "b", "rate": -12.25, "n": 200, "more": [1]}, {"rate": None}]
    assert shown(rows, capsys) == [
        "name     rate     n   more",
        "──────────────────────────",
        "a        0.50     1",
        "b      -12.25   200   [1]",
        "",
        "",
    ]


def test_a_mapping_is_names_and_values_and_tables_below(capsys: pytest.CaptureFixture[str]) -> None:
    """Values stand beside their names; what is itself a mapping or a table follows under its own."""
    result = {"day": dt.date(2013, 2, 28), "rows": [Point(1, 2)], "deep": {"er": {"x": 1.5}}, "list": [1, 2]}
    assert shown(result, capsys) == [
        "day   2013-02-28",
        "list  [1, 2]",
        "",
        "rows",
        "x   _y",
        "──────",
        "1    2",
        "",
        "deep.er",
        "x  1.5",
        "",
    ]


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (None, []),
        ("text", ["text", ""]),
        (5, ["5", ""]),
        (0.1 + 0.2, ["0.3", ""]),
        (11518400.0, ["11518400", ""]),
        (1e-9, ["1e-09", ""]),
        ([1, "two"], ["1", "two", ""]),
        ([], ["[]", ""]),
        ({}, ["{}", ""]),
        ("[bold]:smile:\x1b[31m", [r"[bold]:smile:\x1b[31m", ""]),
    ],
)
def test_other_results_are_lines(capsys: pytest.CaptureFixture[str], result: Any, lines: list[str]) -> None:
    """A scalar is a line, a list one for each item; nothing in them is taken for markup or obeyed by the terminal."""
    assert shown(result, capsys) == lines


def test_a_long_table_is_cut_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    """People get fifty rows and are told how many more there are."""
    lines = shown([{"n": n} for n in range(60)], capsys)
    assert lines[-3:-1] == ["49", "and 10 more: --json has them all"]


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.00004, "0.0 ms"),
        (0.0123, "12 ms"),
        (1.25, "1.2 s"),
        (75, "1 min 15 s"),
        (3599.9, "1 h 00 min"),
        (7384, "2 h 03 min"),
    ],
)
def test_durations_are_said_as_people_do(duration: float, text: str) -> None:
    """The unit fits the size."""
    assert render.seconds(duration) == text


def test_on_a_terminal_tables_have_colours_and_fit(tmp_path: Path) -> None:
    """At eighty columns no line of a table is longer, and no word of it is lost."""
    text = on_a_terminal("run", "sample_flows:partial")
    assert "\x1b[32mcompleted" in text
    assert "\x1b[31mfailed" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(r"INTERNAL: bad \x1b[31mdata" in line for line in lines)


def test_on_a_terminal_a_document_is_indented_and_logs_are_for_people() -> None:
    """The document is to be read, and a log line has no ids of the run, which stand in it anyway."""
    text = on_a_terminal("run", "--json", "sample_flows:prints")
    assert '{\r\n  "schema": 1,' in text
    log = next(line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if "structured" in line)
    assert re.match(r"\d\d:\d\d:\d\d \[info +\] structured +answer=42 flow=prints$", log.rstrip())


# --- documents --------------------------------------------------------------------------------------------------------


def test_the_document_of_a_workflow_has_everything(command: Command) -> None:
    """The names in the document are a promise to programs; this is all of them, in version 1."""
    document = json.loads(command("run", "--json", "--as-of-date", "2013-02-28", "sample_flows:broken", "--x", "1").out)
    assert SCHEMA == document["schema"] == 1
    assert list(document) == [
        "schema",
        "status",
        "exit_code",
        "signal",
        "flow",
        "run_id",
        "duration",
        "answered",
        "result",
        "outputs",
        "steps",
        "error",
        "resume",
    ]
    first, second, third = document["steps"]
    assert list(first) == [
        "name",
        "status",
        "attempts",
        "started_at",
        "duration",
        "reason",
        "error",
        "category",
        "quality",
        "steps",
    ]
    assert (first["status"], second["status"], third["status"]) == ("completed", "failed", "pending")
    assert (first["attempts"], second["attempts"], third["attempts"]) == (1, 2, 0)
    assert document["outputs"] == {"one": {"params": {"x": 1}, "date": "2013-02-28", "partition": {}}}
    assert document["result"] is None
    assert document["error"]["step"] == "two"
    assert document["error"]["type"] == "WorkflowFailed"
    disk = {"type": "OSError", "module": "builtins", "message": "disk", "notes": [], "cause": None}
    assert document["error"]["cause"]["cause"] == disk


def test_the_result_is_the_output_of_the_last_step_that_has_one(command: Command) -> None:
    """A step without output and a choice, which only says where it went, are no result."""
    assert json.loads(command("run", "--json", "sample_flows:free").out)["result"]["params"] == {}
    assert json.loads(command("run", "--json", "sample_flows:skips").out)["result"] is None


def test_nested_steps_stand_below_their_step(command: Command) -> None:
    """The steps of a nested workflow are indented in the table, and inside their step in the document."""
    assert re.search(
        r"^inner +completed.*\n  one +completed.*\n  quiet +completed",
        command("run", "sample_flows:outer").out,
        re.MULTILINE,
    )
    (step,) = json.loads(command("run", "--json", "sample_flows:outer").out)["steps"]
    assert [inner["name"] for inner in step["steps"]] == ["one", "quiet"]


def test_a_result_that_the_encoding_cannot_write_is_escaped(separately: Command) -> None:
    """On a terminal that knows only ASCII nothing breaks."""
    before = "sys.stdout.reconfigure(encoding='ascii')"
    ran = separately("run", "sample_flows:anything", "--city", "Zürich", before=before)
    assert ran.code == 0
    assert "city  Z\\xfcrich" in ran.out
