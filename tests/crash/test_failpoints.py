"""kill -9 at every named place of every step; then two new processes go on, each with a copy of what was left."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import attrs
import pytest

from crash.flows import ITEMS, TOTAL
from crash.harness import FIGURES, LONG, Child, Watch, fresh, places, recorded, rows, whats

pytestmark = pytest.mark.slow

_items = [f"items/items[{n}]" for n in range(ITEMS)]
BODIES = ["first", "second", "second/child", "route/third", *_items, "ledger", "last"]
ROWS = [*BODIES, "route", "items"]
TRANSACTIONS = ["submit", *(f"record {path}" for path in ROWS), "finish"]

PLACES = [
    *(f"{when} COMMIT opening{n}" for when in ("before", "after") for n in ("", "#2")),
    *(f"{when} checkpoint{n}" for when in ("before", "after") for n in ("", "#2", "#3")),
    *(f"{when} body {path}" for path in BODIES for when in ("before", "in", "after")),
    *(f"{when} {verb}" for verb in TRANSACTIONS for when in ("before", "before COMMIT", "after COMMIT", "after")),
]
# of these the run is there already when the process that resumes it dies as well
CLAIM = [f"{when} claim" for when in ("before", "before COMMIT", "after COMMIT", "after")]

# there is no run yet, which could be resumed; it can only be started
NO_RUN = ["before submit", "before COMMIT submit", "before checkpoint", "after checkpoint", *PLACES[:4]]

START = {"flow": "everything", "key": "k"}


@attrs.frozen
class Left:
    """What there is after a kill and after each way to go on."""

    resumed: dict[str, Any] | None
    started: dict[str, Any]
    repeated: int


class Peers:
    """Long-lived processes: some fork those who are killed, the others go on with what is left."""

    def __init__(self, directory: Path, size: int) -> None:
        self._all = [Child(directory, do="peer") for _ in range(size)]
        self._free: SimpleQueue[Child] = SimpleQueue()
        for peer in self._all:
            assert peer.answer() == {"ready": True}
            self._free.put(peer)

    def ask(self, **command: Any) -> dict[str, Any]:
        peer = self._free.get(timeout=LONG)
        try:
            return peer.ask(**command)
        finally:
            self._free.put(peer)

    def close(self) -> None:
        for peer in self._all:
            peer.close()


def check(directory: Path, answer: dict[str, Any], watch: Watch) -> int:
    """The run has ended as if nothing had happened; how many bodies ran again."""
    assert answer.get("result") == {"total": TOTAL}, answer
    assert answer["workflow"] == "completed"
    [(status, result)] = rows(directory, "SELECT status, result FROM runs")
    assert (status, bool(result)) == ("completed", True)
    run_id = answer["run_id"]
    assert set(recorded(directory)) == {f"{run_id}/{path}" for path in ROWS}
    numbers = [row[1] for row in recorded(directory).values()]
    assert len(numbers) == len(set(numbers))
    begins = Counter(whats(directory, "begin"))
    assert set(begins) == {f"{run_id}/{path}" for path in BODIES}
    assert rows(directory, "SELECT token FROM ledger") == [(f"{run_id}/ledger",)]
    assert len(list((directory / "tokens").iterdir())) == len(BODIES)
    return watch.ended()


def kill_and_go_on(directory: Path, victims: Peers, peers: Peers, places: list[str]) -> Left:
    """Start a process for each place, which is killed there, and go on with what the last one has left."""
    # "items" has two threads, "second" and its child are two bodies of one
    watch = Watch(directory, threads=2, batch=ITEMS)
    for number, place in enumerate(places):
        how = {"how": "resume"} if number else START
        command = {"do": "run", "dir": str(directory), "at": {place: "kill"}, "checkpoint_every": 5, **how}
        assert victims.ask(do="forked", dir=str(directory), command=command) == {"code": -signal.SIGKILL}
        FIGURES.add("kills")
        watch.killed()
    there = bool(rows(directory, "SELECT run_id FROM runs"))
    resumed = None
    if there:
        copy = fresh(directory, "resumed")
        copied = Watch(copy, threads=2, batch=ITEMS)
        copied._kills, copied._seen = list(watch._kills), dict(watch._seen)
        resumed = peers.ask(do="run", dir=str(copy), how="resume")
        check(copy, resumed, copied)
    started = peers.ask(do="run", dir=str(directory), **START)
    repeated = check(directory, started, watch)
    return Left(resumed, started, repeated)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Left]]]:
    """Everything that is killed here, side by side; each test waits for its own."""
    mine = [item for item in request.session.items if item.path == request.path]
    wanted = [item.callspec.params["place"] for item in mine if "left" in _fixtures(item)]
    directory = tmp_path_factory.mktemp("failpoints")
    victims, peers = Peers(directory / "victims", 3), Peers(directory / "peers", 2)
    with ThreadPoolExecutor(3) as pool:
        futures = {}
        for number, place in enumerate(wanted):
            steps = ["in body route/third", place] if place in CLAIM else [place]
            futures[place] = pool.submit(kill_and_go_on, directory / str(number), victims, peers, steps)
        yield futures
        pool.shutdown(cancel_futures=True)
    victims.close()
    peers.close()
    shutil.rmtree(directory)


def _fixtures(item: Any) -> tuple[str, ...]:
    return getattr(item, "fixturenames", ())


@pytest.mark.parametrize("place", [*PLACES, *CLAIM])
def test_killed(left: dict[str, Future[Left]], place: str) -> None:
    """Wherever it dies, it goes on: each row there once, no recorded body run again, the result right."""
    outcome = left[place].result(LONG)
    bodies = 1 if not place.endswith(tuple(_items)) else ITEMS
    if "second/child" in place:
        bodies = 2  # it runs inside the body of "second"
    assert outcome.repeated <= bodies
    assert (outcome.resumed is None) == (place in NO_RUN)


def test_the_list_of_places_is_complete(child: Any, tmp_path: Path) -> None:
    """No place that a run passes is left out above."""
    assert child(do="run", trace=True, checkpoint_every=5, **START).answer()["result"] == {"total": TOTAL}
    assert set(places(tmp_path)) == set(PLACES)


# -- at most once


@pytest.mark.parametrize(
    ("place", "repeats"),
    [
        *((f"{when} attempt pay", True) for when in ("before", "before COMMIT")),
        *((f"{when} attempt pay", False) for when in ("after COMMIT", "after")),
        *((f"{when} body pay", False) for when in ("before", "in", "after")),
        *((f"{when} record pay", False) for when in ("before", "before COMMIT")),
        *((f"{when} record pay", True) for when in ("after COMMIT", "after")),
    ],
)
def test_at_most_once(child: Any, tmp_path: Path, place: str, repeats: bool) -> None:
    """A step with on_crash="fail" that has begun and is not recorded is reported, and never repeated."""
    child(do="run", flow="once", key="k", at={place: "kill"}).expect_killed()
    watch = Watch(tmp_path, threads=1)
    watch.killed()
    answer = child(do="run", how="resume").answer()
    begins = Counter(whats(tmp_path, "begin"))
    assert begins[f"{answer['run_id']}/pay"] <= 1
    assert watch.ended() == 0
    if repeats:
        assert answer["result"] == {"n": 3}
    else:
        assert "had begun" in answer["message"] or "had begun" in answer["cause"], answer
        assert f"{answer['run_id']}/last" not in begins
    FIGURES.add("at most once")
