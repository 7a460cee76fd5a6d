"""kNN and linear probe against slow twins and scikit-learn, on the digits."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lnl_core.statistics import knn
from lnl_core.statistics.knn import knn_accuracy, knn_votes
from lnl_core.statistics.linear_probe import fit_linear_probe, probe_accuracy


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.data[:400] / 16).float(), torch.from_numpy(data.target[:400]).long()


def slow_votes(query: Tensor, features: Tensor, label: Tensor, k: int, temperature: float) -> Tensor:
    similar = [float(query @ row) / float(query.norm() * row.norm()) for row in features]
    nearest = sorted(range(len(similar)), key=lambda row: -similar[row])[:k]
    votes = torch.zeros(10)
    for row in nearest:
        votes[label[row]] += math.exp(similar[row] / temperature)
    return votes / votes.sum()


def test_votes_equal_their_slow_twin_across_chunks(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, label = digits
    monkeypatch.setattr(knn, "ROWS_A_CHUNK", 7)
    fast = knn_votes(features[300:320], features[:300], label[:300], 10, k=5)
    slow = torch.stack([slow_votes(row, features[:300], label[:300], 5, 0.07) for row in features[300:320]])
    assert torch.allclose(fast, slow, atol=1e-4)


def test_leaving_out_never_counts_the_row_itself(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "ROWS_A_CHUNK", 64)
    features, label = digits
    assert 0.9 < knn_accuracy(features, label, 10) < 1
    scattered = torch.eye(20)  # no row is like another: the row itself would be a perfect vote
    assert knn_accuracy(scattered, torch.arange(20) % 10, 10, k=1) < 0.5


def test_probe_agrees_with_scikit_learn(digits: tuple[Tensor, Tensor]) -> None:
    features, label = digits
    probe = fit_linear_probe(features[:300], label[:300], 10)
    ours = probe.scores(features[300:]).softmax(dim=1)
    scaler = StandardScaler().fit(features[:300])
    theirs = LogisticRegression(max_iter=1000, tol=1e-8).fit(scaler.transform(features[:300]), label[:300])
    expected = torch.from_numpy(theirs.predict_proba(scaler.transform(features[300:]))).float()
    assert (ours - expected).abs().max() < 0.002


def test_cross_validated_accuracy_and_chance_level(digits: tuple[Tensor, Tensor]) -> None:
    features, label = digits
    right = probe_accuracy(features, label, 10, generator=torch.Generator().manual_seed(0))
    assert 0.9 < right < 1
    shuffled = label[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    assert probe_accuracy(features, shuffled, 10, generator=torch.Generator().manual_seed(0)) < 0.25


def test_two_rows_of_one_class_are_no_error() -> None:
    features, label = torch.eye(2), torch.zeros(2).long()
    assert probe_accuracy(features, label, 10, generator=torch.Generator()) == 1.0
    assert knn_accuracy(features, label, 10) == 1.0


def test_votes_do_not_depend_on_how_many_similarities_are_held(
    digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, label = digits
    whole = knn_votes(features, features, label, 10, k=5, leave_self_out=True)
    monkeypatch.setattr(knn, "SIMILARITIES", 3 * len(features))
    parts = knn_votes(features, features, label, 10, k=5, leave_self_out=True)
    assert torch.allclose(whole, parts, atol=1e-5)
