"""list, show, logs and status, as their users see them."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow_runner.cli.commands import COMMANDS, EXAMPLES
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.moments import moment
from workflow_runner.cli.tables import short
from workflow_runner.store.base import LogRow, NewRun
from workflow_runner.store.sqlite import SQLiteStore

from .conftest import Command, end, on_a_terminal, start

HISTORY = ("list", "show", "logs", "status")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store that no run has made yet."""
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[SQLiteStore]:
    """That store."""
    opened = SQLiteStore(tmp_path / "runs.db", durability="process")
    yield opened
    opened.close()


@pytest.fixture
def recorded(command: Command, url: str, store: SQLiteStore) -> dict[str, str]:
    """The ids of three runs, by what came of them."""
    words = ["run", "--store", url, "--tag", "team=risk", "--key", "{flow}/{as_of_date}", "--as-of-date", "2013-02-28"]
    command(*words, "sample_going_on:mend", "--region", "EU")
    command("run", "--store", url, "--partition", "region=EU", "sample_flows:partial")
    command("run", "--store", url, "--batch-id", "b1", "sample_going_on:mend", "--region", "US", "--good")
    good, partial, failed = store.runs()
    return {"completed": good.run_id, "partial": partial.run_id, "failed": failed.run_id}


def submit(store: SQLiteStore, run_id: str = "r1", **changes: Any) -> str:
    store.submit(NewRun(**{"run_id": run_id, "flow": "f", "input": "1", "input_hash": "h", **changes}))
    return run_id


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_is_a_table_of_runs(command: Command, url: str, recorded: dict[str, str]) -> None:
    """The newest first, with what they were about."""
    lines = [line.split() for line in command("list", "--store", url).out.splitlines()]
    assert lines[0][:4] == ["run", "flow", "status", "about"]
    assert [line[:3] for line in lines[2:]] == [
        [recorded["completed"][:12], "mend", "completed"],
        [recorded["partial"][:12], "partial", "partial"],
        [recorded["failed"][:12], "mend", "failed"],
    ]
    assert lines[4][3:5] == ["2013-02-28", "mend/2013-02-28"]
    assert lines[3][3] == "region=EU"


def test_list_fits_a_narrow_terminal(url: str, recorded: dict[str, str]) -> None:
    """The columns that can be spared go, and no line is wider than the terminal."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("list", "--store", url)).splitlines()
    assert lines[0].split() == ["run", "flow", "status", "about", "started", "time"]
    assert [line.split()[0] for line in lines[2:]] == [run_id[:12] for run_id in recorded.values()]
    assert max(map(len, lines)) <= 80
    lines = plain_lines("list", "--store", url, columns=40)
    assert lines[0].split() == ["run", "flow", "status"]
    assert [line.split()[-1] for line in lines[2:]] == ["completed", "partial", "failed"]
    assert max(map(len, lines)) <= 40


def test_a_run_fits_a_narrow_terminal(url: str, recorded: dict[str, str]) -> None:
    """What is left of its steps are the names and how they ended, uncut."""
    lines = plain_lines("show", "--store", url, recorded["completed"], columns=40)
    table = lines[lines.index("steps") + 1 :]
    assert table[0].split()[:2] == ["step", "status"]
    assert table[0].split()[-1] == "note"
    assert ["read", "completed"] in [line.split()[:2] for line in table]
    assert max(map(len, table[: table.index("")])) <= 40


def plain_lines(*words: str, columns: int) -> list[str]:
    """What stands on a terminal of that width."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(*words, columns=columns))
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize(("text", "code"), [("2013-02-30", 64), ("28.2.2013", 64), ("today", 0), ("yesterday", 0)])
def test_a_business_date_is_one(command: Command, url: str, store: SQLiteStore, text: str, code: int) -> None:
    """A date that there is not finds no runs, and a person should not think that none were made."""
    listed = command("list", "--store", url, "--as-of-date", text)
    assert (listed.code, "expected a date such as 2013-02-28" in listed.err) == (code, bool(code))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--flow", "mend"], ["completed", "failed"]),
        (["--status", "failed"], ["failed"]),
        (["--status", "failed", "--status", "partial"], ["partial", "failed"]),
        (["--status", "crashed"], []),
        (["--partition", "region=EU"], ["partial"]),
        (["--as-of-date", "2013-02-28"], ["failed"]),
        (["--batch", "b1"], ["completed"]),
        (["--tag", "team=risk"], ["failed"]),
        (["--tag", "team=ops"], []),
        (["--key", "mend/2013-02-28"], ["failed"]),
        (["--since", "1h"], ["completed", "partial", "failed"]),
        (["--until", "1h"], []),
        (["--since", "2013-02-28", "--limit", "1"], ["completed"]),
    ],
)
def test_list_finds_runs(
    command: Command, url: str, recorded: dict[str, str], words: list[str], expected: list[str]
) -> None:
    """By each of its filters."""
    document = json.loads(command("list", "--store", url, "--json", *words).out)
    assert [run["run_id"] for run in document["runs"]] == [recorded[name] for name in expected]
    assert document["schema"] == 1


