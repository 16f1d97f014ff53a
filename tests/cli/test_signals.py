"""Ctrl-C and SIGTERM end a run, and the process by the signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from .conftest import LONG, ROOT, Command, end, start

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_signal_cancels_the_run_and_is_what_the_process_dies_of(separately: Command, number: signal.Signals) -> None:
    """The flow sees its signal and ends; then the process dies of the same, after printing its document."""
    ran = separately("run", "--json", "sample_flows:interrupted", "--number", str(int(number)))
    assert ran.code == -number
    document = json.loads(ran.out)
    assert (document["status"], document["signal"], document["exit_code"]) == ("cancelled", number.name, None)
    assert f"interrupted by {number.name}" in ran.err
    assert "Traceback" not in ran.err


def test_a_flow_that_does_not_stop_is_left_behind_after_the_grace(separately: Command) -> None:
    """The process waits for a stuck flow as long as the grace, and no longer."""
    short = "import workflow_runner.cli.run as run; run.GRACE = 0.05"
    ran = separately("run", "sample_flows:interrupted_stuck", before=short)
    assert ran.code == -signal.SIGTERM
    assert "interrupted_stuck was cancelled: interrupted by SIGTERM" in ran.err


def test_a_second_signal_does_not_wait(separately: Command) -> None:
    """Who asks twice means it: the process dies within the grace."""
    long = "import workflow_runner.cli.run as run; run.GRACE = 3600.0"
    ran = separately("run", "sample_flows:stubborn", "--number", str(int(signal.SIGTERM)), before=long)
    assert ran.code == -signal.SIGTERM


@BOTH
def test_a_signal_during_the_import_of_the_target_is_one_as_well(number: signal.Signals) -> None:
    """Nothing runs yet, so there is nothing to wait for and nothing to print."""
    process = start("run", "sample_slow_import:nothing")
    assert process.stderr is not None
    assert process.stderr.readline() == "importing\n"
    process.send_signal(number)
    ran = end(process)
    assert (ran.code, ran.out, ran.err) == (-number, "", "")


def test_an_ignored_signal_stays_ignored() -> None:
    """What nohup or a shell has told the process to ignore does not end the run."""
    words = ["-m", "workflow_runner", "run", "sample_flows:deaf", "--number", str(int(signal.SIGINT))]
    script = f"trap '' INT; PYTHONPATH={ROOT} exec {sys.executable} {' '.join(words)}"
    ran = subprocess.run(["sh", "-c", script], cwd=ROOT / "tests" / "cli", capture_output=True, text=True, timeout=LONG)
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "went on")
