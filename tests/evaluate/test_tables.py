"""The CSV files hold every row once, and nothing that is unknown reads like a number."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lnl_core.evaluate.tables import confusion_rows, transition_rows, write_csv


def test_unknown_is_an_empty_field_and_names_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ("name", "x", "y"), [('a "b", c\nd', None, float("nan")), ("e", 0.5, np.float32(0.25))])
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "x", "y"], ['a "b", c\nd', "", ""], ["e", "0.5", "0.25"]]


def test_confusion_cells_add_up() -> None:
    counts = np.array([[3, 0], [2, 5]])
    rows = confusion_rows(counts, ("cat", "dog"))
    assert rows == [("cat", "cat", 0, 0, 3), ("dog", "cat", 1, 0, 2), ("dog", "dog", 1, 1, 5)]


def test_transition_with_one_side_unknown() -> None:
    rows = transition_rows(None, np.array([[0.9, 0.1], [0.0, 1.0]]), ("cat", "dog"))
    assert [row[4] for row in rows] == [None] * 3
    assert [row[5] for row in rows] == [0.9, 0.1, 1.0]
    assert transition_rows(None, None, ("cat", "dog")) == []
