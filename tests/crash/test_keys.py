"""Two processes want the same run at the same moment: one executes it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crash.harness import FIGURES, until, whats

PAIRS = 200


def barrier(directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    file = directory / "barrier"
    file.write_bytes(bytes(16))
    return str(file)


def raced(peers: list[Any], directory: Path, **command: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What each of the two got, key by key."""
    file = barrier(directory)
    for me, peer in enumerate(peers):
        peer.send(do="race", dir=str(directory), me=me, barrier=file, **command)
    answers = [peer.answer() for peer in peers]
    assert all("outcomes" in answer for answer in answers), answers
    first, second = (answer["outcomes"] for answer in answers)
    return list(zip(first, second, strict=True))


@pytest.fixture
def peers(child: Any) -> list[Any]:
    both = [child(do="peer"), child(do="peer")]
    assert [peer.answer() for peer in both] == [{"ready": True}] * 2
    return both


def test_one_key_started_twice_at_once(peers: list[Any], tmp_path: Path) -> None:
    """One of the two executes, both get its result: two hundred times."""
    keys = list(range(PAIRS))
    both = raced(peers, tmp_path, flow="body", keys=keys)
    FIGURES.add("keys started twice at once", len(both))
    bodies = Counter(whats(tmp_path, "begin"))
    FIGURES.add("of them executed twice", sum(count > 1 for count in bodies.values()))
    for key, (mine, others) in enumerate(both):
        assert mine["result"] == others["result"] == key + 1
        assert mine["run_id"] == others["run_id"]
    assert len(bodies) == PAIRS
    assert max(bodies.values()) == 1


@pytest.mark.parametrize("how", ["resume", "start"])
def test_one_crashed_run_claimed_twice_at_once(child: Any, peers: list[Any], tmp_path: Path, how: str) -> None:
    """Two processes go on with one crashed run: one executes it, the other is told so or follows it."""
    keys = list(range(50))
    child(do="leave", keys=keys).expect_killed()
    both = raced(peers, tmp_path, flow="body", keys=keys, how=how)
    bodies = Counter(whats(tmp_path, "begin"))
    FIGURES.add("keys started twice at once", len(both))
    FIGURES.add("of them executed twice", sum(count > 1 for count in bodies.values()))
    for key, pair in enumerate(both):
        assert any(one.get("result") == key + 1 for one in pair)
        for one in pair:
            assert one.get("result") == key + 1 or (how == "resume" and one["error"] == "RunOwned"), one
    assert bodies == {f"run-{key}": 1 for key in keys}


def test_two_processes_make_one_file(peers: list[Any], tmp_path: Path) -> None:
    """Two processes that open a store that is not there yet make it once."""
    for number in range(15):
        both = raced(peers, tmp_path / str(number), flow="body", keys=[0])
        assert [one.get("result") for pair in both for one in pair] == [1, 1], both


# -- the schedules in which one of the two is slow


@pytest.mark.parametrize("how", ["resume", "start"])
def test_the_other_was_quicker_and_has_ended(child: Any, peers: list[Any], tmp_path: Path, how: str) -> None:
    """Who wants to claim a crashed run that another has claimed and completed meanwhile gets the result."""
    child(do="leave", keys=[0]).expect_killed()
    asked = {"flow": "body", "input": 0, "key": "0", "how": how, "run_id": "run-0"}
    slow = child(do="run", at={"before claim": "wait"}, **asked)
    until(lambda: whats(tmp_path, "waiting"), "the slow one")
    assert peers[0].ask(do="run", dir=str(tmp_path), **asked)["result"] == 1
    (tmp_path / "go").touch()
    assert slow.answer()["result"] == 1
    assert Counter(whats(tmp_path, "begin")) == {"run-0": 1}


def test_the_run_goes_on_with_its_own_context(child: Any, tmp_path: Path) -> None:
    """A second start under a key goes on with the context of the first: there is one capture, and not two."""
    child(do="run", flow="capturing", key="k", at={"after COMMIT record first": "kill"}).expect_killed()
    assert child(do="run", flow="capturing", key="k").answer()["workflow"] == "completed"
    assert len(whats(tmp_path, "capture")) == 2
    assert len(set(whats(tmp_path, "capture"))) == 1


def test_a_look_is_no_owner(child: Any, peers: list[Any], tmp_path: Path) -> None:
    """Somebody who looks whether the owner lives does not pass for the owner."""
    child(do="leave", keys=[0]).expect_killed()
    looker = child(do="look", run_id="run-0", hold=True)
    until(lambda: whats(tmp_path, "looking"), "the look")
    assert peers[0].ask(do="run", dir=str(tmp_path), how="resume", run_id="run-0")["result"] == 1
    (tmp_path / "look-on").touch()
    assert looker.answer()["crashed"] is False


def test_an_owner_that_ends_while_somebody_looks(child: Any, peers: list[Any], tmp_path: Path) -> None:
    """A run that ends between the look at it and the look at its owner is completed, not crashed."""
    owner = child(do="run", flow="body", input=0, run_id="r", key="0", at={"in body ": "wait"})
    until(lambda: whats(tmp_path, "waiting"), "the body")
    looker = child(do="look", run_id="r", slow=True)
    until(lambda: whats(tmp_path, "looking"), "the look")
    (tmp_path / "go").touch()
    assert owner.answer()["result"] == 1
    owner.wait()
    (tmp_path / "look-on").touch()
    seen = looker.answer()
    assert (seen["status"], seen["crashed"]) == ("completed", False)
