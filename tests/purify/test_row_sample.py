"""The sample that methods learn from: the drawn rows and no others, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.features.user_table import MappedRows
from lnl_core.purify.row_sample import row_sample

VALUES = np.arange(20_000 * 2, dtype=np.float32).reshape(20_000, 2)  # three batches


@pytest.mark.parametrize("most", [1, 700, 20_000, 50_000])
def test_features_are_those_of_the_rows(most: int) -> None:
    rows, features = row_sample(MappedRows(values=VALUES, rows=np.arange(20_000)), most, np.random.default_rng(0))
    assert len(rows) == min(most, 20_000)
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(features, VALUES[rows])


def test_prepared_and_with_room_at_the_end() -> None:
    noisy = MappedRows(values=VALUES, rows=np.arange(20_000))
    rows, features = row_sample(noisy, 500, np.random.default_rng(1), prepare=lambda batch: batch * 2, room=3)
    assert features.shape == (503, 2)
    assert np.array_equal(features[:500], VALUES[rows] * 2)
