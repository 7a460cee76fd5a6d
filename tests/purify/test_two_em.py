"""Two-EM: the fit of scale and noise against EM in loops, cross-fitting, anchors, streams, what it reports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lnl_core.contracts import NO_LABEL
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.purify.two_em import TwoEMConfig, two_em
from lnl_core.purify.two_em_cycles import CrossFit, Evidence, cross_fit, fit_scores, posteriors, run_cycles
from lnl_core.statistics.soft_link import NoisyLink, Structure, fit_noisy_link
from lnl_core.statistics.softmax_link import SoftmaxLink, softmax
from lnl_core.statistics.two_em_mixture import clean_share, cleanness

K, D = 4, 12
QUICK = {"head_steps": 200}
NOBODY = np.empty(0, dtype=np.int32)


def uniform(gamma: float, classes: int = K) -> np.ndarray:
    return np.asarray(gamma * np.eye(classes) + (1 - gamma) / classes)


def nobody(rows: int) -> np.ndarray:
    """No row has a verified label."""
    return np.full(rows, NO_LABEL, dtype=np.int32)


def labelled(true: np.ndarray, transition: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Observed labels drawn from T's rows."""
    drawn = (rng.random(len(true))[:, None] > transition[true].cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(drawn, len(transition) - 1), dtype=np.int32)


