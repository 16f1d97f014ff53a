"""The examination of a store: its file, what stands beside it, the disk, the clock, the SQLite library.

`look` gathers facts and changes nothing; `judge` says what they mean; `mend` does the little that cannot hurt.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

import attrs

from workflow_runner.store import filesystem, schema
from workflow_runner.store.commit import checkpoint
from workflow_runner.store.owner import held, lives

MB = 10**6

# So long another tool may hold the file before we give up looking. Seconds.
_PATIENCE = 2.0
# A file without a lock may belong to a process that is just taking it. Seconds.
_YOUNG = 60.0
# The oldest library that has what our SQL needs.
_OLDEST_SQLITE = (3, 24, 0)
# No clock that is right shows a time before this program was written.
_WRITTEN = 1_704_067_200.0  # 2024-01-01


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        level: how bad it is.
        what: what was found.
        remedy: what to do about it.
    """

    name: str
    level: Level = Level.OK
    what: str
    remedy: str | None = None


@attrs.frozen(kw_only=True)
class Content:
    """What is in the file of a store.

    Attributes:
        schema: the number of its last migration.
        journal_mode: "wal", if all is well.
        damage: what SQLite's own check found.
        used: bytes that content takes.
        free: bytes for what comes next.
        runs: how many, by status.
        crashed: the ids of running runs whose process is dead.
        newest: when the newest run was made; seconds since the epoch.
    """

    schema: int
    journal_mode: str
    damage: tuple[str, ...]
    used: int
    free: int
    runs: dict[str, int]
    crashed: tuple[str, ...]
    newest: float | None


@attrs.frozen(kw_only=True)
class Facts:
    """What `look` has seen. Bytes and seconds.

    Attributes:
        path: the file.
        folder: whether its folder is there.
        exists: whether the file is there.
        writable: whether it and its folder may be written.
        error: why SQLite cannot read it.
        ours: whether it is a store of this library.
        content: what is in it; None where it could not be read.
        kind: the type of the file system.
        refused: whether the store will not work on it.
        disk_free: free on the disk.
        size: of the file.
        wal_size: of the WAL.
        sqlite: the version of the library.
        now: what the clock shows.
        written: what the file system's clock showed at that moment.
        owners: how many processes are owners now.
        stale: files of owners that are dead.
        locks: what is being run, and by whom.
    """

    path: Path
    folder: bool
    exists: bool = False
    writable: bool = False
    error: str | None = None
    ours: bool = False
    content: Content | None = None
    kind: str | None = None
    refused: bool = False
    disk_free: int = 0
    size: int = 0
    wal_size: int = 0
    sqlite: tuple[int, int, int] = sqlite3.sqlite_version_info
    now: float
    written: float | None = None
    owners: int = 0
    stale: tuple[Path, ...] = ()
    locks: tuple[str, ...] = ()


# -- looking


def look(path: str | os.PathLike[str], *, network: str = "refuse") -> Facts:
    """Gather the facts about a store. Nothing is written but a temporary file, which is removed.

    Args:
        path: the store's file, which need not be there.
        network: "allow" a network file system, as the store was told to.
    """
    path = Path(path).resolve()
    now = time.time()
    kind = filesystem.of(path)
    refused = kind in filesystem.NETWORK and network != "allow"
    facts = Facts(path=path, folder=path.parent.is_dir(), kind=kind, refused=refused, now=now)
    if not facts.folder:
        return facts
    owners = _files(Path(f"{path}.owners"))
    living = [file for file in owners if held(file)]
    facts = attrs.evolve(
        facts,
        exists=path.is_file(),
        writable=os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK)),
        disk_free=shutil.disk_usage(path.parent).free,
        size=_size(path),
        wal_size=_size(Path(f"{path}-wal")),
        written=_written(path.parent),
        owners=len(living),
        stale=tuple(file for file in owners if file not in living and _age(file, now) > _YOUNG),
        locks=tuple(filter(None, map(_holder, _files(Path(f"{path}.locks"))))),
    )
    if not facts.exists or facts.refused:
        return facts
    try:
        with closing(_connect(path, "ro")) as connection:
            ours = connection.execute("PRAGMA application_id").fetchone()[0] == schema.APPLICATION_ID
            return attrs.evolve(facts, ours=ours, content=_content(connection, path) if ours else None)
    except sqlite3.Error as error:
        return attrs.evolve(facts, error=str(error))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_PATIENCE)


