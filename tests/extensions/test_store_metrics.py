"""Metrics computed from a store."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from store.records import die, new_run

from workflow_runner.errors import InputError, StoreError
from workflow_runner.extensions.store_metrics import DAY, metrics_text, write_textfile
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    yield store
    store.close()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """What Prometheus' own parser reads: values by name and label values."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            found[(sample.name.removeprefix("workflow_runner_store_"), *sample.labels.values())] = sample.value
    return found


def test_runs_are_counted_whoever_has_executed_them(store: SQLiteStore, tmp_path: Path) -> None:
    """Runs of processes that have ended are there, and what one left behind is crashed and not running."""
    code = """
    import os, sys
    from workflow_runner import Scope, flow

    @flow
    def nightly(ctx, input):
        if input == "fail":
            raise ValueError("no")
        if input == "die":
            os._exit(0)

    with Scope(store=sys.argv[1]) as scope:
        for what in ("work", "work", "fail", "die"):
            scope.exec(nightly, what).exception()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), store.url], check=True)
    store.submit(new_run("here", flow="nightly"))
    found = samples(metrics_text(store))
    counts = {status: found["runs", "nightly", status] for status in ("completed", "failed", "crashed", "running")}
    assert counts == {"completed": 2, "failed": 1, "crashed": 1, "running": 1}
    assert found["runs", "nightly", "pending"] == found["runs", "nightly", "cancelled"] == 0
    assert found["recent_failures", "nightly"] == 1
    newest = store.runs(status="completed", limit=1)[0]
    assert newest.finished_at is not None
    assert newest.started_at is not None
    assert found["last_success_timestamp_seconds", "nightly"] == newest.finished_at
    assert found["last_success_duration_seconds", "nightly"] == newest.finished_at - newest.started_at
    assert found["oldest_running_timestamp_seconds", "nightly"] == store.run("here").started_at
    assert found[("used_bytes",)] > 0


def test_what_is_not_there_is_not_said(store: SQLiteStore) -> None:
    """A flow that never succeeded has no last success, and an empty store has no flows."""
    assert set(samples(metrics_text(store))) == {("used_bytes",), ("free_bytes",)}
    store.submit(new_run("r", flow="f"))
    store.finish("r", 1, "failed", None, None)
    assert not [key for key in samples(metrics_text(store)) if key[0].startswith(("last", "oldest"))]


def test_a_failure_is_recent_for_a_day() -> None:
    """Failures are counted from a day before the time that is given."""
    store = MemoryStore()
    store.submit(new_run("r", flow="f"))
    store.finish("r", 1, "failed", None, None)
    ended = store.run("r").finished_at
    assert ended is not None
    recent = [samples(metrics_text(store, now=ended + age))["recent_failures", "f"] for age in (DAY, DAY + 1)]
    assert recent == [1, 0]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\\n", "a,b}=", "Zürich", "a b"])
def test_every_name_of_a_flow_comes_through(name: str) -> None:
    """Quotes, backslashes and line ends are escaped as the format wants it."""
    store = MemoryStore()
    store.submit(new_run("r", flow=name))
    assert samples(metrics_text(store))["runs", name, "running"] == 1


def test_a_textfile_is_there_whole(store: SQLiteStore, tmp_path: Path) -> None:
    """The file is what the text is, for everybody to read, and nothing else is left in the folder."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "workflow_runner.prom"
    for run_id in ("r1", "r2"):
        store.submit(new_run(run_id, flow="f"))
        write_textfile(path, store)
        assert path.read_text("utf-8") == metrics_text(store)
    assert os.listdir(folder) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_old_textfile_stays_when_there_is_no_new_one(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot be read, and a disk that does not take the file, change nothing."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    path = folder / "w.prom"
    path.write_text("old")

    class Broken(MemoryStore):
        def totals(self, since: float) -> Any:
            raise StoreError("no")

    with pytest.raises(StoreError):
        write_textfile(path, Broken())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            write_textfile(path, store)
    with pytest.raises(InputError, match=r"\.prom"):
        write_textfile(folder / "w.txt", store)
    assert (path.read_text(), os.listdir(folder)) == ("old", ["w.prom"])


def test_a_dead_owner_is_seen_at_once(store: SQLiteStore) -> None:
    """A run is crashed as soon as its process has gone."""
    store.submit(new_run("r", flow="f"))
    assert samples(metrics_text(store))["runs", "f", "crashed"] == 0
    die(store)
    found = samples(metrics_text(store))
    assert (found["runs", "f", "running"], found["runs", "f", "crashed"]) == (0, 1)


def test_no_other_package_is_needed() -> None:
    """The module does without prometheus_client."""
    code = "import sys, workflow_runner.extensions.store_metrics; print({'prometheus_client'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
