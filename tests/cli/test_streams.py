"""stdin, stdout and stderr as a daemon, a pipe and a full disk leave them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import HERE, LONG, ROOT, Command, Ran

FULL = Path("/dev/full")
FREE, JSON = "run sample_flows:free", "run --json sample_flows:free"


def shell(line: str) -> Ran:
    """What a shell makes of a line in which ``wf`` is the command."""
    program = f"PYTHONPATH={ROOT} {sys.executable} -m workflow_runner"
    ran = subprocess.run(
        ["bash", "-c", line.replace("wf", program)], cwd=HERE, capture_output=True, text=True, timeout=LONG
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.skipif(not FULL.exists(), reason="Linux has it")
@pytest.mark.parametrize("words", ["--version", FREE, JSON, "graph sample_flows:partial"])
def test_a_full_disk_is_said_and_is_a_failure(words: str) -> None:
    """What was computed has not arrived, so the caller must not go on as if it had."""
    ran = shell(f"wf {words} > {FULL}")
    assert (ran.code, ran.err) == (1, "error: stdout cannot be written: No space left on device\n")


@pytest.mark.skipif(not FULL.exists(), reason="Linux has it")
def test_a_full_disk_hides_no_failure() -> None:
    """The run's own code is the one that counts, and its error is printed as ever."""
    ran = shell(f"wf run --timeout 0.05 --json sample_flows:stuck > {FULL}")
    assert ran.code == 124
    assert "timed out after 0.05 s" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["--version", FREE, JSON, "--help"])
def test_closed_streams_change_nothing(words: str, closed: str, tmp_path: Path) -> None:
    """As a daemon starts its children; what is opened meanwhile gets none of the output."""
    store = tmp_path / "runs.db"
    ran = shell(f"export WORKFLOW_RUNNER_STORE=sqlite:///{store}; wf {words} {closed}")
    assert (ran.code, ran.err) == (0, "")
    assert words in ("--version", "--help") or store.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("words", ["--version", "--help", "run --help", f"{FREE} --help", "list --help"])
def test_who_reads_the_beginning_of_a_page_ends_nothing(separately: Command, words: str) -> None:
    """A reader that has gone is no failure."""
    gone = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1)"
    assert separately(*words.split(), before=gone) == Ran(0, "", "")
