"""The SQLite file: its schema and upgrades, what is no store, what a commit costs, and who else has it open."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from store.records import LONG, die, new_run, paths, program, row, until
from store.schemas import fixture, make_from, newest, shape_of
from workflow_runner.errors import RunOwned, StoreError
from workflow_runner.store import commit, open_store, schema
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def written(file: Path) -> Path:
    """A store with some runs, closed."""
    store = SQLiteStore(file)
    for n in range(40):
        store.submit(new_run(f"r{n}", input="x" * 500))
        store.record(f"r{n}", 1, [row(f"p{m}", m, output="y" * 2000) for m in range(10)])
    store.close()
    return file


def beside(file: Path) -> set[str]:
    return {found.name for found in file.parent.iterdir()}


# -- the schema


def test_migrations_are_numbered_without_a_gap() -> None:
    """1, 2, 3 ... in the order in which they are applied."""
    assert [number for number, _ in schema.migrations()] == list(range(1, newest() + 1))


@pytest.mark.parametrize("number", range(1, newest() + 1))
def test_a_migrated_schema_equals_a_fresh_one(number: int, tmp_path: Path) -> None:
    """A file of every schema there ever was becomes what a new file is, and keeps what it has."""
    assert fixture(number).exists(), "a new schema needs its fixture: cd tests; python -m store.schemas"
    old, fresh = tmp_path / "old.db", tmp_path / "fresh.db"
    make_from(number, old)
    SQLiteStore(fresh).close()
    store = SQLiteStore(old)
    assert {run.run_id for run in store.runs()} == {"completed", "failed", "cancelled", "pending", "running"}
    for run in store.runs():
        assert (run.status, run.flow, run.idem_key, run.fence) == (run.run_id, "f", run.run_id, 1)
        assert paths(store, run.run_id) == ["a", "b/items[0]", "b"]
        assert [noted[0] for noted in store.attempts(run.run_id)] == ["c"]
        assert not run.alive
    claimed = store.claim("running")
    store.record("running", claimed.fence, [row("c", 4)])
    store.close()
    assert shape_of(old) == shape_of(fresh)


SECOND = """
-- a comment; with a semicolon
ALTER TABLE runs ADD COLUMN note TEXT DEFAULT 'none; yet';
CREATE TABLE notes (run_id TEXT REFERENCES runs (run_id) ON DELETE CASCADE, note TEXT);
CREATE TRIGGER noted AFTER INSERT ON notes BEGIN
    UPDATE runs SET note = new.note WHERE run_id = new.run_id;
    UPDATE runs SET note = note || ';' WHERE run_id = new.run_id;
END;
"""


def with_migrations(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    known = schema.migrations()
    added = [(newest() + 1 + n, sql) for n, sql in enumerate(more)]
    monkeypatch.setattr(schema, "migrations", lambda: [*known, *added])


def test_a_file_is_upgraded_when_it_is_opened(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a migration more the file becomes what a new one is, triggers and all, and keeps what it has."""
    with monkeypatch.context() as future:
        with_migrations(future, SECOND)
        store = SQLiteStore(written)
        assert len(store.runs()) == 40
        store.close()
        SQLiteStore(written.parent / "fresh.db").close()
        assert shape_of(written) == shape_of(written.parent / "fresh.db")
        assert shape_of(written)["user_version"] == (newest(),)


def test_a_newer_file_is_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to a file that a newer version of the library has upgraded; both numbers are named."""
    with monkeypatch.context() as future:
        with_migrations(future, SECOND)
        SQLiteStore(written).close()
    before = written.read_bytes()
    with pytest.raises(StoreError, match=f"{written} has schema {newest() + 1}.*up to {newest()}"):
        SQLiteStore(written)
    assert written.read_bytes() == before


def test_an_upgrade_that_fails_changes_nothing(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two migrations is undone with the second; the file still serves those who know no more."""
    before = shape_of(written)
    with monkeypatch.context() as future:
        with_migrations(future, SECOND, "CREATE TABLE fine (a);\nINSERT INTO nowhere VALUES (1);")
        with pytest.raises(StoreError, match=f"{written}.*nowhere"):
            SQLiteStore(written)
    assert shape_of(written) == before
    store = SQLiteStore(written)
    assert len(store.runs()) == 40
    store.close()


