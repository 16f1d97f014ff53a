"""A run as a Gantt chart in the terminal: bars of characters that differ without colours, too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from workflow_runner.web.layout import STATUSES, Lane, Timeline
from workflow_runner.web.svg import cut
from workflow_runner.web.timeline import about, meaning
from workflow_runner.web.units import duration, moment

# How a piece of each status looks, in Unicode and in ASCII, and its colour.
_GLYPHS = {
    "inside": ("─", "_", "dim"),
    "skipped": ("░", ".", "dim"),
    "completed": ("█", "#", "green"),
    "running": ("▒", ">", "blue"),
    "pending": ("·", ".", "dim"),
    "stopped": ("═", "=", "dim"),
    "cancelled": ("▒", "%", "magenta"),
    "interrupted": ("▚", "?", "yellow"),
    "retried": ("▞", "x", "yellow"),
    "failed": ("\u2573", "X", "bold red"),
}
_GAP, _TICK = ("┊", ":"), ("│", "|")
_TOOK = 13


def columns_of(width: int) -> tuple[int, int]:
    """How many columns of a line so wide the labels have, and the bars."""
    labels = max(12, min(32, width // 3))
    return labels, max(10, width - labels - _TOOK - 1)


def gantt(timeline: Timeline, width: int, *, zone: dt.tzinfo | None = None, ascii_only: bool = False) -> list[Text]:
    """Draw a run.

    Args:
        timeline: laid out for as many dots as `columns_of` gives for the bars.
        width: columns.
        zone: of the times; None: this machine's.
        ascii_only: take characters that every encoding has.

    Returns:
        The lines; none is longer than ``width``, unless that is less than 40.
    """
    return list(_Drawing(timeline, width, zone, ascii_only).lines())


class _Drawing:
    def __init__(self, timeline: Timeline, width: int, zone: dt.tzinfo | None, ascii_only: bool) -> None:
        self.timeline = timeline
        self.width = width
        self.zone = zone
        self.ascii = ascii_only
        self.left, self.plot = columns_of(width)
        self.blank = [""] * self.plot
        for gap in timeline.gaps:
            begin, end = self._cells(gap.start, gap.end)
            self.blank[begin:end] = ["gap"] * (end - begin)

    def lines(self) -> Iterator[Text]:
        timeline = self.timeline
        yield Text(timeline.run.flow, "bold")
        for line in self._wrapped([*about(timeline), f"from {moment(timeline.start, self.zone)}"]):
            yield Text(line, "dim")
        yield Text()
        yield self._axis()
        seen: set[str] = set()
        for lane in timeline.lanes:
            seen.update(piece.status for piece in lane.pieces)
            yield self._lane(lane)
        yield Text()
        yield from self._legend(seen)

    def _wrapped(self, words: list[str]) -> Iterator[str]:
        line = ""
        between = ", " if self.ascii else " · "
        for word in words:
            longer = f"{line}{between}{word}" if line else word
            if line and cell_len(longer) > self.width:
                yield line
                longer = word
            line = longer
        yield line

    def _axis(self) -> Text:
        cells = [" "] * (self.plot + _TOOK)
        free = 0
        for tick in self.timeline.ticks(max(2, self.plot // 11)):
            at = min(self.plot - 1, round(self.timeline.place(tick.at) * self.plot))
            word = f"{_TICK[self.ascii]}{tick.label}"
            if free <= at <= len(cells) - len(word):
                cells[at : at + len(word)] = word
                free = at + len(word) + 1
        return Text(f"{' ' * (self.left + 1)}{''.join(cells)}".rstrip(), "dim")

    def _lane(self, lane: Lane) -> Text:
        many = lane.count > 1 and lane.kind != "run"
        times = f" {'x' if self.ascii else chr(0xD7)}{lane.count:,}" if many else ""
        indent = "  " * min(lane.depth, 6)
        label = cut(lane.label, max(1, self.left - len(indent) - len(times))) + times if lane.label else ""
        if self.ascii:
            label = label.replace("…", "~").encode("ascii", "backslashreplace").decode()
        style = "bold" if lane.depth == 0 else ""
        line = Text(set_cell_size(indent + _shown(label), self.left) + " ", style, no_wrap=True)
        line.append_text(self._bar(lane))
        if not lane.label:
            line.rstrip()
        else:
            took = f"{duration(lane.seconds / lane.count)} each" if many else duration(lane.seconds)
            line.append(took.rjust(_TOOK), "dim")
        return line

    def _bar(self, lane: Lane) -> Text:
        cells = self.blank[:]
        for piece in sorted(lane.pieces, key=lambda piece: STATUSES.index(piece.status)):
            begin, end = self._cells(piece.start, piece.end)
            cells[begin:end] = [piece.status] * (end - begin)
        bar = Text()
        for cell in cells:
            if cell in _GLYPHS:
                bar.append(_GLYPHS[cell][self.ascii], _GLYPHS[cell][2])
            else:
                bar.append(_GAP[self.ascii] if cell else " ", "dim")
        return bar

    def _cells(self, start: float, end: float) -> tuple[int, int]:
        """From which cell to before which one: at least one."""
        begin = min(self.plot - 1, round(self.timeline.place(start) * self.plot))
        return begin, max(begin + 1, round(self.timeline.place(end) * self.plot))

    def _legend(self, seen: set[str]) -> Iterator[Text]:
        words = [f"{_GLYPHS[status][self.ascii]} {meaning(status)}" for status in STATUSES if status in seen]
        words += [f"{_GAP[self.ascii]} not running for {duration(gap.end - gap.start)}" for gap in self.timeline.gaps]
        line = ""
        for word in words:
            if line and len(line) + len(word) + 3 > self.width:
                yield Text(line, "dim")
                line = ""
            line = f"{line}   {word}".strip()
        yield Text(line, "dim")


def _shown(text: str) -> str:
    """Whatever a terminal would obey is shown instead."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
