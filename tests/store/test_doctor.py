"""The examination of a store: what is seen, what it means, and the little that is mended."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from store.records import new_run, program
from workflow_runner.cli.locks import take
from workflow_runner.errors import StoreError
from workflow_runner.store import filesystem, open_store
from workflow_runner.store.doctor import MB, Content, Facts, Finding, Level, judge, look, mend, size
from workflow_runner.store.sqlite import SQLiteStore

WELL = Facts(
    path=Path("/data/runs.db"),
    folder=True,
    exists=True,
    writable=True,
    ours=True,
    content=Content(
        schema=2,
        journal_mode="wal",
        damage=(),
        used=5 * MB,
        free=0,
        runs={"completed": 3, "failed": 1},
        crashed=(),
        newest=2e9 - 60,
    ),
    kind="ext4",
    disk_free=10_000 * MB,
    size=5 * MB,
    wal_size=MB,
    sqlite=(3, 40, 1),
    now=2e9,
    written=2e9,
    owners=1,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with a run that has completed."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    store.submit(new_run())
    store.finish("r1", 1, "completed", None, None)
    store.close()
    return tmp_path / "runs.db"


def found(facts: Facts) -> dict[str, Finding]:
    return {finding.name: finding for finding in judge(facts)}


def content(**changes: Any) -> dict[str, Any]:
    assert WELL.content is not None
    return {"content": attrs.evolve(WELL.content, **changes)}


# -- judging


def test_a_healthy_store_has_no_trouble() -> None:
    """Everything is looked at, nothing is found, and the bug of the library that is avoided is named."""
    findings = found(WELL)
    assert {finding.level for finding in findings.values()} == {Level.OK}
    names = ["store", "file system", "schema", "integrity", "journal", "disk", "SQLite", "clock", "owners"]
    assert list(findings) == names
    assert findings["store"].what == "/data/runs.db, 5 MB; runs: 3 completed, 1 failed"
    assert "WAL-reset bug" in findings["SQLite"].what
    assert "WAL-reset" not in found(attrs.evolve(WELL, sqlite=(3, 51, 3)))["SQLite"].what


@pytest.mark.parametrize(
    ("changes", "name", "level", "what"),
    [
        ({"folder": False, "exists": False, "content": None}, "store", Level.PROBLEM, "its folder is not there"),
        ({"exists": False, "content": None}, "store", Level.PROBLEM, "is not there"),
        ({"error": "disk I/O error", "content": None}, "store", Level.PROBLEM, "disk I/O error"),
        ({"ours": False, "content": None}, "store", Level.PROBLEM, "of another program"),
        ({"writable": False}, "store", Level.PROBLEM, "cannot be written"),
        ({"kind": "nfs4", "refused": True, "content": None}, "file system", Level.PROBLEM, "nfs4, over a network"),
        (content(schema=1), "schema", Level.WARNING, "to be brought to 2"),
        (content(schema=9), "schema", Level.PROBLEM, "newer than 2"),
        (content(damage=("row 7 missing\nfrom index",)), "integrity", Level.PROBLEM, "row 7 missing from index"),
        (content(journal_mode="delete"), "journal", Level.WARNING, "delete instead of WAL"),
        ({"wal_size": 100 * MB}, "journal", Level.WARNING, "100 MB"),
        ({"disk_free": MB}, "disk", Level.PROBLEM, "1 MB free"),
        ({"disk_free": 70 * MB}, "disk", Level.WARNING, "too little for prune --vacuum"),
        ({"sqlite": (3, 22, 0)}, "SQLite", Level.PROBLEM, "3.22.0 is too old"),
        ({"now": 60.0, "written": 60.0}, "clock", Level.PROBLEM, "1970-01-01 00:01:00 UTC is long past"),
        (content(newest=2e9 + 7200), "clock", Level.WARNING, "the newest run was made 7200 s later"),
        ({"written": 2e9 - 30}, "clock", Level.WARNING, "-30 s away"),
        ({"stale": (Path("a"), Path("b"))}, "owners", Level.WARNING, "1 living, 2 left by processes that died"),
        (content(crashed=("r1", "r2")), "crashed runs", Level.WARNING, "2 runs are running without a process: r1, r2"),
    ],
)
def test_trouble_is_named_with_its_remedy(changes: dict[str, Any], name: str, level: Level, what: str) -> None:
    """Each kind of trouble is one finding, which says what to do; the others are as they were."""
    findings = found(attrs.evolve(WELL, **changes))
    assert (findings[name].level, bool(findings[name].remedy)) == (level, True)
    assert what in findings[name].what
    assert [other for other, finding in findings.items() if finding.level is not Level.OK] == [name]


def test_locks_are_shown_with_their_holders() -> None:
    """A lock that is held is no trouble."""
    finding = found(attrs.evolve(WELL, locks=("m:nightly: process 7", "m:hourly: process 8")))["locks"]
    assert (finding.level, finding.what) == (Level.OK, "m:nightly: process 7\nm:hourly: process 8")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2 MB"), (5 * 10**12, "5,000 GB")]
)
def test_bytes_are_written_as_people_say_them(count: int, text: str) -> None:
    """Three digits and a unit."""
    assert size(count) == text


# -- looking


def test_a_store_is_looked_at_as_it_is(file: Path) -> None:
    """What is there is seen, and nothing of it is changed."""
    before = file.read_bytes()
    facts = look(file)
    assert (facts.exists, facts.writable, facts.ours, facts.error, facts.refused) == (True, True, True, None, False)
    assert facts.content is not None
    assert (facts.content.schema, facts.content.journal_mode, facts.content.damage) == (2, "wal", ())
    assert (facts.content.runs, facts.content.crashed) == ({"completed": 1}, ())
    assert facts.content.newest is not None
    assert facts.content.newest <= facts.now
    assert facts.written == pytest.approx(facts.now, abs=60)
    assert facts.disk_free > 0
    assert file.read_bytes() == before
    assert {finding.level for finding in judge(facts)} <= {Level.OK, Level.WARNING}


def test_an_older_store_is_not_migrated_by_looking(file: Path) -> None:
    """Only who uses the store brings it up to date."""
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    facts = look(file)
    assert facts.content is not None
    assert facts.content.schema == 1


@pytest.mark.parametrize("what", ["nothing", "folder", "text", "foreign", "empty"])
def test_what_is_no_store_is_said_to_be_none(tmp_path: Path, what: str) -> None:
    """A missing file or folder, another file, another program's database: a problem, and no exception."""
    file = tmp_path / "runs.db"
    if what == "folder":
        file = tmp_path / "nowhere" / "runs.db"
    elif what == "text":
        file.write_text("no database at all, but long enough to be looked at closely" * 10)
    elif what == "foreign":
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    elif what == "empty":
        file.touch()
    before = sorted(tmp_path.iterdir())
    finding = found(look(file))["store"]
    assert (finding.level, bool(finding.remedy)) == (Level.PROBLEM, True)
    assert str(file) in finding.what
    assert mend(look(file)) == []
    assert sorted(tmp_path.iterdir()) == before