def test_processes_that_come_together_make_and_upgrade_a_file_once(tmp_path: Path) -> None:
    """Four processes open one file at the same moment, again and again: each can use it, and it is made once."""
    code = """
        from workflow_runner.store import schema
        known, files = schema.migrations(), sys.argv[3:]
        schema.migrations = lambda: [*known, (known[-1][0] + 1, "CREATE TABLE later (a);")] if later else known
        say("ready")
        for later in (False, True):
            for file in files:
                wait()
                store = SQLiteStore(file, durability="process")
                store.submit(new_run(f"{sys.argv[1]}-{later}"))
                store.close()
                say("done")
    """
    files = [tmp_path / f"{n}.db" for n in range(12)]
    starts = [program(code, n, "", *files) for n in range(4)]
    openers = [start.__enter__() for start in starts]
    try:
        for opener in openers:
            assert opener.answer() == "ready"
        for _ in range(2 * len(files)):
            for opener in openers:
                opener.go()
            for opener in openers:
                assert opener.answer() == "done"
    finally:
        for start in starts:
            start.__exit__(None, None, None)
    for path in files:
        shape = shape_of(path)
        assert shape["user_version"] == (newest() + 1,)
        assert "table later" in shape
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (8,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


# -- what is no store


def refused(file: Path, match: str | None = None) -> None:
    """Opening ``file`` gives a StoreError that names it, and nothing of it has changed."""
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(StoreError, match=match) as caught:
        SQLiteStore(file)
    assert str(file) in str(caught.value)
    assert (file.read_bytes() if file.is_file() else None) == before


def test_a_file_that_is_no_database_is_refused(file: Path) -> None:
    """It is named and left as it is, with nothing put beside it."""
    file.write_text("region,sales\nEU,5\n" * 1000)
    refused(file, "not a database")
    assert beside(file) == {"runs.db"}


@pytest.mark.parametrize("mark", [0, 0x12345678])
def test_the_database_of_somebody_else_is_refused(file: Path, mark: int) -> None:
    """Whether it says whose it is, or only has tables; it is left as it is, with nothing put beside it."""
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA application_id = {mark}")
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    refused(file, "no store of workflow_runner")
    assert beside(file) == {"runs.db"}


def test_an_empty_file_becomes_a_store(file: Path) -> None:
    """As ``mktemp`` makes it."""
    file.touch()
    store = SQLiteStore(file)
    assert store.submit(new_run())[1]
    store.close()


@pytest.mark.parametrize("left", [50, 100, 2000, 4096, 20_000, "half", "all but one page"])
def test_a_truncated_file_is_refused(written: Path, left: Any) -> None:
    """However much of it is left; what is left is not touched."""
    size = written.stat().st_size
    sizes = {"half": size // 2, "all but one page": size - 4096}
    os.truncate(written, sizes.get(left, left))
    refused(written)


def test_damage_inside_is_a_store_error(written: Path) -> None:
    """What cannot be read is not taken for what is not there."""
    content = written.read_bytes()
    connection = sqlite3.connect(written)
    [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'steps'")
    connection.close()
    written.write_bytes(content[: (root - 1) * 4096] + b"\xaa" * 4096 + content[root * 4096 :])
    store = SQLiteStore(written)
    with pytest.raises(StoreError, match=str(written)):
        store.steps("r1")
    fence = store.claim("r1").fence
    with pytest.raises(StoreError, match=str(written)):
        store.record("r1", fence, [row("x")])
    assert len(store.runs()) == 40
    store.close()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """It is named, and nothing is put beside it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(folder)
    assert beside(folder) == {"folder"}


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """A misspelled folder is an error and no new empty store."""
    refused(tmp_path / "missing" / "runs.db")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_store_is_refused(shared_folder: Path, what: str) -> None:
    """A file that may not be written, or stands in a folder that may not, is named; nothing is lost."""
    file = shared_folder / "runs.db"
    store = SQLiteStore(file)
    store.submit(new_run())
    store.close()
    if what == "folder":
        file.chmod(0o666)
    else:
        shared_folder.chmod(0o777)
        file.chmod(0o444)
    code = """
        from importlib import resources
        from workflow_runner.store import schema
        known = schema.migrations()
        schema.migrations = lambda: known
        if os.getuid() == 0:
            os.setuid(65534)  # the superuser may write anything
        try:
            SQLiteStore(sys.argv[1])
            say(["opened", ""])
        except Exception as error:
            say([type(error).__name__, str(error)])
    """
    if os.geteuid() != 0:
        shared_folder.chmod(0o555 if what == "folder" else 0o777)
    with program(code, file) as reader:
        kind, message = reader.answer()
    shared_folder.chmod(0o755)
    assert kind == "StoreError"
    assert str(file) in message
    store = SQLiteStore(file)
    assert store.run("r1").status == "running"
    store.close()


def test_a_locked_file_is_a_store_error(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a tool that knows nothing of us is writing, who writes is told so, who reads is not; then all is well."""
    monkeypatch.setattr(commit, "BUSY", 0.05)
    store = SQLiteStore(written)
    store.submit(new_run("new"))
    tool = sqlite3.connect(written, isolation_level=None)
    tool.execute("BEGIN IMMEDIATE")
    for verb in (
        lambda: store.record("new", 1, [row("a")]),
        lambda: store.submit(new_run("newer")),
        lambda: store.begin("new", 1),
        lambda: store.prune(),
    ):
        with pytest.raises(StoreError, match=f"{written}.*locked"):
            verb()
    other = SQLiteStore(written)
    assert other.run("new").alive
    other.close()
    tool.execute("ROLLBACK")
    tool.close()
    store.record("new", 1, [row("a")])
    assert paths(store, "new") == ["a"]
    assert len(store.runs()) == 41
    store.close()


def test_a_store_that_cannot_be_opened_leaves_nothing_open(file: Path) -> None:
    """The file can be removed, and nothing of this process holds it."""
    file.write_text("no database at all, but long enough to be looked at closely" * 10)
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    for _ in range(3):
        refused(file)
    assert len(os.listdir("/proc/self/fd") if before else []) <= len(before)


def test_the_owners_folder_that_cannot_be_made_is_a_store_error(file: Path) -> None:
    """A file in its place is an error that names the store, before anything is written."""
    store = SQLiteStore(file)
    Path(f"{file}.owners").touch()
    with pytest.raises(StoreError, match=str(file)):
        store.submit(new_run())
    with pytest.raises(StoreError, match=str(file)):
        store.claim("r1")
    assert store.runs() == []
    Path(f"{file}.owners").unlink()
    assert store.submit(new_run())[0].alive
    store.close()


def test_a_value_that_does_not_fit_is_a_store_error(file: Path) -> None:
    """What the schema refuses is undone, and does not cost the process its name among the owners."""
    store = SQLiteStore(file)
    with pytest.raises(StoreError, match=r"CHECK|NOT NULL"):
        store.submit(new_run("bad", input=None))
    assert store.submit(new_run("good"))[0].alive
    with pytest.raises(StoreError, match="CHECK"):
        store.record("good", 1, [row("a", 1), row("b", 2, status="unknown")])
    with pytest.raises(StoreError, match="CHECK"):
        store.finish("good", 1, "unknown", None, None)
    assert (paths(store, "good"), store.run("good").status) == ([], "running")
    store.close()


# -- what a commit costs


@pytest.mark.parametrize(("durability", "expected"), [("power", 1), ("process", 0)])
def test_a_sequential_step_costs_one_sync(file: Path, durability: str, expected: int) -> None:
    """With "power" each recorded step is synced once, and with "process" never; so are begin and end of a run."""
    code = """
        from store import syncs
        syncs.install()
        counts = []

        def step(context):
            counts.append(len(syncs.syncs))
            return {"n": len(counts)}

        nightly = Workflow("nightly", steps=[Step(f"s{n}", step) for n in range(20)])
        with Scope(store=f"sqlite:///{sys.argv[1]}?durability={sys.argv[2]}") as scope:
            scope.run(nightly)
            counts.clear()
            begun = len(syncs.syncs)
            scope.run(nightly)
            ended = len(syncs.syncs)
        say([counts[0] - begun, [b - a for a, b in zip(counts, counts[1:])], ended - counts[-1]])
    """
    with program(code, file, durability) as counter:
        begin, steps, end = counter.answer()
    assert begin == expected
    assert steps == [expected] * 19
    assert end == 2 * expected  # the last step and the run


def test_a_fan_out_shares_syncs(file: Path) -> None:
    """A hundred items cost a few syncs, and not a hundred."""
    code = """
        from store import syncs
        syncs.install()

        @flow
        def item(ctx, n):
            return n

        @flow
        def fan_out(ctx, n):
            before = len(syncs.syncs)
            assert ctx.parallel(item.each(range(n))) == list(range(n))
            return len(syncs.syncs) - before

        with Scope(store=f"sqlite:///{sys.argv[1]}") as scope:
            say(scope.run(fan_out, 100))
    """
    with program(code, file) as counter:
        assert 1 <= counter.answer() <= 20


def test_a_new_file_has_a_grown_wal(file: Path) -> None:
    """The first commits of a new store do not pay for a WAL that grows."""
    store = SQLiteStore(file)
    before = Path(f"{file}-wal").stat().st_size
    assert before >= 300 * 4096
    store.submit(new_run())
    for n in range(150):
        store.record("r1", 1, [row(f"p{n}", n)])
    assert Path(f"{file}-wal").stat().st_size == before
    store.close()


def test_the_wal_does_not_grow_for_ever(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied into the file every so often, and then used again."""
    monkeypatch.setattr(commit, "_CHECKPOINT_EVERY", 20)
    store = SQLiteStore(file, durability="process")
    before = Path(f"{file}-wal").stat().st_size
    for n in range(1000):
        store.submit(new_run(f"r{n}", input="x" * 2000))
    assert Path(f"{file}-wal").stat().st_size == before
    assert file.stat().st_size > 2_000_000
    store.close()


@pytest.mark.parametrize(
    "question",
    [
        lambda store: store.run("r1"),
        lambda store: store.find("f", "k"),
        lambda store: store.steps("r1"),
        lambda store: store.attempts("r1"),
        lambda store: store.cancel_requests(["r1", "r2"]),
        lambda store: store.runs(flow="f"),
        lambda store: store.runs(status="running"),
        lambda store: store.runs(flow="f", status="running"),
        lambda store: store.runs(limit=50, brief=True),
        lambda store: store.runs(since=1.0, partition="p"),
        lambda store: store.flows(),
    ],
)
def test_questions_are_answered_from_indices(file: Path, question: Callable[[Any], Any]) -> None:
    """No table is read from end to end, however many runs there are."""
    store = SQLiteStore(file)
    store.submit(new_run("r1", idem_key="k"))
    asked: list[str] = []
    store.runs()
    store._reader.set_trace_callback(asked.append)
    question(store)
    store._reader.set_trace_callback(None)
    assert asked
    connection = sqlite3.connect(file)
    for sql in asked:
        plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert plan
        assert any(detail.startswith("SEARCH") for detail in plan), plan
        assert not any(re.match(r"SCAN (TABLE )?(runs|steps|attempts)", detail) for detail in plan), plan
    connection.close()
    store.close()


@pytest.mark.parametrize("verb", ["submit", "claim", "record", "attempt", "finish", "forget"])
def test_writes_find_their_rows_by_indices(file: Path, verb: str) -> None:
    """No verb that a run needs reads a table from end to end."""
    store = SQLiteStore(file)
    store.submit(new_run("r1"))
    store.release("r1", 1)
    store.claim("r1")
    asked: list[str] = []
    store._committer._connection.set_trace_callback(asked.append)
    if verb == "submit":
        store.submit(new_run("r2", idem_key="k"))
    elif verb == "claim":
        store.release("r1", 2)
        store.claim("r1")
    else:
        {
            "record": lambda: store.record("r1", 2, [row("a")]),
            "attempt": lambda: store.attempt("r1", 2, "a", 1, 1.0, None),
            "finish": lambda: store.finish("r1", 2, "completed", None, None),
            "forget": lambda: store.forget("r1", 2, ["a"]),
        }[verb]()
    store._committer._connection.set_trace_callback(None)
    connection = sqlite3.connect(file)
    looked = [sql for sql in asked if sql.split()[0] in ("SELECT", "INSERT", "UPDATE", "DELETE")]
    assert looked
    for sql in looked:
        plan = [detail for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert not [detail for detail in plan if detail.startswith("SCAN") and "CONSTANT" not in detail], (sql, plan)
    connection.close()
    store.close()


def test_others_write_while_much_is_pruned(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are deleted in turns: between two of them another process writes, and may go on with what was to go."""
    monkeypatch.setattr("workflow_runner.store.sqlite._TURN", 0.0)  # one run in a turn
    store, other = (SQLiteStore(file, durability="process") for _ in range(2))
    for n in range(5):
        store.submit(new_run(f"r{n}"))
        store.finish(f"r{n}", 1, "completed", None, None)
    seen: list[int] = []

    def between(_: float) -> None:
        if not seen:
            other.claim("r4")
        seen.append(len(other.runs()))

    monkeypatch.setattr(time, "sleep", between)
    assert store.prune() == 4
    assert seen == [4, 3, 2, 1, 1]
    assert [run.run_id for run in store.runs()] == ["r4"]
    store.close()
    other.close()


def test_pruned_space_is_used_again_or_given_back(file: Path) -> None:
    """After a prune the space is free inside the file, the WAL stays small, and vacuum gives both back."""
    store = SQLiteStore(file, durability="process")
    for n in range(40):
        store.submit(new_run(f"r{n}", input="x" * 100_000))
        store.finish(f"r{n}", 1, "completed", None, None)
    full = store.usage()
    store.prune()
    pruned = store.usage()
    assert pruned.used < full.used / 10
    assert pruned.free > full.used / 2
    store.vacuum()
    assert store.usage().used <= pruned.used + 2**17
    assert file.stat().st_size < full.used
    assert Path(f"{file}-wal").stat().st_size < full.used
    store.close()


def test_dead_owners_of_nothing_are_forgotten(file: Path) -> None:
    """A prune takes the owners of no run with it; one that lives becomes an owner again with its next run."""
    store = SQLiteStore(file, durability="process")
    for n in range(3):
        store.submit(new_run(f"r{n}"))
        store.finish(f"r{n}", 1, "completed", None, None)
        die(store)
    store.submit(new_run("mine"))
    store.prune()
    assert store._read("SELECT count(*) FROM owners") == [(1,)]
    store.finish("mine", 1, "completed", None, None)
    store.prune()
    assert store._read("SELECT count(*) FROM owners") == [(0,)]
    store.submit(new_run("again"))
    assert store.run("again").alive
    store.close()


def test_pruning_looks_at_each_run_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as many runs cost ten times the work, and not a hundred times."""
    store = SQLiteStore(file, durability="process")

    def steps_of_work(runs: int) -> int:
        monkeypatch.setattr(time, "time", lambda: 1000.0)
        store._write(lambda connection: [insert(connection, n) for n in range(runs)])
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        store._committer._connection.set_progress_handler(tick, 100)
        assert store.prune(keep_last=3) == runs - 3
        store._committer._connection.set_progress_handler(None, 0)
        store.prune()
        return count

    def insert(connection: sqlite3.Connection, n: int) -> None:
        connection.execute(
            "INSERT INTO runs (run_id, flow, input, input_hash, status, created_at, finished_at)"
            " VALUES (?, 'f', '1', 'h', 'completed', ?, ?)",
            (f"r{n}", n, n),
        )

    assert steps_of_work(2000) < 20 * steps_of_work(200)
    store.close()


# -- who else has it open


def test_readers_are_not_blocked_by_a_writer(file: Path) -> None:
    """Every question is answered while somebody has a transaction open, from what was acknowledged before it."""
    store, other = SQLiteStore(file), SQLiteStore(file)
    store.submit(new_run("r1", idem_key="k"))
    transaction = store.begin("r1", 1)
    transaction.execute("CREATE TABLE mine (n)")
    transaction.execute("DELETE FROM runs")
    for one in (store, other):
        assert one.run("r1").alive
        assert one.find("f", "k").run_id == "r1"
        assert (one.steps("r1"), one.attempts("r1"), len(one.runs())) == ([], [], 1)
    transaction.rollback()
    store.record("r1", 1, [row("a")])
    assert paths(other) == ["a"]
    store.close()
    other.close()


def test_writers_are_not_blocked_by_a_reader(file: Path) -> None:
    """A long read of somebody else keeps nobody from writing."""
    store = SQLiteStore(file)
    store.submit(new_run())
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM runs").fetchall()
    for n in range(600):
        store.record("r1", 1, [row(f"p{n}", n)])
    assert reader.execute("SELECT count(*) FROM steps").fetchone() == (0,)
    reader.close()
    assert len(paths(store)) == 600
    store.close()


def test_a_store_is_the_same_by_every_name_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a link to the file or to its folder, or by a relative path, a living owner is seen as living."""
    (tmp_path / "real").mkdir()
    store = SQLiteStore(tmp_path / "real" / "runs.db")
    store.submit(new_run())
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "runs.db")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for name in ("link.db", "folder/runs.db", "real/../real/runs.db"):
        other = SQLiteStore(name)
        with pytest.raises(RunOwned):
            other.claim("r1")
        assert other.submit(new_run(name))[0].alive
        assert store.run(name).alive
        other.close()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "link.db", "real"]
    monkeypatch.chdir("/")
    assert store.submit(new_run("elsewhere"))[1]
    store.close()


def test_a_store_made_by_one_user_is_read_with_its_rights(file: Path) -> None:
    """Files are made with the rights that the process gives to files."""
    before = os.umask(0o077)
    try:
        store = SQLiteStore(file)
        store.submit(new_run())
    finally:
        os.umask(before)
    for found in file.parent.iterdir():
        assert stat.S_IMODE(found.stat().st_mode) & 0o077 == 0, found
    store.close()


def test_threads_that_write_first_at_once_are_one_owner(file: Path, together: Any) -> None:
    """The first runs of a process, submitted at the same moment, all have its living owner."""
    for _ in range(20):
        store = SQLiteStore(file, durability="process")
        outcomes = together(*(lambda n=n, store=store: store.submit(new_run(f"r{n}"))[0] for n in range(8)))
        assert [run.alive for run in outcomes] == [True] * 8
        assert len({run.owner for run in outcomes}) == 1
        for run in outcomes:
            store.finish(run.run_id, 1, "completed", None, None)
        store.prune()
        store.close()


def test_two_that_look_at_once_see_the_same(file: Path) -> None:
    """Whether an owner lives is seen by any number at once: nobody takes another one's look for the owner."""
    stores = [SQLiteStore(file, durability="process") for _ in range(2)]
    dead = SQLiteStore(file, durability="process")
    for n in range(30):
        dead.submit(new_run(f"r{n}"))
        die(dead)
    wrong: list[str] = []

    def look(store: SQLiteStore) -> None:
        for _ in range(20):
            wrong.extend(run.run_id for run in store.runs() if run.alive)

    threads = [threading.Thread(target=look, args=(store,)) for store in stores * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert wrong == []
    for store in (*stores, dead):
        store.close()


def test_closing_waits_for_nobody_and_breaks_nothing(file: Path) -> None:
    """A close beside threads that write: what they were told is written is written."""
    store = SQLiteStore(file, durability="process")
    store.submit(new_run())
    told: list[str] = []
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            store.record("r1", 1, [row(f"p{n}", n)])
            told.append(f"p{n}")

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        seen = len(told)
        until(lambda seen=seen: len(told) > seen, "a row")
        store._committer.close()
    stop.set()
    thread.join(LONG)
    assert paths(store) == told
    store.close()


def test_a_killed_process_loses_nothing_that_it_was_told(file: Path) -> None:
    """SIGKILL among writing threads: every acknowledged row is there, and the file is whole."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run())

        def write(number):
            for n in range(100_000):
                store.record("r1", 1, [row(f"{number}-{n}", n)])
                os.write(1, f'"{number}-{n}"\\n'.encode())

        for number in range(4):
            threading.Thread(target=write, args=(number,), daemon=True).start()
        time.sleep(3600)
    """
    with program(code, file) as writer:
        told = [writer.answer() for _ in range(200)]
        writer.process.kill()
        told += [line.strip().strip('"') for line in writer.process.stdout if line.endswith('"\n')]
        assert writer.end() == -9
    store = SQLiteStore(file)
    found = set(paths(store))
    assert set(told) <= found
    assert len(found) <= len(told) + 4
    assert store.run("r1").crashed
    assert store._read("PRAGMA integrity_check") == [("ok",)]
    store.close()


# -- a step's own writes


def test_a_transaction_is_there_with_its_record(file: Path) -> None:
    """What was executed and the record are committed together."""
    store = SQLiteStore(file)
    store.submit(new_run())
    transaction = store.begin("r1", 1)
    transaction.execute("CREATE TABLE mine (n)")
    transaction.execute("INSERT INTO mine VALUES (?)", (7,))
    assert transaction.execute("SELECT n FROM mine").fetchall() == [(7,)]
    transaction.commit([row("a")])
    assert paths(store) == ["a"]
    assert store._read("SELECT n FROM mine") == [(7,)]
    for verb in (lambda: transaction.execute("SELECT 1"), lambda: transaction.commit([])):
        with pytest.raises(StoreError, match="has ended"):
            verb()
    transaction.rollback()
    store.close()


def test_a_transaction_without_its_record_is_nothing(file: Path) -> None:
    """Rolled back, or committed without owning the run: nothing of it is there, and others can write."""
    store = SQLiteStore(file)
    store.submit(new_run())
    for how in ("rolled back", "refused"):
        transaction = store.begin("r1", 1)
        transaction.execute("CREATE TABLE mine (n)")
        if how == "rolled back":
            transaction.rollback()
        else:
            with pytest.raises(StoreError, match="CHECK"):
                transaction.commit([row("a", status="unknown")])
        assert paths(store) == []
        with pytest.raises(StoreError, match="no such table"):
            store._read("SELECT n FROM mine")
    transaction = store.begin("r1", 99)
    transaction.execute("CREATE TABLE mine (n)")
    with pytest.raises(StoreError, match="taken over"):
        transaction.commit([row("a")])
    store.record("r1", 1, [row("b")])
    assert paths(store) == ["b"]
    store.close()


def test_a_transaction_for_what_was_recorded_before_is_nothing(file: Path) -> None:
    """Its writes would be there twice: the record that is there counts, and its writes."""
    store = SQLiteStore(file)
    store.submit(new_run())
    for n in range(2):
        transaction = store.begin("r1", 1)
        transaction.execute("CREATE TABLE IF NOT EXISTS mine (n)")
        transaction.execute("INSERT INTO mine VALUES (?)", (n,))
        assert transaction.commit([row("a", output=str(n))]) == 1 - n
    assert store._read("SELECT n FROM mine") == [(0,)]
    assert [step.output for step in store.steps("r1")] == ["0"]
    store.close()


@pytest.mark.parametrize("sql", ["COMMIT", "commit;", "/* c */ COMMIT", "ROLLBACK", " end ;", "BEGIN", "-- c\nEND"])
def test_a_transaction_is_not_ended_by_its_step(file: Path, sql: str) -> None:
    """However it is spelled; the transaction goes on."""
    store = SQLiteStore(file)
    store.submit(new_run())
    transaction = store.begin("r1", 1)
    transaction.execute("CREATE TABLE mine (n)")
    with pytest.raises(StoreError, match="do not end it yourself"):
        transaction.execute(sql)
    transaction.execute("INSERT INTO mine VALUES (1)")
    transaction.commit([row("a")])
    assert store._read("SELECT n FROM mine") == [(1,)]
    store.close()


def test_a_transaction_may_have_savepoints(file: Path) -> None:
    """A part of a step's writes can be undone."""
    store = SQLiteStore(file)
    store.submit(new_run())
    transaction = store.begin("r1", 1)
    transaction.execute("CREATE TABLE mine (n)")
    transaction.execute("SAVEPOINT part")
    transaction.execute("INSERT INTO mine VALUES (1)")
    transaction.execute("ROLLBACK TO part")
    transaction.execute("RELEASE part")
    transaction.execute("INSERT INTO mine VALUES (2)")
    transaction.commit([row("a")])
    assert store._read("SELECT n FROM mine") == [(2,)]
    store.close()


# -- URLs


@pytest.mark.parametrize(
    "name", ["runs.db", "my runs.db", "50%25 done#1.db", "ümlaut.db", "a=b&c.db", "folder/../runs.db"]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_the_path_of_a_url_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absolute: bool
) -> None:
    """Relative after three slashes, absolute after four, whatever characters it has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    store = open_store(f"sqlite:///{tmp_path}/{name}" if absolute else f"sqlite:///{name}")
    assert isinstance(store, SQLiteStore)
    assert (tmp_path / name).exists()
    assert store.path == (tmp_path / name).resolve()
    store.close()
    again = open_store(store.url)
    assert again.path == store.path  # type: ignore[attr-defined]
    again.close()


@pytest.mark.parametrize("durability", ["power", "process"])
def test_a_url_says_how_durable_it_is(file: Path, durability: str) -> None:
    """``?durability=``; "power" without it; the store's own URL says it again."""
    store = open_store(f"sqlite:///{file}?durability={durability}")
    assert store.durability == durability  # type: ignore[attr-defined]
    assert open_store(store.url).durability == durability  # type: ignore[attr-defined]
    store.close()
    default = open_store(f"sqlite:///{file}")
    assert default.durability == "power"  # type: ignore[attr-defined]
    default.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///{folder}/a.db?durability=often", "'power' or 'process'.*'often'"),
        ("sqlite:///{folder}/a.db?durability=", "'power' or 'process'"),
        ("sqlite:///{folder}/a.db?mode=ro&durability=power", "unknown option mode; there are durability and network"),
        ("sqlite://a.db", "sqlite:///file.db"),
        ("sqlite:///", "sqlite:///file.db"),
        ("sqlite:///:memory:", "memory:"),
        ("a.db", "sqlite:///file.db"),
        ("", "sqlite:///file.db"),
        ("mysql://host/db", "mysql://host/db.*sqlite:///file.db"),
        ("memory", "memory:"),
    ],
)
def test_a_url_that_is_wrong_says_what_is_right(tmp_path: Path, url: str, message: str) -> None:
    """StoreError, and no file appears anywhere."""
    with pytest.raises(StoreError, match=message):
        open_store(url.format(folder=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_memory_stores_are_apart() -> None:
    """Each ``memory:`` is a store of its own."""
    one, two = open_store("memory:"), open_store("memory:")
    assert isinstance(one, MemoryStore)
    one.submit(new_run())
    assert two.runs() == []
