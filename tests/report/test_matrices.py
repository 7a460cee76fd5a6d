"""Matrices come back from their cells."""

from __future__ import annotations

import numpy as np

from lnl_core.evaluate.tables import confusion_rows, transition_rows
from lnl_core.report.matrices import confusion, transition


def records(columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[dict[str, str]]:
    return [dict(zip(columns, ("" if cell is None else str(cell) for cell in row), strict=True)) for row in rows]


def test_there_and_back() -> None:
    counts = np.random.default_rng(0).integers(0, 4, (6, 6))
    counts[2] = 0
    columns = ("actual", "predicted", "actual_label", "predicted_label", "count")
    found = confusion(records(columns, confusion_rows(counts, "abcdef")), 6)
    assert found is not None
    assert (found.counts == counts).all()
    assert found.shares[2].tolist() == [0.0] * 6
    assert np.allclose(found.shares[0].sum(), 1)
    off = counts - np.diag(np.diag(counts))
    assert [rows for _, _, rows, _ in found.largest("abcdef", 5)] == sorted(off.ravel().tolist())[::-1][:5]


def test_transition_there_and_back() -> None:
    matrix = np.array([[0.9, 0.1], [0.25, 0.75]])
    columns = ("actual", "predicted", "actual_label", "predicted_label", "true_share", "estimated_share")
    cells = records(columns, transition_rows(None, matrix, ("cat", "dog")))
    estimated = transition(cells, "estimated_share", 2)
    assert estimated is not None
    assert (estimated == matrix).all()
    assert transition(cells, "true_share", 2) is None
    assert confusion([], 2) is None
