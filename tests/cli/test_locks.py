"""Locks of jobs: one holder, named while it lives and not longer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from workflow_runner.cli import locks
from workflow_runner.cli.locks import Locked, holder, take


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "runs.db.locks" / "job")


def test_one_holds_and_is_named(path: str) -> None:
    """Who comes second is told process, host, time and what else the holder has said."""
    lock = take(path, target="a:b")
    lock.tell(run_id="r1")
    with pytest.raises(Locked) as caught:
        take(path)
    facts = json.loads(caught.value.text)
    assert (facts["pid"], facts["target"], facts["run_id"]) == (os.getpid(), "a:b", "r1")
    assert caught.value.words == f"process {os.getpid()} on {facts['host']} since {facts['since']}, run r1"
    found = holder(path)
    assert found is not None
    assert found.words == caught.value.words
    lock.release()
    assert holder(path) is None


def test_the_next_one_reads_what_the_last_one_left(path: str) -> None:
    """Facts and mark stay when the lock is given back."""
    lock = take(path)
    assert lock.before == ("null", "")
    lock.tell("mark", run_id="r1")
    lock.release()
    again = take(path)
    assert (json.loads(again.before[0])["run_id"], again.before[1]) == ("r1", "mark")
    again.release()


def test_a_forked_child_does_not_hold_it(path: str) -> None:
    """A child that outlives its parent does not keep what the parent held."""
    lock = take(path)
    there, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done[1])
        os.write(there[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(there[0], 1)
        os.close(lock._file)  # as when the parent dies
        assert holder(path) is None
    finally:
        locks._open.discard(lock._file)
        for end in (*there, *done):
            os.close(end)
        os.waitpid(child, 0)


def test_a_deleted_file_is_made_again(path: str) -> None:
    """Who waited for a file that was deleted meanwhile locks the one that others see."""
    lock = take(path)
    os.unlink(path)
    other = take(path)
    with pytest.raises(Locked):
        take(path)
    other.release()
    lock.release()


def test_a_holder_that_has_not_said_who_it_is_is_somebody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead one left in the file is not taken for the holder's."""
    lock = take(path)
    content = Path(path).read_text().replace(f"process {os.getpid()} ", "process 999999999 ")
    Path(path).write_text(content)
    monkeypatch.setattr("workflow_runner.cli.locks._LOOKS", 1)
    with pytest.raises(Locked) as caught:
        take(path)
    assert (caught.value.text, caught.value.words) == ("null", "another process")
    lock.release()
