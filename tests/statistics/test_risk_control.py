"""The promise of risk control, by simulation: over many draws of the calibration rows it breaks as seldom as said."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from lnl_core.statistics import risk_control
from lnl_core.statistics.risk_control import Promise, certify, class_shift, thinned, wrong_share_bound

DRAWS = 200
PROMISE = Promise(max_wrong=0.05, confidence=0.9)


def slack(draws: int, chance: float) -> int:
    """Violations that a kept promise exceeds in one of a thousand runs of this test."""
    return int(binom.ppf(0.999, draws, chance))


# P(wrong | score): well calibrated; all right but at the edge; flat at the promise; wrong at the top (sure and wrong).
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "calibrated": lambda score: (1 - score) / 2,
    "steep": lambda score: np.where(score > 0.5, 0.01, 0.5),
    "just above": lambda score: np.full_like(score, 0.055),
    "sure and wrong": lambda score: np.where(score > 0.8, 0.07, 0.02),
    "slowly worse": lambda score: 0.04 + 0.03 * (1 - score),
}


def population_risk(shape: str, threshold: float) -> float:
    """R(t) for scores uniform on 0..1."""
    return float(SHAPES[shape](np.linspace(threshold, 1, 20_001)).mean())


def broken(shape: str, rows: int, draw: int) -> bool:
    """Does the certified threshold of one draw break the promise?"""
    rng = np.random.default_rng([draw, rows])
    noisy = rng.random(rng.binomial(20_000, 0.4))
    score = rng.random(rng.binomial(rows, 0.4))
    wrong = rng.random(len(score)) < SHAPES[shape](score)
    found = certify(noisy, 20_000, score, wrong, rows, PROMISE)
    return found.threshold is not None and population_risk(shape, found.threshold) > PROMISE.max_wrong


@pytest.mark.parametrize("rows", [150, 1000])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_promise_holds_at_the_stated_rate(shape: str, rows: int) -> None:
    violations = sum(broken(shape, rows, draw) for draw in range(DRAWS))
    assert violations <= slack(DRAWS, 1 - PROMISE.confidence)


def test_a_point_estimate_in_place_of_the_bound_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: with wrong / rows as the bound the promise is broken far too often."""
    monkeypatch.setattr(risk_control, "wrong_share_bound", lambda wrong, rows, _: wrong / max(rows, 1))
    violations = sum(broken("just above", 1000, draw) for draw in range(DRAWS))
    assert violations > 1.5 * slack(DRAWS, 1 - PROMISE.confidence)


def test_good_changes_are_not_held_back() -> None:
    """A method that is wrong in 1 % of its sure changes gets most of them applied with 1,000 trusted rows."""
    rng = np.random.default_rng(0)
    noisy, score = rng.random(8000), rng.random(400)
    found = certify(noisy, 20_000, score, rng.random(400) < SHAPES["steep"](score), 1000, PROMISE)
    assert found.threshold is not None
    assert 0.3 < found.threshold < 0.55


@pytest.mark.parametrize(("wrong", "rows", "confidence"), [(0, 45, 0.9), (3, 135, 0.9), (17, 40, 0.95), (1, 2, 0.5)])
def test_bound_is_the_share_at_which_so_few_wrong_ones_have_the_stated_chance(
    wrong: int, rows: int, confidence: float
) -> None:
    bound = wrong_share_bound(wrong, rows, confidence)
    chance = sum(math.comb(rows, k) * bound**k * (1 - bound) ** (rows - k) for k in range(wrong + 1))
    assert chance == pytest.approx(1 - confidence, abs=1e-9)


def test_bound_by_hand() -> None:
    assert wrong_share_bound(0, 1, 0.9) == pytest.approx(0.9)  # (1 - p)^1 = 0.1
    assert wrong_share_bound(4, 4, 0.9) == 1.0
    assert wrong_share_bound(0, 0, 0.9) == 1.0


def test_least_rows_are_just_enough() -> None:
    assert PROMISE.least_rows == 45
    assert wrong_share_bound(0, 45, 0.9) <= 0.05 < wrong_share_bound(0, 44, 0.9)
    assert Promise(max_wrong=0.5, confidence=0.875).least_rows == 3  # a whole number before rounding up


def test_too_few_rows_are_refused_with_their_number() -> None:
    found = certify(np.linspace(0, 1, 100), 200, np.ones(44), np.zeros(44, dtype=bool), 60, PROMISE)
    assert found.threshold is None
    assert found.refusal is not None
    assert "44 of the trusted rows" in found.refusal
    assert "at least 45" in found.refusal
    enough = certify(np.linspace(0, 1, 100), 200, np.ones(45), np.zeros(45, dtype=bool), 60, PROMISE)
    assert enough.threshold == 0.0


