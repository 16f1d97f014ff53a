"""What `run` does before and beside running: keys, locks, parameters from files, dry runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow_runner import open_store
from workflow_runner.cli.exits import Exit
from workflow_runner.store.base import EventRow, RunRecord

from .conftest import LONG, ROOT, Command, Ran, end, start
from .waiting import await_file

TWO = "sample_waits:two"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store that nobody has made yet."""
    return f"sqlite:///{tmp_path}/runs.db"


def runs(url: str) -> list[RunRecord]:
    store = open_store(url)
    try:
        return store.runs()
    finally:
        store.close()


def skips(url: str) -> list[EventRow]:
    store = open_store(url)
    try:
        return store.events(kind="skipped")
    finally:
        store.close()


@pytest.fixture
def holding(tmp_path: Path, url: str) -> Any:
    """Starts the command in another process, waits until its first step runs, and lets it go in the end."""
    started: list[subprocess.Popen[str]] = []

    def holding(*options: str) -> subprocess.Popen[str]:
        words = ["run", "--store", url, *options, TWO, "--folder", str(tmp_path)]
        process = start(*words)
        started.append(process)
        await_file(tmp_path / "first.begun")
        return process

    yield holding
    (tmp_path / "first.go").touch()
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_locked_job_is_skipped_and_names_the_holder(
    separately: Command, holding: Any, tmp_path: Path, url: str
) -> None:
    """0, one line that names process and run, a record of it in the store; the target's module is not imported."""
    other = holding("--key", "k")
    ran = separately("run", "--store", url, "--key", "k", TWO, "--folder", str(tmp_path))
    (run,) = runs(url)
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith(f"skipped: {TWO} is locked by process {other.pid} on ")
    assert ran.err.endswith(f", run {run.run_id}\n")
    (event,) = skips(url)
    assert event.target == TWO
    holder = json.loads(event.data or "")["holder"]
    assert (holder["pid"], holder["run_id"], holder["key"]) == (other.pid, run.run_id, "k")


def test_a_skip_is_a_document_too(separately: Command, holding: Any, url: str) -> None:
    """With --json stdout has one document that names the holder."""
    other = holding("--key", "k")
    ran = separately("run", "--json", "--store", url, "--key", "k", TWO)
    document = json.loads(ran.out)
    assert (document["schema"], document["status"], document["exit_code"]) == (1, "skipped", 0)
    assert (document["target"], document["holder"]["pid"]) == (TWO, other.pid)


def test_quiet_says_nothing_of_a_skip(separately: Command, holding: Any, url: str) -> None:
    """A minute-job that cron mails about is silent, and recorded all the same."""
    holding("--key", "k")
    assert separately("run", "--quiet", "--store", url, "--key", "k", TWO) == Ran(0, "", "")
    assert len(skips(url)) == 1


def test_a_locked_job_can_fail(separately: Command, holding: Any, url: str) -> None:
    """With --on-locked fail it is 75, and no skip."""
    holding("--key", "k")
    ran = separately("run", "--store", url, "--key", "k", "--on-locked", "fail", TWO)
    assert ran.code == Exit.TEMPORARY
    assert ran.err.startswith(f"error: {TWO} is locked by process ")
    assert skips(url) == []


def test_a_locked_job_can_wait(holding: Any, tmp_path: Path, url: str) -> None:
    """With --on-locked wait it goes on when the other has ended, here with what that one has done."""
    first = holding("--key", "k")
    second = start("run", "--store", url, "--key", "k", "--on-locked", "wait", TWO, "--folder", str(tmp_path))
    assert second.stderr is not None
    line = second.stderr.readline()
    assert line.startswith(f"waiting: {TWO} is locked by process {first.pid} ")
    (tmp_path / "first.go").touch()
    one, two = end(first), end(second)
    assert (one.code, two.code) == (0, 0)
    assert "before; nothing was run now" in two.out
    assert two.out.splitlines()[:3] == one.out.splitlines()[:3]
    assert "imported" not in two.err