def clusters(
    transition: np.ndarray, rows: int = 3000, seed: int = 0, apart: float = 3.0
) -> tuple[PurifyTask, np.ndarray]:
    """Gaussian clusters without trusted rows, and their true labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, len(transition), rows).astype(np.int32)
    centres = np.linalg.qr(rng.normal(size=(D, D)))[0][: len(transition)] * apart
    features = (centres[true] + rng.normal(size=(rows, D))).astype(np.float32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(rows)),
        observed=labelled(true, transition, rng),
        trusted=features[:0],
        trusted_label=NOBODY,
        trusted_observed=NOBODY,
        classes=len(transition),
    )
    return task, true


def values(task: PurifyTask) -> np.ndarray:
    return np.asarray(np.concatenate([batch for _, batch in task.noisy.batches()]))


def anchored(task: PurifyTask, true: np.ndarray, rows: int) -> tuple[PurifyTask, np.ndarray]:
    """The task with its last rows as trusted ones."""
    features, first = values(task), len(true) - rows
    with_trusted = replace(
        task,
        noisy=MappedRows(values=features, rows=np.arange(first)),
        observed=task.observed[:first],
        trusted=features[first:],
        trusted_label=true[first:],
        trusted_observed=task.observed[first:],
    )
    return with_trusted, true[:first]


def purify(task: PurifyTask, seed: int = 0, **settings: object) -> Purification:
    return two_em(task, TwoEMConfig(**{**QUICK, **settings}), np.random.default_rng(seed))


def right(found: Purification, true: np.ndarray) -> float:
    return float((found.posterior.argmax(axis=1) == true).mean())


# --- scale and noise by maximum likelihood ------------------------------------------------------------------------


def scores_and_labels(transition: np.ndarray, rows: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores whose softmax is p(y), the true label of each row and an observed one."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(rows, K)) * 3
    true = labelled(np.arange(rows), softmax(scores), rng)
    return scores, true, labelled(true, transition, rng)


def likelihood(
    scores: np.ndarray, observed: np.ndarray, beta: float, bias: np.ndarray, transition: np.ndarray
) -> float:
    """Sum of log p(observed), by loops."""
    total = 0.0
    for row, label in zip(scores, observed, strict=True):
        f = np.exp(beta * row + bias)
        f /= f.sum()
        total += np.log(sum(f[y] * transition[y, label] for y in range(len(f))))
    return total


def slow_em(f: np.ndarray, observed: np.ndarray, transition: np.ndarray, cycles: int) -> tuple[np.ndarray, list[float]]:
    """EM of T for fixed f: q_i(y) ~ f(x_i)[y] T[y, o_i]; T[y, j] = sum of q_i(y) over o_i = j / sum of q_i(y)."""
    curve = []
    for _ in range(cycles):
        counts, total = np.zeros((K, K)), 0.0
        for i, label in enumerate(observed):
            joint = np.array([f[i, y] * transition[y, label] for y in range(K)])
            total += np.log(joint.sum())
            counts[:, label] += joint / joint.sum()
        curve.append(total)
        transition = counts / counts.sum(axis=1, keepdims=True)
    return transition, curve


def test_em_climbs_the_likelihood_that_the_fit_maximises() -> None:
    """From a wrong T and with the fitted scale, EM in loops never falls and ends at the fitted T."""
    truth = np.array([[0.7, 0.3, 0, 0], [0, 0.8, 0.1, 0.1], [0.1, 0.1, 0.6, 0.2], [0, 0, 0, 1.0]])
    scores, _, observed = scores_and_labels(truth, 1000)
    nothing = np.full((K, K), 1e-9)
    start = fit_noisy_link(scores, observed, nobody(1000), 1.0, "uniform", nothing)
    found = fit_noisy_link(scores, observed, nobody(1000), 1.0, "full", nothing, start)
    transition, curve = slow_em(found.link(scores), observed, uniform(0.4), 60)
    assert (np.diff(curve) >= -1e-9).all()
    reached = likelihood(scores, observed, found.link.beta, found.link.bias, found.transition)
    assert reached >= curve[-1] - 0.01
    np.testing.assert_allclose(found.transition, transition, atol=0.03)
    np.testing.assert_allclose(found.transition, truth, atol=0.12)  # 250 rows a class


@pytest.mark.parametrize("gamma", [0.9, 0.5, 0.2])
def test_the_fit_finds_scale_and_gamma_together(gamma: float) -> None:
    """At gamma 0.2 three quarters of the labels are wrong, and the scale of f is known to nobody."""
    scores, _, observed = scores_and_labels(uniform(gamma), 20_000)
    found = fit_noisy_link(scores / 7, observed, nobody(20_000), 1.0, "uniform", uniform(0.5) * 10)
    assert found.link.beta == pytest.approx(7, rel=0.3)
    assert found.transition[0, 0] == pytest.approx(uniform(gamma)[0, 0], abs=0.04)


@pytest.mark.parametrize("structure", ["uniform", "full"])
def test_no_parameter_can_be_moved_to_a_likelier_fit(structure: Structure) -> None:
    """With verified labels, unknown observed ones and weights: the objective written as a loop is at its peak."""
    scores, true, observed = scores_and_labels(uniform(0.6), 300)
    verified = nobody(300)
    verified[:40], observed[:10] = true[:40], NO_LABEL
    prior = 5 * uniform(0.3)
    found = fit_noisy_link(scores, observed, verified, 3.0, structure, prior)

    def objective(beta: float, bias: np.ndarray, transition: np.ndarray) -> float:
        total, weight = float((prior * np.log(transition)).sum()), 0.0
        for i in range(300):
            f = np.exp(beta * scores[i] + bias)
            f /= f.sum()
            here = 1.0 if verified[i] == NO_LABEL else 3.0
            mass = 0.0
            for y in range(K):
                sure = 1.0 if verified[i] == NO_LABEL else ((verified[i] == y) * 40 + 1) / 44
                mass += sure * f[y] * (transition[y, observed[i]] if observed[i] != NO_LABEL else 1.0)
            total += here * np.log(mass)
            weight += here
        return total / weight - 0.005 * float((bias**2).sum())

    best = objective(found.link.beta, found.link.bias, found.transition)
    rng = np.random.default_rng(0)
    for _ in range(20):
        bias = found.link.bias + 0.05 * rng.normal(size=K)
        beta = found.link.beta * np.exp(0.05 * rng.normal())
        moved = found.transition * np.exp(0.05 * rng.normal(size=(K, K)))
        if structure == "uniform":
            moved = uniform(np.clip((found.transition[0, 0] * K - 1) / (K - 1) + 0.03 * rng.normal(), 0, 0.999))
        assert objective(beta, bias, moved / moved.sum(axis=1, keepdims=True)) <= best + 1e-6


def test_posterior_by_hand() -> None:
    """f = (1/2, 1/2), T = [[3/4, 1/4], [1/4, 3/4]], label 0: (3/8, 1/8), so 3/4; Eq. 11, gamma = eps = 1/2: also."""
    link = NoisyLink(link=SoftmaxLink(1.0, np.zeros(2)), transition=np.array([[0.75, 0.25], [0.25, 0.75]]))
    observed = np.array([0, NO_LABEL], dtype=np.int32)
    np.testing.assert_allclose(link.joint(np.zeros((2, 2)), observed), [[0.375, 0.125], [0.5, 0.5]])
    mixture = (0.5, np.full((2, 2), 0.5))
    for mode in ("fixed", "paper"):
        found = posteriors(np.zeros((2, 2)), observed, link, mixture, mode)
        np.testing.assert_allclose(found, [[0.75, 0.25], [0.5, 0.5]])


def test_gamma_by_eq_4_and_6_never_makes_the_labels_less_likely() -> None:
    """With f and eps fixed that is EM of gamma, so sum log(gamma f[o] + (1 - gamma) eps) does not fall."""
    scores, _, observed = scores_and_labels(uniform(0.3))
    f, eps, gamma = softmax(scores), np.full(len(scores), 1 / K), 0.95
    curve = []
    for _ in range(200):
        curve.append(np.log(gamma * f[np.arange(len(f)), observed] + (1 - gamma) * eps).sum())
        gamma = clean_share(cleanness(gamma, f, eps, observed))
    assert (np.diff(curve) >= -1e-9).all()
    assert gamma == pytest.approx(0.3, abs=0.05)


# --- cross-fitting ------------------------------------------------------------------------------------------------


def regression_of(rows: int = 60) -> tuple[CrossFit, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(rows, 5)).astype(np.float32)
    observed = rng.integers(0, K, rows).astype(np.int32)
    return cross_fit(features.copy(), observed, K, (0.1,), np.arange(rows)), features, observed


def test_with_one_run_the_scores_are_those_of_refits_without_the_row() -> None:
    """Ridge on the other rows, centred on the mean of all: the Gram matrix without the row, refitted row by row."""
    regression, features, observed = regression_of()
    onehot = np.eye(K, dtype=np.float32)[observed]
    learns = np.ones((60, 1), dtype=bool)
    weights, mean = regression.regress(onehot[:, None], learns)
    scores = regression.scores(onehot[:, None], learns, weights, mean)[:, 0]
    x = (features - regression.shift) * regression.scale
    x1 = np.concatenate([x, np.ones((60, 1))], axis=1)
    penalty = np.diag([*[0.1 * 60] * 5, 0.0])  # the intercept goes free
    for i in range(60):
        others = np.arange(60) != i
        refit = np.linalg.solve(x1[others].T @ x1[others] + penalty, x1[others].T @ onehot[others])
        np.testing.assert_allclose(scores[i], x1[i] @ refit, atol=1e-4)


def test_no_label_has_a_part_in_its_own_rows_scores() -> None:
    """Targets of split s change nothing in run s's scores of split s; nor a row's own target its score elsewhere."""
    regression, _, observed = regression_of()
    targets = np.repeat(np.eye(K, dtype=np.float32)[observed][:, None], 3, axis=1)
    split = np.arange(60) % 3
    learns = split[:, None] != np.arange(3)

    def scores(y: np.ndarray) -> np.ndarray:
        return regression.scores(y, learns, *regression.regress(y, learns))

    before, changed = scores(targets), targets.copy()
    changed[split == 1] = 1 / K
    np.testing.assert_allclose(scores(changed)[split == 1, 1], before[split == 1, 1], atol=1e-5)
    one = targets.copy()
    one[7] = np.roll(one[7], 1, axis=-1)
    own = scores(one)[7] - before[7]
    mean_moved = np.abs(one[7, 0] - targets[7, 0]).max() / 40  # the mean of the targets is a number of all rows
    assert np.abs(own).max() <= 2 * mean_moved
    assert np.abs(scores(one)[8] - before[8]).max() > 0


def test_anchors_are_fixed_and_never_score_the_run_that_saw_them() -> None:
    task, true = anchored(*clusters(uniform(0.4)), 200)
    observed = np.concatenate([task.observed, task.trusted_observed])
    verified = np.concatenate([nobody(len(true)), task.trusted_label])
    evidence = Evidence(
        observed=observed,
        verified=verified,
        split=np.arange(len(observed)) % 5,
        classes=K,
        anchor_weight=20.0,
        smoothing=10.0,
    )
    features = np.concatenate([values(task), task.trusted])
    regression = cross_fit(features, observed, K, (0.1,), np.arange(500))
    found = run_cycles(regression, evidence, mode="fixed", cycles=3, scaled=np.arange(len(true)))
    onehot = np.eye(K)[task.trusted_label]
    assert (found.targets[len(true) :] == onehot[:, None]).all()
    # other verified labels for split 0: what is predicted for split 0 stays as it was
    lies = verified.copy()
    inside = np.flatnonzero((verified != NO_LABEL) & (evidence.split == 0))
    lies[inside] = (lies[inside] + 1) % K
    scores = found.fit.scores
    everyone = np.arange(len(true))
    honest = fit_scores(scores, evidence, "fixed", everyone)
    lied = fit_scores(scores, replace(evidence, verified=lies), "fixed", everyone)
    assert honest.trusted is not None
    assert lied.trusted is not None
    np.testing.assert_allclose(lied.trusted[inside - len(true)], honest.trusted[inside - len(true)], atol=5e-3)


# --- the purifier --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "floor"), [(0.8, 0.97), (0.4, 0.93), (0.15, 0.88)])
def test_uniform_noise_is_found_without_a_trusted_row(gamma: float, floor: float) -> None:
    task, true = clusters(uniform(gamma), rows=6000)
    found = purify(task)
    assert found.metrics["chosen"]["noise"] == "uniform"
    np.testing.assert_allclose(found.metrics["transition"], uniform(gamma), atol=0.05)
    assert right(found, true) >= floor
    assert found.trusted_posterior is None
    assert found.metrics["empty_classes"] == found.metrics["swapped_classes"] == []


def test_asymmetric_noise_is_found_without_a_trusted_row() -> None:
    truth = np.array([[0.65, 0.35, 0, 0], [0, 1.0, 0, 0], [0, 0.1, 0.7, 0.2], [0, 0, 0.3, 0.7]])
    task, true = clusters(truth, apart=4.0)
    found = purify(task)
    assert found.metrics["chosen"]["noise"] == "full"
    np.testing.assert_allclose(found.metrics["transition"], truth, atol=0.06)
    assert right(found, true) >= 0.95
    assert abs(found.metrics["noise_rate"] - (task.observed != true).mean()) < 0.03


def test_more_than_half_asymmetric_noise_needs_anchors_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    truth = np.array([[0.4, 0.6, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    task, true = anchored(*clusters(truth, apart=4.0), 200)
    with caplog.at_level(logging.WARNING, logger="lnl"):
        found = purify(task)
    assert right(found, true) >= 0.95
    np.testing.assert_allclose(found.metrics["transition"], truth, atol=0.08)
    assert found.metrics["swapped_classes"] == [0]
    assert "commonest observed label of class 0" in caplog.text


def test_a_class_that_nobody_is_left_in_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Class 3 is but a noisy name for the others: no cluster of its own, and two of a hundred labels."""
    truth = np.array([[0.97, 0.01, 0, 0.02], [0.01, 0.97, 0, 0.02], [0, 0.01, 0.97, 0.02], [0, 0, 0, 1.0]])
    task, true = clusters(truth, apart=5.0)
    rows = np.flatnonzero(true != 3)
    task = replace(task, noisy=MappedRows(values=values(task), rows=rows), observed=task.observed[rows])
    with caplog.at_level(logging.WARNING, logger="lnl"):
        found = purify(task)
    assert not (found.posterior.argmax(axis=1) == 3).any()
    assert found.metrics["empty_classes"] == [3]
    assert "no row is left in class 3" in caplog.text
    assert right(found, true[rows]) >= 0.97