def test_damage_is_found(file: Path) -> None:
    """A page that was overwritten is seen by SQLite's own check, or when the file is read."""
    data = bytearray(file.read_bytes())
    data[4096 * 2 : 4096 * 8] = b"\xff" * (4096 * 6)
    file.write_bytes(data)
    findings = judge(look(file))
    assert Level.PROBLEM in {finding.level for finding in findings if finding.name in ("store", "integrity")}


def test_the_dead_are_told_from_the_living(file: Path) -> None:
    """A killed process leaves a crashed run and its file; one that lives has neither. --fix takes the file away."""
    code = """
        store = SQLiteStore(sys.argv[1], durability="process")
        store.submit(new_run(sys.argv[2]))
        say("ready")
        wait()
    """
    with program(code, file, "living") as living:
        living.answer()
        with program(code, file, "killed") as killed:
            killed.answer()
            killed.process.kill()
            killed.end()
        facts = look(file)
        assert facts.content is not None
        assert (facts.owners, facts.stale, facts.content.crashed) == (1, (), ("killed",))
        old = time.time() - 3600  # a file without a lock that is new may belong to one who is just taking it
        for owner in Path(f"{file}.owners").iterdir():
            os.utime(owner, (old, old))
        facts = look(file)
        assert (facts.owners, len(facts.stale)) == (1, 1)
        assert mend(facts)[0] == "removed 1 file of dead owners"
        facts = look(file)
        assert (facts.owners, facts.stale) == (1, ())
        assert len(list(Path(f"{file}.owners").iterdir())) == 1
        store = SQLiteStore(file)
        assert [(run.run_id, run.alive) for run in store.runs(status="running")] == [
            ("killed", False),
            ("living", True),
        ]
        store.close()