def test_waiting_for_a_lock_can_be_interrupted(holding: Any, url: str) -> None:
    """Ctrl-C ends the waiting like anything else: by the signal, without a traceback."""
    holding("--key", "k")
    waiting = start("run", "--store", url, "--key", "k", "--on-locked", "wait", TWO)
    assert waiting.stderr is not None
    waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert end(waiting) == Ran(-signal.SIGINT, "", "")


def test_a_job_without_a_key_is_locked_when_asked_for(separately: Command, holding: Any, url: str) -> None:
    """--on-locked alone: one process at a time for the target; without it two runs go side by side."""
    holding("--on-locked", "skip")
    assert "skipped: " in separately("run", "--store", url, "--on-locked", "skip", TWO).err
    assert separately("run", "--store", url, "sample_flows:nothing").code == 0


def test_another_key_is_another_lock(separately: Command, holding: Any, url: str) -> None:
    """The key's date counts, not its template."""
    holding("--key", "{flow}/{as_of_date}", "--as-of-date", "2013-02-27")
    same = separately("run", "--store", url, "--key", "{flow}/2013-02-27", TWO)
    assert "skipped" in same.err
    options = ["--store", url, "--key", "{flow}/{as_of_date}", "--as-of-date", "2013-02-28"]
    assert separately("run", *options, "sample_flows:free").code == 0


def test_a_lock_dies_with_its_process(separately: Command, holding: Any, tmp_path: Path, url: str) -> None:
    """After kill -9 the next one is not skipped: it goes on with the run."""
    other = holding("--key", "k")
    other.kill()
    other.wait()
    (tmp_path / "first.go").touch()
    ran = separately("run", "--store", url, "--key", "k", TWO, "--folder", str(tmp_path))
    assert (ran.code, len(runs(url))) == (0, 1)


def test_a_program_that_a_flow_starts_does_not_keep_the_lock(separately: Command, tmp_path: Path, url: str) -> None:
    """A child process that outlives the run holds nothing."""
    words = ["run", "--store", url, "--key", "k", "sample_waits:children", "--folder", str(tmp_path)]
    (tmp_path / "children.go").touch()
    first = start(*words)
    try:
        assert first.wait(LONG) == 0
        ran = separately("run", "--dry-run", "--json", *words[1:])
        assert json.loads(ran.out)["holder"] is None
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
        end(first)


def test_of_two_at_the_same_instant_one_runs(tmp_path: Path, url: str) -> None:
    """Two processes that pass a barrier together: one runs, the other is skipped and names it."""
    barrier = (
        "import os; from workflow_runner.cli import early; enter = early.enter\n"
        "def together(words):\n"
        f"    open({str(tmp_path)!r} + '/at.' + str(os.getpid()), 'w').close()\n"
        f"    while len([n for n in os.listdir({str(tmp_path)!r}) if n.startswith('at.')]) < 2: pass\n"
        "    return enter(words)\n"
        "early.enter = together"
    )
    words = ["run", "--store", url, "--key", "k", TWO, "--folder", str(tmp_path)]
    both = [start(*words, before=barrier) for _ in range(2)]
    # the one that is skipped ends while the other still waits for its file
    await_file(tmp_path / "first.begun")
    skipped = next(_until_one_ends(both))
    (tmp_path / "first.go").touch()
    ended = {process.pid: end(process) for process in both}
    (other,) = (process for process in both if process is not skipped)
    assert f"is locked by process {other.pid} on" in ended[skipped.pid].err
    assert [ran.code for ran in ended.values()] == [0, 0]
    assert len(runs(url)) == 1
    assert len(skips(url)) == 1


