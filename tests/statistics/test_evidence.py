"""The observed label as evidence: Bayes' rule, a weighted case by hand, and what the fit finds."""

from __future__ import annotations

import numpy as np

from lnl_core.statistics.evidence import Evidence, fit_evidence
from lnl_core.statistics.transition import posterior

TRANSITION = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.05, 0.7]])


def test_unweighted_is_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(3, 2.0), size=50)
    observed = rng.integers(0, 3, 50).astype(np.int32)
    bayes = posterior(probabilities, TRANSITION, observed)
    np.testing.assert_allclose(Evidence()(probabilities, TRANSITION, observed), bayes, atol=1e-3)


def test_a_weighted_case_by_hand() -> None:
    found = Evidence(0.5, 2.0, np.log(3.0))(np.array([[0.04, 0.36, 0.6]]), TRANSITION, np.array([1], dtype=np.int32))
    joint = np.array([0.2 * 0.2**2, 0.6 * 0.8**2 * 3, np.sqrt(0.6) * 0.05**2])
    np.testing.assert_allclose(found[0], joint / joint.sum(), rtol=1e-5)


def _drawn(rows: int, *, same_mistakes: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(y | x), observed and true labels; where wanted, people err as p(y | x) does and not by the true label alone."""
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(3, 0.5), size=rows)
    label = np.array([rng.choice(3, p=one) for one in probabilities])
    if same_mistakes:
        seen = np.array([rng.choice(3, p=one) for one in probabilities])
    else:
        seen = np.array([rng.choice(3, p=TRANSITION[one]) for one in label])
    return probabilities, seen.astype(np.int32), label.astype(np.int32)


def test_bayes_rule_is_found_where_it_holds() -> None:
    probabilities, observed, label = _drawn(4000, same_mistakes=False)
    found = fit_evidence(probabilities, TRANSITION, observed, label)
    assert abs(found.of_model - 1) < 0.1
    assert abs(found.of_transition - 1) < 0.25
    assert abs(found.of_observed) < 0.4


def test_an_observed_label_that_only_repeats_the_model_counts_nothing() -> None:
    probabilities, observed, label = _drawn(4000, same_mistakes=True)
    counts = np.zeros((3, 3))
    np.add.at(counts, (label, observed), 1)
    transition = counts / counts.sum(axis=1, keepdims=True)
    found = fit_evidence(probabilities, transition, observed, label)
    loss = {
        name: -np.log(one(probabilities, transition, observed)[np.arange(4000), label]).mean()
        for name, one in {"fitted": found, "Bayes": Evidence(), "model": Evidence(1.0, 0.0, 0.0)}.items()
    }
    assert loss["fitted"] < loss["Bayes"] - 0.02
    assert abs(loss["fitted"] - loss["model"]) < 0.01


def test_few_rows_stay_near_bayes_rule_and_none_are_it() -> None:
    probabilities, observed, label = _drawn(4000, same_mistakes=True)
    few = fit_evidence(probabilities[:3], TRANSITION, observed[:3], label[:3])
    assert abs(few.of_model - 1) + abs(few.of_transition - 1) + abs(few.of_observed) < 1
    assert fit_evidence(probabilities[:0], TRANSITION, observed[:0], label[:0]) == Evidence()


def test_a_matrix_a_row_equals_one_for_all_where_they_agree() -> None:
    probabilities, observed, label = _drawn(200, same_mistakes=False)
    one = fit_evidence(probabilities, TRANSITION, observed, label)
    each = fit_evidence(probabilities, np.repeat(TRANSITION[None], 200, axis=0), observed, label)
    np.testing.assert_allclose([one.of_model, one.of_observed], [each.of_model, each.of_observed], atol=1e-6)
