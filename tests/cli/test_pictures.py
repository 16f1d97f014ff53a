"""``timeline`` and ``graph`` as their users see them: what goes to stdout, what into files, and wrong input."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import stat
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from workflow_runner import Scope
from workflow_runner.cli.commands import EXAMPLES
from workflow_runner.cli.exits import Exit

from . import sample_flows
from .conftest import LONG, ROOT, Command, end, start

MARKET_CLOSE = "workflow_runner.examples.market_close:nightly"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


@pytest.fixture
def run_id(store: str) -> str:
    """A run whose last step failed and might."""
    with Scope(store=store) as scope:
        execution = scope.exec(sample_flows.partial, None)
        execution.result()
    return execution.id


# --- timeline ---------------------------------------------------------------------------------------------------------


def test_the_timeline_is_text_unless_asked(command: Command, store: str, run_id: str) -> None:
    """The beginning of the run's id is enough."""
    ran = command("timeline", "--store", store, run_id[:20])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("partial\n")
    assert run_id in ran.out


@pytest.mark.parametrize(
    ("form", "begin"),
    [("svg", "<svg "), ("html", "<!DOCTYPE html>"), ("chrome-trace", '{"displayTimeUnit"')],
)
def test_every_format_goes_to_stdout(command: Command, store: str, run_id: str, form: str, begin: str) -> None:
    """And nothing else does."""
    ran = command("timeline", "--store", store, "--format", form, run_id)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(begin)
    if form == "svg":
        ElementTree.fromstring(ran.out)
    if form == "chrome-trace":
        assert json.loads(ran.out)["otherData"]["run_id"] == run_id


@pytest.mark.parametrize(
    ("name", "begin"),
    [("a.svg", "<svg "), ("a.HTML", "<!DOCTYPE"), ("a.json", "{"), ("a.txt", "partial\n")],
)
def test_the_name_of_the_file_tells_the_format(
    command: Command, store: str, run_id: str, tmp_path: Path, name: str, begin: str
) -> None:
    """``--output`` alone is enough; what was written is said."""
    file = tmp_path / name
    ran = command("timeline", "--store", store, "--output", str(file), run_id)
    assert ran.code == 0
    assert ran.out.startswith(f"wrote {file} (")
    assert file.read_text("utf-8").startswith(begin)
    assert "\x1b" not in file.read_text("utf-8")