@pytest.mark.parametrize("mode", ["fixed", "paper"])
@pytest.mark.parametrize("trusted", [0, 150])
def test_digits_get_cleaner_and_trusted_rows_are_predicted_out_of_fold(mode: str, trusted: int) -> None:
    data = load_digits()
    rng = np.random.default_rng(0)
    true = data.target.astype(np.int32)
    observed = labelled(true, uniform(0.45, 10), rng)
    features = data.data.astype(np.float32)
    first = len(true) - trusted
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(first)),
        observed=observed[:first],
        trusted=features[first:],
        trusted_label=true[first:],
        trusted_observed=observed[first:],
        classes=10,
    )
    found = purify(task, mode=mode)
    assert right(found, true[:first]) >= (0.9 if mode == "fixed" else 0.85)
    if trusted:
        assert found.trusted_posterior is not None
        held = (found.trusted_posterior.argmax(axis=1) == task.trusted_label).mean()
        assert abs(held - right(found, true[:first])) < 0.08
        assert found.metrics["held_out_accuracy"] == pytest.approx(held, abs=1e-4)


class Streamed:
    """The same rows in batches of a size; never an array of all."""

    def __init__(self, features: np.ndarray, size: int) -> None:
        self.features, self.size = features, size

    @property
    def shape(self) -> tuple[int, int]:
        return self.features.shape[0], self.features.shape[1]

    def batches(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self.features), self.size):
            rows = slice(start, min(start + self.size, len(self.features)))
            yield rows, self.features[rows].copy()


