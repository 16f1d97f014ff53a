"""Who may go on with a run: stopped owners, dead owners, their forked children."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crash.harness import FIGURES, lines, recorded, rows, until, whats


def begun(directory: Path, path: str) -> bool:
    return any(token.endswith(f"/{path}") for token in whats(directory, "begin"))


def running(pid: int) -> bool:
    """Whether this process, which is no child of ours, lives."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stopped_owner_is_not_robbed(child: Any, tmp_path: Path) -> None:
    """SIGSTOP is no death: others are told who owns the run, and after SIGCONT it ends as if nothing had been."""
    owner = child(do="run", flow="in_step", key="k", at={"in body middle": "stop"})
    until(owner.stopped, "the owner to stop")
    [(run_id, name)] = rows(tmp_path, "SELECT run_id, owner FROM runs")
    other = child(do="peer")
    other.answer()
    seen = other.ask(do="look", dir=str(tmp_path), run_id=run_id)
    assert (seen["alive"], seen["crashed"], seen["owner"]) == (True, False, name)
    refused = other.ask(do="run", dir=str(tmp_path), how="resume")
    assert refused["error"] == "RunOwned"
    assert name in refused["message"]
    other.send(do="run", dir=str(tmp_path), flow="in_step", key="k")  # follows the run
    (tmp_path / "go").touch()
    owner.signal(signal.SIGCONT)
    answer = owner.answer()
    assert answer["result"] == {"total": 8}
    followed = other.answer()
    assert (followed["run_id"], followed["result"]) == (run_id, {"total": 8})
    assert max(Counter(whats(tmp_path, "begin")).values()) == 1


def test_readers_do_not_wait_for_a_stopped_writer(child: Any, tmp_path: Path) -> None:
    """A process that is stopped inside its transaction holds writers up, and no reader."""
    owner = child(do="run", flow="in_commit", key="k", at={"before COMMIT record middle": "stop"})
    until(owner.stopped, "the owner to stop")
    [(run_id,)] = rows(tmp_path, "SELECT run_id FROM runs")
    other = child(do="peer")
    other.answer()
    seen = other.ask(do="look", dir=str(tmp_path), run_id=run_id)
    assert (seen["status"], seen["alive"]) == ("running", True)
    assert other.ask(do="run", dir=str(tmp_path), how="resume")["error"] == "RunOwned"
    owner.signal(signal.SIGCONT)
    assert owner.answer()["result"] == {"total": 8}
    assert other.ask(do="submit", dir=str(tmp_path), run_id="another") == {"created": True}


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_forked_child_outlives_its_parent(child: Any, tmp_path: Path, taken_over: bool) -> None:
    """The parent reads as dead, whoever it has forked; its run is taken over; the child can write nothing to it."""
    owner = child(do="run_in_main_thread", flow="in_commit", key="k", at={"in body middle": "fork"})
    until(lambda: whats(tmp_path, "forked"), "the fork")
    [orphan] = {pid for kind, _, pid in lines(tmp_path) if kind == "forked"}
    owner.signal(signal.SIGKILL)
    owner.wait()
    [(run_id, status)] = rows(tmp_path, "SELECT run_id, status FROM runs")
    other = child(do="peer")
    other.answer()
    assert not other.ask(do="look", dir=str(tmp_path), run_id=run_id)["alive"]
    if taken_over:
        assert other.ask(do="run", dir=str(tmp_path), how="resume")["result"] == {"total": 8}
    before = recorded(tmp_path)
    (tmp_path / "child-go").touch()
    until(lambda: whats(tmp_path, "raised") and not running(orphan), "the child to end")
    assert whats(tmp_path, "raised") == ["OwnershipLost"]
    assert orphan in {pid for kind, _, pid in lines(tmp_path) if kind == "raised"}
    assert recorded(tmp_path) == before
    assert other.ask(do="run", dir=str(tmp_path), how="resume")["result"] == {"total": 8}
    assert status == "running"


def test_forks_under_load(child: Any, tmp_path: Path) -> None:
    """Thirty forks while four threads write: nothing acknowledged is missing, and every child uses the store."""
    answer = child(do="fork_under_load", forks=30).answer()
    assert answer["codes"] == [0] * 30
    FIGURES.add("forks under load", 30)
    assert [one["status"] for one in answer["ended"]] == ["completed"] * 4
    there = recorded(tmp_path)  # which checks the file's integrity
    acked = {what for what in whats(tmp_path, "ack") if "/" in what}
    assert len(acked) > 120
    assert acked == set(there)
    assert sum(one["result"] for one in answer["ended"]) == len(acked) - 30 * 3
    ended = rows(tmp_path, "SELECT idem_key, status FROM runs WHERE idem_key IS NOT NULL")
    assert sorted(ended) == sorted((f"child-{n}", "completed") for n in range(30))


def test_a_cancel_reaches_a_forked_child(child: Any, tmp_path: Path) -> None:
    """A run of a forked child is cancelled through the store, as everywhere."""
    answer = child(do="cancel_in_forked_child").answer()
    assert answer == {"code": 0, "status": "cancelled"}
