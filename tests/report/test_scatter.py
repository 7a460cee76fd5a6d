"""The map: every point inside the drawing, crosses for wrong predictions, names that do not cover each other."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.report.charts import LETTER
from lnl_core.report.scatter import LINE, Scatter, scatter, style_of


def made(classes: int, rows: int = 300) -> Scatter:
    draw = np.random.default_rng(0)
    actual = draw.integers(0, classes, rows)
    predicted = np.where(draw.random(rows) < 0.8, actual, 0)
    places = [(50 * x, 3 * y) for x, y in draw.standard_normal((rows, 2)).tolist()]
    found = scatter(places, actual.tolist(), predicted.tolist(), [f"class {i}" for i in range(classes)])
    assert found is not None
    return found


@pytest.mark.parametrize(("classes", "listed"), [(2, True), (10, True), (20, True), (21, False), (100, False)])
def test_points_lie_inside_and_many_classes_are_named_on_the_map_alone(classes: int, listed: bool) -> None:
    found = made(classes)
    spots = [spot for group in found.groups for spot in (*group.right, *group.wrong)]
    assert len(spots) == 300
    assert all(0 <= x <= found.width and 0 <= y <= found.height for x, y, _ in spots)
    assert (len(found.legend) == classes) == listed
    assert listed or not found.legend
    assert (found.width > 600) == (not listed)


def test_both_directions_have_one_scale() -> None:
    found = scatter([(0.0, 0.0), (10.0, 0.0), (0.0, 1.0)], [0, 0, 0], [0, 0, 0], ["a"])
    assert found is not None
    (x0, y0, _), (x1, _, _), (_, y2, _) = found.groups[0].right
    assert x1 - x0 == pytest.approx(10 * (y2 - y0), abs=1.0)


def test_one_point_and_none() -> None:
    found = scatter([(3.0, 4.0)], [1], [0], ["cat", "dog"])
    assert found is not None
    assert (found.crosses, found.groups[0].right) == (1, ())
    assert found.groups[0].wrong == ((found.width / 2, found.height / 2, "dog, predicted cat"),)
    assert found.describe == "Map of 1 test images of 1 classes, 1 predicted wrong"
    assert scatter([], [], [], ["cat"]) is None


def test_names_do_not_cover_each_other() -> None:
    names = made(100).names
    assert 1 < len(names) < 100
    for i, (x, y, short, _) in enumerate(names):
        for other_x, other_y, other, _ in names[:i]:
            near = abs(x - other_x) < LETTER * (len(short) + len(other)) / 2
            assert not (near and abs(y - other_y) < LINE)


def test_the_name_of_a_class_in_two_heaps_stands_at_the_larger_one() -> None:
    places = [(x, 0.0) for x in (0.0, 8.0, 0.3, 9.0, 0.6)]
    found = scatter(places, [0] * 5, [0] * 5, ["dog"])
    assert found is not None
    [(x, _, _, _)] = found.names
    assert x == sorted(spot[0] for spot in found.groups[0].right)[1]  # the middle of the first three


def test_twenty_classes_look_different() -> None:
    assert len({style_of(label) for label in range(20)}) == 20
    assert (style_of(3), style_of(13), style_of(23)) == ("k3", "k3 ring", "k3")
