"""Ticks at round values, placed where the values are."""

from __future__ import annotations

import pytest

from lnl_core.report.axes import Axis, round_step, tick_text, value_range


@pytest.mark.parametrize(("wish", "step"), [(0.3, 0.5), (1.0, 1.0), (1.2, 2.0), (7.0, 10.0), (0.021, 0.05), (0.2, 0.2)])
def test_steps_are_1_2_5(wish: float, step: float) -> None:
    assert round_step(wish) == pytest.approx(step)


def test_ticks_of_an_axis_that_points_up() -> None:
    ticks = Axis(low=0.0, high=1.0, start=100.0, end=0.0).ticks(as_percent=True)
    assert [(tick.at, tick.text) for tick in ticks] == [
        (100.0, "0 %"),
        (80.0, "20 %"),
        (60.0, "40 %"),
        (40.0, "60 %"),
        (20.0, "80 %"),
        (0.0, "100 %"),
    ]


def test_epochs_have_whole_ticks() -> None:
    assert [tick.text for tick in Axis(low=1.0, high=3.0, start=0.0, end=1.0).ticks(whole=True)] == ["1", "2", "3"]


def test_digits_follow_the_step() -> None:
    assert tick_text(0.925, 0.005, as_percent=True) == "92.5 %"
    assert tick_text(0.02, 0.01, as_percent=False) == "0.02"
    assert tick_text(300.0, 100.0, as_percent=False) == "300"


@pytest.mark.parametrize("values", [[0.5], [0.0], [3.0, 3.0], [0.0, 1.0], [-2.0, 5.0]])
def test_ranges_are_never_empty_and_hold_the_values(values: list[float]) -> None:
    low, high = value_range(values, as_percent=False)
    assert low < high
    assert low <= min(values)
    assert max(values) <= high


@pytest.mark.parametrize("values", [[1.0], [0.0], [0.97, 0.99]])
def test_shares_stay_inside_their_range(values: list[float]) -> None:
    low, high = value_range(values, as_percent=True)
    assert 0 <= low < high <= 1
