"""The neighbours' vote against a loop over pairs of rows."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.purify.ipc_eac import neighbours as neighbour_vote
from lnl_core.purify.ipc_eac.neighbours import _SMOOTHING, fit_votes, unit_rows


def test_vote_equals_a_loop_and_leaves_the_row_itself_out() -> None:
    rng = np.random.default_rng(0)
    reference = unit_rows(rng.normal(size=(30, 5)).astype(np.float32))
    labels = rng.dirichlet(np.ones(3), size=(30, 2)).astype(np.float32)
    trusted, trusted_label = (
        unit_rows(rng.normal(size=(12, 5)).astype(np.float32)),
        (np.arange(12) % 3).astype(np.int32),
    )
    inside = [np.arange(6), np.arange(12)]
    vote, held_out = fit_votes(reference, labels, trusted, trusted_label, inside, np.full((12, 3), 1 / 3))
    found = vote(reference, np.arange(30))
    for row in range(30):
        for number in range(2):
            weight = {j: np.exp(reference[row] @ reference[j] / vote.temperature) for j in range(30) if j != row}
            mean = sum(w * labels[j, number] for j, w in weight.items()) / sum(weight.values())
            slow = vote.links[number](np.log(mean.astype(np.float64) + _SMOOTHING)[None])[0]
            np.testing.assert_allclose(found[number, row], slow, atol=1e-4)
    outside = vote(trusted)
    np.testing.assert_allclose(held_out[6:], outside[0, 6:], atol=1e-4)  # rows that set 0 was made without


def test_rows_of_zeros_stay_finite() -> None:
    assert np.array_equal(unit_rows(np.zeros((2, 3), dtype=np.float32)), np.zeros((2, 3)))


@pytest.mark.parametrize("chunk", [7, 13, 1024])  # blocks that do and do not divide the rows, and one block
def test_votes_among_themselves_are_the_same_in_half_the_products(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    reference = unit_rows(rng.normal(size=(91, 6)).astype(np.float32))
    labels = rng.dirichlet(np.ones(3), size=(91, 2)).astype(np.float32)
    trusted, label = unit_rows(rng.normal(size=(12, 6)).astype(np.float32)), np.arange(12, dtype=np.int32) % 3
    vote, _ = fit_votes(reference, labels, trusted, label, [np.arange(6), np.arange(12)], np.full((12, 3), 1 / 3))
    each = vote(reference, np.arange(91))
    monkeypatch.setattr(neighbour_vote, "_CHUNK", chunk)
    np.testing.assert_allclose(vote.among_themselves(), each, atol=1e-5)
