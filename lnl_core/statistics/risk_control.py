"""Which changes may be applied so that at most a given share of them is wrong, with a finite-sample bound.

Learn-then-test with fixed sequences: Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating
Predictive Algorithms to Achieve Risk Control", Annals of Applied Statistics 2025. The risk of a threshold t is

    R(t) = P(proposal is wrong | a change is proposed, score >= t)

and the null hypothesis of t is R(t) > alpha. Of the calibration rows whose proposed change scores t or more, the
number that is wrong is binomial with share R(t), so the exact upper bound of Clopper and Pearson (Biometrika 1934) at
level 1 - delta lies below alpha with a probability of at most delta where the null is true. The thresholds are tested
from strict to lax, and the first that fails ends the sequence: then the chance that any accepted one breaks the
promise is at most delta = 1 - confidence, however many are tested. A sequence that starts strict sees few rows and
may end by bad luck, so where there are many rows it starts anew at laxer thresholds: delta is shared by the starts,
and what a sequence has not lost it hands on to the next (the fallback procedure of Wiens, Pharmaceutical Statistics
2003). The laxest accepted threshold is used.

What makes this exact: the thresholds and the starts are set by the scores of the rows to change alone, never
by the calibration rows. The calibration rows must be exchangeable with the rows to change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import beta, chi2_contingency

LEVELS = 100  # thresholds tested; a fixed sequence pays nothing for more
STARTS = (3, 9, 27)  # starts where so many times the least number of calibration rows is expected: a few may be wrong


@dataclass(frozen=True, kw_only=True)
class Promise:
    """At most `max_wrong` of the applied changes are wrong, with probability `confidence` over the trusted set."""

    max_wrong: float  # 0..1, both excluded
    confidence: float  # 0..1, both excluded

    @property
    def least_rows(self) -> int:
        """Calibration rows with a proposed change without which not even a faultless method can pass.

        None of n rows is wrong with probability (1 - alpha)^n; this must not exceed 1 - confidence.
        """
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.max_wrong) - 1e-9)


@dataclass(frozen=True, kw_only=True)
class Test:
    """One threshold of the sequence, as tested."""

    __test__ = False  # not one of pytest's

    threshold: float
    share: float  # of the proposed changes that score so much
    calibration_rows: int  # proposed changes of calibration rows that score so much
    wrong: int  # of these
    confidence: float  # of the bound
    bound: float  # upper bound of R(threshold)


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The laxest threshold that keeps the promise; None where none does, and why."""

    threshold: float | None
    tests: tuple[Test, ...]
    refusal: str | None


def wrong_share_bound(wrong: int, rows: int, confidence: float) -> float:
    """One-sided upper bound of a binomial share (Clopper and Pearson); 1 where there are no rows."""
    if wrong >= rows:
        return 1.0
    return float(beta.ppf(confidence, wrong + 1, rows - wrong))


def certify(
    scores: Float[np.ndarray, " changes"],
    rows: int,
    calibration_scores: Float[np.ndarray, " calibration_changes"],
    calibration_wrong: Bool[np.ndarray, " calibration_changes"],
    calibration_rows: int,
    promise: Promise,
) -> Certificate:
    """Test thresholds from strict to lax.

    Args:
        scores: of the proposed changes, among `rows` rows.
        calibration_scores: of the proposed changes among `calibration_rows` exchangeable rows with verified labels.
        calibration_wrong: is the proposal another one than the verified label?
    """
    proposed = len(calibration_scores)
    if not len(scores):
        return Certificate(threshold=None, tests=(), refusal="no change is proposed")
    if proposed < promise.least_rows:
        return Certificate(threshold=None, tests=(), refusal=_too_few(proposed, promise))
    tests: list[Test] = []
    level = 0.0
    for threshold, fresh in _sequence(scores, rows, calibration_rows, promise):
        level += fresh
        if not level:
            continue  # the sequence before has ended, the next has not started
        certain = calibration_scores >= threshold
        wrong, count = int(calibration_wrong[certain].sum()), int(certain.sum())
        test = Test(
            threshold=threshold,
            share=float((scores >= threshold).mean()),
            calibration_rows=count,
            wrong=wrong,
            confidence=1 - level,
            bound=wrong_share_bound(wrong, count, 1 - level),
        )
        tests.append(test)
        if test.bound > promise.max_wrong:
            level = 0.0
    passed = [test.threshold for test in tests if test.bound <= promise.max_wrong]
    if passed:
        return Certificate(threshold=passed[-1], tests=tuple(tests), refusal=None)
    nearest = min(tests, key=lambda test: test.bound)
    return Certificate(threshold=None, tests=tuple(tests), refusal=_not_shown(nearest, promise))