def test_first_failure_ends_the_sequence() -> None:
    """Wrong at the top and right below: a laxer threshold would pass, but with so few rows nothing starts there."""
    score = np.linspace(1, 0, 400)
    wrong = np.zeros(400, dtype=bool)
    wrong[:9] = True  # of the 136 surest
    assert wrong_share_bound(9, 400, 0.9) < 0.05
    found = certify(score, 400, score, wrong, 400, PROMISE)
    assert found.threshold is None
    assert len(found.tests) == 1
    assert found.refusal is not None
    assert "136 surest changes of trusted rows 9 are wrong" in found.refusal


def test_with_many_rows_the_sequence_starts_anew_with_its_share_of_the_chance() -> None:
    score = np.linspace(1, 0, 2000)
    wrong = np.zeros(2000, dtype=bool)
    wrong[:20] = True  # of the 140 surest; at the second start 20 of 420 are wrong, at the third 20 of 1,220
    found = certify(score, 2000, score, wrong, 2000, PROMISE)
    assert found.threshold == 0.0
    assert [test.calibration_rows for test in found.tests[:3]] == [140, 420, 1220]
    assert [test.confidence for test in found.tests[:3]] == pytest.approx([1 - 0.1 / 3] * 3)
    right = certify(score, 2000, score, ~np.ones(2000, dtype=bool), 2000, PROMISE)
    assert right.tests[0].confidence == pytest.approx(1 - 0.1 / 3)
    assert right.tests[-1].confidence == pytest.approx(0.9)  # what was not lost is handed on


def test_sequence_is_set_by_the_rows_to_change_alone() -> None:
    noisy = np.random.default_rng(0).random(500)
    sequences = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        found = certify(noisy, 1000, rng.random(300), np.zeros(300, dtype=bool), 600, PROMISE)
        sequences.append([test.threshold for test in found.tests])
    assert sequences[0] == sequences[1]
    assert sequences[0] == sorted(sequences[0], reverse=True)
    assert sequences[0][-1] == noisy.min()


def test_equal_scores_pass_or_fail_together() -> None:
    found = certify(np.full(300, 0.7), 1000, np.full(200, 0.7), np.zeros(200, dtype=bool), 600, PROMISE)
    assert found.threshold == 0.7
    assert len(found.tests) == 1


def test_nothing_proposed() -> None:
    found = certify(np.empty(0), 100, np.ones(60), np.zeros(60, dtype=bool), 60, PROMISE)
    assert found.threshold is None
    assert found.refusal == "no change is proposed"


def test_class_shift_is_seen_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    values = [
        class_shift(rng.multinomial(5000, [0.5, 0.3, 0.2]), rng.multinomial(300, [0.5, 0.3, 0.2])) for _ in range(400)
    ]
    assert binom.ppf(0.001, 400, 0.05) <= sum(value < 0.05 for value in values) <= binom.ppf(0.999, 400, 0.05)
    assert class_shift(np.array([4000, 1000]), np.array([150, 150])) < 1e-6
    assert class_shift(np.array([4000, 0]), np.array([150, 0])) == 1.0
    assert class_shift(np.array([4000, 0]), np.array([0, 0])) == 1.0


def test_thinning_gives_the_wanted_shares() -> None:
    labels = np.repeat([0, 1, 2], 20_000)
    kept = thinned(labels, np.array([0.6, 0.3, 0.1]), np.random.default_rng(0))
    counts = np.bincount(labels[kept])
    np.testing.assert_allclose(counts / counts.sum(), [0.6, 0.3, 0.1], atol=0.01)
    assert counts[0] == 20_000  # nothing is thrown away without need


def test_thinning_restores_a_promise_that_balanced_trusted_rows_break() -> None:
    """Class 1 is rare among the trusted rows' peers: changes of class 0 are wrong in 12 %, of class 1 never."""
    share, rate = np.array([0.9, 0.1]), np.array([0.12, 0.0])
    outcomes = {True: 0, False: 0}
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        label = np.repeat([0, 1], 500)
        wrong, score = rng.random(1000) < rate[label], rng.random(1000)
        for thin in (True, False):
            use = thinned(label, share, rng) if thin else np.ones(1000, dtype=bool)
            promise = Promise(max_wrong=0.09, confidence=0.9)
            found = certify(rng.random(5000), 5000, score[use], wrong[use], int(use.sum()), promise)
            outcomes[thin] += (
                found.threshold is not None
            )  # the true share is 0.9 * 0.12 = 0.108, of the balanced rows' 0.06
    assert outcomes[True] <= slack(DRAWS, 0.1)
    assert outcomes[False] > 0.5 * DRAWS
