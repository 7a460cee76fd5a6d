"""A map of test images: points coloured by class, crosses where the prediction is wrong, names in their heaps.

Ten colours in CSS serve light and dark. The second ten classes are rings; from the 21st on colours come again, and the
names in the heaps and the tooltips distinguish classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lnl_core.report.charts import LETTER, shortened
from lnl_core.report.formats import count

SIZE, LARGE = (520.0, 400.0), (1040.0, 620.0)  # px; many classes get the whole width of the page
MARGIN = 14.0
COLOURS = 10  # .k0 to .k9 of style.css
LISTED = 2 * COLOURS  # classes up to which the legend names each: so many look different
LINE = 13.0  # px, height of a name
ABOVE = 0.15  # share of a heap's points above its name: strays must not carry it off

NEAR = 35.0  # px, half the width of a heap
CANDIDATES = 200  # points of a class that are tried as its middle

Place = tuple[float, float, str]  # x, y, tooltip


@dataclass(frozen=True, kw_only=True)
class Group:
    """The points of one class."""

    style: str  # CSS classes
    right: tuple[Place, ...]
    wrong: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A drawing of width x height without axes: places on such a map have no unit."""

    groups: tuple[Group, ...]
    names: tuple[tuple[float, float, str, str], ...]  # x, y, short name, full name
    legend: tuple[tuple[str, str], ...]  # name, CSS classes
    describe: str
    width: float
    height: float

    @property
    def crosses(self) -> int:
        return sum(len(group.wrong) for group in self.groups)


def scatter(
    places: Sequence[tuple[float, float]], actual: Sequence[int], predicted: Sequence[int], names: Sequence[str]
) -> Scatter | None:
    """`actual` and `predicted` are class numbers into `names`; None where there is no point."""
    if not places:
        return None
    size = SIZE if len(set(actual)) <= LISTED else LARGE
    spots = _placed(places, size)
    by_class: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(actual):
        by_class[label].append(row)
    groups = [_group(label, by_class[label], spots, predicted, names) for label in sorted(by_class)]
    wrong = sum(label != guess for label, guess in zip(actual, predicted, strict=True))
    listed = sorted(by_class) if len(by_class) <= LISTED else []
    return Scatter(
        groups=tuple(groups),
        names=tuple(_heap_names(by_class, spots, names, size)),
        legend=tuple((shortened(names[label]), style_of(label)) for label in listed),
        width=size[0],
        height=size[1],
        describe=f"Map of {count(len(places))} test images of {len(by_class)} classes, {count(wrong)} predicted wrong",
    )


def style_of(label: int) -> str:
    """CSS classes of a class number."""
    return f"k{label % COLOURS}" + (" ring" if label // COLOURS % 2 else "")


def _placed(places: Sequence[tuple[float, float]], size: tuple[float, float]) -> list[tuple[float, float]]:
    """Onto the drawing, one scale for both directions, the middle in the middle."""
    spots = np.asarray(places, dtype=np.float64)
    low, high = spots.min(axis=0), spots.max(axis=0)
    room = np.array(size) - 2 * MARGIN
    scale = float(np.min(room / np.maximum(high - low, 1e-9)))
    found = (spots - (low + high) / 2) * scale + np.array(size) / 2
    return [(round(float(x), 1), round(float(y), 1)) for x, y in found]


def _group(
    label: int,
    rows: Sequence[int],
    spots: Sequence[tuple[float, float]],
    predicted: Sequence[int],
    names: Sequence[str],
) -> Group:
    right = [row for row in rows if predicted[row] == label]
    wrong = [row for row in rows if predicted[row] != label]
    return Group(
        style=style_of(label),
        right=tuple((*spots[row], names[label]) for row in right),
        wrong=tuple((*spots[row], f"{names[label]}, predicted {names[predicted[row]]}") for row in wrong),
    )


def _heap_names(
    by_class: Mapping[int, Sequence[int]],
    spots: Sequence[tuple[float, float]],
    names: Sequence[str],
    size: tuple[float, float],
) -> list[tuple[float, float, str, str]]:
    """The name of each class above its heap, the largest class first, where it covers no other name."""
    taken: list[tuple[float, float, float]] = []  # x, y, half the width
    found = []
    for label in sorted(by_class, key=lambda label: (-len(by_class[label]), label)):
        short = shortened(names[label])
        half = LETTER * len(short) / 2 + 2
        heap = _heap(np.array([spots[row] for row in by_class[label]]))
        x = min(max(float(np.median(heap[:, 0])), half), size[0] - half)
        y = min(max(float(np.quantile(heap[:, 1], ABOVE)) - 5, LINE), size[1] - 4)
        if all(abs(x - other) > half + width or abs(y - line) > LINE for other, line, width in taken):
            taken.append((x, y, half))
            found.append((round(x, 1), round(y, 1), short, names[label]))
    return found


def _heap(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "near 2"]:
    """The points around the one with the most points near it: the largest heap, where a class is in several."""
    near = np.abs(points[:CANDIDATES, None] - points[None]).max(axis=2) <= NEAR
    return np.asarray(points[near[near.sum(axis=1).argmax()]])