def test_a_lock_is_seen_while_it_is_held(file: Path) -> None:
    """What is being run, and by whom; a lock that was let go, and any other file, is none."""
    folder = Path(f"{file}.locks")
    lock = take(str(folder / "1"), target="m:nightly")
    take(str(folder / "2"), target="m:hourly").release()
    (folder / "3").write_text("something else")
    assert [line.partition(" on ")[0] for line in look(file).locks] == [f"m:nightly: process {os.getpid()}"]
    lock.release()
    assert look(file).locks == ()


def test_the_wal_is_copied_into_the_file(file: Path) -> None:
    """What is in the WAL is in the file after mending, while a process has the store open."""
    store = SQLiteStore(file, durability="process")
    store.submit(new_run("r2"))
    assert len(mend(look(file))) == 1
    copy = file.with_name("copy.db")
    copy.write_bytes(file.read_bytes())
    connection = sqlite3.connect(copy)
    assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    connection.close()
    store.finish("r2", 1, "completed", None, None)
    store.close()


# -- the file system

MOUNTS = """\
22 27 0:21 / /proc rw - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:25 / /mnt/share rw shared:1 - nfs4 server:/share rw
31 30 0:26 / /mnt/share/local rw - xfs /dev/vdb rw
32 27 0:27 / /mnt/two\\040words rw - fuse.sshfs me@there:/ rw
33 27 0:28 / /mnt/twice rw - ext4 /dev/vdc rw
34 33 0:29 / /mnt/twice rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/runs.db", "ext4"),
        ("/mnt/share/runs.db", "nfs4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/shared/runs.db", "ext4"),
        ("/mnt/share/local/deep/runs.db", "xfs"),
        ("/mnt/two words/runs.db", "fuse.sshfs"),
        ("/mnt/twice/runs.db", "cifs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    """The longest mount point counts, and of two on one place the later one."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert filesystem.of(Path(path), mounts) == kind


def test_without_a_list_of_mounts_the_file_system_is_unknown(tmp_path: Path) -> None:
    """Where the kernel does not tell, nothing is refused."""
    assert filesystem.of(tmp_path, tmp_path / "nowhere") is None


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store there is refused with the reason before anything is made, and a problem; unless it was allowed."""
    monkeypatch.setattr(filesystem, "of", lambda path: "nfs4")
    url = f"sqlite:///{tmp_path}/runs.db"
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*use a local disk"):
        open_store(url)
    assert list(tmp_path.iterdir()) == []
    store = open_store(f"{url}?network=allow")
    assert store.url == f"{url}?network=allow"
    store.close()
    assert found(look(tmp_path / "runs.db"))["file system"].level is Level.PROBLEM
    assert found(look(tmp_path / "runs.db", network="allow"))["file system"].level is Level.OK
    with pytest.raises(StoreError, match="network is 'refuse' or 'allow', not 'maybe'"):
        open_store(f"{url}?network=maybe")