def _content(connection: sqlite3.Connection, path: Path) -> Content:
    def number(pragma: str) -> int:
        value: int = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        return value

    damage = tuple(row[0] for row in connection.execute("PRAGMA quick_check(5)") if row[0] != "ok")
    running = connection.execute(
        "SELECT run_id, owner, host, boot_id FROM runs LEFT JOIN owners USING (owner) WHERE status = 'running'"
    )
    directory = Path(f"{path}.owners")
    crashed = (run_id for run_id, owner, host, boot in running if not (host and lives(directory, owner, host, boot)))
    return Content(
        schema=schema.version(connection),
        journal_mode=connection.execute("PRAGMA journal_mode").fetchone()[0],
        damage=damage,
        used=(number("page_count") - number("freelist_count")) * number("page_size"),
        free=number("freelist_count") * number("page_size"),
        crashed=tuple(crashed),
        runs=dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall()),
        newest=connection.execute("SELECT max(created_at) FROM runs").fetchone()[0],
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _age(file: Path, now: float) -> float:
    try:
        return now - file.stat().st_mtime
    except FileNotFoundError:  # its process has ended well meanwhile
        return 0.0


def _written(folder: Path) -> float | None:
    """What the clock of the file system shows: a file's time is written by whoever keeps it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return None


def _holder(file: Path) -> str | None:
    """Who holds a lock, in its own words; None if nobody does.

    One whose last holder is dead is not touched: whoever takes it just then would find it locked by us.
    """
    try:
        first, words, *_ = file.read_text("utf-8").splitlines()
        facts = json.loads(first)
        if facts["host"] == socket.gethostname():
            os.kill(facts["pid"], 0)
        return f"{facts['target']}: {words}" if held(file) else None
    except PermissionError:  # a living process of another user
        return f"{facts['target']}: {words}"
    except (OSError, ValueError, LookupError, TypeError):
        return None


# -- judging


def judge(facts: Facts) -> list[Finding]:
    """Say what the facts mean.

    Returns:
        What was looked at, the file first. What cannot be known, because the file cannot be read, is left out.
    """
    found = [_file(facts), _file_system(facts)]
    if facts.content is not None:
        found += [_schema(facts.content), _integrity(facts.content), _journal(facts, facts.content)]
    if facts.folder:
        found.append(_disk(facts))
    found += [_library(facts), _clock(facts)]
    if facts.exists:
        found += [_owners(facts), *([_locks(facts)] if facts.locks else [])]
    if facts.content is not None and facts.content.crashed:
        found.append(_crashed(facts.content))
    return found


def _file(facts: Facts) -> Finding:
    def problem(what: str, remedy: str) -> Finding:
        return Finding(name="store", level=Level.PROBLEM, what=f"{facts.path} {what}", remedy=remedy)

    if not facts.folder:
        return problem("cannot be: its folder is not there", f"mkdir -p {facts.path.parent}")
    if not facts.exists:
        return problem("is not there", "check the URL; the first run makes the file")
    if facts.error is not None:
        return problem(f"cannot be read: {facts.error}", "is it a store, and may this user read it and its folder?")
    if facts.refused:
        return Finding(name="store", what=f"{facts.path}, {size(facts.size)}")
    if not facts.size:
        return problem("is empty", "the first run makes a store of it")
    if not facts.ours:
        return problem("is a SQLite database of another program", "name another file")
    if not facts.writable:
        return problem("cannot be written by this user", "change its owner or mode, and those of its folder")
    assert facts.content is not None
    runs = ", ".join(f"{count} {status}" for status, count in sorted(facts.content.runs.items())) or "none"
    return Finding(name="store", what=f"{facts.path}, {size(facts.size)}; runs: {runs}")


def _file_system(facts: Facts) -> Finding:
    kind = facts.kind or "unknown"
    if facts.refused:
        return Finding(
            name="file system",
            level=Level.PROBLEM,
            what=f"{kind}, over a network: SQLite's WAL cannot be shared there, and locks are not sure",
            remedy="put the store on a local disk; ?network=allow in the URL if this machine alone uses it",
        )
    return Finding(name="file system", what=kind)


def _schema(content: Content) -> Finding:
    newest = schema.migrations()[-1][0]
    if content.schema > newest:
        what = f"{content.schema}, newer than {newest}, the newest that this version of workflow_runner knows"
        return Finding(name="schema", level=Level.PROBLEM, what=what, remedy="upgrade workflow-runner")
    if content.schema < newest:
        what = f"{content.schema}, to be brought to {newest}"
        remedy = "the next run does it; older versions of workflow_runner cannot open the store then"
        return Finding(name="schema", level=Level.WARNING, what=what, remedy=remedy)
    return Finding(name="schema", what=f"{content.schema}, up to date")


def _integrity(content: Content) -> Finding:
    if content.damage:
        return Finding(
            name="integrity",
            level=Level.PROBLEM,
            what="damaged: " + "; ".join(" ".join(line.split()) for line in content.damage),
            remedy="stop what writes to it, and restore a backup or save what is left with sqlite3 FILE .recover",
        )
    return Finding(name="integrity", what="SQLite finds no damage")


def _journal(facts: Facts, content: Content) -> Finding:
    if content.journal_mode != "wal":
        what = f"{content.journal_mode} instead of WAL: another tool has changed it"
        return Finding(name="journal", level=Level.WARNING, what=what, remedy="the next run changes it back")
    what = f"WAL, {size(facts.wal_size)}"
    if facts.wal_size > max(64 * MB, facts.size):
        remedy = "--fix copies it into the file; it is removed when the last process closes the store"
        return Finding(name="journal", level=Level.WARNING, what=f"{what}: somebody reads for long", remedy=remedy)
    return Finding(name="journal", what=what)


def _disk(facts: Facts) -> Finding:
    what = f"{size(facts.disk_free)} free"
    if facts.disk_free < 16 * MB:
        return Finding(name="disk", level=Level.PROBLEM, what=what, remedy="make room: runs cannot be recorded")
    if facts.disk_free < 64 * MB + 2 * facts.size:
        what += ", too little for prune --vacuum, which needs the store's size twice"
        return Finding(name="disk", level=Level.WARNING, what=what, remedy="make room, or prune without --vacuum")
    unused = facts.content.free if facts.content else 0
    return Finding(name="disk", what=f"{what}; {size(unused)} free inside the file")


def _library(facts: Facts) -> Finding:
    version = ".".join(map(str, facts.sqlite))
    if facts.sqlite < _OLDEST_SQLITE:
        remedy = "use a Python with a newer SQLite"
        what = f"{version} is too old: 3.24 is the oldest that works"
        return Finding(name="SQLite", level=Level.PROBLEM, what=what, remedy=remedy)
    if (3, 7, 0) <= facts.sqlite < (3, 51, 3):
        what = f"{version}; its WAL-reset bug (before 3.51.3) is avoided: we checkpoint under a lock of our own"
        return Finding(name="SQLite", what=what)
    return Finding(name="SQLite", what=version)


def _clock(facts: Facts) -> Finding:
    def warning(what: str) -> Finding:
        remedy = "set the clock; ages and the order of runs are told by it"
        return Finding(name="clock", level=Level.WARNING, what=what, remedy=remedy)

    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(facts.now))
    newest = facts.content.newest if facts.content else None
    if facts.now < _WRITTEN:
        return attrs.evolve(warning(f"{shown} is long past"), level=Level.PROBLEM)
    if newest is not None and newest > facts.now + 60:
        return warning(f"{shown}, and the newest run was made {newest - facts.now:.0f} s later")
    if facts.written is not None and abs(facts.written - facts.now) > 5:
        return warning(f"{shown}, and that of the file system is {facts.written - facts.now:+.0f} s away")
    return Finding(name="clock", what=shown)


def _owners(facts: Facts) -> Finding:
    what = f"{facts.owners} living"
    if facts.stale:
        what += f", {len(facts.stale)} left by processes that died"
        return Finding(name="owners", level=Level.WARNING, what=what, remedy="--fix removes them")
    return Finding(name="owners", what=what)


def _locks(facts: Facts) -> Finding:
    return Finding(name="locks", what="\n".join(facts.locks))


def _crashed(content: Content) -> Finding:
    count = len(content.crashed)
    some = ", ".join(content.crashed[:3]) + (", ..." if count > 3 else "")
    what = f"{count} {'run is' if count == 1 else 'runs are'} running without a process: {some}"
    remedy = "go on with them (resume RUN), or give them up (cancel RUN)"
    return Finding(name="crashed runs", level=Level.WARNING, what=what, remedy=remedy)


def size(count: int) -> str:
    """Bytes as people say them."""
    number, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"


# -- mending


def mend(facts: Facts) -> list[str]:
    """Remove the files of dead owners, and copy the WAL into the file. What runs is not disturbed.

    Args:
        facts: as `look` has just seen them.

    Returns:
        What was done.

    Raises:
        OSError: a file cannot be removed or locked.
        sqlite3.Error: the store cannot be opened for writing.
    """
    done = []
    for file in facts.stale:
        file.unlink(missing_ok=True)
    if facts.stale:
        done.append(f"removed {len(facts.stale)} {'file' if len(facts.stale) == 1 else 'files'} of dead owners")
    if facts.content is not None and facts.wal_size:
        lock = os.open(f"{facts.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with closing(_connect(facts.path, "rw")) as connection:
                checkpoint(connection)
        finally:
            os.close(lock)
        done.append(f"copied the WAL ({size(facts.wal_size)}) into the file")
    return done