def test_a_row_has_everything(command: Command, url: str, recorded: dict[str, str]) -> None:
    """The JSON of a list is for programs that sort and alert."""
    (run,) = json.loads(command("list", "--store", url, "--json", "--status", "failed").out)["runs"]
    assert run | {
        "error": None,
        "created_at": "",
        "started_at": "",
        "finished_at": "",
        "duration": 0,
        "trace_id": "",
    } == {
        "run_id": recorded["failed"],
        "flow": "mend",
        "version": "7",
        "target": "sample_going_on:mend",
        "status": "failed",
        "key": "mend/2013-02-28",
        "batch_id": None,
        "partition": None,
        "as_of": "2013-02-28",
        "trace_id": "",
        "tags": {"team": "risk"},
        "owner": None,
        "cancel_requested": None,
        "retry_of": None,
        "created_at": "",
        "started_at": "",
        "finished_at": "",
        "duration": 0,
        "error": None,
    }
    assert run["error"]["step"] == "compute"
    assert dt.datetime.fromisoformat(run["started_at"]).tzinfo is not None


def test_list_says_how_many_more_there_are(command: Command, url: str, recorded: dict[str, str]) -> None:
    """And how to see them."""
    assert command("list", "--store", url, "--limit", "1").out.splitlines()[-1] == "and 2 more: --limit shows them"


def test_a_dead_process_leaves_a_crashed_run(command: Command, url: str, store: SQLiteStore) -> None:
    """It is shown as such."""
    submit(store)
    assert "running" in command("list", "--store", url).out
    store._owner.forked()
    assert "crashed" in command("list", "--store", url).out


def test_an_empty_store_has_no_runs(command: Command, url: str, store: SQLiteStore) -> None:
    """That is no error."""
    assert command("list", "--store", url).out == "no runs\n"
    assert command("status", "--store", url) == command("list", "--store", url)


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (64, "--limit is 1 or more, not 0", ["list", "--limit", "0"]),
        (64, "--tag is NAME=VALUE, not 'risk'", ["list", "--tag", "risk"]),
        (64, "--since: expected a date, a time such as", ["list", "--since", "yesterday"]),
        (64, "--status", ["list", "--status", "crash"]),
        (66, "did you mean mend?", ["list", "--flow", "mended"]),
        (66, "did you mean mend?", ["status", "mended"]),
        (64, "--max-age: expected a length of time", ["status", "--max-age", "1"]),
        (64, "--max-running: expected a length of time", ["status", "--max-running", "mend="]),
        (64, "--last is 0 or more, not -1", ["logs", "--last", "-1", "RUN"]),
        (64, "RUN is missing", ["show"]),
        (66, "has no step 'computed'", ["show", "--step", "computed", "RUN"]),
        (66, "there is compute", ["show", "--step", "computed", "RUN"]),
    ],
)
def test_wrong_input_is_named(
    command: Command, url: str, recorded: dict[str, str], code: int, said: str, words: list[str]
) -> None:
    """One line says what is wrong, and the next what is near."""
    words = [recorded["failed"] if word == "RUN" else word for word in words]
    refused = command(words[0], "--store", url, *words[1:])
    assert refused.code == code
    assert said in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("name", HISTORY)
def test_who_only_asks_makes_no_store(command: Command, tmp_path: Path, name: str) -> None:
    """A misspelt file is an error, and not an empty history."""
    words = [name, *(["RUN"] if name in ("show", "logs") else [])]
    refused = command(*words, "--store", f"sqlite:///{tmp_path}/rnus.db")
    assert (refused.code, f"there is no store {tmp_path}/rnus.db" in refused.err) == (Exit.STORE, True)
    assert list(tmp_path.iterdir()) == []
    assert command(*words).code == Exit.USAGE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2013-02-28", dt.datetime(2013, 2, 28)),
        ("2013-02-28T18:30", dt.datetime(2013, 2, 28, 18, 30)),
        ("2013-02-28T18:30:00+01:00", dt.datetime(2013, 2, 28, 17, 30, tzinfo=dt.UTC)),
        ("18:30", dt.datetime(2013, 3, 1, 18, 30)),
        ("2d", dt.datetime(2013, 2, 27, 12)),
    ],
)
def test_moments_are_dates_times_and_ages(text: str, expected: dt.datetime) -> None:
    """In local time, unless they say otherwise."""
    now = dt.datetime(2013, 3, 1, 12).astimezone()
    assert moment(text, now) == expected.timestamp()


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_tells_all_of_a_run(command: Command, url: str, recorded: dict[str, str]) -> None:
    """What it was, what it was given, its steps, its failed attempts, its error, and how to go on."""
    run_id = recorded["failed"]
    out = command("show", "--store", url, run_id[:16]).out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith("mend 2013-02-28 failed in ")
    assert lines[0].endswith(f"run {run_id}")
    for line in ("key mend/2013-02-28", "tags team=risk", "version 7", "target sample_going_on:mend", "region EU"):
        assert line in lines
    assert any(line.startswith("read completed 1 ") for line in lines)
    assert any(line.startswith("compute failed 2 ") and line.endswith("ValueError: bad [red]data") for line in lines)
    assert any(line.startswith("parallel ") and line.endswith("2 done") for line in lines)
    assert "load pending" in lines
    assert sum(line.startswith("compute ") and line.endswith("ValueError: bad [red]data") for line in lines) == 3
    assert lines.index("error: ValueError: bad [red]data") == lines.index("caused by OSError: disk") - 1
    assert f"workflow-runner resume {short(run_id)} --store {shlex.quote(url)}" in lines


