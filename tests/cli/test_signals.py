"""Ctrl-C and SIGTERM end a run, and the process by the signal."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

import pytest

from workflow_runner import open_store
from workflow_runner.cli import signals
from workflow_runner.cli.exits import Exit

from .conftest import LONG, ROOT, Command, Ran, end, start
from .waiting import await_file

Popen = subprocess.Popen[str]

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_signal_cancels_the_run_and_is_what_the_process_dies_of(separately: Command, number: signal.Signals) -> None:
    """The flow sees its signal and ends; then the process dies of the same, after printing its document."""
    ran = separately("run", "--json", "sample_flows:interrupted", "--number", str(int(number)))
    assert ran.code == -number
    document = json.loads(ran.out)
    assert (document["status"], document["signal"], document["exit_code"]) == ("interrupted", number.name, None)
    assert f"interrupted by {number.name}" in ran.err
    assert "Traceback" not in ran.err


def test_a_flow_that_does_not_stop_is_left_behind_after_the_grace(separately: Command) -> None:
    """The process waits for a stuck flow as long as the grace, and no longer."""
    ran = separately("run", "--grace", "0.05", "sample_flows:interrupted_stuck")
    assert ran.code == -signal.SIGTERM
    assert "interrupted_stuck was cancelled: interrupted by SIGTERM" in ran.err


def test_a_second_signal_does_not_wait(separately: Command) -> None:
    """Who asks twice means it: the process dies within the grace, and says how it ended."""
    ran = separately("run", "--grace", "3600", "sample_flows:stubborn", "--number", str(int(signal.SIGTERM)))
    assert ran.code == -signal.SIGTERM
    assert "stubborn was cancelled: interrupted by SIGTERM" in ran.err


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


def waiting(tmp_path: Path, *options: str, target: str = "sample_waits:two", begun: str = "first") -> Popen:
    """A process whose flow waits for a file, and does not look at its signal."""
    process = start("run", *options, target, "--folder", str(tmp_path))
    await_file(tmp_path / f"{begun}.begun")
    return process


def state(url: str) -> tuple[str, set[str]]:
    """The status of the only run, and what it has recorded."""
    store = open_store(url)
    try:
        (run,) = store.runs()
        return run.status, {row.path for row in store.steps(run.run_id)}
    finally:
        store.close()


def test_after_the_first_signal_a_running_step_may_finish(tmp_path: Path, url: str) -> None:
    """Within the grace it is recorded, the next one does not begin, and the run is handed back to be gone on with."""
    process = waiting(tmp_path, "--store", url, "--key", "k", "--grace", "3600")
    process.send_signal(signal.SIGTERM)
    (tmp_path / "first.go").touch()
    ran = end(process)
    assert ran.code == -signal.SIGTERM
    assert state(url) == ("pending", {"first"})
    assert not (tmp_path / "second.ran").exists()
    assert "interrupted by SIGTERM" in ran.err
    line = ran.err.splitlines()[-1]
    assert line.startswith("go on with it: workflow-runner resume ")
    assert line.endswith(f" --store {url}")
    # the line can be typed
    (tmp_path / "first.begun").unlink()
    ran = end(start(*shlex.split(line.partition("workflow-runner ")[2])))
    assert (ran.code, state(url)) == (0, ("completed", {"first", "second"}))
    assert not (tmp_path / "first.begun").exists()


def test_after_the_second_signal_nobody_waits(tmp_path: Path, url: str) -> None:
    """The step is left behind, the run is handed back all the same, and the process dies of the first signal."""
    process = waiting(tmp_path, "--store", url, "--grace", "3600")
    process.send_signal(signal.SIGTERM)
    await_file(tmp_path / "first.told")
    process.send_signal(signal.SIGINT)
    ran = end(process)
    assert ran.code == -signal.SIGTERM
    assert state(url) == ("pending", set())
    assert ran.err.splitlines()[-1].startswith("go on with it: workflow-runner resume ")


def test_the_third_signal_is_at_once(tmp_path: Path, url: str) -> None:
    """Whatever the process does then, here it waits for the disk: it is dead, and the run is found to have crashed."""
    stuck = (
        "import threading, pathlib; from workflow_runner._core import scope\n"
        "def close(*args, **options):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'closing').touch()\n"
        "    threading.Event().wait()\n"
        "scope.Scope.close = close"
    )
    process = start("run", "--store", url, "sample_waits:two", "--folder", str(tmp_path), before=stuck)
    await_file(tmp_path / "first.begun")
    for told in ("first.told", "closing"):
        process.send_signal(signal.SIGTERM)
        await_file(tmp_path / told)
    process.send_signal(signal.SIGTERM)
    assert end(process) == Ran(-signal.SIGTERM, "", "sample_waits is imported\n")
    assert state(url) == ("running", set())


def test_without_a_store_the_stages_are_the_same(tmp_path: Path) -> None:
    """There is nothing to go on with, and nothing is said of that."""
    process = waiting(tmp_path, "--grace", "3600")
    process.send_signal(signal.SIGINT)
    await_file(tmp_path / "first.told")
    process.send_signal(signal.SIGINT)
    ran = end(process)
    assert ran.code == -signal.SIGINT
    assert "interrupted by SIGINT" in ran.err
    assert "go on with it" not in ran.err


def test_a_fan_out_keeps_what_was_done(tmp_path: Path, url: str) -> None:
    """Items that end within the grace are recorded, no further one begins, and the run goes on from there."""
    words = ["--store", url, "--key", "k", "--grace", "3600"]
    process = waiting(tmp_path, *words, target="sample_waits:many", begun="item2")
    await_file(tmp_path / "item1.begun")
    process.send_signal(signal.SIGTERM)
    for name in ("item1", "item2"):  # else they might end, and the next one begin, before the signal is heard
        await_file(tmp_path / f"{name}.told")
    for name in ("item1", "item2"):
        (tmp_path / f"{name}.go").touch()
    ran = end(process)
    assert ran.code == -signal.SIGTERM
    status, paths = state(url)
    assert status == "pending"
    assert {path[-2] for path in paths} == {"0", "1", "2"}
    assert not (tmp_path / "item3.begun").exists()
    (tmp_path / "item3.go").touch()
    ran = end(start("run", *words, "sample_waits:many", "--folder", str(tmp_path)))
    assert (ran.code, ran.out.splitlines()[0]) == (0, "6")


def test_a_supervisor_gets_a_code_instead(tmp_path: Path, url: str) -> None:
    """With --exit-on-interrupt the process exits, whatever threads there are, and the document says both."""
    process = waiting(tmp_path, "--json", "--store", url, "--grace", "0.05", "--exit-on-interrupt", "75")
    process.send_signal(signal.SIGTERM)
    ran = end(process)
    assert ran.code == Exit.TEMPORARY
    document = json.loads(ran.out)
    assert (document["exit_code"], document["signal"], document["status"]) == (75, "SIGTERM", "interrupted")
    assert document["resume"].startswith("workflow-runner resume ")
    assert state(url)[0] == "pending"


@BOTH
def test_a_signal_during_the_import_of_the_target_is_one_as_well(number: signal.Signals) -> None:
    """Nothing runs yet, so there is nothing to wait for and nothing to print."""
    process = start("run", "sample_slow_import:nothing")
    assert process.stderr is not None
    assert process.stderr.readline() == "importing\n"
    process.send_signal(number)
    ran = end(process)
    assert (ran.code, ran.out, ran.err) == (-number, "", "")


def test_the_code_for_supervisors_counts_before_the_run_too() -> None:
    """Also while the target is imported there is nothing to wait for, and the code is what was asked for."""
    process = start("run", "--exit-on-interrupt", "75", "sample_slow_import:nothing")
    assert process.stderr is not None
    assert process.stderr.readline() == "importing\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == Ran(75, "", "")


def test_an_ignored_signal_stays_ignored() -> None:
    """What nohup or a shell has told the process to ignore does not end the run."""
    words = ["-m", "workflow_runner", "run", "sample_flows:deaf", "--number", str(int(signal.SIGINT))]
    script = f"trap '' INT; PYTHONPATH={ROOT} exec {sys.executable} {' '.join(words)}"
    ran = subprocess.run(["sh", "-c", script], cwd=ROOT / "tests" / "cli", capture_output=True, text=True, timeout=LONG)
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "went on")


def test_ctrl_c_while_the_command_is_imported_is_no_traceback() -> None:
    """However early it comes, the process dies of it."""
    code = told_at("workflow_runner.cli.dispatch", signal.SIGINT)
    assert end(start("run", "sample_flows:free", before=code)) == Ran(-signal.SIGINT, "", "")


def told_at(module: str, number: signal.Signals = signal.SIGTERM) -> str:
    """Code that sends its process a signal when the module is about to be imported."""
    return (
        "import os\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder)"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["backfill", "sample_waits:two", "--from", "2013-02-28", "--to", "2013-02-28"],
        ["catchup", "sample_waits:two", "--schedule", "* * * * *", "--key", "{scheduled_at}"],
    ],
)
def test_the_code_for_supervisors_counts_before_many_runs(words: list[str], url: str) -> None:
    """Nothing has begun, so there is nothing to say."""
    ran = end(start(*words, "--store", url, "--exit-on-interrupt", "75", before=told_at("sample_waits")))
    assert ran == Ran(75, "", "")


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_the_code_for_supervisors_counts_when_a_run_is_gone_on_with(
    command: str, tmp_path: Path, url: str, separately: Command
) -> None:
    """Before the run, while its flow is imported, and after it has begun."""
    process = waiting(tmp_path, "--store", url, "--grace", "0")
    process.send_signal(signal.SIGTERM)
    assert end(process).code == -signal.SIGTERM
    run_id = json.loads(separately("list", "--store", url, "--json").out)["runs"][0]["run_id"]
    words = [command, "--json", "--store", url, "--grace", "0", "--exit-on-interrupt", "75", run_id]
    assert end(start(*words, before=told_at("sample_waits"))) == Ran(75, "", "")
    (tmp_path / "first.begun").unlink()
    process = start(*words)
    await_file(tmp_path / "first.begun")
    process.send_signal(signal.SIGTERM)
    ran = end(process)
    assert (ran.code, json.loads(ran.out)["status"]) == (75, "interrupted")


def test_a_signal_in_the_moment_before_the_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits looks up now and then: what a handler says meanwhile is heard, though nothing ends the wait."""
    looked: list[float | None] = []

    class News(SimpleQueue[str]):
        def get(self, block: bool = True, timeout: float | None = None) -> str:
            looked.append(timeout)
            if len(looked) == 2:  # the handler of a signal that came just before runs now
                self.put("SIGTERM")
            return super().get(block, timeout)

    monkeypatch.setattr(signals, "_LOOK", 0.001)
    assert signals.awaited(News()) == "SIGTERM"
    assert looked == [0.001, 0.001]
