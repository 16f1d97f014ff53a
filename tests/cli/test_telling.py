"""What the command tells of a run while it executes it: its options, put together."""

from __future__ import annotations

import json
from pathlib import Path

from cli.conftest import Command
from workflow_runner import open_store


def test_log_lines_as_they_are_asked_for(separately: Command) -> None:
    """--log-level info tells of runs and steps too, --log-format json makes each line an object; only on stderr."""
    ran = separately("run", "--log-format", "json", "--log-level", "info", "sample_progress:noisy")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert [line["event"] for line in lines if "row" not in line["event"]] == [
        "run.started",
        "step.started",
        "step.completed",
        "run.completed",
    ]
    assert {line["flow"] for line in lines} == {"noisy"}
    assert "run.started" not in ran.out


def test_a_format_that_does_not_exist_is_refused(command: Command) -> None:
    """With those that do."""
    ran = command("run", "--log-format", "xml", "sample_progress:noisy")
    assert ran.code == 64
    assert "logfmt" in ran.err


def test_what_is_logged_is_in_the_store(separately: Command, tmp_path: Path) -> None:
    """Whatever is shown: by step, with how the run began and ended."""
    url = f"sqlite:///{tmp_path}/runs.db"
    ran = separately(
        "run", "--json", "--quiet", "--log-level", "error", "--store", url, "sample_progress:noisy_failing"
    )
    store = open_store(url)
    rows = store.logs(json.loads(ran.out)["run_id"])
    store.close()
    assert [row.event for row in (rows[0], rows[-1])] == ["run.started", "run.failed"]
    assert [row.event for row in rows if row.path == "fetch"][2:-1] == [f"row {n}" for n in range(60)]
    assert [row.event for row in rows if row.path == "load"] == [
        "step.started",
        "half a line, and its end",
        "step.failed",
    ]
