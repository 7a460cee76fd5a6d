"""Histograms of heaps of rows that overlap, with curves of what was expected over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lnl_core.report.axes import Axis, Tick, round_step
from lnl_core.report.charts import BOTTOM, LEFT, RIGHT, TOP, Bar, LineChart, Series
from lnl_core.report.formats import count

STEEP = 0.1  # of the tallest bar: a heap that stays below it is shown on a root scale


@dataclass(frozen=True, kw_only=True)
class Histogram(LineChart):
    """A chart whose heaps stand in the legend before its curves."""

    heaps: tuple[tuple[str, str], ...]  # name, CSS class

    @property
    def legend(self) -> list[tuple[str, str]]:
        named = [*self.heaps, *((series.name, series.style) for series in self.series)]
        return named if len(named) > 1 else []


@dataclass(frozen=True)
class _Rows:
    """The axis of the counts, from 0 to `high`."""

    high: float
    root: bool  # places are square roots of counts, so that few rows are seen beside many

    def place(self, rows: float) -> float:
        axis = Axis(low=0.0, high=1.0, start=BOTTOM, end=TOP)
        return axis.place((rows / self.high) ** (0.5 if self.root else 1.0))

    def ticks(self) -> list[Tick]:
        """On a root scale round counts near the quarters of the height."""
        if not self.root:
            return Axis(low=0.0, high=self.high, start=BOTTOM, end=TOP).ticks(whole=True)
        counts = {0.0, *(round_step(self.high * share**2) for share in (0.25, 0.5, 0.75, 0.9))}
        return [Tick(at=self.place(rows), text=f"{rows:.0f}") for rows in sorted(counts) if rows <= self.high]


def _is_steep(heaps: Mapping[str, tuple[str, Sequence[int]]], tallest: float) -> bool:
    """Would a whole heap be too low to be seen?"""
    tops = [max(counts, default=0) for _, counts in heaps.values()]
    return any(0 < top < STEEP * tallest for top in tops)


def histogram(
    edges: Sequence[float],
    heaps: Mapping[str, tuple[str, Sequence[int]]],
    curves: Mapping[str, tuple[str, Sequence[float]]],
    *,
    x_title: str,
    describe: str,
) -> Histogram | None:
    """Heaps and curves as name -> (CSS class, rows a bin); bins between the `edges`. None where every bin is empty."""
    tallest = max([rows for _, counts in (*heaps.values(), *curves.values()) for rows in counts], default=0)
    if not tallest:
        return None
    x_axis = Axis(low=edges[0], high=edges[-1], start=LEFT, end=RIGHT)
    scale = _Rows(1.05 * float(tallest), _is_steep(heaps, float(tallest)))
    return Histogram(
        x_ticks=tuple(x_axis.ticks()),
        y_ticks=tuple(scale.ticks()),
        x_title=x_title,
        y_title="rows, on a root scale" if scale.root else "rows",
        bars=tuple(bar for name, heap in heaps.items() for bar in _bars(name, *heap, edges, x_axis, scale)),
        series=tuple(
            Series(name=name, style=style, path=_curve(heights, edges, x_axis, scale), dots=())
            for name, (style, heights) in curves.items()
        ),
        heaps=tuple((name, style) for name, (style, _) in heaps.items()),
        describe=describe,
    )


def _bars(
    name: str, style: str, counts: Sequence[int], edges: Sequence[float], x_axis: Axis, scale: _Rows
) -> list[Bar]:
    made = []
    for bin_, rows in enumerate(counts):
        if rows:
            x, y = x_axis.place(edges[bin_]), scale.place(float(rows))
            title = f"{edges[bin_]:.2g} to {edges[bin_ + 1]:.2g}: {count(rows)} {name}"
            width = round(x_axis.place(edges[bin_ + 1]) - x - 0.6, 1)
            made.append(Bar(x=x, y=y, width=width, height=round(BOTTOM - y, 1), opacity=0.6, title=title, style=style))
    return made


def _curve(heights: Sequence[float], edges: Sequence[float], x_axis: Axis, scale: _Rows) -> str:
    """Through the middle of each bin."""
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return "M" + " L".join(f"{x_axis.place(x):g},{scale.place(y):g}" for x, y in zip(middles, heights, strict=True))
