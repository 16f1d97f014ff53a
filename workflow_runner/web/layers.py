"""Places for the boxes of a directed graph, layer by layer from top to bottom.

A box stands one layer below the lowest of those that lead to it. An edge over several layers has a bend in each of
them. The order inside a layer comes from the mean of the neighbours, swept down and up until it crosses no less; the
places from the same means, as far as boxes leave each other room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import attrs

_SWEEPS = 8


@attrs.frozen(kw_only=True)
class Layered:
    """Where everything stands; the left upper corner is 0, 0.

    Attributes:
        places: the middle of each box.
        bends: for each edge, in the order given, points from the lower side of one box to the upper side of the other.
    """

    places: Mapping[str, tuple[float, float]]
    bends: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def layered(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[tuple[str, str]],
    *,
    beside: float = 28.0,
    below: float = 44.0,
) -> Layered:
    """Place boxes.

    Args:
        sizes: width and height of each box, by its id.
        edges: from which box to which one; without circles.
        beside: between two boxes of a layer.
        below: between two layers.
    """
    rank = _ranks(sizes, edges)
    widths = {box: size[0] for box, size in sizes.items()}
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for box in sizes:
        layers[rank[box]].append(box)
    chains: list[list[str]] = []
    for n, (source, target) in enumerate(edges):
        chain = [source]
        for level in range(rank[source] + 1, rank[target]):
            bend = f"{n} {level}"  # a blank is in no id
            widths[bend] = 2.0
            layers[level].append(bend)
            chain.append(bend)
        chains.append([*chain, target])
    above: dict[str, list[str]] = {box: [] for box in widths}
    under: dict[str, list[str]] = {box: [] for box in widths}
    for chain in chains:
        for upper, lower in pairwise(chain):
            under[upper].append(lower)
            above[lower].append(upper)
    layers = _ordered(layers, above, under)
    x = _across(layers, above, under, widths, beside)
    left = min((x[box] - widths[box] / 2 for box in x), default=0.0)
    tops, heights, top = [], [], 0.0
    for layer in layers:
        heights.append(max(sizes[box][1] if box in sizes else 0.0 for box in layer))
        tops.append(top)
        top += heights[-1] + below
    places = {box: (x[box] - left, tops[rank[box]] + heights[rank[box]] / 2) for box in sizes}
    bends = []
    for (source, target), chain in zip(edges, chains, strict=True):
        points = [(places[source][0], places[source][1] + sizes[source][1] / 2)]
        for level, bend in enumerate(chain[1:-1], rank[source] + 1):
            points += [(x[bend] - left, tops[level]), (x[bend] - left, tops[level] + heights[level])]
        bends.append((*points, (places[target][0], places[target][1] - sizes[target][1] / 2)))
    return Layered(
        places=places,
        bends=tuple(bends),
        width=max((x[box] - left + widths[box] / 2 for box in x), default=0.0),
        height=max(0.0, top - below),
    )


def _ranks(boxes: Mapping[str, object], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The layer of each box: the longest way to it."""
    after: dict[str, list[str]] = {box: [] for box in boxes}
    missing = dict.fromkeys(boxes, 0)
    for source, target in edges:
        after[source].append(target)
        missing[target] += 1
    rank = dict.fromkeys(boxes, 0)
    ready = [box for box in boxes if not missing[box]]
    for box in ready:  # which grows meanwhile
        for target in after[box]:
            rank[target] = max(rank[target], rank[box] + 1)
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    return rank


def _ordered(
    layers: list[list[str]], above: Mapping[str, list[str]], under: Mapping[str, list[str]]
) -> list[list[str]]:
    """The layers in the order, of those tried, in which the fewest edges cross."""
    best, fewest = layers, _crossings(layers, under)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        layers = [layer[:] for layer in layers]
        down = sweep % 2 == 0
        near = above if down else under
        for level in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            at = {box: n for n, box in enumerate(layers[level - 1 if down else level + 1])}
            mean = {
                box: sum(at[other] for other in near[box]) / len(near[box]) if near[box] else n
                for n, box in enumerate(layers[level])
            }
            layers[level].sort(key=mean.__getitem__)
        crossings = _crossings(layers, under)
        if crossings < fewest:
            best, fewest = layers, crossings
    return best


def _crossings(layers: list[list[str]], under: Mapping[str, list[str]]) -> int:
    count = 0
    for upper, lower in pairwise(layers):
        at = {box: n for n, box in enumerate(lower)}
        seen: list[int] = []
        for box in upper:
            ends = [at[other] for other in under[box]]
            count += sum(end < before for end in ends for before in seen)
            seen += ends
    return count


def _across(
    layers: list[list[str]],
    above: Mapping[str, list[str]],
    under: Mapping[str, list[str]],
    widths: Mapping[str, float],
    beside: float,
) -> dict[str, float]:
    """The middle of each box: as near to those of its neighbours as the others in its layer allow."""
    x: dict[str, float] = {}
    for layer in layers:
        wide = sum(widths[box] for box in layer) + beside * (len(layer) - 1)
        left = -wide / 2
        for box in layer:
            x[box] = left + widths[box] / 2
            left += widths[box] + beside
    for sweep in range(2 * _SWEEPS):
        near = above if sweep % 2 == 0 else under
        for layer in layers if sweep % 2 == 0 else layers[::-1]:
            wanted = [sum(x[other] for other in near[box]) / len(near[box]) if near[box] else x[box] for box in layer]
            # Bends pull more, so that long edges are straight.
            pulls = [8.0 if " " in box else 1.0 for box in layer]
            x.update(zip(layer, _apart(wanted, pulls, [widths[box] for box in layer], beside), strict=True))
    return x


def _apart(wanted: Sequence[float], pulls: Sequence[float], widths: Sequence[float], beside: float) -> list[float]:
    """The places nearest to the wanted ones (least squares) that keep the order and the distances.

    Pooling of adjacent violators: neighbours that want the same place move together, to the mean of what they want.
    """
    offsets = [0.0]
    for left, right in pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + beside)
    blocks: list[tuple[float, float, int]] = []  # the place, the pull, how many
    for want, pull, offset in zip(wanted, pulls, offsets, strict=True):
        place, force, count = want - offset, pull, 1
        while blocks and blocks[-1][0] > place:
            other, others_force, others = blocks.pop()
            place = (place * force + other * others_force) / (force + others_force)
            force, count = force + others_force, count + others
        blocks.append((place, force, count))
    places = [place for place, _, count in blocks for _ in range(count)]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]
