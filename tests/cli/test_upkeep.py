"""``prune`` and ``doctor`` as their users see them."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path

import pytest

from workflow_runner.cli.commands import EXAMPLES
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.locks import take
from workflow_runner.store.base import LogRow, NewRun
from workflow_runner.store.sqlite import SQLiteStore

from .conftest import Command

DAY = 86_400.0


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with runs of two flows that ended 1, 2, ... days ago, one that waits and one that runs."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    now = time.time()
    with monkeypatch.context() as clock:
        for days, (flow, status) in enumerate(
            [("nightly", "completed"), ("nightly", "failed"), ("nightly", "completed"), ("hourly", "completed")], 1
        ):
            clock.setattr(time, "time", lambda days=days: now - DAY * days)
            run_id = f"{flow}-{days}"
            store.submit(NewRun(run_id=run_id, flow=flow, input="1", input_hash="h", idem_key=run_id))
            store.log(run_id, [LogRow(at=1.0, level="info", event="x" * 50_000)])
            store.finish(run_id, 1, status, None, None)
        clock.setattr(time, "time", lambda: now - DAY * 9)
        store.submit(NewRun(run_id="waits", flow="nightly", input="1", input_hash="h"))
        store.release("waits", 1)
    store.close()
    return f"sqlite:///{tmp_path}/runs.db"


def left(url: str) -> set[str]:
    store = SQLiteStore(url.removeprefix("sqlite:///"))
    runs = {run.run_id for run in store.runs()}
    store.close()
    return runs


ALL = {"nightly-1", "nightly-2", "nightly-3", "hourly-4", "waits"}


# --- prune ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "deleted"),
    [
        (["--older-than", "60h"], {"nightly-3", "hourly-4"}),
        (["--older-than", "36h", "--failed"], {"nightly-2", "nightly-3", "hourly-4"}),
        (["--older-than", "0s", "--flow", "hourly"], {"hourly-4"}),
        (["--keep-last", "1"], {"nightly-3"}),
        (["--keep-last", "2", "--older-than", "2d", "--failed"], {"nightly-3"}),
        (["--older-than", "4w"], set()),
    ],
)
def test_prune_deletes_what_every_limit_lets_go(
    command: Command, url: str, words: list[str], deleted: set[str]
) -> None:
    """By age, number, flow and ending; never what waits. The dry run lists the same, and deletes nothing."""
    dry = json.loads(command("prune", "--store", url, "--dry-run", "--json", *words).out)
    assert (set(dry["run_ids"]), dry["runs"], dry["freed"]) == (deleted, len(deleted), None)
    assert left(url) == ALL
    ran = command("prune", "--store", url, "--json", *words)
    document = json.loads(ran.out)
    assert (ran.code, document["schema"], document["dry_run"], document["runs"]) == (0, 1, False, len(deleted))
    assert (document["freed"] > 40_000) == bool(deleted)
    assert left(url) == ALL - deleted


def test_prune_says_what_it_did(command: Command, url: str) -> None:
    """How many runs and bytes; with --vacuum how large the file is now."""
    assert command("prune", "--store", url, "--older-than", "900d", "--dry-run").out == "0 runs would be deleted\n"
    dry = command("prune", "--store", url, "--older-than", "60h", "--dry-run").out.splitlines()
    assert [line.split()[:4] for line in dry[2:4]] == [
        ["hourly-4", "hourly", "completed", "hourly-4"],
        ["nightly-3", "nightly", "completed", "nightly-3"],
    ]
    assert dry[-1] == "2 runs would be deleted"
    out = command("prune", "--store", url, "--older-than", "60h").out
    assert re.fullmatch(r"deleted 2 runs, \d+\.?\d* kB; \S+ [kM]B are free inside the file\n", out)
    out = command("prune", "--store", url, "--vacuum").out
    assert re.fullmatch(r"deleted 0 runs, \S+ k?B; gave \S+ [kM]?B back to the disk in \d+ ms\n", out)
    assert left(url) == {"nightly-1", "nightly-2", "waits"}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 64, "prune needs a limit: --older-than or --keep-last"),
        (["--failed"], 64, "prune needs a limit: --older-than or --keep-last"),
        (["--flow", "hourly", "--vacuum"], 64, "prune needs a limit: --older-than or --keep-last"),
        (["--older-than", "30"], 64, "--older-than: expected a length of time such as 2d, 12h or 90m, got '30'"),
        (["--keep-last", "0"], 64, "--keep-last is at least 1, not 0"),
        (["--keep-last", "few"], 64, "--keep-last: expected a whole number, got 'few'"),
        (["--older-than", "0s", "--flow", "hourli"], 66, "there is no run of a flow 'hourli'"),
    ],
)
def test_a_wrong_prune_deletes_nothing(command: Command, url: str, words: list[str], code: int, message: str) -> None:
    """What is missing or wrong is named; nothing is deleted without a limit."""
    ran = command("prune", "--store", url, *words)
    assert (ran.code, ran.err.splitlines()[0]) == (code, f"error: {message}")
    assert left(url) == ALL


def test_locks_of_old_keys_go_as_well(command: Command, url: str, tmp_path: Path) -> None:
    """Their files, one for each key, are removed by age; one that is held, or young, stays."""
    folder = tmp_path / "runs.db.locks"
    locks = [take(str(folder / name), target="m:f") for name in ("old", "held", "young")]
    locks[0].release()
    locks[2].release()
    for name in ("old", "held"):
        os.utime(folder / name, (1.0, 1.0))
    command("prune", "--store", url, "--older-than", "1d", "--dry-run")
    command("prune", "--store", url, "--keep-last", "9")
    assert len(list(folder.iterdir())) == 3
    command("prune", "--store", url, "--older-than", "1d")
    assert {file.name for file in folder.iterdir()} == {"held", "young"}
    locks[1].release()


def test_prune_makes_no_store(command: Command, tmp_path: Path) -> None:
    """A misspelt URL is an error, and no new file."""
    assert command("prune", "--store", f"sqlite:///{tmp_path}/rnus.db", "--older-than", "1d").code == Exit.STORE
    assert list(tmp_path.iterdir()) == []


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_the_doctor_finds_a_healthy_store_healthy(command: Command, url: str) -> None:
    """What was looked at stands in a table; the exit code is 0."""
    ran = command("doctor", "--store", url)
    lines = [line.split() for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (0, "")
    assert ["ok", "schema", "2,", "up", "to", "date"] in lines
    assert any(line[:2] == ["ok", "packages"] and "cronsim" in line for line in lines)
    assert not any(line[0] == "problem" for line in lines)


def test_the_doctor_names_problems_and_exits_with_1(command: Command, tmp_path: Path) -> None:
    """A store that is not there is a problem with a remedy; --json has the same."""
    missing = f"sqlite:///{tmp_path}/nowhere/runs.db"
    ran = command("doctor", "--store", missing)
    assert ran.code == 1
    assert f"mkdir -p {tmp_path}/nowhere" in ran.out
    ran = command("doctor", "--store", missing, "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["exit_code"], document["status"], document["schema"]) == (1, 1, "problem", 1)
    first = document["findings"][0]
    assert (first["name"], first["level"], first["remedy"]) == ("store", "problem", f"mkdir -p {tmp_path}/nowhere")


def test_the_doctor_mends_what_the_dead_have_left(command: Command, url: str) -> None:
    """Warnings alone are 0; --fix removes the files of dead owners, and says so."""
    owner = Path(f"{url.removeprefix('sqlite:///')}.owners") / "dead"
    owner.parent.mkdir(exist_ok=True)
    owner.touch()
    os.utime(owner, (1.0, 1.0))
    ran = command("doctor", "--store", url, "--json")
    assert (ran.code, json.loads(ran.out)["status"]) == (0, "warning")
    assert owner.exists()
    ran = command("doctor", "--store", url, "--fix")
    assert "fixed: removed 1 file of dead owners" in ran.out
    assert ran.code == 0
    assert not owner.exists()


def test_without_a_store_the_doctor_looks_at_the_installation(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python, packages, and the defaults in force, without the passwords in them."""
    monkeypatch.setenv("WORKFLOW_RUNNER_PING", "https://me:secret@example.com/x")
    ran = command("doctor", "--json")
    findings = {finding["name"]: finding["what"] for finding in json.loads(ran.out)["findings"]}
    assert list(findings) == ["Python", "packages", "defaults"]
    assert findings["defaults"] == "ping = https://me:***@example.com/x"


def test_the_doctor_examines_files(command: Command) -> None:
    """There is nothing to examine in a store that has none."""
    ran = command("doctor", "--store", "memory:")
    assert (ran.code, ran.err.splitlines()[0]) == (64, "error: --store: doctor examines files, not 'memory:'")


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prune", "doctor"])
def test_the_example_on_the_help_page_works(
    command: Command, url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example can be copied from the page to the shell."""
    assert EXAMPLES[name] in command(name, "--help").out
    monkeypatch.chdir(Path(url.removeprefix("sqlite:///")).parent)
    assert command(*shlex.split(EXAMPLES[name].replace("\\\n", ""))).code == 0
