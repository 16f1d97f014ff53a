"""resume, retry and cancel, as their users see them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workflow_runner._workflow.history import read_run
from workflow_runner.cli.commands import EXAMPLES
from workflow_runner.cli.exits import Exit
from workflow_runner.store.sqlite import SQLiteStore

from .conftest import LONG, Command, end, start


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store that no run has made yet."""
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """That store."""
    opened = SQLiteStore(tmp_path / "runs.db", durability="process")
    yield opened
    opened.close()


@pytest.fixture
def ran(command: Command, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has run in this process since the test asked the last time."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import sample_going_on  # as the command imports it

    sample_going_on.ran.clear()
    return sample_going_on.ran  # type: ignore[no-any-return]


@pytest.fixture
def failed(command: Command, url: str, ran: list[str], store: SQLiteStore) -> str:
    """The id of a run that has failed in its second step."""
    words = ["--as-of-date", "2013-02-28", "--store", url, "sample_going_on:mend", "--region", "EU"]
    assert command("run", *words).code == Exit.FAILED
    assert ran == ["read", "price 1", "price 2"]
    ran.clear()
    (run,) = store.runs()
    return run.run_id


@contextmanager
def waiting(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that executes a run which waits to be told to stop."""
    process = start("run", "--grace", "5", "--store", url, "sample_going_on:waits")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.wait(LONG)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


# --- resume -----------------------------------------------------------------------------------------------------------


def test_resume_runs_what_is_not_recorded(command: Command, url: str, failed: str, ran: list[str]) -> None:
    """Finished steps and items are answered, the rest runs, with a param that is typed as the workflow says."""
    words = ["--store", url, "--param", "good=yes", "--param", "days=2013-02-28", "--param", "days=2013-03-01"]
    resumed = command("resume", *words, "--json", failed[:12])
    document = json.loads(resumed.out)
    assert (resumed.code, document["run_id"], document["status"]) == (Exit.DONE, failed, "completed")
    assert document["outputs"]["compute"] == {"total": 30, "days": ["2013-02-28", "2013-03-01"]}
    assert ran == ["compute", "load"]


def test_a_completed_run_answers_with_its_result(command: Command, url: str, failed: str, ran: list[str]) -> None:
    """Nothing runs a second time."""
    assert command("resume", "--store", url, "--param", "good=yes", failed).code == Exit.DONE
    ran.clear()
    again = command("resume", "--store", url, failed)
    assert (again.code, ran) == (Exit.DONE, [])
    assert "before; nothing was run now" in again.out
    assert "2013-02-28" in again.out.splitlines()[-1]


def test_resume_last_takes_the_newest_that_can_be_gone_on_with(
    command: Command, url: str, failed: str, ran: list[str], store: SQLiteStore
) -> None:
    """Newer ones that have completed do not count; without any it says so."""
    whole = ["run", "--store", url, "sample_going_on:mend", "--region", "US", "--good"]
    assert command(*whole).code == Exit.DONE
    assert command("resume", "--store", url, "--last", "mend", "--param", "good=1").code == Exit.DONE
    assert store.run(failed).status == "completed"
    none = command("resume", "--store", url, "--last", "mend")
    assert (none.code, none.err.splitlines()[0]) == (66, "error: no run of flow 'mend' can be gone on with")
    misspelt = command("resume", "--store", url, "--last", "mended")
    assert (misspelt.code, "did you mean mend?" in misspelt.err) == (66, True)


def test_resume_from_a_step_makes_it_again(command: Command, url: str, failed: str, ran: list[str]) -> None:
    """It and all that was recorded after it."""
    assert command("resume", "--store", url, "--from", "read", "--param", "good=yes", failed).code == Exit.DONE
    assert ran == ["read", "price 1", "price 2", "compute", "load"]


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (64, "which run? Give RUN, or --last FLOW", []),
        (64, "which run?", ["--last", "mend", "RUN"]),
        (64, "--param is NAME=VALUE, not 'good'", ["--param", "good", "RUN"]),
        (64, "--timeout", ["--timeout", "-1", "RUN"]),
        (65, "--good", ["--param", "good=maybe", "RUN"]),
        (65, "Did you mean --good?", ["--param", "god=yes", "RUN"]),
        (65, "no step 'red'; there are read, compute, load", ["--from", "red", "RUN"]),
        (66, "there is no run 'zzz'", ["zzz"]),
        (69, "there is no store", ["--store", "sqlite:///nowhere.db", "RUN"]),
    ],
)
def test_wrong_input_is_named_and_runs_nothing(
    command: Command, url: str, failed: str, ran: list[str], code: int, said: str, words: list[str]
) -> None:
    """One line says what is wrong; nothing is run and no store is made."""
    words = [failed if word == "RUN" else word for word in words]
    refused = command("resume", *(["--store", url] if "--store" not in words else []), *words)
    assert (refused.code, ran) == (code, [])
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert not Path("nowhere.db").exists()


def test_a_run_that_another_process_executes_is_left_alone(command: Command, url: str) -> None:
    """It is refused with 75, naming the process."""
    with waiting(url) as process:
        refused = command("resume", "--store", url, "--last", "waits")
        assert refused.code == Exit.NOT_FOUND  # no run of it can be gone on with
        (run,) = json.loads(command("list", "--store", url, "--json").out)["runs"]
        refused = command("resume", "--store", url, run["run_id"])
        assert refused.code == Exit.TEMPORARY
        assert f"-{process.pid}-" in refused.err


def test_changed_code_is_refused_with_both_lists(
    command: Command, url: str, failed: str, ran: list[str], store: SQLiteStore
) -> None:
    """And with the way out, which works."""
    store._write(lambda connection: connection.execute("""UPDATE runs SET shape = '["read","old","load"]'"""))
    refused = command("resume", "--store", url, failed)
    assert (refused.code, ran) == (Exit.PARAMETERS, [])
    assert "recorded: read, old, load\n" in refused.err
    assert "now:      read, compute, load\n" in refused.err
    assert "resume --allow-changed" in refused.err
    assert command("retry", "--store", url, "--failed-only", failed).code == Exit.PARAMETERS
    assert command("resume", "--store", url, "--allow-changed", "--param", "good=1", failed).code == Exit.DONE


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("'no_such_module:mend'", "is one of no_such_module:mend: there is no module 'no_such_module'"),
        ("'sample_going_on:mended'", "is one of sample_going_on:mended: sample_going_on has no 'mended'"),
        ("NULL", "was made inside a function, so it cannot be imported"),
    ],
)
def test_a_flow_that_cannot_be_imported_is_named(
    command: Command, url: str, failed: str, store: SQLiteStore, target: str, said: str
) -> None:
    """With the directory that was looked in."""
    store._write(lambda connection: connection.execute(f"UPDATE runs SET target = {target}"))
    refused = command("resume", "--store", url, failed)
    assert refused.code == Exit.NOT_FOUND
    assert said in refused.err
    assert target == "NULL" or str(Path(__file__).parent) in refused.err


def test_a_run_without_params_takes_none(command: Command, url: str, store: SQLiteStore) -> None:
    """--param is for workflows."""
    assert command("run", "--store", url, "sample_flows:fails").code == Exit.FAILED
    (run,) = store.runs()
    refused = command("resume", "--store", url, "--param", "a=1", run.run_id)
    assert (refused.code, "--param is for workflows" in refused.err) == (64, True)


def test_a_signal_hands_the_resumed_run_back(url: str, store: SQLiteStore) -> None:
    """As with run: the process dies of it, and the run waits to be gone on with."""
    with waiting(url) as process:
        process.send_signal(signal.SIGTERM)
        assert end(process).code == -signal.SIGTERM
    (run,) = store.runs()
    assert run.status == "pending"
    again = start("resume", "--store", url, "--grace", "5", run.run_id)
    assert again.stdout is not None
    assert again.stdout.readline() == "begun\n"
    again.send_signal(signal.SIGTERM)
    ended = end(again)
    assert (ended.code, store.run(run.run_id).status) == (-signal.SIGTERM, "pending")
    assert f"workflow-runner resume {run.run_id}" in ended.err


# --- retry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["read", "price 1", "price 2"]),
        (["--failed-only"], []),
        (["--from", "compute"], ["price 1", "price 2"]),
    ],
)
def test_retry_is_a_new_run_that_says_what_it_reuses(
    command: Command, url: str, failed: str, ran: list[str], store: SQLiteStore, words: list[str], expected: list[str]
) -> None:
    """Nothing without options; all successes, or what was recorded before a step."""
    retried = command("retry", "--store", url, *words, failed)
    assert retried.code == Exit.FAILED
    assert ran == expected
    new, old = store.runs()
    assert (new.parent, old.run_id, new.as_of) == (failed, failed, "2013-02-28")
    assert retried.out.splitlines()[-1].startswith(f"mend  2013-02-28  retry of {failed}  failed in ")
    assert retried.out.splitlines()[-1].endswith(f"run {new.run_id}")


def test_a_retry_takes_params_that_win(command: Command, url: str, failed: str, store: SQLiteStore) -> None:
    """They are given to the new run and recorded with it; the old one stays as it is."""
    document = json.loads(command("retry", "--store", url, "--json", "--param", "good=yes", failed).out)
    assert (document["status"], document["retry_of"]) == ("completed", failed)
    assert read_run(store, document["run_id"]).overrides == ({"good": True},)
    assert store.run(failed).status == "failed"
    wrong = command("retry", "--store", url, "--param", "good=maybe", failed)
    assert (wrong.code, "--good" in wrong.err) == (65, True)


def test_a_retry_keeps_what_was_overridden(command: Command, url: str, failed: str, store: SQLiteStore) -> None:
    """A param that was given at resume is given to the new run, which can be gone on with too."""
    assert command("resume", "--store", url, "--param", "good=yes", failed).code == Exit.DONE
    document = json.loads(command("retry", "--store", url, "--json", failed).out)
    assert (document["status"], document["retry_of"]) == ("completed", failed)
    assert read_run(store, document["run_id"]).overrides == ({"good": True},)


def test_a_run_that_lives_is_not_retried(command: Command, url: str) -> None:
    """Try again later."""
    with waiting(url):
        (run,) = json.loads(command("list", "--store", url, "--json").out)["runs"]
        assert command("retry", "--store", url, run["run_id"]).code == Exit.TEMPORARY


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_cancel_reaches_the_process_that_executes_the_run(command: Command, url: str, store: SQLiteStore) -> None:
    """It names the process, and waits for the end when it is told to."""
    with waiting(url) as process:
        (run,) = store.runs()
        asked = command("cancel", "--store", url, "--reason", "wrong date", run.run_id[:14])
        assert asked.code == Exit.DONE
        assert f"process {process.pid} on " in asked.out
        waited = command("cancel", "--store", url, "--wait", str(LONG), run.run_id)
        assert (waited.code, waited.out.strip().endswith("is cancelled")) == (Exit.DONE, True) or (
            "had ended before: cancelled" in waited.out
        )
        assert end(process).code == Exit.FAILED
    assert store.run(run.run_id).status == "cancelled"


def test_cancel_gives_up_waiting(command: Command, url: str, store: SQLiteStore) -> None:
    """With 75: the request stays."""
    run_id = submitted(store)
    waited = command("cancel", "--store", url, "--wait", "0", run_id)
    assert waited.code == Exit.TEMPORARY
    assert "was asked to cancel it, and has not yet" in waited.out
    assert store.run(run_id).cancel_requested == ""


def test_what_nobody_executes_is_cancelled_at_once(command: Command, url: str, store: SQLiteStore) -> None:
    """A run that was handed back, or whose process has died; one that has ended is left as it is."""
    run_id = submitted(store)
    store.release(run_id, 1)
    cancelled = command("cancel", "--store", url, "--json", run_id)
    document = json.loads(cancelled.out)
    assert (cancelled.code, document["status"], document["asked"]) == (Exit.DONE, "cancelled", True)
    again = command("cancel", "--store", url, run_id)
    assert (again.code, "had ended before: cancelled" in again.out) == (Exit.DONE, True)
    lost = submitted(store, "lost")
    store._owner.forked()
    crashed = command("cancel", "--store", url, lost)
    assert crashed.out == "run lost of f is cancelled (crashed: nobody executed it)\n"
    assert command("cancel", "--store", url, "nothing").code == Exit.NOT_FOUND


def submitted(store: SQLiteStore, run_id: str = "r1") -> str:
    from workflow_runner.store.base import NewRun

    store.submit(NewRun(run_id=run_id, flow="f", input="1", input_hash="h"))
    return run_id


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resume", "retry", "cancel"])
def test_the_example_on_the_help_page_works(
    command: Command, url: str, failed: str, store: SQLiteStore, name: str
) -> None:
    """Its options are there and do what they say, with the store, the run and the flow of the reader."""
    page = command(name, "--help").out
    assert EXAMPLES[name] in page
    ours = {"RUN": failed, "sqlite:///runs.db": url, "market_close": "mend"}
    words = [ours.get(word, word) for word in shlex.split(EXAMPLES[name])]
    assert command(*words).code == {"resume": 1, "retry": 1, "cancel": 0}[name]
