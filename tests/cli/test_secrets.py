"""Secrets and the command: in no line of its output, in no log, and in no file of its store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command

REPORT, NIGHTLY = "sample_secrets:report", "sample_secrets:nightly"


@pytest.fixture
def folder(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; the samples are still found."""
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> bytes:
    """All that is in the files there."""
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_the_help_page_shows_no_default_of_a_secret(command: Command, folder: Path) -> None:
    """It shows the environment variable; other defaults are shown as ever."""
    ran = command("run", REPORT, "--help")
    assert ran.code == 0
    assert "default-word" not in ran.out
    assert "WORKFLOW_RUNNER_PARAM_PASSWORD" in ran.out
    assert "[default: me]" in ran.out


@pytest.mark.parametrize("output", ["--json", "--debug"])
def test_a_secret_is_masked_in_what_is_printed(command: Command, folder: Path, output: str) -> None:
    """In tables and in the document; the flow itself gets it."""
    ran = command("run", output, REPORT, "--password", "s3cret-word", "--pin", "424242")
    assert ran.code == 0
    assert "s3cret" not in ran.out + ran.err
    assert "424242" not in ran.out + ran.err
    if output == "--json":
        assert json.loads(ran.out)["result"] == {"table": [{"password": "***", "pin": "***", "length": 11}]}
    else:
        assert "***" in ran.out


def test_the_environment_gives_a_secret(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others can read the words of a command."""
    monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_PASSWORD", "s3cret")
    assert json.loads(command("run", "--json", REPORT).out)["result"]["table"][0]["length"] == 6


@pytest.mark.parametrize("words", [["--pin", "s3cret-1"], ["--pin=s3cret-1", "--password", "s3cret-2"]])
def test_a_wrong_secret_is_refused_without_showing_it(command: Command, folder: Path, words: list[str]) -> None:
    """The option is named, and what it should be."""
    ran = command("run", REPORT, *words)
    assert ran.code == 65
    assert "error: --pin: expected a whole number, got ***" in ran.err
    assert "s3cret" not in ran.out + ran.err


def test_a_secret_from_a_file_is_one_too(command: Command, folder: Path) -> None:
    """Right or wrong."""
    (folder / "params.json").write_text(json.dumps({"password": "s3cret-word"}))
    ran = command("run", "--json", "--params", "params.json", REPORT)
    assert json.loads(ran.out)["result"]["table"] == [{"password": "***", "pin": None, "length": 11}]
    (folder / "params.json").write_text(json.dumps({"pin": "s3cret-word"}))
    ran = command("run", "--params", "params.json", REPORT)
    assert ran.code == 65
    assert "s3cret" not in ran.out + ran.err


@pytest.mark.parametrize("way", [(), ("--json",), ("--debug",), ("--quiet",)])
def test_a_failed_run_leaves_no_trace_of_a_secret(command: Command, folder: Path, way: tuple[str, ...]) -> None:
    """In its error with causes, in its traceback, in its log, in the store."""
    ran = command("run", *way, "--store", "sqlite:///runs.db", NIGHTLY, "--password", "s3cret-word")
    assert ran.code == 1
    assert "refused '***'" in ran.out + ran.err
    assert "s3cret" not in ran.out + ran.err
    assert b"login" in written(folder)
    assert b"s3cret" not in written(folder)


def test_a_run_is_gone_on_with_when_its_secret_is_there(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` and `retry` name what is missing; `show` and `logs` have no secret either."""
    store = ("--store", "sqlite:///runs.db")
    ran = command("run", "--json", *store, NIGHTLY, "--password", "s3cret-word")
    run_id = json.loads(ran.out)["run_id"]
    for verb in ("resume", "retry"):
        ran = command(verb, run_id, *store)
        assert ran.code == 65
        assert "WORKFLOW_RUNNER_PARAM_PASSWORD" in ran.err
    shown = command("show", run_id, *store, "--json").out
    assert json.loads(shown)["input"]["password"] == "***"
    logged = command("logs", run_id, *store).out
    assert "login with ***" in logged
    (folder / "works").touch()
    monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_PASSWORD", "s3cret-two")
    ran = command("resume", run_id, *store, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["outputs"]["load"] == {"dsn": "db://***@host"}
    assert "s3cret" not in shown + logged + ran.out + ran.err
    assert b"s3cret" not in written(folder)


@pytest.mark.parametrize("verb", ["resume", "retry"])
@pytest.mark.parametrize("target", ["sample_secrets:fetch", NIGHTLY])
def test_a_secret_can_be_given_when_a_run_is_gone_on_with(
    command: Command, folder: Path, verb: str, target: str
) -> None:
    """With its type, of a flow with an input of its own too; what is no secret of such a flow stays as it is."""
    store = ("--store", "sqlite:///runs.db")
    words = ("--password", "s3cret-word", "--pin", "424242")
    run_id = json.loads(command("run", "--json", *store, target, *words).out)["run_id"]
    (folder / "works").touch()
    secrets = ("--param", "password=s3cret-two", "--param", "pin=100000")
    if target != NIGHTLY:
        refused = command(verb, run_id, *store, *secrets, "--param", "user=you")
        assert (refused.code, "has no params to override" in refused.err) == (65, True)
    ran = command(verb, run_id, *store, *secrets, "--json")
    assert (ran.code, json.loads(ran.out)["status"]) == (0, "completed")
    if target != NIGHTLY:
        assert json.loads(ran.out)["result"] == len("s3cret-two") + 100000
    assert "s3cret" not in ran.out + ran.err
    assert b"s3cret" not in written(folder)
    assert b"100000" not in written(folder) or target != NIGHTLY
