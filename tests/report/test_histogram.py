"""Histograms: bars as high as their rows, curves on the same scale, a legend of both."""

from __future__ import annotations

import pytest

from lnl_core.report.histogram import histogram

EDGES = [0.0, 0.5, 1.0]


def test_bars_and_curves_share_one_scale() -> None:
    made = histogram(
        EDGES,
        {"right labels": ("b-good", [4, 1]), "wrong labels": ("b-bad", [0, 2])},
        {"Gaussian": ("s-ink", [2.0, 2.0])},
        x_title="loss",
        describe="Losses",
    )
    assert made is not None
    assert [bar.title for bar in made.bars] == [
        "0 to 0.5: 4 right labels",
        "0.5 to 1: 1 right labels",
        "0.5 to 1: 2 wrong labels",
    ]  # an empty bin has no bar
    four, one, two = (bar.height for bar in made.bars)
    assert four == pytest.approx(4 * one, abs=0.3)
    assert four == pytest.approx((made.bottom - made.top) / 1.05, abs=0.1)
    ends = [float(point.split(",")[1]) for point in made.series[0].path.removeprefix("M").split(" L")]
    assert ends == pytest.approx([made.bottom - two] * 2, abs=0.1)
    assert made.legend == [("right labels", "b-good"), ("wrong labels", "b-bad"), ("Gaussian", "s-ink")]


def test_bars_lie_inside_the_axes_and_side_by_side() -> None:
    made = histogram([bin_ / 50 for bin_ in range(51)], {"rows": ("b-all", [7] * 50)}, {}, x_title="x", describe="d")
    assert made is not None
    assert made.bars[0].x >= made.left
    assert made.bars[-1].x + made.bars[-1].width <= made.right
    assert all(a.x + a.width <= b.x for a, b in zip(made.bars[:-1], made.bars[1:], strict=True))
    assert made.legend == []  # one heap needs no legend


def test_a_heap_too_low_to_be_seen_turns_the_scale_into_roots() -> None:
    """100 times as many rows are then only ten times as high."""
    heaps = {"right labels": ("b-good", [400, 0]), "wrong labels": ("b-bad", [0, 4])}
    made = histogram(EDGES, heaps, {}, x_title="x", describe="d")
    assert made is not None
    many, few = (bar.height for bar in made.bars)
    assert many == pytest.approx(10 * few, abs=1.0)
    assert made.y_title == "rows, on a root scale"
    assert [tick.text for tick in made.y_ticks] == ["0", "50", "200"]
    assert all(made.top <= tick.at <= made.bottom for tick in made.y_ticks)
    plain = histogram(EDGES, {**heaps, "wrong labels": ("b-bad", [0, 40])}, {}, x_title="x", describe="d")
    assert plain is not None
    assert plain.y_title == "rows"


def test_nothing_to_draw() -> None:
    assert histogram(EDGES, {"rows": ("b-all", [0, 0])}, {}, x_title="x", describe="d") is None
