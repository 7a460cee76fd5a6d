"""Axes of the line charts: round ticks and the way from values to pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis, in pixels of the drawing."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values low..high onto pixels start..end (end < start for an axis that points up)."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """The pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, as_percent: bool = False, wanted: int = 5, whole: bool = False) -> list[Tick]:
        """About `wanted` ticks at round values; `whole` for counts such as epochs."""
        step = round_step((self.high - self.low) / wanted)
        step = max(step, 1.0) if whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [step * mark for mark in range(first, last + 1)]
        return [Tick(at=self.place(value), text=tick_text(value, step, as_percent)) for value in values]


def round_step(step: float) -> float:
    """The next step of the series 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def tick_text(value: float, step: float, as_percent: bool) -> str:
    """As many digits as the step needs."""
    if as_percent:
        value, step = 100 * value, 100 * step
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}" + (" %" if as_percent else "")


def value_range(values: Sequence[float], as_percent: bool) -> tuple[float, float]:
    """A range with a little air around the values; shares stay inside 0..1, losses begin at 0 where they come near."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - air, high + air
    if as_percent:
        return max(0.0, low), min(1.0, high)
    return (0.0 if 0 <= min(values) < 0.5 * high else low), high
