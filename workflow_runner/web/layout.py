"""Where everything stands in the picture of a run: decided here, from records alone, and drawn elsewhere.

A run is a tree of paths. What is called alike at one place (the items of a fan-out, the repeats of a call) is one
*group*; what ran side by side in it is packed into *lanes*; what is too short to be seen in a lane is merged into one
*piece* with its neighbours of the same status. Long pauses between two sessions of a run are cut out of the axis.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import attrs

from workflow_runner.store.base import Attempt, EventRow, RunRecord, StepRow
from workflow_runner.web.units import tick_label, tick_step

STATUSES = (
    "inside",  # of what has no record of its own: from the first to the last of what is inside
    "skipped",
    "completed",
    "running",
    "pending",
    "stopped",  # a session that has not ended the run
    "cancelled",
    "interrupted",  # begun, and never recorded
    "retried",  # an attempt that failed and was repeated
    "failed",
)
"""Every status of a piece; where two overlap, the later one is on top."""

# A pause that is longer than this part of the working time is shown as if it were as long as `_CUT_TO` of it.
_CUT_FROM, _CUT_TO = 0.08, 0.05


@attrs.frozen(kw_only=True)
class Piece:
    """One bar: something that ran, or several that are too short to be drawn alone.

    Attributes:
        start: seconds since the epoch.
        end: seconds since the epoch.
        status: one of `STATUSES`.
        label: its name; of several those of the first and the last.
        count: how many they are.
        path: its path in the run; of several that of the first.
        attempt: which one it was.
        error: what it failed with, as ``Class: message``.
    """

    start: float
    end: float
    status: str
    label: str
    count: int = 1
    path: str = ""
    attempt: int = 1
    error: str | None = None


@attrs.frozen(kw_only=True)
class Lane:
    """A row of the picture, in which no two pieces of one status overlap.

    Attributes:
        label: of its group; empty for the further lanes of a group.
        depth: 0 for the run, 1 for its steps, and so on.
        kind: "run", "step", "execution" or "item".
        count: how many are in the group.
        seconds: how long they took together, without the gaps.
        pieces: in the order of `STATUSES`, and then of time.
    """

    label: str
    depth: int
    kind: str
    count: int
    seconds: float
    pieces: tuple[Piece, ...]


@attrs.frozen(kw_only=True)
class Gap:
    """A time in which nobody worked at the run.

    Attributes:
        start: seconds since the epoch; the last sign of life before it.
        end: when it was gone on with.
        shown: how many seconds of it the axis shows.
    """

    start: float
    end: float
    shown: float

    @property
    def cut(self) -> float:
        """How many seconds of it the axis leaves out."""
        return self.end - self.start - self.shown


@attrs.frozen(kw_only=True)
class Tick:
    """A mark of the axis, at so many seconds since the epoch."""

    at: float
    label: str


@attrs.frozen(kw_only=True)
class Timeline:
    """A run laid out in time.

    Attributes:
        run: the run.
        status: its own, or "crashed".
        start: where the axis begins, seconds since the epoch.
        end: where it ends, after ``start``.
        lanes: from top to bottom; the first one is the run's.
        gaps: in order of time.
        steps: how many rows are recorded.
        failures: how many attempts failed.
        folded: how many groups of lanes are left out, because they are too many; what they are inside of is there.
    """

    run: RunRecord
    status: str
    start: float
    end: float
    lanes: tuple[Lane, ...]
    gaps: tuple[Gap, ...]
    steps: int
    failures: int
    folded: int

    @property
    def span(self) -> float:
        """How many seconds the axis shows."""
        return self.end - self.start - sum(gap.cut for gap in self.gaps)

    def place(self, at: float) -> float:
        """Where a moment is on the axis, from 0.0 to 1.0."""
        shown = at - self.start
        for gap in self.gaps:
            if at >= gap.end:
                shown -= gap.cut
            elif at > gap.start:
                shown -= gap.cut * (at - gap.start) / (gap.end - gap.start)
        return min(1.0, max(0.0, shown / self.span))

    def ticks(self, most: int) -> list[Tick]:
        """The marks of the axis, about so many; after a gap that is cut they count from its end."""
        step = tick_step(self.span, most)
        cuts = [gap for gap in self.gaps if gap.cut]
        found = []
        for begin, end in zip(
            [self.start, *(gap.end for gap in cuts)], [*(gap.start for gap in cuts), self.end], strict=True
        ):
            count = int((end - begin) / step + 1e-9)
            plus = "" if begin == self.start else "+"
            found += [
                Tick(at=begin + n * step, label=plus + tick_label(n * step, step))
                for n in range(1 if plus else 0, count + 1)
            ]
        return found


def layout(
    run: RunRecord,
    rows: Iterable[StepRow],
    attempts: Iterable[Attempt] = (),
    events: Iterable[EventRow] = (),
    *,
    width: int = 880,
    narrowest: float = 3.0,
    most_pieces: int = 1500,
    most_lanes: int = 150,
    lanes_each: int = 12,
    whole: bool = False,
    now: float | None = None,
) -> Timeline:
    """Lay a run out in time.

    Args:
        run: as ``store.run`` gives it.
        rows: as ``store.steps`` gives them.
        attempts: as ``store.attempts`` gives them.
        events: as ``store.events(run_id=...)`` gives them; they tell when the run was left and gone on with.
        width: how many dots the axis will have.
        narrowest: pieces of fewer dots are merged with their neighbours.
        most_pieces: about so many pieces; with more of them wider ones are merged, too.
        most_lanes: about so many lanes; with more of them neighbours share one, and the deepest levels are left out.
        lanes_each: so many lanes of one group at most.
        whole: merge, fold and leave out nothing, however much it is; of two pieces of a lane that overlap one lies in
            the other.
        now: where the axis of a run ends that is still running, seconds since the epoch; default: the present.

    Returns:
        What is to be drawn. Any thread.
    """
    rows, attempts = list(rows), list(attempts)
    now = time.time() if now is None else now
    status = "crashed" if run.crashed else run.status
    moments = [row.started_at for row in rows] + [attempt.started_at for attempt in attempts]
    start = min([run.created_at if run.started_at is None else run.started_at, *moments])
    ends = [row.finished_at for row in rows] + [a.finished_at for a in attempts if a.finished_at is not None]
    if run.finished_at is not None:
        ends.append(run.finished_at)
    elif status == "running":
        ends.append(now)
    end = max([start, *ends])
    end = end if end > start else start + 1e-3
    gaps = _gaps(start, end, sorted(ends), events)
    axis = Timeline(
        run=run,
        status=status,
        start=start,
        end=end,
        lanes=(),
        gaps=gaps,
        steps=len(rows),
        failures=sum(attempt.error is not None for attempt in attempts),
        folded=0,
    )
    root = _Group("", run.flow, "run")
    _plant(root, rows, attempts, gaps, end)
    folded = 0 if whole else root.fold(most_lanes)
    shown = list(root.walk())[1:]
    while not whole and lanes_each > 1 and sum(group.busiest(lanes_each) for _, group in shown) > most_lanes:
        lanes_each //= 2
    groups = [(depth, group, group.packed(len(rows) if whole else lanes_each)) for depth, group in shown]
    dot = axis.span / width
    while True:
        lanes = [_sessions(axis), *_lanes(groups, gaps, 0.0 if whole else narrowest * dot)]
        pieces = sum(len(lane.pieces) for lane in lanes)
        if whole or pieces <= max(most_pieces, 2 * len(lanes)) or narrowest > width:
            return attrs.evolve(axis, lanes=tuple(lanes), folded=folded)
        narrowest *= 2


def _lanes(
    groups: Iterable[tuple[int, _Group, list[list[_Bar]]]], gaps: Sequence[Gap], narrow: float
) -> Iterator[Lane]:
    for depth, group, packed in groups:
        count = group.count
        label = group.name if count > 1 else group.bars[0][3].rpartition("/")[2]
        seconds = sum(bar[1] - bar[0] for bar in group.bars)
        seconds -= sum(max(0.0, min(bar[1], g.end) - max(bar[0], g.start)) for g in gaps for bar in group.bars)
        about = Lane(label="", depth=depth, kind=group.kind, count=count, seconds=seconds, pieces=())
        for n, bars in enumerate(packed):
            yield attrs.evolve(about, label="" if n else label, pieces=tuple(_merged(bars, narrow)))


# --- sessions and the gaps between them -------------------------------------------------------------------------------


def _gaps(start: float, end: float, signs: Sequence[float], events: Iterable[EventRow]) -> tuple[Gap, ...]:
    """From the last sign of life before each claim to the claim."""
    found: list[tuple[float, float]] = []
    released: float | None = None
    last = start
    for event in events:
        if event.kind == "released":
            released = event.at
        elif event.kind == "claimed":
            before = [sign for sign in signs if last <= sign <= event.at]
            left = released if released is not None else max(before, default=last)
            if start <= left < event.at < end:
                found.append((left, event.at))
            last, released = event.at, None
    working = end - start - sum(b - a for a, b in found)
    longest, shown = _CUT_FROM * working, _CUT_TO * working
    return tuple(Gap(start=a, end=b, shown=shown if b - a > longest else b - a) for a, b in found)


def _sessions(axis: Timeline) -> Lane:
    """The lane of the run itself: each time somebody worked at it."""
    starts = [axis.start, *(gap.end for gap in axis.gaps)]
    ends = [*(gap.start for gap in axis.gaps), axis.end]
    last = "interrupted" if axis.status == "crashed" else axis.status
    statuses = ["stopped"] * len(axis.gaps) + [last]
    error = None if axis.run.error is None else said(axis.run.error)
    pieces = tuple(
        Piece(
            start=start,
            end=end,
            status=status,
            label=axis.run.flow if len(starts) == 1 else f"{axis.run.flow}, session {number}",
            attempt=number,
            error=error if number == len(starts) else None,
        )
        for number, (start, end, status) in enumerate(zip(starts, ends, statuses, strict=True), 1)
    )
    seconds = sum(piece.end - piece.start for piece in pieces)
    return Lane(label=axis.run.flow, depth=0, kind="run", count=len(pieces), seconds=seconds, pieces=pieces)


# --- groups -----------------------------------------------------------------------------------------------------------

# A bar that is not merged yet, as a tuple since there may be 100,000: start, end, status, path, attempt, error text.
_Bar = tuple[float, float, str, str, int, str | None]


_NOTHING: list[_Bar] = []
_NOBODY: dict[tuple[str, str], _Group] = {}


class _Group:
    """What is called alike at one place of the tree.

    Attributes:
        bars: one for each path, in no order.
        over: those that lie on the bar of the same path: attempts that failed.
        start: of the first bar.
    """

    __slots__ = ("bars", "below", "key", "kind", "name", "over", "start")

    def __init__(self, key: str, name: str, kind: str) -> None:
        self.key = key
        self.name = name
        self.kind = kind
        self.bars: list[_Bar] = []
        # Most groups of a long row of steps have none of these, and there may be 100,000.
        self.over: list[_Bar] = _NOTHING
        self.below: dict[tuple[str, str], _Group] = _NOBODY
        self.start = math.inf

    def child(self, name: str, row: StepRow | None) -> _Group:
        """The group below this one that a path with this last part belongs to."""
        kind, key, name_of_all = _alike(name, row)
        group = self.below.get((kind, key))
        if group is None:
            if self.below is _NOBODY:
                self.below = {}
            group = self.below[kind, key] = _Group(key, name_of_all, kind)
        elif group.name != name_of_all:
            group.name = key
        return group

    def add(self, bar: _Bar) -> None:
        self.bars.append(bar)
        if bar[0] < self.start:
            self.start = bar[0]

    @property
    def count(self) -> int:
        """How many different paths there are."""
        return len(self.bars) if len(self.bars) < 2 else len({bar[3] for bar in self.bars})

    def walk(self) -> Iterator[tuple[int, _Group]]:
        """This one and all below with their depths, as they stand in the picture."""
        todo = [(0, self)]
        while todo:
            depth, group = todo.pop()
            yield depth, group
            todo += [(depth + 1, below) for below in reversed(group.ordered())]

    def ordered(self) -> list[_Group]:
        """Those directly below, in order of time."""
        return sorted(self.below.values(), key=lambda group: group.start)

    def fold(self, most: int) -> int:
        """Let neighbours share a group, and leave out the deepest levels, until about ``most`` are left.

        Returns:
            How many are left out.
        """
        left_out = 0
        todo = [self]
        while todo:
            group = todo.pop()
            if len(group.below) > most:
                ordered = group.ordered()
                each = -(-len(ordered) // most)
                parts = [ordered[i : i + each] for i in range(0, len(ordered), each)]
                left_out += sum(
                    len(list(one.walk())) - 1 for part in parts if len(part) > 1 for one in part if one.below
                )
                group.below = {("together", str(n)): _together(part) for n, part in enumerate(parts)}
            todo += group.below.values()
        every = list(self.walk())
        fitting, deepest = 0, 0
        for depth, count in sorted(Counter(depth for depth, _ in every).items()):
            fitting += count
            if depth > 1 and fitting > most + 1:
                break
            deepest = depth
        for depth, group in every:
            if depth == deepest:
                group.below = _NOBODY
        return left_out + sum(depth > deepest for depth, _ in every)

    def busiest(self, most: int) -> int:
        """How many of the bars were there at once, at most ``most``."""
        changes = [(bar[0], 1) for bar in self.bars] + [(bar[1], -1) for bar in self.bars]
        there = highest = 0
        for _, change in sorted(changes):
            there += change
            if there > highest:
                highest = there
                if highest >= most:
                    return most
        return max(1, highest)

    def packed(self, most: int) -> list[list[_Bar]]:
        """The bars in lanes, each in the first one that is free; in the one that is free first if none is."""
        self.bars.sort()
        ends: list[float] = []
        lanes: list[list[_Bar]] = []
        marked = {bar[3] for bar in self.over}
        at: dict[str, int] = {}
        for bar in self.bars:
            n = next((n for n, end in enumerate(ends) if end <= bar[0]), len(ends))
            if n == len(ends) < most:
                ends.append(bar[1])
                lanes.append([])
            elif n == len(ends):
                n = ends.index(min(ends))
            ends[n] = max(ends[n], bar[1])
            lanes[n].append(bar)
            if bar[3] in marked:
                at[bar[3]] = n
        for bar in self.over:
            lanes[at[bar[3]]].append(bar)
        return lanes


def _together(groups: Sequence[_Group]) -> _Group:
    if len(groups) == 1:
        return groups[0]
    group = _Group("", f"{groups[0].name} … {groups[-1].name}", groups[0].kind)
    for one in groups:
        group.bars += one.bars
    group.over = [bar for one in groups for bar in one.over]
    group.start = groups[0].start
    return group


def _plant(root: _Group, rows: list[StepRow], attempts: list[Attempt], gaps: Sequence[Gap], end: float) -> None:
    """Put all that is recorded into groups below ``root``."""
    by_path = {row.path: row for row in rows}
    extents: dict[str, tuple[float, float]] = {}
    for row in rows:
        if "/" in row.path:
            _widen(extents, row.path, row.started_at, row.finished_at)
    for attempt in attempts:
        _widen(extents, attempt.path, attempt.started_at, attempt.finished_at or attempt.started_at)
    groups: dict[str, _Group] = {"": root}

    def group_of(path: str, row: StepRow | None) -> _Group:
        """Where a path belongs; what others lie below has a group, whether it is recorded or not."""
        head, _, name = path.rpartition("/")
        missing = []
        while head not in groups:
            missing.append(head)
            head = head.rpartition("/")[0]
        for above in reversed(missing):
            groups[above] = groups[head].child(above.rpartition("/")[2], by_path.get(above))
            head = above
        return groups[head].child(name, row)

    for row in rows:
        path, start, finished = row.path, row.started_at, row.finished_at
        inside = extents.get(path)
        if inside is not None:
            start, finished = min(start, inside[0]), max(finished, inside[1])
        group_of(path, row).add((start, finished, row.status, path, row.attempt, None))
    last = {attempt.path: attempt for attempt in attempts}
    for attempt in attempts:
        began, row_of = attempt.started_at, by_path.get(attempt.path)
        if attempt.error is None and row_of is not None:  # it was recorded after all
            continue
        if attempt.error is None:
            finished = min([gap.start for gap in gaps if gap.start > began], default=end)
            status = "interrupted"
        else:
            finished = began if attempt.finished_at is None else attempt.finished_at
            status = "retried" if row_of is not None or last[attempt.path] is not attempt else "failed"
        bar = (began, finished, status, attempt.path, attempt.attempt, attempt.error and said(attempt.error))
        group = group_of(attempt.path, row_of)
        lies_on = row_of is not None and row_of.started_at <= began and finished <= row_of.finished_at
        if lies_on:
            if group.over is _NOTHING:
                group.over = []
            group.over.append(bar)
        else:
            group.add(bar)
    begun = by_path.keys() | last.keys()
    for path, (start, finished) in extents.items():
        if path not in begun:
            group_of(path, None).add((start, finished, "inside", path, 1, None))


def _widen(extents: dict[str, tuple[float, float]], path: str, start: float, end: float) -> None:
    """Let all that a path lies in reach from ``start`` to ``end``."""
    head = path.rpartition("/")[0]
    while head:
        known = extents.get(head)
        if known is None:
            extents[head] = start, end
        elif known[0] <= start and end <= known[1]:
            return
        else:
            extents[head] = min(known[0], start), max(known[1], end)
        head = head.rpartition("/")[0]


def _alike(name: str, row: StepRow | None) -> tuple[str, str, str]:
    """The kind of a path's last part, what it has in common with its like, and what these are called."""
    if name.endswith("]") and (row is None or row.kind == "item"):
        key = name[: name.rindex("[")] if "[" in name else name
        return "item", key, key if row is None else row.flow
    if row is not None and row.kind == "execution":
        return "execution", row.flow, row.flow
    if row is None:
        name = name.partition("#")[0]
    return "step", name, name