def _until_one_ends(processes: list[subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
    limit = time.monotonic() + LONG
    while time.monotonic() < limit:
        yield from (process for process in processes if process.poll() is not None)
        time.sleep(0.005)
    raise AssertionError("none has ended")


def test_a_skip_is_recorded_in_a_store_that_is_not_made_yet(tmp_path: Path, url: str) -> None:
    """Somebody may hold the lock who has not come to his store."""
    from workflow_runner.cli import early
    from workflow_runner.cli.locks import take

    path = early.lock_path(url, early.lock_name(TWO, "k"))
    assert path is not None
    lock = take(path, target=TWO)
    try:
        ran = end(start("run", "--store", url, "--key", "k", TWO))
    finally:
        lock.release()
    assert (ran.code, len(skips(url))) == (0, 1)


@pytest.mark.parametrize(("on_locked", "code"), [("skip", 0), ("fail", 75)])
def test_a_run_that_a_program_executes_counts_as_well(command: Command, url: str, on_locked: str, code: int) -> None:
    """A run under the key that was started in Python holds no lock, but has an owner in the store."""
    program = (
        "import sys; sys.path.insert(0, 'tests/cli')\n"
        "from sample_flows import stuck; from workflow_runner import Scope\n"
        f"scope = Scope(store={url!r}); run = scope.exec(stuck, idempotency_key='k')\n"
        "print(run.id, flush=True); sys.stdin.read(); import os; os._exit(0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True)
    try:
        assert other.stdout is not None
        run_id = other.stdout.readline().strip()
        ran = command("run", "--store", url, "--key", "k", "--on-locked", on_locked, "sample_flows:stuck")
        assert ran.code == code
        assert f"is locked by process {other.pid} on " in ran.err
        assert run_id in ran.err
        assert len(skips(url)) == (on_locked == "skip")
    finally:
        other.communicate("")


# --- what was done before ---------------------------------------------------------------------------------------------


def test_what_is_done_is_answered_without_importing_it(separately: Command, tmp_path: Path, url: str) -> None:
    """The same command under the same key prints the same again, and the module of the target is not imported."""
    (tmp_path / "first.go").touch()
    words = ["run", "--store", url, "--key", "{flow}", TWO, "--folder", str(tmp_path)]
    first, second = separately(*words), separately(*words)
    assert (first.code, second.code) == (0, 0)
    assert "imported" in first.err
    assert second.err == ""
    assert first.out.splitlines()[:-1] == second.out.splitlines()[:-1]
    assert second.out.splitlines()[-1].count("before; nothing was run now") == 1
    one, two = (json.loads(separately(words[0], "--json", *words[1:]).out) for _ in range(2))
    assert one == two
    assert one["answered"]
    assert one["outputs"]["second"]["n"] == 2


def test_other_parameters_under_the_key_are_refused(separately: Command, tmp_path: Path, url: str) -> None:
    """What was done before counts for those who ask for the same; to others the key is taken."""
    (tmp_path / "first.go").touch()
    words = ["run", "--store", url, "--key", "{flow}", TWO, "--folder", str(tmp_path)]
    assert separately(*words).code == 0
    ran = separately(*words, "--limit", "6")
    assert ran.code == Exit.PARAMETERS
    assert "which has another input" in ran.err


def test_a_pruned_run_is_run_again(command: Command, tmp_path: Path, url: str) -> None:
    """The lock's file remembers a run that the store does not know any more."""
    (tmp_path / "first.go").touch()
    words = ["run", "--store", url, "--key", "{flow}", TWO, "--folder", str(tmp_path)]
    command(*words)
    store = open_store(url)
    store.prune(older_than=0)
    store.close()
    assert "nothing was run now" not in command(*words).out
    assert len(runs(url)) == 1


def test_an_unfinished_run_is_gone_on_with_or_refused(command: Command, tmp_path: Path, url: str) -> None:
    """--resume auto goes on with a failed run; never is 75, and says the command that would."""
    for name in ("first.go", "second.fails"):
        (tmp_path / name).touch()
    words = ["--store", url, "--key", "k", TWO, "--folder", str(tmp_path)]
    assert command("run", *words).code == 1
    (tmp_path / "second.fails").unlink()
    (run,) = runs(url)
    refused = command("run", "--resume", "never", *words)
    assert refused.code == Exit.TEMPORARY
    assert refused.err.splitlines()[-2:] == [
        f"error: run {run.run_id} of flow 'two' under key 'k' is failed",
        f"  go on with it: workflow-runner resume {run.run_id} --store {url}",
    ]
    (tmp_path / "first.begun").unlink()
    assert command("run", *words).code == 0
    assert not (tmp_path / "first.begun").exists()  # it was recorded, and did not run again
    assert len(runs(url)) == 1


def test_a_failed_run_says_how_to_go_on(command: Command, tmp_path: Path, url: str) -> None:
    """The last line of a failure is a command, and in the document it is `resume`."""
    for name in ("first.go", "second.fails"):
        (tmp_path / name).touch()
    words = ["--store", url, TWO, "--folder", str(tmp_path)]
    ran = command("run", *words)
    line = f"workflow-runner resume {runs(url)[0].run_id} --store {url}"
    assert ran.err.splitlines()[-1] == f"go on with it: {line}"
    assert json.loads(command("run", "--json", *words).out)["resume"].startswith("workflow-runner resume ")
    assert "go on with it" not in command("run", TWO, "--folder", str(tmp_path)).err


# --- what a run is given ----------------------------------------------------------------------------------------------


def test_coordinates_and_tags_are_recorded(command: Command, url: str) -> None:
    """Batch, trace, date, partition and tags are in the store, to find the run by."""
    options = ["--batch-id", "b", "--trace-id", "t", "--as-of-date", "2013-02-28", "--partition", "region=EU"]
    assert command("run", "--store", url, *options, "--tag", "team=risk", "--tag=x=1=2", "sample_flows:free").code == 0
    (run,) = runs(url)
    assert (run.batch_id, run.trace_id, run.as_of, run.partition) == ("b", "t", "2013-02-28", "region=EU")
    assert json.loads(run.tags or "") == {"team": "risk", "x": "1=2"}


def test_parameters_come_from_a_file_and_words_win(command: Command, tmp_path: Path) -> None:
    """JSON or TOML by the name; what follows the target is stronger; required ones may stand in either."""
    as_json, as_toml = tmp_path / "p.json", tmp_path / "p.toml"
    as_json.write_text('{"ticker": "IBM", "quantity": 5, "venue": {"code": "X"}}')
    as_toml.write_text('ticker = "IBM"\nday = 2013-03-01\ndry-run = true\n')
    ran = command("run", "--json", "--params", str(as_json), "sample_flows:place", "--quantity", "6")
    placed = json.loads(ran.out)["result"]
    assert (placed["ticker"], placed["quantity"], placed["venue"]["code"]) == ("IBM", 6, "X")
    ran = command("run", "--json", "--params", str(as_toml), "sample_flows:typed", "--quantity", "1")
    one = json.loads(ran.out)["result"]["params"]
    assert (one["ticker"], one["day"], one["dry_run"]) == ("IBM", "2013-03-01", True)
    as_json.write_text('{"limit": "5", "deep": {"a": [1, null]}}')
    ran = command("run", "--json", "--params", str(as_json), "sample_flows:free", "--limit", "7")
    assert json.loads(ran.out)["result"]["params"] == {"limit": 7, "deep": {"a": [1, None]}}
    as_json.write_text('{"number": 21}')
    assert command("run", "--params", str(as_json), "sample_flows:double").out.startswith("42\n")


def test_parameters_come_from_stdin() -> None:
    """A dash is JSON on stdin."""
    process = start("run", "--params", "-", "sample_flows:double", stdin=subprocess.PIPE)
    out, err = process.communicate('{"number": 4}', timeout=LONG)
    assert (process.returncode, out[:2], err) == (0, "8\n", "")


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ('{"quantity": "x", "ticker": "IBM"}', "place", "quantity: expected int, got 'x'"),
        ('{"quantity": 1}', "place", "--ticker is missing: str (The share to trade)"),
        ('{"tickr": "IBM"}', "place", "unknown parameter 'tickr'"),
        ('{"number": 1, "more": 2}', "double", "unknown parameter 'more'"),
        ("[1]", "free", "expected an object of parameters by name"),
        ("{", "free", "is no JSON: "),
        (None, "free", "cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_file_of_parameters_is_named_with_its_field(
    command: Command, tmp_path: Path, content: str | None, target: str, message: str
) -> None:
    """The line says which file, which field, and what was expected."""
    file = tmp_path / "p.json"
    if content is not None:
        file.write_text(content)
    ran = command("run", "--params", str(file), f"sample_flows:{target}")
    assert ran.code == Exit.PARAMETERS
    line = ran.err.splitlines()[0]
    assert message in line
    assert str(file) in line or "is missing" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "k"], "--key needs a --store"),
        (["--on-locked", "skip"], "--on-locked needs a --store"),
        (["--store", "memory:", "--key", "{as_of_date}"], "--key '{as_of_date}' cannot be filled in: 'as_of_date'"),
        (["--store", "memory:", "--key", "{flow.x}"], "--key '{flow.x}' cannot be filled in: "),
        (["--grace", "-1"], "--grace must be"),
        (["--max-workers", "0"], "--max-workers must be at least 1, got 0"),
        (["--exit-on-interrupt", "256"], "--exit-on-interrupt is an exit code, 0 to 255, got 256"),
        (["--tag", "x"], "--tag: expected name=value, got 'x'"),
        (["--tag", "x=1", "--tag", "x=2"], "--tag x is given twice"),
        (["--on-locked", "maybe"], "Invalid value"),
        (["--as-of-date", "28/2"], "--as-of-date: expected a date such as 2013-02-28, got '28/2'"),
    ],
)
def test_a_wrong_option_is_named(command: Command, options: list[str], message: str) -> None:
    """Every wrong option is 64, with one line that names it, and no traceback."""
    ran = command("run", *options, "sample_flows:free")
    assert (ran.code, "Traceback" in ran.err) == (Exit.USAGE, False)
    assert message in ran.err.splitlines()[0]