def class_shift(counts: Int[np.ndarray, " classes"], calibration_counts: Int[np.ndarray, " classes"]) -> float:
    """p-value that two sets of rows have the same class shares (chi-squared test of homogeneity).

    1 where one set has no rows or only one class occurs: then nothing can be said.
    """
    table = np.stack([counts, calibration_counts])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    return float(chi2_contingency(table, correction=False).pvalue)


def thinned(
    labels: Int[np.ndarray, " rows"], share: Float[np.ndarray, " classes"], generator: np.random.Generator
) -> Bool[np.ndarray, " rows"]:
    """Rows to keep, drawn so that a class k has share[k] of what is kept (rejection sampling).

    A row of class k stays with probability w_k / max w, w_k = share[k] / (its share among `labels`). What stays is an
    exact sample of the wanted mixture, so exact bounds stay exact where `share` is right. A class that has a share but
    no rows cannot be made up for.
    """
    own = np.bincount(labels, minlength=len(share)) / max(len(labels), 1)
    weight = np.divide(share, own, out=np.zeros(len(share)), where=own > 0)
    kept: Bool[np.ndarray, " rows"] = generator.random(len(labels)) < weight[labels] / max(float(weight.max()), 1e-12)
    return kept


def _sequence(
    scores: Float[np.ndarray, " changes"], rows: int, calibration_rows: int, promise: Promise
) -> list[tuple[float, float]]:
    """Thresholds from strict to lax at even shares of the proposed changes, each with the delta that starts there.

    Of `calibration_rows` exchangeable rows, calibration_rows * (changes that score t) / rows are expected to score t.
    Where not even all changes give the rows of the first start, all changes are the one threshold tested.
    """
    expected = calibration_rows * len(scores) / rows
    wanted = [times * promise.least_rows / expected for times in STARTS]
    starts = [math.ceil(share * LEVELS - 1e-9) for share in wanted if share <= 1] or [LEVELS]
    falling = np.sort(scores)[::-1]
    sequence: dict[float, float] = {}
    for level in range(starts[0], LEVELS + 1):
        place = max(math.ceil(level * len(scores) / LEVELS) - 1, 0)
        threshold = float(falling[place])
        sequence[threshold] = sequence.get(threshold, 0.0) + starts.count(level) * (1 - promise.confidence) / len(
            starts
        )
    return list(sequence.items())


def _too_few(proposed: int, promise: Promise) -> str:
    return (
        f"a change is proposed for {proposed} of the trusted rows whose observed label is known; to promise at most "
        f"{promise.max_wrong:g} wrong changes with confidence {promise.confidence:g} there must be at least "
        f"{promise.least_rows} (all of them right): verify more rows and keep the labels they had, or promise less"
    )


def _not_shown(test: Test, promise: Promise) -> str:
    return (
        f"of the {test.calibration_rows} surest changes of trusted rows {test.wrong} are wrong, so up to "
        f"{test.bound:.3g} of all such changes may be (confidence {test.confidence:.3g}); {promise.max_wrong:g} was "
        "wanted: verify more rows, try another method, or promise less"
    )