def test_show_escapes_what_a_terminal_would_obey(command: Command, url: str, recorded: dict[str, str]) -> None:
    """Outputs are data."""
    assert "\x1b" not in command("show", "--store", url, "--outputs", recorded["failed"]).out


def test_show_prints_whole_outputs_when_asked(command: Command, url: str, recorded: dict[str, str]) -> None:
    """Each below its step."""
    out = command("show", "--store", url, "--outputs", recorded["completed"]).out
    assert "compute\ntotal  30" in out


def test_show_one_step(command: Command, url: str, recorded: dict[str, str]) -> None:
    """With its whole output, or its failed attempts."""
    out = command("show", "--store", url, "--step", "compute", recorded["failed"]).out
    assert out.startswith("compute  failed in ")
    assert out.count("ValueError: bad [red]data") == 3
    document = json.loads(
        command("show", "--store", url, "--json", "--step", "compute", recorded["completed"]).out,
    )
    assert document["step"]["output"] == {"total": 30, "days": []}
    assert [(step["kind"], step["count"]) for step in document["step"]["steps"]] == [("items", 2)]


def test_show_is_one_document(command: Command, url: str, recorded: dict[str, str]) -> None:
    """With everything in it."""
    document = json.loads(command("show", "--store", url, "--json", recorded["failed"]).out)
    assert document["input"]["region"] == "EU"
    assert [step["status"] for step in document["steps"]] == ["completed", "failed", "pending"]
    assert [failure["error"]["type"] for failure in document["steps"][1]["failures"]] == ["ValueError", "ValueError"]
    assert document["steps"][0]["output"]["rows"] == [1, 2, 3]


def test_show_names_the_nearest_runs(command: Command, url: str, recorded: dict[str, str]) -> None:
    """An id with a wrong end is nearly right."""
    run_id = recorded["failed"]
    wrong = run_id[:-1] + ("0" if run_id[-1] != "0" else "1")
    refused = command("show", "--store", url, wrong)
    assert (refused.code, run_id in refused.err) == (Exit.NOT_FOUND, True)


def test_history_needs_none_of_the_modules_of_those_who_ran(
    command: Command, url: str, recorded: dict[str, str], store: SQLiteStore
) -> None:
    """It is read where they are not installed."""
    store._write(lambda connection: connection.execute("UPDATE runs SET target = 'gone:away'"))
    for name in ("show", "logs"):
        assert command(name, "--store", url, recorded["failed"]).code == Exit.DONE


# --- logs -------------------------------------------------------------------------------------------------------------


def logged(store: SQLiteStore) -> str:
    """A run with some log lines."""
    run_id = submit(store)
    rows = [
        LogRow(at=1.5, level="info", event="begun"),
        LogRow(path="a", at=2.0, level="warning", event="odd", fields='{"rows": 3, "why": "no \\u001b[31m idea"}'),
        LogRow(path="a/pages[1]", at=3.0, level="error", event="lost", fields='{"exception": "Traceback\\n  line"}'),
        LogRow(path="b", at=4.0, level="debug", event="fine"),
    ]
    store.log(run_id, rows)
    return run_id


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["begun", "odd", "lost", "fine"]),
        (["--level", "warning"], ["odd", "lost"]),
        (["--step", "a"], ["odd", "lost"]),
        (["--step", "pages"], ["lost"]),
        (["--last", "1"], ["fine"]),
        (["--last", "1", "--level", "info"], ["lost"]),
        (["--last", "0"], []),
    ],
)
def test_logs_are_chosen_by_step_and_level(
    command: Command, url: str, store: SQLiteStore, words: list[str], expected: list[str]
) -> None:
    """The last ones of those that fit."""
    document = json.loads(command("logs", "--store", url, "--json", *words, logged(store)).out)
    assert [line["event"] for line in document["logs"]] == expected


