"""kill -9 at random moments, again and again, until the run has ended."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from crash.flows import MANY, ROW, WIDE
from crash.harness import FIGURES, LONG, Child, Watch, parallel, recorded, rows, until
from workflow_runner._workflow.journal import BATCH_SIZE

pytestmark = pytest.mark.slow

# Roughly what one body writes to the effects.
LINES = 200


@attrs.frozen
class Shape:
    """What is killed, and how far it gets between two kills.

    Attributes:
        kills: at least so many.
        bodies: at most so many between two kills, roughly.
        rows: of a run that has ended.
        batch: see ``Watch``: those that are being recorded, and those that have gathered in the meantime.
    """

    flow: str
    input: int | None
    workers: int
    kills: int
    bodies: int
    rows: int
    result: Any
    batch: int = 0
    durability: str = "power"

    @property
    def command(self) -> dict[str, Any]:
        given = {} if self.input is None else {"input": self.input}
        return {"do": "run", "flow": self.flow, "workers": self.workers, "durability": self.durability, **given}


SHAPES = [
    Shape("row", None, 1, 12, 20, ROW + 1, {"total": sum(range(ROW))}),
    Shape("row", None, 1, 12, 20, ROW + 1, {"total": sum(range(ROW))}, durability="process"),
    Shape("wide", None, 8, 12, 40, WIDE + 1, {"total": sum(range(WIDE))}),
    Shape("wide", None, 8, 8, 40, WIDE + 1, {"total": sum(range(WIDE))}, durability="process"),
    Shape("many", MANY, 8, 16, 400, MANY, sum(range(MANY)), batch=2 * BATCH_SIZE),
]


def kill_until_done(directory: Path, shape: Shape, seed: int) -> None:
    """Run after run, each killed again and again, until there were enough kills; the last one then ends."""
    chance = random.Random(seed)
    watch = Watch(directory, threads=shape.workers, batch=shape.batch)
    kills = number = 0
    while True:
        child = Child(directory, key=f"k{number}", how="start", **shape.command)
        try:
            growth, delay = chance.randint(1, shape.bodies * LINES), chance.random() / 1000
            if kills < shape.kills and killed_on_the_way(child, growth, delay):
                child.expect_killed()
                kills += 1
                watch.killed()
                continue
            answer = child.answer()
        finally:
            child.close()
        assert answer["result"] == shape.result
        done = [token for token in recorded(directory) if token.startswith(answer["run_id"])]
        assert len(done) == shape.rows
        if kills >= shape.kills:
            break
        number += 1
    assert {status for (status,) in rows(directory, "SELECT status FROM runs")} == {"completed"}
    watch.ended()


def killed_on_the_way(child: Child, growth: int, delay: float) -> bool:
    """Kill it once the effects have grown by so many bytes, a random part of a millisecond later; False if it ended."""
    effects = child.directory / "effects"

    def size() -> int:
        return effects.stat().st_size if effects.exists() else 0

    start = size()
    until(lambda: size() - start >= growth or child.process.poll() is not None, "progress")
    end = time.perf_counter() + delay
    while time.perf_counter() < end:
        pass
    if child.process.poll() is not None:
        return False
    child.process.kill()
    return child.wait() < 0


@pytest.mark.timeout(4 * LONG)
def test_killed_at_random(tmp_path: Path) -> None:
    """Whenever it dies: nothing recorded is lost, doubled or run again; the result is right."""
    before = FIGURES["kills"]
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    parallel(
        (lambda number=number, shape=shape: kill_until_done(tmp_path / str(number), shape, seed + number))
        for number, shape in enumerate(SHAPES)
    )
    assert FIGURES["kills"] - before >= 50
