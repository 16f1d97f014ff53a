"""The harness of the benchmarks: sides that take turns, medians, ratios, one line for people and one for programs.

All sides of a comparison are timed in one process and take turns (A B A B ...), so that whatever else the machine does
meets each of them. The garbage collector runs for every side as it does in a program: it is emptied before each turn
and left on. A ratio is that of the medians over all rounds; its spread is the lowest and the highest ratio of any one
round.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        name: what it is called in the report.
        run: does the work once; what is timed.
        per: how many operations one ``run`` is, to divide its time by.
        prepare: called before each ``run``, outside the time.
    """

    name: str
    run: Callable[[], object]
    per: float = 1
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians, with the lowest and the highest ratio of one round."""

    value: float
    low: float
    high: float


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """How ``ours`` compares with ``theirs``; both in order of the rounds.

    Raises:
        ValueError: they have not the same number of rounds, or none.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"a ratio needs the same rounds on both sides, got {len(ours)} and {len(theirs)}")
    rounds = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ours) / statistics.median(theirs), min(rounds), max(rounds))


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of ``values`` that at least ``percent`` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def take_turns(sides: Sequence[Side], rounds: int) -> list[list[float]]:
    """Time the sides one after the other, so many rounds, after a round that warms up and does not count.

    Returns:
        For each side its seconds per operation, one for each round.
    """
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, taken in zip(sides, times, strict=True):
            if side.prepare is not None:
                side.prepare()
            gc.collect()
            start = time.perf_counter()
            side.run()
            end = time.perf_counter()
            if turn:
                taken.append((end - start) / side.per)
    return times


def count_calls(run: Callable[[], object]) -> int:
    """How many Python functions ``run`` calls, in this thread and in those that are started meanwhile.

    Calls of functions written in C do not count. A pool has to be made inside ``run``: threads that are there already
    are not seen.
    """
    counts: dict[int, int] = {}  # by thread, so that no two of them write to one place

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            me = threading.get_ident()
            counts[me] = counts.get(me, 0) + 1

    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
    return sum(counts.values())


def calls_per_operation(run: Callable[[int], object], operations: int) -> float:
    """How many Python calls one more operation costs: the difference of ``run(2 * operations)`` and half of it."""
    small, large = (count_calls(partial(run, n)) for n in (operations, 2 * operations))
    return (large - small) / operations


@dataclass
class Benchmark:
    """One file's measurements: prints a line for each, and all of them as one line of JSON when it is finished.

    Use it as a context manager.

    Args:
        name: the file's.
        rounds: how often each side has its turn.
        quick: measure next to nothing, to see that everything runs.
        options: what the command line said.
    """

    name: str
    rounds: int
    quick: bool = False
    options: argparse.Namespace = field(default_factory=argparse.Namespace)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def size(self, full: int, quick: int) -> int:
        """The size to measure with."""
        return quick if self.quick else full

    def compare(
        self,
        claim: str,
        *sides: Side | None,
        unit: str = "us",
        at_most: float | Sequence[float | None] | None = None,
        ours_at_most: float | None = None,
        rounds: int | None = None,
    ) -> list[list[float]]:
        """Time our side, which comes first, against the others, and report one line for each of these.

        Args:
            claim: what is compared.
            *sides: ours and the others; None for a peer that is not there.
            unit: of the times in the report.
            at_most: the aim for the ratio: one for all the others, or one for each (None: printed beside).
            ours_at_most: the aim for our own median, in ``unit``; reported as a line of its own.
            rounds: instead of the benchmark's.

        Returns:
            For each side that is there its seconds per operation, one for each round.
        """
        aims = list(at_most) if isinstance(at_most, Sequence) else [at_most] * (len(sides) - 1)
        present = [(side, aim) for side, aim in zip(sides, [None, *aims], strict=True) if side is not None]
        times = take_turns([side for side, _ in present], rounds or self.rounds)
        ours, scale = times[0], UNITS[unit]
        if ours_at_most is not None:
            self.report(claim, statistics.median(ours), unit, at_most=ours_at_most, spread=(min(ours), max(ours)))
        for (side, aim), theirs in zip(present[1:], times[1:], strict=True):
            found = ratio(ours, theirs)
            mine, other = statistics.median(ours) * scale, statistics.median(theirs) * scale
            self._row(
                f"{mine:9.3f} {unit}   {side.name}: {other:.3f} {unit}   x{found.value:.3f}"
                f" ({found.low:.3f}..{found.high:.3f})",
                {
                    "claim": claim,
                    "unit": unit,
                    "ours": mine,
                    "against": side.name,
                    "theirs": other,
                    "ratio": found.value,
                    "spread": [found.low, found.high],
                },
                found.value,
                aim,
            )
        return times

    def report(
        self,
        claim: str,
        value: float,
        unit: str = "",
        *,
        at_most: float | None = None,
        spread: tuple[float, float] | None = None,
    ) -> None:
        """Report one figure.

        Args:
            claim: what it is.
            value: in seconds if ``unit`` is one of time.
            unit: of the report.
            at_most: the aim, in ``unit``.
            spread: lowest and highest, like ``value``.
        """
        scale = UNITS.get(unit, 1.0)
        row = {"claim": claim, "unit": unit, "ours": value * scale}
        text = f"{value * scale:9.3f} {unit}"
        if spread is not None:
            row["spread"] = [end * scale for end in spread]
            text += f" ({spread[0] * scale:.3f}..{spread[1] * scale:.3f})"
        self._row(text, row, value * scale, at_most)

    def check(self, claim: str, holds: bool) -> None:
        """Report something that has to be true, also when measuring quickly."""
        self.rows.append({"claim": claim, "met": holds})
        print(f"{claim:<58} {'met' if holds else 'NOT MET'}", flush=True)

    def _row(self, text: str, row: dict[str, Any], value: float, aim: float | None) -> None:
        if aim is not None and not self.quick:  # what is measured quickly says nothing
            row |= {"aim": aim, "met": value <= aim}
            text += f"   aim <= {aim:g}: {'met' if row['met'] else 'NOT MET'}"
        self.rows.append(row)
        print(f"{row['claim']:<58} {text}", flush=True)

    def peer(self, name: str, make: Callable[[], Callable[[], object]], per: float = 1) -> Side | None:
        """A side that needs a package of others; None, with a line that says so, where it is not installed.

        Args:
            name: of the side.
            make: imports the package and returns what is to be timed.
            per: see `Side`.
        """
        try:
            return Side(name, make(), per)
        except ImportError as error:
            print(f"({name} is left out: {error})", flush=True)
            return None

    def __enter__(self) -> Benchmark:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            document = {
                "benchmark": self.name,
                "python": platform.python_version(),
                "quick": self.quick,
                "rounds": self.rounds,
                "rows": self.rows,
            }
            print(json.dumps(document), flush=True)


def loop(run: Callable[[], object], times: int) -> Callable[[], None]:
    """``run`` so many times in a row, for a side that is too short to be timed alone."""

    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def benchmark(name: str, *, rounds: int = 9, description: str | None = None, **options: Any) -> Benchmark:
    """Make a file's benchmark from its command line.

    Args:
        name: the file's.
        rounds: how often each side has its turn, unless the command line says otherwise.
        description: for ``--help``.
        **options: further options with their defaults.
    """
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="measure next to nothing, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each side has its turn (%(default)s)")
    for option, default in options.items():
        parser.add_argument(f"--{option}", type=type(default), default=default, help="default: %(default)s")
    chosen = parser.parse_args()
    return Benchmark(name, 1 if chosen.quick else chosen.rounds, chosen.quick, chosen)
