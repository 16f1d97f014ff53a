"""Children that can be killed, and the oracle that judges what they have left."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from crash.failpoints import LONG, until

TESTS = Path(__file__).parent.parent

__all__ = ["FIGURES", "LONG", "Child", "Figures", "Watch", "fresh", "places", "recorded", "rows", "until"]


class Figures:
    """What is printed at the end of the run. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]


FIGURES = Figures()

_serial = itertools.count()


class Child:
    """A program in a process of its own; see ``crash.program``."""

    def __init__(self, directory: Path, **command: Any) -> None:
        directory.mkdir(exist_ok=True, parents=True)
        self.directory = directory
        self.command = command
        self._errors = directory / f"stderr-{next(_serial)}"
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crash.program", json.dumps({"dir": str(directory), **command})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path},
            )
        self.pid = self.process.pid
        self._buffer = b""

    def send(self, **command: Any) -> None:
        """Give a peer its next command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = LONG) -> dict[str, Any]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"no answer in {timeout:g} s\n{self.errors()}")
            read = os.read(self.process.stdout.fileno(), 65536)
            if not read:
                raise AssertionError(f"no answer; it has exited with {self.wait()}\n{self.errors()}")
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Give a peer a command and wait for the answer."""
        self.send(**command)
        return self.answer()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code; a negative one is a signal's."""
        return self.process.wait(LONG)

    def stopped(self) -> bool:
        """Whether it is held by SIGSTOP."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def errors(self) -> str:
        return self._errors.read_text() if self._errors.exists() else ""

    def expect_killed(self) -> None:
        """Wait until it has been killed by SIGKILL."""
        code = self.wait()
        self.close()
        assert code == -signal.SIGKILL, f"{self.command} was to be killed, it exited with {code}\n{self.errors()}"
        FIGURES.add("kills")

    def close(self) -> None:
        """Kill it if it lives, and let go of its pipes."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LONG)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- reading what is there, without the library


def lines(directory: Path) -> list[tuple[str, str, int]]:
    """Kind, what and pid of every line of the effects."""
    text = (directory / "effects").read_text() if (directory / "effects").exists() else ""
    found = [line.split("\t") for line in text.splitlines()]
    return [(kind, what, int(pid)) for kind, what, pid in found]


def whats(directory: Path, kind: str) -> list[str]:
    """What the lines of one kind say, in order."""
    return [what for found, what, _ in lines(directory) if found == kind]


def rows(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    """Ask a copy of the store's file: opening the file itself would recover it, and nobody has asked for that.

    A file that was not even begun has no rows.
    """
    if not (directory / "runs.db").exists():
        return []
    with tempfile.TemporaryDirectory(dir=directory) as copy:
        for name in ("runs.db", "runs.db-wal"):
            if (directory / name).exists():
                shutil.copy(directory / name, copy)
        db = sqlite3.connect(Path(copy, "runs.db"))
        try:
            [(verdict,)] = db.execute("PRAGMA integrity_check").fetchall()
            assert verdict == "ok", verdict
            return db.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            db.close()


def recorded(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Every recorded row by its token."""
    found = rows(directory, "SELECT run_id || '/' || path, fence, seq, status, output FROM steps")
    return {token: tuple(rest) for token, *rest in found}


def places(directory: Path) -> list[str]:
    """Every place that a tracing program has reached."""
    return whats(directory, "at")


def fresh(directory: Path, name: str) -> Path:
    """A copy of all that a killed program has left."""
    copy = directory.parent / f"{directory.name}-{name}"
    shutil.copytree(directory, copy)
    return copy


class Watch:
    """Follows the runs in a directory across kills: what was recorded stays, and does not run again.

    Args:
        threads: how many bodies run at once.
        batch: so many bodies that have ended may be without a row.
    """

    def __init__(self, directory: Path, *, threads: int, batch: int = 0) -> None:
        self.directory = directory
        self._threads = threads
        self._batch = batch
        self._seen: dict[str, tuple[Any, ...]] = {}
        # how many lines there were at each kill, and what was recorded
        self._kills: list[tuple[int, set[str]]] = []

    def killed(self) -> None:
        """After each kill, before anybody else opens the store."""
        known = self._compare()
        noted = lines(self.directory)
        since = self._kills[-1][0] if self._kills else 0
        begun = [what for kind, what, _ in noted[since:] if kind == "begin" and what not in known]
        ended = {what for kind, what, _ in noted[since:] if kind == "end"}
        running = [what for what in begun if what not in ended]
        assert len(running) <= self._threads, f"more bodies ran than there were threads: {running}"
        allowed = self._threads + self._batch
        assert len(begun) <= allowed, f"{len(begun)} bodies are not recorded, {allowed} may be: {begun}"
        self._kills.append((len(noted), set(known)))

    def ended(self) -> int:
        """When the runs have ended; how many bodies ran again."""
        self._compare()
        kills, known, begins = iter(self._kills), set(), Counter()
        limit, after = next(kills, (None, set()))
        for index, (kind, what, _) in enumerate(lines(self.directory)):
            while limit is not None and index >= limit:
                known = after
                limit, after = next(kills, (None, set()))
            if kind == "begin":
                begins[what] += 1
                assert what not in known, f"the body of {what} ran again, and it was recorded"
        repeated = sum(count - 1 for count in begins.values())
        assert max(begins.values(), default=1) <= 1 + len(self._kills)
        FIGURES.add("bodies repeated", repeated)
        absorbed = len(whats(self.directory, "absorbed"))
        tokens = len(list((self.directory / "tokens").iterdir()))
        assert tokens <= len(begins) <= tokens + len(self._kills) * self._threads
        assert absorbed <= repeated
        FIGURES.add("repeats absorbed by the token", absorbed)
        return repeated

    def _compare(self) -> dict[str, tuple[Any, ...]]:
        known = recorded(self.directory)
        acks = Counter(what for what in whats(self.directory, "ack") if "/" in what)
        lost = [token for token in {**acks, **self._seen} if token not in known]
        doubled = [token for token, count in acks.items() if count > 1]
        changed = [token for token, row in self._seen.items() if known.get(token, row) != row]
        FIGURES.add("records lost", len(lost))
        FIGURES.add("records doubled", len(doubled) + len(changed))
        assert not lost, f"acknowledged and not there: {lost}"
        assert not doubled, f"recorded twice: {doubled}"
        assert not changed, f"recorded again, differently: {changed}"
        self._seen = known
        return known


def parallel(jobs: Iterable[Callable[[], Any]], workers: int = 3) -> list[Any]:
    """Do the jobs side by side; raises what the first one that fails raises."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
