"""Geometry of matrices and lines: nothing outside the drawing, bitmaps for many classes."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lnl_core.report.charts import CELL_BAD, CELL_GOOD, heatmap, line_chart, reliability_chart, shortened


def shares(classes: int) -> np.ndarray:
    draw = np.random.default_rng(0).dirichlet(np.full(classes, 0.3), classes)
    return 0.5 * draw + 0.5 * np.eye(classes)


@pytest.mark.parametrize(
    ("classes", "texts", "drawn"),
    [(2, True, True), (15, True, True), (16, False, True), (41, False, False), (100, False, False)],
)
def test_texts_for_few_classes_and_a_bitmap_for_many(classes: int, texts: bool, drawn: bool) -> None:
    made = heatmap(shares(classes), [f"class {i}" for i in range(classes)], rows_are="true", columns_are="observed")
    assert any(cell.text for cell in made.cells) == texts
    assert bool(made.cells) == drawn
    assert (made.bitmap is None) == drawn
    assert len(made.names) <= 40
    assert all(cell.x + made.cell <= made.side + 0.5 for cell in made.cells)
    assert made.left + made.side <= made.width


def test_cells_show_their_share() -> None:
    matrix = np.array([[0.75, 0.25], [np.nan, np.nan]])
    counts = np.array([[3, 1], [0, 0]])
    made = heatmap(matrix, ["cat", "dog"], rows_are="true", columns_are="observed", counts=counts)
    assert [(cell.x, cell.y, cell.kind, cell.text) for cell in made.cells] == [
        (0.0, 0.0, "diagonal", "75"),
        (38.0, 0.0, "off", "25"),
    ]
    assert made.cells[1].title.replace("\u00a0", " ") == "cat → dog: 25.0 %, 1 rows"


def test_bitmap_has_one_pixel_a_cell() -> None:
    matrix = np.eye(50)
    matrix[3] = 0
    matrix[3, 7] = 1
    made = heatmap(matrix, [str(i) for i in range(50)], rows_are="true", columns_are="observed")
    assert made.bitmap is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(made.bitmap.split(",")[1]))))
    assert pixels.shape == (50, 50, 4)
    assert pixels[0, 0].tolist() == [*CELL_GOOD, 255]
    assert pixels[3, 7].tolist() == [*CELL_BAD, 255]
    assert pixels[3, 3, 3] == 0


def test_lines_lie_inside_the_axes() -> None:
    made = line_chart({"a": ("s", [(1.0, 2.0), (2.0, 0.5), (9.0, 0.7)]), "none": ("s", [])}, x_title="x", y_title="y")
    assert made is not None
    assert [series.name for series in made.series] == ["a"]
    for x, y, _ in made.series[0].dots:
        assert made.left <= x <= made.right
        assert made.top <= y <= made.bottom


def test_one_point_is_a_chart_and_none_is_not() -> None:
    assert line_chart({"a": ("s", [(1.0, 0.3)])}, x_title="x", y_title="y", percents=True) is not None
    assert line_chart({"a": ("s", [])}, x_title="x", y_title="y") is None


def test_reliability_leaves_empty_bins_out() -> None:
    made = reliability_chart([(0.0, 0.5, 0, None, None), (0.5, 1.0, 4, 0.8, 0.5)])
    assert made is not None
    assert len(made.bars) == 1
    assert made.bars[0].height == pytest.approx((made.bottom - made.top) / 2)
    assert reliability_chart([(0.0, 1.0, 0, None, None)]) is None


def test_blank_and_long_names_can_be_seen() -> None:
    assert shortened("  \n ") == "(blank)"
    assert shortened("a" * 40) == "a" * 15 + "…"
    assert shortened("tabby cat") == "tabby cat"