def test_a_file_is_replaced_whole(command: Command, store: str, run_id: str, tmp_path: Path) -> None:
    """What is there is replaced, with its mode, through a link; nothing else is left behind."""
    file, link = tmp_path / "out" / "run.svg", tmp_path / "link.svg"
    file.parent.mkdir()
    file.write_text("old " * 100_000)
    file.chmod(0o640)
    link.symlink_to(file)
    ran = command("timeline", "--store", store, "--output", str(link), run_id)
    assert ran.code == 0
    assert link.is_symlink()
    ElementTree.parse(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_cannot_be_written_leaves_what_was_there(
    command: Command, store: str, run_id: str, tmp_path: Path
) -> None:
    """A directory that does not exist, or a directory in the place of the file: one line that names it."""
    for output in (tmp_path / "nowhere" / "run.svg", tmp_path):
        ran = command("timeline", "--store", store, "--format", "svg", "--output", str(output), run_id)
        assert ran.code == Exit.USAGE
        assert ran.err.startswith(f"error: --output {output} cannot be written: ")
    assert {file.name for file in tmp_path.iterdir()} & {"nowhere", f".{tmp_path.name}"} == set()


def test_a_device_is_written_to(command: Command, store: str, run_id: str) -> None:
    """It is not replaced by a file."""
    assert command("timeline", "--store", store, "--format", "svg", "--output", os.devnull, run_id).code == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_the_layout_is_a_document(command: Command, store: str, run_id: str, tmp_path: Path) -> None:
    """``--json`` gives lanes and pieces, and says what was written."""
    file = tmp_path / "run.svg"
    ran = command("timeline", "--store", store, "--json", "--output", str(file), run_id)
    data = json.loads(ran.out)
    assert data["schema"] == 1
    assert data["run_id"] == run_id
    assert data["output"] == str(file)
    assert data["lanes"][0]["label"] == "partial"
    assert file.exists()
    assert json.loads(command("timeline", "--store", store, "--json", run_id).out)["output"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["RUN", "--format", "pdf"], Exit.USAGE, "chrome-trace"),
        (["RUN", "--output", "run.pdf"], Exit.USAGE, "--output run.pdf does not say which format"),
        (["0000nothing"], Exit.NOT_FOUND, "there is no run '0000nothing'"),
        ([], Exit.USAGE, "RUN is missing"),
    ],
)
def test_wrong_input_is_named(
    command: Command, store: str, run_id: str, words: list[str], code: int, said: str
) -> None:
    """One line, no traceback, nothing on stdout."""
    ran = command("timeline", "--store", store, *(run_id if word == "RUN" else word for word in words))
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_stdout_without_the_characters_gets_others(store: str, run_id: str) -> None:
    """In an encoding that has no blocks the bars are of ASCII, as wide as COLUMNS says."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    ran = end(start("timeline", "--store", store, run_id, env=environment))
    assert ran.code == 0
    assert "#" in ran.out
    ran.out.encode("ascii")
    assert max(map(len, ran.out.splitlines())) <= 60


def test_a_terminal_is_filled_and_not_left(store: str, run_id: str) -> None:
    """On a terminal of 72 columns there are colours, and no line is longer."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    environment = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    code = "import sys; from workflow_runner.cli.app import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "timeline", "--store", store, run_id],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    process.communicate(timeout=LONG)
    assert process.returncode == 0
    text = seen.decode()
    assert "\x1b[32m" in text
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()
    assert max(map(len, lines)) == 72


# --- graph ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "begin"),
    [
        ([], "market_close "),
        (["--format", "mermaid"], "flowchart TD\n"),
        (["--format", "dot"], 'digraph "market_close" {\n'),
        (["--format", "svg"], "<svg "),
        (["--json"], '{"schema": 1, '),
    ],
)
def test_the_graph_in_every_format(command: Command, words: list[str], begin: str) -> None:
    """Of the market close; nothing runs."""
    ran = command("graph", *words, MARKET_CLOSE)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(begin)
    assert "quarantine" in ran.out


@pytest.mark.parametrize("name", ["a.mmd", "a.dot", "a.gv", "a.svg", "a.txt"])
def test_a_graph_in_a_file(command: Command, tmp_path: Path, name: str) -> None:
    """Its name tells the format."""
    assert command("graph", "--output", str(tmp_path / name), MARKET_CLOSE).code == 0
    assert "quarantine" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize("form", ["text", "mermaid", "dot", "svg"])
def test_a_plain_flow_is_a_single_node(command: Command, form: str) -> None:
    """What is no workflow has a shape, too."""
    ran = command("graph", "--format", form, "sample_flows:double")
    assert ran.code == 0
    assert "double" in ran.out


def test_an_unknown_target_is_named_with_what_is_near(command: Command) -> None:
    """As everywhere."""
    ran = command("graph", f"{MARKET_CLOSE}y")
    assert ran.code == Exit.NOT_FOUND
    assert f"did you mean {MARKET_CLOSE}?" in ran.err


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeline", "graph"])
def test_the_examples_of_the_help_pages_work(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Each page ends with an example, which is run here as it stands but for the run's id."""
    page = command(name, "--help").out
    assert page.rstrip().endswith(EXAMPLES[name])
    monkeypatch.chdir(tmp_path)
    with Scope(store="sqlite:///runs.db") as scope:
        execution: Any = scope.exec(sample_flows.partial, None)
        execution.result()
    words = [execution.id if word == "RUN" else word for word in shlex.split(EXAMPLES[name])]
    assert command(*words).code == 0
