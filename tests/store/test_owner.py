"""Who is alive: the kernel's locks, across processes and forks."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from store.records import new_run, paths, program, until
from workflow_runner.errors import RunOwned
from workflow_runner.store import owner
from workflow_runner.store.owner import Owner, alive, boot_id
from workflow_runner.store.sqlite import SQLiteStore

# A process that owns the run r1 until it is told to end.
OWNER = """
    store = SQLiteStore(sys.argv[1], durability="process")
    store.submit(new_run())
    store.record("r1", 1, [row("a")])
    say(store.run("r1").owner)
    wait()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def store(file: Path) -> Any:
    store = SQLiteStore(file, durability="process")
    yield store
    store.close()


def is_alive(file: Path, name: str) -> bool:
    return alive(Path(f"{file}.owners"), name, socket.gethostname(), boot_id())


# -- one process and another


def test_a_living_process_is_seen_as_living(file: Path, store: Any) -> None:
    """Its run cannot be taken; the error names it, with its host and its process."""
    with program(OWNER, file) as other:
        name = other.answer()
        run = store.run("r1")
        assert (run.alive, run.crashed, run.owner) == (True, False, name)
        assert socket.gethostname() in name
        assert str(other.pid) in name
        with pytest.raises(RunOwned, match=name):
            store.claim("r1")


def test_a_killed_process_is_seen_as_dead_at_once(file: Path, store: Any) -> None:
    """No lease has to run out: as soon as it is gone its run is crashed, and can be taken with all its rows."""
    with program(OWNER, file) as other:
        name = other.answer()
        other.process.kill()
        other.end()
    run = store.run("r1")
    assert (run.status, run.alive, run.crashed, run.owner) == ("running", False, True, name)
    assert store.claim("r1").fence == 2
    assert paths(store) == ["a"]


def test_a_stopped_process_is_not_robbed(file: Path, store: Any) -> None:
    """SIGSTOP is no death."""
    with program(OWNER, file) as other:
        other.answer()
        other.process.send_signal(signal.SIGSTOP)
        until(lambda: Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "the stop")
        assert store.run("r1").alive
        with pytest.raises(RunOwned):
            store.claim("r1")
        other.process.send_signal(signal.SIGCONT)
        other.go()
        assert other.end() == 0


def test_a_process_that_ends_without_a_word_is_dead(file: Path, store: Any) -> None:
    """Leaving without closing the store gives its runs back, too."""
    with program(OWNER, file) as other:
        other.answer()
        other.go()
        assert other.end() == 0
    assert store.run("r1").crashed


