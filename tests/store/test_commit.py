"""Group commit: who shares a transaction, who gets which error, and what an interrupt, a fork or a full disk does."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store.records import LONG, new_run, paths, program, row, until
from workflow_runner.errors import StoreError
from workflow_runner.store import commit
from workflow_runner.store.commit import Committer
from workflow_runner.store.sqlite import SQLiteStore

SCHEMA = """
    CREATE TABLE IF NOT EXISTS written (who TEXT, n INTEGER);
    CREATE TABLE IF NOT EXISTS parents (id INTEGER PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE IF NOT EXISTS once (n INTEGER UNIQUE ON CONFLICT ROLLBACK);
"""


class Refused(Exception):
    """What an operation raises."""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON; {SCHEMA}")
    return connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


@pytest.fixture
def committer(path: Path) -> Iterator[Committer]:
    committer = Committer(lambda: connect(path), f"{path}.lock")
    yield committer
    committer.close()


def writes(who: str, n: int = 0) -> Callable[[sqlite3.Connection], int]:
    """An operation that writes one row and returns ``n``."""

    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO written VALUES (?, ?)", (who, n))
        return n

    return operation


def refuses(who: str) -> Callable[[sqlite3.Connection], None]:
    """An operation that writes one row and raises."""

    def operation(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO written VALUES (?, 0)", (who,))
        raise Refused(who)

    return operation


def written(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [who for (who,) in connection.execute("SELECT who FROM written ORDER BY rowid")]
    connection.close()
    return found


class Crowd:
    """Threads that run an operation each, while the lead is held; what each got, by name."""

    def __init__(self, committer: Committer) -> None:
        self.committer = committer
        self.outcomes: dict[str, Any] = {}
        self._leading = threading.Event()
        self._go = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=("leader", self._hold), daemon=True)]
        self._threads[0].start()
        assert self._leading.wait(LONG)

    def _hold(self, connection: sqlite3.Connection) -> None:
        writes("leader")(connection)
        self._leading.set()
        assert self._go.wait(LONG)

    def add(self, name: str, operation: Callable[[sqlite3.Connection], Any]) -> None:
        """Queue ``operation`` behind those that were added before."""
        waiting = len(self.committer._queue)
        self._threads.append(threading.Thread(target=self._run, args=(name, operation), daemon=True))
        self._threads[-1].start()
        until(lambda: len(self.committer._queue) > waiting, f"{name} to queue")

    def _run(self, name: str, operation: Callable[[sqlite3.Connection], Any]) -> None:
        try:
            self.outcomes[name] = self.committer.run(operation)
        except BaseException as error:
            self.outcomes[name] = error

    def go(self) -> dict[str, Any]:
        """Let the leader go on, and wait for all."""
        self._go.set()
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a thread waits for ever"
        return self.outcomes


# -- sharing


def test_what_waits_together_is_committed_together(committer: Committer, path: Path) -> None:
    """While one commits, any number queue up, and the next transaction is theirs; each gets its own value."""
    crowd = Crowd(committer)
    for n in range(20):
        crowd.add(f"t{n}", writes(f"t{n}", n))
    assert crowd.go() == {"leader": None, **{f"t{n}": n for n in range(20)}}
    assert committer._commits == 2
    assert written(path) == ["leader", *(f"t{n}" for n in range(20))]


def test_a_transaction_has_a_limit(committer: Committer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than fit into one transaction go into several, in order."""
    monkeypatch.setattr(commit, "_BATCH", 8)
    crowd = Crowd(committer)
    for n in range(20):
        crowd.add(f"t{n}", writes(f"t{n}"))
    crowd.go()
    assert committer._commits == 1 + 3
    assert written(path) == ["leader", *(f"t{n}" for n in range(20))]


def test_alone_a_thread_does_not_wait_for_company(committer: Committer, path: Path) -> None:
    """One thread commits each operation before it goes on."""
    for n in range(5):
        assert committer.run(writes("me", n)) == n
        assert len(written(path)) == n + 1
    assert committer._commits == 5


# -- errors


def test_an_operation_that_raises_is_undone(committer: Committer, path: Path) -> None:
    """Its caller gets the very exception, nothing of it is there, and the next one works."""
    refused = Refused("me")

    def operation(connection: sqlite3.Connection) -> None:
        writes("me")(connection)
        raise refused

    with pytest.raises(Refused) as caught:
        committer.run(operation)
    assert caught.value is refused
    committer.run(writes("next"))
    assert written(path) == ["next"]


def test_an_operation_that_raises_is_undone_alone(committer: Committer, path: Path) -> None:
    """Those that share its transaction are committed, and see nothing of its error."""
    crowd = Crowd(committer)
    for name in ("a", "bad1", "b", "bad2", "bad3", "c"):
        crowd.add(name, refuses(name) if name.startswith("bad") else writes(name, 7))
    outcomes = crowd.go()
    assert [outcomes[name] for name in ("leader", "a", "b", "c")] == [None, 7, 7, 7]
    for name in ("bad1", "bad2", "bad3"):
        assert isinstance(outcomes[name], Refused)
        assert str(outcomes[name]) == name
    assert written(path) == ["leader", "a", "b", "c"]


def test_what_sqlite_refuses_reaches_its_caller_alone(committer: Committer, path: Path) -> None:
    """An SQL error is an operation's own, too."""
    crowd = Crowd(committer)
    crowd.add("a", writes("a"))
    crowd.add("bad", lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)"))
    crowd.add("b", writes("b"))
    outcomes = crowd.go()
    assert isinstance(outcomes["bad"], sqlite3.OperationalError)
    assert "nowhere" in str(outcomes["bad"])
    assert written(path) == ["leader", "a", "b"]


def test_a_commit_that_fails_fails_all_that_it_was_for(committer: Committer, path: Path) -> None:
    """COMMIT itself raises: everyone who shares it is told, nothing of it is there, and the next ones work."""
    crowd = Crowd(committer)
    crowd.add("a", writes("a"))
    crowd.add("orphan", lambda connection: connection.execute("INSERT INTO children VALUES (99)").rowcount)
    crowd.add("b", writes("b"))
    outcomes = crowd.go()
    assert outcomes["leader"] is None
    for name in ("a", "orphan", "b"):
        assert isinstance(outcomes[name], sqlite3.IntegrityError)
    committer.run(writes("next"))
    assert written(path) == ["leader", "next"]


def test_a_transaction_that_sqlite_gives_up_fails_all_of_it(committer: Committer, path: Path) -> None:
    """An error that ends the whole transaction is told to everyone in it; nobody is told that he is safe."""
    committer.run(lambda connection: connection.execute("INSERT INTO once VALUES (1)").rowcount)
    crowd = Crowd(committer)
    crowd.add("a", writes("a"))
    crowd.add("twice", lambda connection: connection.execute("INSERT INTO once VALUES (1)").rowcount)
    crowd.add("b", writes("b"))
    outcomes = crowd.go()
    assert outcomes["leader"] is None
    assert {type(outcomes[name]) for name in ("a", "twice", "b")} == {sqlite3.IntegrityError}
    committer.run(writes("next"))
    assert written(path) == ["leader", "next"]


def test_a_connection_that_cannot_be_made_fails_and_is_tried_again(path: Path) -> None:
    """Everyone who waits for it is told, and the next one tries again."""
    working = False

    def perhaps() -> sqlite3.Connection:
        if not working:
            raise sqlite3.OperationalError("not yet")
        return connect(path)

    committer = Committer(perhaps, f"{path}.lock")
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="not yet"):
            committer.run(writes("a"))
    working = True
    committer.run(writes("b"))
    assert written(path) == ["b"]
    committer.close()


