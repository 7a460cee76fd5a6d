"""Geometry of the SVG charts. Python places, the template draws, so every text passes the template's escaping.

Colours are CSS classes, so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from lnl_core.report.axes import Axis, Tick, value_range
from lnl_core.report.formats import count, percent

TEXT_CLASSES = 15  # up to so many classes a cell has its share written into it
SIDE = 480.0  # px, of a matrix without text in its cells
DRAWN_CLASSES = 40  # above, a matrix is a bitmap: ten thousand rectangles would make the page slow
LETTER = 6.3  # px, mean width of a letter at 11 px
LONGEST_NAME = 16  # letters
CELL_GOOD = (20, 184, 166)  # colours of the bitmap; they stand out on white and on black
CELL_BAD = (249, 115, 22)
CELL_MOVED = (124, 115, 240)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One rectangle of a matrix."""

    x: float
    y: float
    kind: str  # diagonal | off
    opacity: float
    strong: bool  # dark enough for light text
    text: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A square matrix of shares."""

    width: float
    height: float
    left: float
    top: float
    side: float  # of the square of cells
    cell: float
    cells: tuple[Cell, ...]
    bitmap: str | None  # data URI, in place of cells
    names: tuple[tuple[float, str, str], ...]  # offset of the centre, short name, full name
    rows_are: str
    columns_are: str
    slanted: bool
    describe: str


def heatmap(
    shares: Float[np.ndarray, "classes classes"],
    names: Sequence[str],
    *,
    rows_are: str,
    columns_are: str,
    counts: Int[np.ndarray, "classes classes"] | None = None,
    off: tuple[int, int, int] = CELL_BAD,
    describe: str = "",
) -> Heatmap:
    """Rows sum to 1 (NaN rows are empty). Text in the cells up to 15 classes, a bitmap above 40."""
    classes = len(names)
    shares = np.nan_to_num(shares)
    cell = 38.0 if classes <= TEXT_CLASSES else SIDE / classes
    short = [shortened(name) for name in names]
    shown = range(0, classes, 1 if classes <= DRAWN_CLASSES else -(-classes // 20))
    longest = max(len(short[label]) for label in shown)
    left = 24 + LETTER * longest
    slanted = longest * LETTER > cell - 4
    side, slant = cell * classes, LETTER * longest * 0.72  # 0.72: what a text at 45 degrees needs either way
    top = 26.0 + (slant if slanted else 10.0)
    drawn = classes <= DRAWN_CLASSES
    return Heatmap(
        width=round(left + side + (slant - cell / 2 if slanted else 0), 1),
        height=round(top + side, 1),
        left=round(left, 1),
        top=round(top, 1),
        side=round(side, 1),
        cell=round(cell, 2),
        cells=tuple(_cells(shares, counts, names, cell)) if drawn else (),
        bitmap=None if drawn else bitmap(shares, off),
        names=tuple((round((label + 0.5) * cell, 1), short[label], names[label]) for label in shown),
        rows_are=rows_are,
        columns_are=columns_are,
        slanted=slanted,
        describe=describe,
    )


def _cells(
    shares: Float[np.ndarray, "classes classes"],
    counts: Int[np.ndarray, "classes classes"] | None,
    names: Sequence[str],
    cell: float,
) -> list[Cell]:
    made = []
    for row, column in np.argwhere(shares >= 5e-4).tolist():
        share = float(shares[row, column])
        rows = "" if counts is None else f", {count(int(counts[row, column]))} rows"
        made.append(
            Cell(
                x=round(column * cell, 2),
                y=round(row * cell, 2),
                kind="diagonal" if row == column else "off",
                opacity=round(0.06 + 0.94 * share**0.75, 3),
                strong=share > 0.5,
                text=_cell_text(share) if len(names) <= TEXT_CLASSES else "",
                title=f"{names[row]} → {names[column]}: {percent(share)}{rows}",
            )
        )
    return made


def _cell_text(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.0095 else "<1"


def bitmap(shares: Float[np.ndarray, "classes classes"], off: tuple[int, int, int] = CELL_BAD) -> str:
    """A PNG of one pixel a cell whose opacity is the share, so it lies well on any background."""
    classes = len(shares)
    pixels = np.empty((classes, classes, 4), dtype=np.uint8)
    pixels[:, :, :3] = off
    pixels[np.arange(classes), np.arange(classes), :3] = CELL_GOOD
    pixels[:, :, 3] = np.round(255 * np.clip(shares, 0, 1) ** 0.5).astype(np.uint8)  # the root lifts rare confusions
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shortened(name: str) -> str:
    """At most 16 letters, with an ellipsis; an empty or blank name becomes a visible one."""
    name = " ".join(name.split()) or "(blank)"
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line."""

    name: str
    style: str  # CSS class
    path: str  # SVG path data
    dots: tuple[tuple[float, float, str], ...]  # x, y, tooltip


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One rectangle with a tooltip."""

    x: float
    y: float
    width: float
    height: float
    opacity: float
    title: str
    style: str = ""  # CSS class


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520.0, 268.0, 50.0, 498.0, 26.0, 226.0


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines and bars over two axes, in a drawing of width x height."""

    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    bars: tuple[Bar, ...] = ()
    diagonal: str = ""
    describe: str = ""  # in place of "y against x"

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(name, CSS class) of each series, where there are several to distinguish."""
        named = [(series.name, series.style) for series in self.series if series.name]
        return named if len(named) > 1 else []


Points = Sequence[tuple[float, float]]
Line = tuple[str, Points]  # CSS class, points


def line_chart(
    lines: Mapping[str, Line],
    *,
    x_title: str,
    y_title: str,
    percents: bool = False,
    x_percents: bool = False,
    whole_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> LineChart | None:
    """`lines`: name -> (CSS class, points). None where no line has a point."""
    lines = {name: (style, points) for name, (style, points) in lines.items() if points}
    if not lines:
        return None
    xs = [x for _, points in lines.values() for x, _ in points]
    ys = [y for _, points in lines.values() for _, y in points]
    low, high = y_range or value_range(ys, percents)
    x_axis = Axis(low=min(xs), high=max(xs) if max(xs) > min(xs) else min(xs) + 1, start=LEFT, end=RIGHT)
    y_axis = Axis(low=low, high=high, start=BOTTOM, end=TOP)
    return LineChart(
        x_ticks=tuple(x_axis.ticks(x_percents, whole=whole_x)),
        y_ticks=tuple(y_axis.ticks(percents)),
        x_title=x_title,
        y_title=y_title,
        series=tuple(_series(name, *line, x_axis, y_axis, percents) for name, line in lines.items()),
    )


def _series(name: str, style: str, points: Points, x_axis: Axis, y_axis: Axis, percents: bool) -> Series:
    placed = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
    path = "M" + " L".join(f"{x:g},{y:g}" for x, y in placed)
    dots = [
        (*spot, f"{name}: {percent(y, 2) if percents else f'{y:.4g}'} at {x:g}")
        for spot, (x, y) in zip(placed, points, strict=True)
    ]
    return Series(name=name, style=style, path=path, dots=tuple(dots) if len(dots) <= 60 else ())


def reliability_chart(bins: Sequence[tuple[float, float, int, float | None, float | None]]) -> LineChart | None:
    """Bins as (low, high, count, mean confidence, accuracy): bars of accuracy against the diagonal."""
    filled = [bin_ for bin_ in bins if bin_[2]]
    if not filled:
        return None
    x_axis = Axis(low=0.0, high=1.0, start=LEFT, end=RIGHT)
    y_axis = Axis(low=0.0, high=1.0, start=BOTTOM, end=TOP)
    total = sum(bin_[2] for bin_ in filled)
    bars, dots = [], []
    for low, high, rows, confidence, right in filled:
        assert confidence is not None, "a bin with rows has a mean confidence"
        assert right is not None, "a bin with rows has an accuracy"
        x, y = x_axis.place(low) + 1.5, y_axis.place(right)
        title = (
            f"confidence {percent(confidence)}, right {percent(right)}, {count(rows)} rows ({percent(rows / total)})"
        )
        width, opacity = round(x_axis.place(high) - x - 1.5, 1), round(0.1 + 0.6 * (rows / total) ** 0.5, 2)
        bars.append(Bar(x=x, y=y, width=width, height=round(BOTTOM - y, 1), opacity=opacity, title=title))
        dots.append((x_axis.place(confidence), y, title))
    return LineChart(
        x_ticks=tuple(x_axis.ticks(True)),
        y_ticks=tuple(y_axis.ticks(True)),
        x_title="confidence",
        y_title="right",
        series=(Series(name="bins", style="s-dots", path="", dots=tuple(dots)),),
        bars=tuple(bars),
        diagonal=f"M{LEFT},{BOTTOM} L{RIGHT},{TOP}",
    )
