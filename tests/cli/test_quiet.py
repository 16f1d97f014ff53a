"""--quiet: nothing at all, unless the run fails; then all that is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cli.conftest import Command


def test_a_run_that_is_done_prints_nothing(separately: Command) -> None:
    """Whatever its steps log and print, and what the programs print that they start."""
    ran = separately("run", "--quiet", "sample_progress:noisy")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_a_run_that_fails_says_why(separately: Command, tmp_path: Path) -> None:
    """The step, the exception and its cause, the last 50 lines of the log, and how to go on."""
    store = f"sqlite:///{tmp_path}/runs.db"
    ran = separately("run", "--quiet", "--store", store, "sample_progress:noisy_failing")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert lines[0] == "error: noisy_failing failed in step 'load'"
    assert lines[1] == "  ValueError: the warehouse is full"
    assert "  caused by OSError: disk" in lines[:6]
    title = lines.index("the last 50 lines of the log:")
    tail = lines[title + 1 : title + 51]
    assert any("info    row 59 " in line for line in tail)
    assert any("half a line, and its end " in line and "step=load" in line for line in tail)
    assert "row 0" not in ran.err
    assert re.search(rf"^workflow-runner resume .*{re.escape(store)}", lines[-1].partition(": ")[2])
    assert len(lines) == title + 52


def test_a_partial_run_is_told(separately: Command) -> None:
    """Its code is 3, which is not done: the steps, and the log."""
    ran = separately("run", "--quiet", "sample_progress:noisy_partial")
    assert ran.code == 3
    assert "the warehouse is full" in ran.out
    assert "the last 50 lines of the log:" in ran.err


def test_with_json_the_document_is_there(separately: Command) -> None:
    """And nothing else, if the run is done."""
    ran = separately("run", "--quiet", "--json", "sample_progress:noisy")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["status"] == "completed"


def test_wrong_input_is_told(command: Command) -> None:
    """Nothing was run, and that is no success."""
    ran = command("run", "--quiet", "sample_progress:nothing")
    assert ran.code == 66
    assert "sample_progress has no 'nothing'" in ran.err


def test_the_help_page_is_shown(command: Command) -> None:
    """Who asks is answered."""
    assert "Usage" in command("run", "--quiet", "--help").out
