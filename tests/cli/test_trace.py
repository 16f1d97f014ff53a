"""The trace that the command's process belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Command
from workflow_runner.store import open_store

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_run_belongs_to_the_trace_of_its_process(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TRACEPARENT, as a CI system or a calling program sets it, is stored with the run; --trace-id wins."""
    url = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-b7ad6b7169203331-01")
    assert command("run", "--store", url, "sample_flows:nothing").code == 0
    assert command("run", "--store", url, "sample_flows:free").code == 0
    assert command("run", "--store", url, "--trace-id", "mine", "sample_flows:free").code == 0
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert command("run", "--store", url, "sample_flows:nothing").code == 0
    store = open_store(url)
    assert [run.trace_id for run in store.runs()] == [None, "mine", TRACE, TRACE]
    store.close()
