"""A backfill of a year, killed at random; the same command is given again until it ends."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path
from typing import Any

import pytest

from crash.harness import LONG, Child, Watch, parallel, recorded, rows, whats
from crash.test_random_kills import killed_on_the_way

pytestmark = pytest.mark.slow

YEAR = [str(dt.date(2013, 1, 1) + dt.timedelta(days=n)) for n in range(365)]
KILLS = 6
# Roughly what one day writes to the effects.
BYTES = 300


def kill_until_done(directory: Path, active: int, seed: int) -> None:
    """Give the command, kill it a part of the way further on, and so on; then let it end, and check all there is."""
    chance = random.Random(seed)
    watch = Watch(directory, threads=active)
    for _ in range(KILLS):
        with Child(directory, do="backfill", active=active, durability="process") as child:
            days = chance.randint(3, 2 * len(YEAR) // (3 * KILLS))
            assert killed_on_the_way(child, days * BYTES, chance.random() / 1000), child.errors()
            child.expect_killed()
        watch.killed()
    [(done,)] = rows(directory, "SELECT count(*) FROM runs WHERE status = 'completed'")
    assert 0 < done < len(YEAR)
    with Child(directory, do="backfill", active=active, durability="process") as child:
        document = child.answer()
        assert child.wait() == 0, child.errors()
    watch.ended()
    check_runs(directory, active)
    check_report(directory, document, done)


def check_runs(directory: Path, active: int) -> None:
    """Each day is one run, begun in order, and has had its effect outside once."""
    runs = rows(directory, "SELECT as_of, idem_key, status, batch_id FROM runs ORDER BY rowid")
    assert runs == [(day, f"dated/{day}", "completed", "year") for day in YEAR]
    assert len(recorded(directory)) == len(YEAR)
    assert len(list((directory / "tokens").iterdir())) == len(YEAR)
    begun = [what.split() for what in whats(directory, "day")]
    assert len({token for _, token in begun}) == len(YEAR)
    assert len(begun) - len(YEAR) <= KILLS * active
    if active == 1:
        assert list(dict.fromkeys(day for day, _ in begun)) == YEAR


def check_report(directory: Path, document: dict[str, Any], done: int) -> None:
    """The last report tells every day, its run, and which were done before."""
    assert (document["status"], document["exit_code"], document["failures"]) == ("completed", 0, [])
    assert document["counts"] == {"completed": len(YEAR)}
    assert document["plan"]["done"] == done
    partitions = document["partitions"]
    assert [partition["as_of_date"] for partition in partitions] == YEAR
    known = dict(rows(directory, "SELECT as_of, run_id FROM runs"))
    assert {partition["as_of_date"]: partition["run_id"] for partition in partitions} == known
    assert sum(partition["before"] for partition in partitions) == done


@pytest.mark.timeout(4 * LONG)
def test_a_year_is_killed_at_random(tmp_path: Path) -> None:
    """Whenever it dies: each day is done once, in order, and the last report is exact; so it is with three at once."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    parallel(
        (lambda active=active: kill_until_done(tmp_path / str(active), active, seed + active) for active in (1, 3)),
        workers=2,
    )