def test_one_of_many_processes_gets_a_crashed_run(file: Path, store: Any) -> None:
    """They all see the death at the same moment; one claims, the others are told who."""
    with program(OWNER, file) as other:
        other.answer()
        other.process.kill()
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        say("ready")
        wait()
        try:
            say(["claimed", store.claim("r1").fence, store.run("r1").owner])
        except RunOwned as error:
            say(["owned", str(error)])
        wait()
    """
    starts = [program(code, file) for _ in range(5)]
    claimers = [start.__enter__() for start in starts]
    try:
        for claimer in claimers:
            assert claimer.answer() == "ready"
        for claimer in claimers:
            claimer.go()
        answers = [claimer.answer() for claimer in claimers]
    finally:
        for start in starts:
            start.__exit__(None, None, None)
    [(_, fence, winner)] = [answer for answer in answers if answer[0] == "claimed"]
    assert fence == 2
    assert all(winner in answer[1] for answer in answers if answer[0] == "owned")


def test_two_stores_of_one_process_are_two_owners(file: Path, store: Any) -> None:
    """A process sees its own other store as living, and does not rob it."""
    other = SQLiteStore(file)
    other.submit(new_run())
    assert store.run("r1").alive
    with pytest.raises(RunOwned):
        store.claim("r1")
    other.close()
    assert store.run("r1").crashed
    assert store.claim("r1").fence == 2


# -- forks


def test_a_forked_child_does_not_keep_its_parent_alive(file: Path, store: Any) -> None:
    """A child that outlives a killed parent holds no lock of it, whether it used the store or not."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())
        pid = os.fork()
        if not pid:
            say(["child", os.getpid()])
            time.sleep(3600)
        time.sleep(3600)
    """
    with program(code, file) as parent:
        _, child = parent.answer()
        assert store.run("r1").alive
        parent.process.kill()
        parent.process.wait()
        try:
            assert store.run("r1").crashed
            assert store.claim("r1").fence == 2
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_program_that_was_started_does_not_keep_its_parent_alive(file: Path, store: Any) -> None:
    """Nor does another program that the owner has started, even with its files left open."""
    code = """
        import subprocess
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], close_fds=False,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        say(started.pid)
        time.sleep(3600)
    """
    with program(code, file) as parent:
        child = parent.answer()
        parent.process.kill()
        parent.process.wait()
        try:
            # the kernel lets the parent go on a little before it has closed the new program's files
            until(lambda: store.run("r1").crashed, "the parent to be seen as dead")
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_writes_to_what_it_has_claimed_itself(file: Path, store: Any) -> None:
    """It knows its parent's fence and may not write with it; what it submits and claims itself is its own."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run("parent"))
        store.submit(new_run("left"))
        store.release("left", 1)
        pid = os.fork()
        if not pid:
            said = []
            for verb in (
                lambda: store.record("parent", 1, [row("a")]),
                lambda: store.attempt("parent", 1, "a", 1, 1.0, None),
                lambda: store.finish("parent", 1, "completed", None, None),
                lambda: store.release("parent", 1),
                lambda: store.forget("parent", 1, ["b"]),
                lambda: store.override("parent", 1, "[]"),
            ):
                try:
                    verb()
                    said.append("written")
                except OwnershipLost:
                    said.append("lost")
            try:
                store.claim("parent")
            except RunOwned:
                said.append("owned")
            store.submit(new_run("child"))
            store.record("child", 1, [row("a")])
            store.record("left", store.claim("left").fence, [row("a")])
            said.append([store.run(run_id).alive for run_id in ("parent", "child", "left")])
            said.append(len({store.run(run_id).owner for run_id in ("parent", "child", "left")}))
            say(said)
            os._exit(0)
        os.waitpid(pid, 0)
        store.record("parent", 1, [row("b")])
        store.finish("parent", 1, "completed", None, None)
        say([store.run(run_id).alive for run_id in ("parent", "child", "left")])
    """
    with program(code, file) as parent:
        assert parent.answer() == ["lost"] * 6 + ["owned", [True, True, True], 2]
        assert parent.answer() == [False, False, False]
        assert parent.end() == 0
    assert paths(store, "parent") == ["b"]
    assert (store.run("parent").status, store.run("child").crashed, store.run("left").crashed) == (
        "completed",
        True,
        True,
    )


def test_the_end_of_a_forked_child_is_not_that_of_its_parent(file: Path, store: Any) -> None:
    """A child that closes the store it has inherited, and ends as programs do, leaves the parent's lock alone."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())
        pid = os.fork()
        if not pid:
            store.close()
            sys.exit(0)
        os.waitpid(pid, 0)
        say(store.run("r1").alive)
        wait()
        store.record("r1", 1, [row("a")])
        say("written")
    """
    with program(code, file) as parent:
        assert parent.answer() is True
        assert store.run("r1").alive
        parent.go()
        assert parent.answer() == "written"


def test_a_multiprocessing_pool_works_beside_a_store(file: Path) -> None:
    """Workers that are forked while the store is open end, and the store goes on."""
    code = """
        import multiprocessing
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answer = pool.map(abs, [-1, -2, -3])
            store.record("r1", 1, [row("a")])
        say([answer, [step.path for step in store.steps("r1")]])
    """
    with program(code, file) as parent:
        assert parent.answer() == [[1, 2, 3], ["a"]]
        assert parent.end() == 0


# -- what is asked of the kernel, and what is not


def test_an_owner_has_one_name_until_it_closes(tmp_path: Path) -> None:
    """Its file is there while it lives, and gone when it was closed; the next name is another one."""
    me = Owner(tmp_path / "owners")
    name = me.id()
    assert me.id() == name
    assert alive(me.directory, name, socket.gethostname(), boot_id())
    assert [found.name for found in me.directory.iterdir()] == [name]
    me.close()
    me.close()
    assert list(me.directory.iterdir()) == []
    assert not alive(me.directory, name, socket.gethostname(), boot_id())
    assert me.id() != name
    me.close()


def test_the_files_of_the_dead_are_cleared_away(file: Path, store: Any) -> None:
    """A crash leaves no file for ever: who finds its owner dead removes it."""
    with program(OWNER, file) as other:
        name = other.answer()
        other.process.kill()
    assert (Path(f"{file}.owners") / name).exists()
    assert store.run("r1").crashed
    assert not (Path(f"{file}.owners") / name).exists()
    assert store.run("r1").crashed


def test_a_name_that_was_never_there_is_dead(tmp_path: Path) -> None:
    """As is one whose folder is gone."""
    assert not alive(tmp_path / "owners", "x", socket.gethostname(), boot_id())


def test_another_boot_of_this_machine_is_dead(tmp_path: Path) -> None:
    """Nobody survives a restart; but who is on another machine cannot be seen from here, and counts as living."""
    me = Owner(tmp_path / "owners")
    assert not alive(me.directory, me.id(), socket.gethostname(), "another boot")
    assert alive(me.directory, me.id(), "another-host", "another boot")
    assert alive(me.directory, "unknown", "another-host", "another boot")
    me.close()


def test_a_run_of_another_machine_is_not_robbed(file: Path, store: Any) -> None:
    """Its owner's locks are not seen here."""
    store.submit(new_run())
    other = sqlite3.connect(file)
    other.execute("UPDATE owners SET host = 'far-away', boot_id = 'other'")
    other.commit()
    other.close()
    store._owner.forked()
    assert store.run("r1").alive
    with pytest.raises(RunOwned):
        store.claim("r1")


def test_looking_needs_no_right_to_write(tmp_path: Path) -> None:
    """Who may only read the owners' files sees who lives."""
    me = Owner(tmp_path / "owners")
    name = me.id()
    (me.directory / name).chmod(0o444)
    me.directory.chmod(0o555)
    assert alive(me.directory, name, socket.gethostname(), boot_id())
    me.forked()
    assert not alive(me.directory, name, socket.gethostname(), boot_id())
    me.directory.chmod(0o755)


def test_without_a_boot_id_the_lock_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not name its boot."""
    monkeypatch.setattr(owner, "boot_id", lambda: "unknown")
    me = Owner(tmp_path / "owners")
    name = me.id()
    assert alive(me.directory, name, socket.gethostname(), "unknown")
    me.close()
    assert not alive(me.directory, name, socket.gethostname(), "unknown")
