"""The benchmarks: that the harness calculates rightly, and that every benchmark runs. No time is asserted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
harness = importlib.import_module("benchmarks.harness")
BENCHMARKS = importlib.import_module("benchmarks.__main__").BENCHMARKS


def test_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() -> None:
    """A ratio is that of the medians, its spread the lowest and highest of one round."""
    found = harness.ratio([1.0, 9.0, 2.0], [2.0, 3.0, 8.0])
    assert found.value == pytest.approx(2.0 / 3.0)
    assert (found.low, found.high) == (0.25, 3.0)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_ratio_needs_the_same_rounds_on_both_sides(ours: list[float], theirs: list[float]) -> None:
    """Sides with different rounds, or none, cannot be compared."""
    with pytest.raises(ValueError, match="same rounds"):
        harness.ratio(ours, theirs)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentile_is_the_nearest_rank(percent: float, expected: int) -> None:
    """A percentile is one of the values, by the nearest rank."""
    assert harness.percentile(range(100, 0, -1), percent) == expected


def test_percentile_of_few_values() -> None:
    """Of few values the median is the middle one and the 99th percentile the last."""
    assert harness.percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert harness.percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_sides_take_turns_after_a_round_that_does_not_count() -> None:
    """The sides run A B A B, and the first round warms up."""
    order: list[str] = []
    sides = [
        harness.Side("a", lambda: order.append("a"), prepare=lambda: order.append("before a")),
        harness.Side("b", lambda: order.append("b")),
    ]
    times = harness.take_turns(sides, rounds=2)
    assert order == ["before a", "a", "b"] * 3
    assert [len(taken) for taken in times] == [2, 2]


def test_times_are_divided_by_the_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time is that of one operation."""
    now = iter(range(100))
    monkeypatch.setattr(harness.time, "perf_counter", lambda: 10.0 * next(now))
    assert harness.take_turns([harness.Side("a", lambda: None, per=4)], rounds=1) == [[2.5]]


def test_python_calls_are_counted_in_threads_too() -> None:
    """Calls count in the threads that are started meanwhile."""

    def called() -> None:
        pass

    def run(times: int) -> None:
        called()
        thread = threading.Thread(target=lambda: [called() for _ in range(times)])
        thread.start()
        thread.join()

    assert harness.calls_per_operation(run, 50) == 1
    assert sys.getprofile() is None
    assert threading.getprofile() is None


def test_a_comparison_prints_a_line_for_each_other_side_and_all_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Every comparison is a line for people, and the last line is all of them for programs."""
    with harness.Benchmark("mine", rounds=3) as bench:
        bench.compare(
            "claim",
            harness.Side("ours", lambda: None),
            harness.Side("theirs", lambda: sum(range(10_000))),
            bench.peer("absent", lambda: importlib.import_module("no_such_module_anywhere")),
            harness.Side("beside", lambda: None),
            at_most=(1, 1, None),
            ours_at_most=1e9,
        )
        bench.report("figure", 0.002, "ms", at_most=1, spread=(0.001, 0.003))
        bench.check("truth", True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("(absent is left out: ")
    assert len(lines) == 6
    document = json.loads(last)
    assert document["benchmark"] == "mine"
    ours, theirs, beside, figure, truth = document["rows"]
    assert ours["met"]
    assert ours["aim"] == 1e9
    assert theirs["against"] == "theirs"
    assert theirs["met"]
    assert theirs["spread"][0] <= theirs["spread"][1]
    assert "met" not in beside
    assert (figure["ours"], figure["spread"], figure["met"]) == (2.0, [1.0, 3.0], False)
    assert truth == {"claim": "truth", "met": True}


def test_what_is_measured_quickly_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    """With --quick no aim is said to be met or missed."""
    bench = harness.Benchmark("mine", rounds=1, quick=True)
    bench.report("figure", 5.0, at_most=1)
    assert "met" not in bench.rows[0]
    assert "met" not in capsys.readouterr().out.lower()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_runs(name: str) -> None:
    """Each file runs with --quick, ends with its JSON line, and what has to be true is."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["benchmark"], document["quick"]) == (name, True)
    assert all(row.get("met", True) for row in document["rows"])