def said(error: str) -> str:
    """A recorded error as ``Class: message``."""
    try:
        data = json.loads(error)
        return f"{data['type']}: {data['message']}"
    except (ValueError, TypeError, KeyError):  # whoever wrote it
        return error


# --- merging ----------------------------------------------------------------------------------------------------------


def _merged(bars: Iterable[_Bar], narrow: float) -> Iterator[Piece]:
    """The bars of a lane as pieces: those of one status that are narrow and close are one piece.

    Args:
        narrow: seconds; 0.0 to merge nothing.
    """
    by_status: dict[str, list[_Bar]] = {}
    for bar in bars:
        by_status.setdefault(bar[2], []).append(bar)
    near = narrow / 3
    for status in sorted(by_status, key=STATUSES.index):
        same = sorted(by_status[status])
        first = last = same[0]
        until, count, small = first[1], 1, first[1] - first[0] < narrow
        for bar in same[1:]:
            also_small = bar[1] - bar[0] < narrow
            if narrow and ((small and also_small and bar[0] - until < near) or bar[1] <= until):
                last, until, count = bar, max(until, bar[1]), count + 1
            else:
                yield _piece(first, last, until, count)
                first, last, until, count, small = bar, bar, bar[1], 1, also_small
        yield _piece(first, last, until, count)


def _piece(first: _Bar, last: _Bar, until: float, count: int) -> Piece:
    start, _, status, path, attempt, error = first
    label = path.rpartition("/")[2]
    if count > 1:
        label = f"{label} … {last[3].rpartition('/')[2]}"
    return Piece(
        start=start, end=until, status=status, label=label, count=count, path=path, attempt=attempt, error=error
    )