@pytest.mark.parametrize("size", [1, 37, 1000])
def test_the_stream_is_the_table(size: int) -> None:
    """A sample of 800 of 2000 rows learns, the others are predicted as they pass: in batches of any size."""
    task, true = clusters(uniform(0.5), rows=2000)
    whole = purify(replace(task, noisy=Streamed(values(task), 2000)), rows=800)
    passed = purify(replace(task, noisy=Streamed(values(task), size)), rows=800)
    np.testing.assert_allclose(passed.posterior, whole.posterior, atol=1e-4)
    assert right(passed, true) >= 0.93
    assert passed.metrics["sampled_rows"] == 800


def test_the_features_are_not_touched() -> None:
    task, _ = clusters(uniform(0.5), rows=500)
    before = values(task).copy()
    purify(task, head_steps=0)
    assert np.array_equal(values(task), before)


def test_same_seed_same_posterior_other_seed_nearly() -> None:
    task, _ = clusters(uniform(0.5), rows=1500)
    first, again, other = purify(task), purify(task), purify(task, seed=1)
    assert np.array_equal(first.posterior, again.posterior)
    assert not np.array_equal(first.posterior, other.posterior)
    assert (first.posterior.argmax(axis=1) == other.posterior.argmax(axis=1)).mean() > 0.97
