"""SIGTERM, with a handler that closes the scope: the run is handed back, and another process goes on with it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crash.harness import Watch, lines, recorded, rows, until, whats


def begun(directory: Path, *paths: str) -> Callable[[], bool]:
    """Whether these bodies have begun, and the main thread only waits."""

    def look() -> bool:
        begins = whats(directory, "begin")
        waiting = "main thread" in whats(directory, "waiting")
        return waiting and all(any(what.endswith(f"/{path}") for what in begins) for path in paths)

    return look


def handed_back(directory: Path, owner: Any) -> dict[str, Any]:
    """It has ended by itself, in good order, and nobody has the run any more; what it has printed."""
    answer = owner.answer()
    assert owner.wait() == 0, owner.errors()
    assert "Traceback" not in owner.errors()
    assert (answer["status"], answer["error"]) == ("cancelled", "ExecutionCancelled"), answer
    assert rows(directory, "SELECT status, owner FROM runs") == [("pending", None)]
    return answer


def goes_on(directory: Path, child: Any, watch: Watch) -> dict[str, Any]:
    """Another process goes on with it to the end."""
    watch.killed()
    (directory / "go").touch()
    answer = child(do="run", how="resume").answer()
    assert answer["workflow"] == "completed"
    watch.ended()
    return answer["result"]


def paths(directory: Path) -> set[str]:
    return {token.partition("/")[2] for token in recorded(directory)}


@pytest.mark.parametrize(
    ("flow", "recorded_before"),
    [("in_step", {"first"}), ("in_stubborn_step", {"first", "middle"}), ("in_deaf_step", {"first"})],
)
def test_in_a_step(child: Any, tmp_path: Path, flow: str, recorded_before: set[str]) -> None:
    """A step that stops runs again, one that ends is recorded, one that does neither is left behind; all go on."""
    owner = child(do="serve", flow=flow, key="k", grace=0.5 if flow == "in_deaf_step" else 30)
    until(begun(tmp_path, "middle"), "the step")
    owner.signal(signal.SIGTERM)
    handed_back(tmp_path, owner)
    assert paths(tmp_path) == recorded_before
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1)) == {"total": 8}


def test_on_a_slow_disk(child: Any, tmp_path: Path) -> None:
    """The process does not end before the run is handed back, even if the grace is over by then."""
    owner = child(do="serve", flow="in_deaf_step", key="k", grace=0.1, at={"before release": "delay"})
    until(begun(tmp_path, "middle"), "the step")
    owner.signal(signal.SIGTERM)
    handed_back(tmp_path, owner)
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1)) == {"total": 8}


def test_in_a_retry_sleep(child: Any, tmp_path: Path) -> None:
    """Nobody waits ten minutes for the next attempt: the run is handed back at once."""
    owner = child(do="serve", flow="in_retry", key="k")
    until(begun(tmp_path, "middle"), "the step")
    until(lambda: whats(tmp_path, "failed"), "the first attempt")
    owner.signal(signal.SIGTERM)
    handed_back(tmp_path, owner)
    assert paths(tmp_path) == {"first"}
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1, batch=1)) == {"total": 8}


def test_in_a_fan_out(child: Any, tmp_path: Path) -> None:
    """The items that have ended are recorded, those that run stop; only the rest runs later."""
    owner = child(do="serve", flow="in_fan_out", key="k")
    until(begun(tmp_path, *(f"items/items[{n}]" for n in range(28))), "all items")
    owner.signal(signal.SIGTERM)
    handed_back(tmp_path, owner)
    assert paths(tmp_path) == {"first", *(f"items/items[{n}]" for n in range(20))}
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=8)) == {"n": 2}
    begins = Counter(what.partition("/")[2] for what in whats(tmp_path, "begin"))
    assert begins == {"first": 1, "last": 1, **{f"items/items[{n}]": 1 + (n >= 20) for n in range(28)}}


@pytest.mark.parametrize("place", ["before COMMIT record middle", "after COMMIT record middle"])
def test_during_a_commit(child: Any, tmp_path: Path, place: str) -> None:
    """What is being committed is committed, and the run handed back after it."""
    owner = child(do="serve", flow="in_commit", key="k", at={place: "terminate"})
    handed_back(tmp_path, owner)
    assert paths(tmp_path) == {"first", "middle"}
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1)) == {"total": 8}
    assert max(Counter(whats(tmp_path, "begin")).values()) == 1


def test_during_the_last_commit(child: Any, tmp_path: Path) -> None:
    """A run that is being finished is finished."""
    owner = child(do="serve", flow="in_commit", key="k", at={"before COMMIT finish": "terminate"})
    answer = owner.answer()
    assert answer["result"] == {"total": 8}
    assert owner.wait() == 0
    assert rows(tmp_path, "SELECT status FROM runs") == [("completed",)]


def test_twice(child: Any, tmp_path: Path) -> None:
    """A second SIGTERM while the first is being obeyed changes nothing."""
    owner = child(do="serve", flow="in_deaf_step", key="k", grace=2)
    until(begun(tmp_path, "middle"), "the step")
    owner.signal(signal.SIGTERM)
    until(lambda: len(whats(tmp_path, "handler")) == 1, "the handler")
    owner.signal(signal.SIGTERM)
    until(lambda: len(whats(tmp_path, "handler")) == 2, "the handler again")
    (tmp_path / "go").touch()
    handed_back(tmp_path, owner)
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1)) == {"total": 8}


def test_before_anything_ran(child: Any, tmp_path: Path) -> None:
    """A run that was submitted and has not begun a step is handed back as well."""
    owner = child(do="serve", flow="in_step", key="k", at={"before body first": "terminate"})
    handed_back(tmp_path, owner)
    assert goes_on(tmp_path, child, Watch(tmp_path, threads=1)) == {"total": 8}
    assert {kind for kind, _, _ in lines(tmp_path)} >= {"begin", "end", "ack"}