def test_a_store_whose_folder_is_not_there_is_the_stores_error(command: Command, tmp_path: Path) -> None:
    """The lock has no place either, and leaves it to the store to say so."""
    ran = command("run", "--store", f"sqlite:///{tmp_path}/no/runs.db", "--key", "k", "sample_flows:free")
    assert (ran.code, "does not exist" in ran.err) == (Exit.STORE, True)


def test_ownership_that_was_lost_is_temporary(command: Command, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that another process has taken over is 75: somebody does it, and it is not this process."""
    from . import sample_flows

    def taken(context: Any) -> None:
        store = open_store(url)
        record = store.runs()[0]
        store.finish(record.run_id, record.fence, "cancelled", None, None)
        store.close()

    monkeypatch.setattr(
        sample_flows, "taken", sample_flows.Workflow("taken", steps=[sample_flows.Step("one", taken)]), raising=False
    )
    monkeypatch.setitem(sys.modules, "sample_flows", sample_flows)
    ran = command("run", "--store", url, "sample_flows:taken")
    assert ran.code == Exit.TEMPORARY
    assert "OwnershipLost" in ran.err


# --- dry runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_would_happen(command: Command, holding: Any, tmp_path: Path, url: str) -> None:
    """New, locked, to be gone on with, or done: each is told, and nothing is run or made."""
    words = ["--store", url, "--key", "{flow}", TWO, "--folder", str(tmp_path)]

    def would() -> dict[str, Any]:
        data: dict[str, Any] = json.loads(command("run", "--dry-run", "--json", *words).out)
        return data

    assert would()["would"] == "start"
    assert list(tmp_path.iterdir()) == []
    assert "two  would start a new run  under key two" in command("run", "--dry-run", *words).out
    other = holding("--key", "{flow}")
    data = would()
    assert (data["would"], data["holder"]["pid"], data["run_status"]) == ("skip", other.pid, "running")
    (tmp_path / "second.fails").touch()
    (tmp_path / "first.go").touch()
    end(other)
    data = would()
    assert (data["would"], data["run_status"]) == ("resume", "failed")
    assert data["steps"] == [{"name": "first", "recorded": True}, {"name": "second", "recorded": False}]
    assert "would go on with run " in command("run", "--dry-run", *words).out
    (tmp_path / "second.fails").unlink()
    assert command("run", *words).code == 0
    assert would()["would"] == "answer"


def test_a_dry_run_checks_everything(command: Command, tmp_path: Path, url: str) -> None:
    """What would be refused is refused."""
    assert command("run", "--dry-run", "sample_flows:double").code == Exit.PARAMETERS
    assert command("run", "--dry-run", "sample_flows:doubl").code == Exit.NOT_FOUND
    (tmp_path / "first.go").touch()
    words = ["--store", url, "--key", "k", TWO, "--folder", str(tmp_path)]
    assert command("run", *words).code == 0
    ran = command("run", "--dry-run", *words, "--limit", "6")
    assert (ran.code, "which has another input" in ran.err) == (Exit.PARAMETERS, True)