def test_a_copy_into_the_file_that_fails_hurts_nobody(
    committer: Committer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reader in the way the WAL cannot be copied: what was committed is acknowledged, and copied later."""
    monkeypatch.setattr(commit, "_CHECKPOINT_EVERY", 2)
    committer.run(writes("before"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM written").fetchone() == (1,)
    for n in range(4):
        committer.run(writes(f"t{n}"))
    assert reader.execute("SELECT count(*) FROM written").fetchone() == (1,)
    reader.execute("COMMIT")
    reader.close()
    for n in range(4, 8):
        committer.run(writes(f"t{n}"))
    assert written(path) == ["before", *(f"t{n}" for n in range(8))]
    left = Path(f"{path}-wal").stat().st_size
    for n in range(40):
        committer.run(writes(f"u{n}"))
    assert Path(f"{path}-wal").stat().st_size == left, "the WAL is used again, once it was copied"


# -- a crowd


def test_a_crowd_loses_nothing(committer: Committer, path: Path, tiny_switches: None) -> None:
    """Of thousands of operations of many threads, a tenth of which raise: each is there once, or raised, never both."""
    threads, each = 16, 250
    done: list[set[int]] = [set() for _ in range(threads)]
    raised: list[set[int]] = [set() for _ in range(threads)]

    def work(number: int) -> None:
        for n in range(each):
            name = f"{number}-{n}"
            try:
                if n % 10 == 3:
                    committer.run(refuses(name))
                elif committer.run(writes(name, n)) == n:
                    done[number].add(n)
            except Refused as error:
                raised[number].add(n if str(error) == name else -1)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG)
        assert not worker.is_alive()
    expected = {n for n in range(each) if n % 10 != 3}
    assert all(found == expected for found in done)
    assert all(found == set(range(each)) - expected for found in raised)
    assert sorted(written(path)) == sorted(f"{number}-{n}" for number in range(threads) for n in expected)


# -- pause, close, hold


def test_while_it_is_paused_nobody_writes(committer: Committer, path: Path) -> None:
    """`pause` closes the files after what is under way; who comes then waits for `resume`."""
    committer.run(writes("before"))
    committer.pause()
    assert committer._connection is None
    assert committer._lock_file is None
    outcome: list[int] = []
    threads = [threading.Thread(target=lambda: outcome.append(committer.run(writes("after", 1)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(committer._queue) == 3, "three to queue")
    assert written(path) == ["before"]
    committer.resume()
    for thread in threads:
        thread.join(LONG)
    assert outcome == [1, 1, 1]
    assert written(path) == ["before", "after", "after", "after"]


def test_closing_lets_what_is_queued_end(committer: Committer, path: Path) -> None:
    """Who is at it, and who came before the close, are committed; nobody gets an error of a closed file."""
    crowd = Crowd(committer)
    crowd.add("a", writes("a"))
    closing = threading.Thread(target=committer.close)
    closing.start()
    until(lambda: len(committer._queue) == 3, "the close to queue")
    crowd.add("b", writes("b"))
    outcomes = crowd.go()
    closing.join(LONG)
    assert outcomes == {"leader": None, "a": 0, "b": 0}
    assert written(path) == ["leader", "a", "b"]


def test_an_open_transaction_keeps_others_out(committer: Committer, path: Path) -> None:
    """`hold` gives the connection in a transaction; others wait for its end, and it is there whole or not at all."""
    for commits, expected in ((False, ["other"]), (True, ["other", "held", "other"])):
        connection = committer.hold()
        writes("held")(connection)
        other = threading.Thread(target=committer.run, args=(writes("other"),))
        other.start()
        until(lambda: len(committer._queue) == 1, "the other to queue")
        committer.let_go(commit=commits)
        other.join(LONG)
        assert written(path) == expected


def test_a_thread_does_not_wait_for_itself(committer: Committer, path: Path) -> None:
    """Who has a transaction open and writes beside it gets an error at once, instead of waiting for ever."""
    committer.hold()
    for verb in (lambda: committer.run(writes("beside")), committer.hold, committer.pause, committer.close):
        with pytest.raises(StoreError, match="transaction open"):
            verb()
    committer.let_go(commit=True)
    committer.run(writes("after"))
    assert written(path) == ["after"]


def test_processes_queue_at_the_lock(committer: Committer, path: Path) -> None:
    """While another process has the lock of the file nothing is committed; then it is."""
    committer.run(writes("before"))
    other = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    writer = threading.Thread(target=committer.run, args=(writes("after"),))
    writer.start()
    until(lambda: len(committer._queue) == 1, "it to queue")
    assert written(path) == ["before"]
    fcntl.flock(other, fcntl.LOCK_UN)
    writer.join(LONG)
    os.close(other)
    assert written(path) == ["before", "after"]


# -- interrupts


def interrupt_when(condition: Callable[[], object]) -> threading.Thread:
    """Ctrl-C for the main thread, as soon as ``condition`` holds."""
    assert threading.current_thread() is threading.main_thread()

    def interrupt() -> None:
        until(condition, "the moment to interrupt")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    return thread


def test_an_interrupt_while_waiting_stops_nobody_else(committer: Committer, path: Path) -> None:
    """Who is interrupted in the queue leaves it: nobody waits for that thread to lead."""
    crowd = Crowd(committer)
    thread = interrupt_when(lambda: len(committer._queue) == 2)
    with pytest.raises(KeyboardInterrupt):
        committer.run(writes("interrupted"))
    thread.join(LONG)
    crowd.add("a", writes("a"))
    assert crowd.go() == {"leader": None, "a": 0}
    committer.run(writes("next"))
    assert written(path) == ["leader", "a", "next"]


def test_an_interrupted_leader_takes_nobody_with_it(committer: Committer, path: Path) -> None:
    """Those whose operations it had begun are served by the next one, once, and see nothing of the interrupt."""
    waiting = threading.Event()
    outcomes: list[int] = []
    others = [threading.Thread(target=lambda n=n: outcomes.append(committer.run(writes(f"t{n}", n)))) for n in range(3)]

    def operation(connection: sqlite3.Connection) -> None:
        writes("interrupted")(connection)
        waiting.set()
        assert not threading.Event().wait(LONG)

    def begin_others() -> bool:
        if waiting.is_set() and not others[0].ident:
            for other in others:
                other.start()
        return len(committer._queue) == 4

    thread = interrupt_when(begin_others)
    with pytest.raises(KeyboardInterrupt):
        committer.run(operation)
    thread.join(LONG)
    for other in others:
        other.join(LONG)
        assert not other.is_alive(), "nobody leads any more"
    assert sorted(outcomes) == [0, 1, 2]
    assert sorted(written(path)) == ["t0", "t1", "t2"]


def test_what_an_interrupted_leader_has_committed_is_not_done_again(
    committer: Committer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt after COMMIT: the others are told that they are there, and are there once."""

    def interrupted(connection: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    crowd = Crowd(committer)
    for n in range(3):
        crowd.add(f"t{n}", writes(f"t{n}", n))
    monkeypatch.setattr(commit, "_CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(commit, "checkpoint", interrupted)
    outcomes = crowd.go()
    assert isinstance(outcomes["t0"], KeyboardInterrupt)  # the leader of the second transaction
    assert (outcomes["t1"], outcomes["t2"]) == (1, 2)
    assert written(path) == ["leader", "t0", "t1", "t2"]


# -- with a store


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Everyone who was being committed gets a StoreError that names the file; with room again the store goes on."""
    code = """
        import resource
        store = SQLiteStore(sys.argv[1])
        store.submit(new_run())
        size = os.path.getsize(sys.argv[1] + "-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 400_000, resource.RLIM_INFINITY))
        acknowledged, failures, lock = [], [], threading.Lock()

        def fill(number):
            for n in range(1000):
                path = f"{number}-{n}"
                try:
                    store.record("r1", 1, [row(path, 1000 * number + n, output="x" * 5000)])
                except Exception as error:
                    with lock:
                        failures.append([type(error).__name__, str(error)])
                    return
                with lock:
                    acknowledged.append(path)

        threads = [threading.Thread(target=fill, args=(number,)) for number in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        found = [step.path for step in store.steps("r1")]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.record("r1", 1, [row("after")])
        store.finish("r1", 1, "completed", None, None)
        say([acknowledged, found, failures, [step.path for step in store.steps("r1")], store.run("r1").status])
    """
    file = tmp_path / "runs.db"
    with program(code, file) as filler:
        acknowledged, found, failures, after, status = filler.answer()
        assert filler.end() == 0
    assert len(acknowledged) > 20
    assert sorted(found) == sorted(acknowledged)
    assert len(failures) == 6
    for kind, message in failures:
        assert kind == "StoreError"
        assert str(file) in message
    assert sorted(after) == sorted([*acknowledged, "after"])
    assert status == "completed"
    store = SQLiteStore(file)
    assert sorted(paths(store)) == sorted(after)
    store.close()


def test_a_fork_among_writers_loses_nothing(tmp_path: Path) -> None:
    """Threads write while the process forks; parent and children both go on with the store they have."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())
        stop, counts = threading.Event(), [0] * 4

        def write(number):
            while not stop.is_set():
                store.record("r1", 1, [row(f"{number}-{counts[number]}", 100_000 * number + counts[number])])
                counts[number] += 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        [thread.start() for thread in threads]
        codes = []
        for n in range(8):
            before = sum(counts)
            while sum(counts) < before + 20:
                time.sleep(0.001)
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    assert store.run("r1").alive
                    store.submit(new_run(f"child{n}"))
                    store.record(f"child{n}", 1, [row("a")])
                    store.finish(f"child{n}", 1, "completed", None, None)
                    code = 0
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.set()
        [thread.join() for thread in threads]
        say([codes, counts])
    """
    with program(code, tmp_path / "runs.db") as forking:
        codes, counts = forking.answer()
        assert forking.end() == 0
    assert codes == [0] * 8
    store = SQLiteStore(tmp_path / "runs.db")
    assert sorted(paths(store)) == sorted(f"{number}-{n}" for number, count in enumerate(counts) for n in range(count))
    assert {run.status for run in store.runs() if run.run_id != "r1"} == {"completed"}
    assert len(store.runs()) == 9
    store.close()


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(tmp_path: Path) -> None:
    """The thread that has a transaction open forks: the child's end does not end it."""
    code = """
        store = SQLiteStore(sys.argv[1])
        store.submit(new_run())
        transaction = store.begin("r1", 1)
        transaction.execute("CREATE TABLE mine (n)")
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        transaction.execute("INSERT INTO mine VALUES (1)")
        transaction.commit([row("a")])
        store.record("r1", 1, [row("b", 2)])
        say([[step.path for step in store.steps("r1")]])
    """
    with program(code, tmp_path / "runs.db") as forking:
        assert forking.answer() == [["a", "b"]]
        assert forking.end() == 0
    connection = sqlite3.connect(tmp_path / "runs.db")
    assert connection.execute("SELECT n FROM mine").fetchall() == [(1,)]
    connection.close()


def test_threads_of_a_store_share_syncs(open_sqlite: Any) -> None:
    """Many threads that record at once need far fewer transactions than they have records."""
    store = open_sqlite(durability="power")
    store.submit(new_run())
    committer = store._committer
    before = committer._commits
    committer._take_lead()
    threads = [threading.Thread(target=store.record, args=("r1", 1, [row(f"p{n}", n)])) for n in range(40)]
    for thread in threads:
        thread.start()
    until(lambda: len(committer._queue) == 40, "all to queue")
    committer._hand_on([])
    for thread in threads:
        thread.join(LONG)
    assert committer._commits == before + 1
    assert len(paths(store)) == 40
