"""A full disk, made with RLIMIT_FSIZE: a typed error, nothing acknowledged lost, and the store can be used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crash.harness import recorded, rows


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize(
    ("limit", "size", "checkpoint_every"),
    [(1_300_000, 2000, None), (1_500_000, 20_000, 5), (1, 2000, None)],
    ids=["the WAL grows", "a checkpoint", "any write"],
)
def test_recording(
    child: Any, tmp_path: Path, threads: int, limit: int, size: int, checkpoint_every: int | None
) -> None:
    """What was acknowledged is there, the rest is a StoreError that names the file; with room again, it goes on."""
    command = {"threads": threads, "limit": limit, "size": size, "checkpoint_every": checkpoint_every}
    answer = child(do="fill_disk", bare=True, **command).answer()
    assert answer["typed"], answer["error"]
    assert str(tmp_path / "runs.db") in answer["message"]
    assert set(answer["acked"]) - {"p9999"} <= set(answer["present"])
    assert answer["after"] == sorted({*answer["present"], "p9999"})
    # written and then not acknowledged: at most what each thread was at
    assert len(answer["present"]) - len(answer["acked"]) + 1 <= threads
    assert answer["status"] == "completed"
    assert sorted(token.partition("/")[2] for token in recorded(tmp_path)) == answer["after"]


@pytest.mark.parametrize("limit", [1, 4096, 100_000, 1_000_000])
def test_making_a_store(child: Any, tmp_path: Path, limit: int) -> None:
    """A store that cannot be made is a StoreError that names the file, and it can be made later."""
    refused = child(do="open_on_full_disk", bare=True, limit=limit).answer()
    assert refused["error"] == "StoreError"
    assert str(tmp_path / "runs.db") in refused["message"]
    assert rows(tmp_path, "SELECT run_id FROM runs") == [("r",)]


def test_an_owner_whose_first_write_failed(child: Any, tmp_path: Path) -> None:
    """A process whose very first write has failed is known as an owner by its second."""
    assert child(do="submit", run_id="before", bare=True).answer() == {"created": True}
    owner = child(do="first_write_on_full_disk", bare=True)
    assert owner.answer()["error"] == "StoreError"
    seen = child(do="look", run_id="r", bare=True).answer()
    assert (seen["alive"], seen["crashed"]) == (True, False)


def test_a_run(child: Any, tmp_path: Path) -> None:
    """A run that cannot record a step fails with a StoreError; with room again, it is resumed from there."""
    command = {"flow": "row", "key": "k", "at": {"before COMMIT record s2": "full"}}
    answer = child(do="run_on_full_disk", **command).answer()
    assert answer["first"]["status"] == "failed"
    assert "StoreError" in answer["first"]["error"] + answer["first"]["cause"], answer["first"]
    assert answer["second"].get("workflow") == "completed", answer