def test_logs_are_readable_lines(command: Command, url: str, store: SQLiteStore) -> None:
    """Time, level, event, fields and step; a traceback below."""
    lines = command("logs", "--store", url, logged(store)).out.splitlines()
    assert [line[20:] for line in lines[:2]] == [
        "info    begun",
        'warning odd rows=3 why="no \\u001b[31m idea" step=a',
    ]
    assert lines[2].endswith("error   lost step=a/pages[1]")
    assert lines[3:5] == ["    Traceback", "      line"]


def test_following_prints_lines_until_the_run_ends(url: str, store: SQLiteStore) -> None:
    """One JSON object a line, as they come."""
    run_id = logged(store)
    process = start("logs", "-f", "--json", "--last", "1", "--store", url, run_id)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "fine"
    store.log(run_id, [LogRow(at=5.0, level="info", event="late")])
    assert json.loads(process.stdout.readline())["event"] == "late"
    store.finish(run_id, 1, "completed", "1", None)
    store.log(run_id, [LogRow(at=6.0, level="info", event="run.completed")])
    ended = end(process)
    assert (ended.code, json.loads(ended.out)["event"], ended.err) == (Exit.DONE, "run.completed", "")


def test_ctrl_c_ends_following(url: str, store: SQLiteStore) -> None:
    """Without a word; the run goes on."""
    process = start("logs", "--follow", "--store", url, logged(store))
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert (ended.code, ended.err) == (-signal.SIGINT, "")
    assert store.run("r1").status == "running"


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_says_what_is_wrong_and_exits_with_1(command: Command, url: str, recorded: dict[str, str]) -> None:
    """A monitor needs no more than the exit code, and a person a reason."""
    assert command("status", "--store", url).code == Exit.DONE
    late = command("status", "--store", url, "--max-age", "partial=0s", "--max-age", "1h")
    assert late.code == Exit.FAILED
    lines = late.out.splitlines()
    assert " ok " in next(line for line in lines if line.startswith("mend "))
    assert "overdue: the last success is older than" in next(line for line in lines if line.startswith("partial "))
    never = command("status", "--store", url, "--max-age", "nightly=1d", "nightly")
    assert (never.code, "it has never succeeded" in never.out) == (Exit.FAILED, True)


def test_status_fits_a_terminal(url: str, recorded: dict[str, str], store: SQLiteStore) -> None:
    """Where reasons do not stand beside they stand below, whole, each with its flow."""
    store.release(submit(store, "a-run-with-a-name-of-its-own", flow="interrupted"), 1)
    for columns in (80, 40):
        lines = plain_lines("status", "--store", url, columns=columns)
        assert next(line for line in lines if line.startswith("mend ")).split()[:2] == ["mend", "ok"]
        said = " ".join(" ".join(lines).split())
        assert "interrupted: the last run a-run-with-a-name-of-its-own was interrupted and waits to be resumed" in said
        assert max(map(len, lines)) <= columns


def test_status_of_one_flow(command: Command, url: str, recorded: dict[str, str], store: SQLiteStore) -> None:
    """The others do not count."""
    submit(store, "lost", flow="broken")
    store._owner.forked()
    assert command("status", "--store", url, "mend").code == Exit.DONE
    document = json.loads(command("status", "--store", url, "--json").out)
    assert document["healthy"] is False
    broken = next(flow for flow in document["flows"] if flow["flow"] == "broken")
    assert (broken["healthy"], broken["reasons"]) == (False, ["run lost has crashed"])
    assert broken["troubles"] == [{"kind": "crashed", "run_id": "lost", "seconds": None, "limit": None}]
    assert document["flows"][1]["last_success"]["run_id"] == recorded["completed"]


# --- help -------------------------------------------------------------------------------------------------------------


def test_the_first_page_says_what_each_command_does(command: Command) -> None:
    """By the first line of its own page."""
    lines = [line.split() for line in command("--help").out.splitlines()]
    described = {line[1] for line in lines if line[:1] == ["│"] and len(line) > 3}
    assert set(COMMANDS) <= described


@pytest.mark.parametrize("name", HISTORY)
def test_the_example_on_the_help_page_works(command: Command, url: str, recorded: dict[str, str], name: str) -> None:
    """Its options are there, with the store and the run of the reader."""
    assert EXAMPLES[name] in command(name, "--help").out
    ours = {"RUN": recorded["completed"], "sqlite:///runs.db": url}
    assert command(*(ours.get(word, word) for word in shlex.split(EXAMPLES[name]))).code == Exit.DONE
