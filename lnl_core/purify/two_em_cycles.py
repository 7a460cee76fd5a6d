"""The cycles of `two_em`: regression onto the targets, scale and T from the labels of held-out rows, new targets.

The rows are assigned to splits. Run s learns from the rows outside split s, noisy and trusted alike, and predicts those
inside, so that no label has a part in its own row's prediction however many cycles there are. Leaving out the row
alone would not do: its label comes back through its neighbours' targets, one cycle later. At 90 % noise T then said
that there is none. All runs share the features and their Gram matrix, so a cycle costs two thin products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import NO_LABEL, BoolArray, FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.statistics.moments import accumulate
from lnl_core.statistics.ridge import RidgePath
from lnl_core.statistics.soft_link import NoisyLink, Structure, fit_noisy_link
from lnl_core.statistics.transition import posterior
from lnl_core.statistics.two_em_mixture import (
    clean_share,
    cleanness,
    corruption_matrix,
    outlier_probability,
    refurbished,
)

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Mode = Literal["fixed", "paper"]
LARGEST_LEVERAGE = 0.99  # a row alone in its direction of the features: its own label stays out, its score stays finite
PATIENCE = 2  # cycles without a better one before the last
COMPARED_BY = 10  # trusted rows a class, in the mean, below which they are too few to compare fits by
_CHUNK = 8192  # rows held in float64 at a time


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the rows that the heads learn from: noisy ones first, trusted ones last."""

    observed: IntArray  # [N], NO_LABEL where a trusted row never had one
    verified: IntArray  # [N], NO_LABEL for noisy rows
    split: Rows  # [N] the run that does not learn from the row
    classes: int
    anchor_weight: float  # how many noisy rows a verified label stands for in T and in the scale of the scores
    smoothing: float  # rows of the warm-up's T that are added to each class

    @property
    def splits(self) -> int:
        return int(self.split.max()) + 1

    @property
    def noisy(self) -> BoolArray:
        return np.asarray(self.verified == NO_LABEL)

    @property
    def learns(self) -> BoolArray:
        """[N, S] whether run s learns from row i."""
        return np.asarray(self.split[:, None] != np.arange(self.splits))

    def pinned(self, targets: FloatArray) -> FloatArray:
        """Targets [N, S, K] with every trusted row's one-hot."""
        anchors = np.flatnonzero(~self.noisy)
        targets[anchors] = np.eye(self.classes, dtype=np.float32)[self.verified[anchors]][:, None]
        return targets

    def prior(self, scores: FloatArray) -> Array:
        """Rows added to the counts of T [K, K]: gamma I + (1 - gamma) / K with the warm-up's gamma.

        The paper takes the accuracy on the observed labels just learned for gamma. Here it is the accuracy of scores
        [N, K] that did not see the label, less what chance gives, because the corrupted part hits them too.
        """
        right = float((scores[self.noisy].argmax(axis=1) == self.observed[self.noisy]).mean())
        gamma = float(np.clip((right - 1 / self.classes) / (1 - 1 / self.classes), 0.05, 0.95))
        return np.asarray(self.smoothing * (gamma * np.eye(self.classes) + (1 - gamma) / self.classes) + 1e-9)

    def warm_up(self) -> FloatArray:
        """The first targets [N, S, K]: observed labels, and verified ones where there are some."""
        onehot = np.eye(self.classes + 1, dtype=np.float32)[self.observed][:, :-1]
        return self.pinned(np.repeat(onehot[:, None], self.splits, axis=1))


# --- ridge regression, cross-fitted ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CrossFit:
    """Ridge regression from features to any targets with the Gram matrix of all rows, which holds no label."""

    rotated: FloatArray  # [N, d] features in the basis of their Gram matrix
    inverse: FloatArray  # [d] 1 / (g + penalty)
    leverage: FloatArray  # [N]
    shift: Array  # [d]
    scale: Array  # [d]
    basis: Array  # [d, d]
    chosen: Mapping[str, str | float] = field(default_factory=dict)

    def regress(self, targets: FloatArray, learns: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Weights [d, S, K] in the basis and means [S, K], run s from the rows with `learns` [N, S]."""
        part = learns.astype(np.float32)
        share = part.mean(axis=0)
        mean = np.asarray(np.einsum("ns,nsk->sk", part, targets) / (share * len(targets))[:, None], dtype=np.float32)
        weighted = (targets - mean) * (part / share)[:, :, None]
        cross = self.rotated.T @ weighted.reshape(len(targets), -1)
        return (self.inverse[:, None] * cross).reshape(-1, *mean.shape), mean

    def scores(self, targets: FloatArray, learns: BoolArray, weights: FloatArray, mean: FloatArray) -> FloatArray:
        """[N, S, K] without the row's own target. Where one run learns from all, that is leave-one-out exactly:
        s_-i = (s_i - h_i y_i) / (1 - h_i)."""
        fitted = (self.rotated @ weights.reshape(len(weights), -1)).reshape(targets.shape)
        own = self.leverage[:, None] * (learns / learns.mean(axis=0)).astype(np.float32)
        fitted -= own[:, :, None] * (targets - mean)
        fitted /= (1 - self.leverage)[:, None, None]
        return np.asarray(fitted + mean)

    def rotate(self, features: FloatArray) -> FloatArray:
        """Other rows [b, d] in the same basis."""
        return np.asarray(((features - self.shift) * self.scale) @ self.basis, dtype=np.float32)


def cross_fit(
    features: FloatArray, observed: IntArray, classes: int, penalties: tuple[float, ...], scored: Rows
) -> CrossFit:
    """The transform and penalty that predict the observed labels of the `scored` rows best, each without itself.

    No verified label and no noise rate is needed for that choice: a label predicts as well as its noise lets it. What
    counts is the cosine of prediction and label, not the error: the noise shrinks the best prediction, so the error
    asks for a large penalty for its scale alone, which the link restores anyway.
    Rows without an observed label count as the mean of the others.

    Args:
        features: [N, d], overwritten: they come back as `rotated`.
    """
    known = observed != NO_LABEL
    filled = np.where(known, observed, 0).astype(np.int32)
    blocks = [slice(start, min(start + _CHUNK, len(features))) for start in range(0, len(features), _CHUNK)]
    moments = accumulate(((rows, features[rows]) for rows in blocks), filled, features.shape[1], classes)
    onehot = np.eye(classes, dtype=np.float32)[filled]
    onehot[~known] = onehot[known].mean(axis=0) if known.any() else 1 / classes
    target = onehot - onehot.mean(axis=0)
    cross = (features.T @ target).astype(np.float64)
    best: tuple[float, CrossFit] | None = None
    for transform in ("centre", "standardise"):
        shift, scale = moments.affine(transform)
        path = RidgePath.of(moments.transformed(shift, scale)[0], cross * scale[:, None])
        some = ((features[scored] - shift) * scale) @ path.basis
        for penalty in penalties:
            inverse = 1.0 / (path.spectrum + penalty * len(features))
            held = np.minimum(np.square(some) @ inverse + 1 / len(features), LARGEST_LEVERAGE)[:, None]
            left = (some @ (inverse[:, None] * path.cross) - held * target[scored]) / (1 - held)
            error = -float((left * target[scored]).sum() / max(float(np.linalg.norm(left)), 1e-30))
            if best is None or error < best[0]:
                found = CrossFit(
                    rotated=features,
                    inverse=inverse.astype(np.float32),
                    leverage=np.empty(len(features), dtype=np.float32),
                    shift=shift,
                    scale=scale,
                    basis=path.basis,
                    chosen={"transform": transform, "ridge": penalty},
                )
                best = (error, found)
    assert best is not None
    regression = best[1]
    for rows in blocks:
        features[rows] = regression.rotate(features[rows])
        leverage = np.square(features[rows]) @ regression.inverse + np.float32(1 / len(features))
        regression.leverage[rows] = np.minimum(leverage, np.float32(LARGEST_LEVERAGE))
    return regression


# --- what the scores say -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Calibrated f, T and the posteriors of one set of held-out scores."""

    scores: FloatArray  # [N, K]
    link: NoisyLink  # by all rows
    full: NoisyLink  # `link`, or the one with a full T that was not worth its parameters
    folds: tuple[NoisyLink, ...]  # S, without the verified labels of the split; all the same where there are none
    mixture: tuple[float, Array]  # (gamma, T_c), read in mode `paper`
    structure: Structure
    log_likelihood: float  # mean log p(observed) of the noisy rows
    trusted: FloatArray | None  # [m, K] posterior of the trusted rows by their fold's link
    trusted_loss: float | None  # their mean -log p(verified)

    @property
    def loss(self) -> float:
        """What fits are compared by: held-out verified labels where there are enough, else observed ones."""
        if self.trusted is None or self.trusted_loss is None or len(self.trusted) < COMPARED_BY * self.scores.shape[1]:
            return -self.log_likelihood
        return self.trusted_loss


def fit_scores(scores: FloatArray, evidence: Evidence, mode: Mode, scaled: Rows, start: NoisyLink | None = None) -> Fit:
    """Link and T of scores [N, K] that saw no label of their own row.

    Args:
        scaled: the noisy rows that they are fitted on; the trusted ones are always with them.
        start: a full T from which its search may start.
    """
    noisy = np.flatnonzero(evidence.noisy)
    prior = evidence.prior(scores)
    uniform = _link(scores, evidence, scaled, None, "uniform", prior)
    full = _link(scores, evidence, scaled, None, "full", prior, start or uniform)
    found = [_log_likelihood(link, scores, evidence, noisy) for link in (uniform, full)]
    # the Bayesian information criterion: K (K - 1) - 1 further parameters
    price = (evidence.classes * (evidence.classes - 1) - 1) / 2 * np.log(len(noisy)) / len(noisy)
    structure: Structure = "full" if found[1] - found[0] > price else "uniform"
    link = full if structure == "full" else uniform
    folds = [link] * evidence.splits
    if len(noisy) < len(scores):
        for split in range(evidence.splits):
            folds[split] = _link(scores, evidence, scaled, split, structure, prior, link, steps=60)
    f = np.asarray(link.link(scores.astype(np.float64)), dtype=np.float32)
    mixture = _mixture(f, evidence, link.transition) if mode == "paper" else (0.0, link.transition)
    trusted, loss = None, None
    if len(noisy) < len(scores):
        rows = np.flatnonzero(~evidence.noisy)
        trusted = np.empty((len(rows), evidence.classes), dtype=np.float32)
        for split, fold in enumerate(folds):
            here = np.flatnonzero(evidence.split[rows] == split)
            trusted[here] = posteriors(scores[rows[here]], evidence.observed[rows[here]], fold, mixture, mode)
        right = trusted[np.arange(len(rows)), evidence.verified[rows]]
        loss = float(-np.log(np.maximum(right, 1e-9)).mean())
    return Fit(
        scores=scores,
        link=link,
        full=full,
        folds=tuple(folds),
        mixture=mixture,
        structure=structure,
        log_likelihood=found[structure == "full"],
        trusted=trusted,
        trusted_loss=loss,
    )


def _link(
    scores: FloatArray,
    evidence: Evidence,
    scaled: Rows,
    without: int | None,
    structure: Structure,
    prior: Array,
    start: NoisyLink | None = None,
    steps: int = 400,
) -> NoisyLink:
    """Fitted on the `scaled` noisy rows and the trusted rows outside split `without`."""
    trusted = np.flatnonzero(~evidence.noisy & (evidence.split != (-1 if without is None else without)))
    rows = np.concatenate([scaled, trusted])
    return fit_noisy_link(
        scores[rows].astype(np.float64),
        evidence.observed[rows],
        evidence.verified[rows],
        evidence.anchor_weight,
        structure,
        prior,
        start,
        steps,
    )


def _log_likelihood(link: NoisyLink, scores: FloatArray, evidence: Evidence, rows: Rows) -> float:
    mass = link.joint(scores[rows].astype(np.float64), evidence.observed[rows]).sum(axis=1)
    return float(np.log(np.maximum(mass, 1e-300)).mean())


def _mixture(f: FloatArray, evidence: Evidence, transition: Array, steps: int = 50) -> tuple[float, Array]:
    """(gamma, T_c) of fixed f [N, K], by Eq. 4, 6 and 14 in turn; eps = 1/K at first."""
    known = np.flatnonzero(evidence.observed != NO_LABEL)
    f, observed = f[known], evidence.observed[known]
    gamma = float(np.clip(np.diag(transition).mean(), 0.05, 0.95))
    corruption = np.full(transition.shape, 1 / evidence.classes)
    for _ in range(steps):
        clean = cleanness(gamma, f, outlier_probability(f, corruption, observed), observed)
        before, gamma = gamma, clean_share(clean)
        corruption = corruption_matrix(clean, f, observed, evidence.smoothing).astype(np.float64)
        if abs(gamma - before) < 1e-4:
            break
    return gamma, corruption


def posteriors(
    scores: npt.NDArray[np.floating], observed: IntArray, link: NoisyLink, mixture: tuple[float, Array], mode: Mode
) -> FloatArray:
    """The E-step: p(true | x, observed) [n, K] from scores [n, K]; f(x) itself where no label was observed."""
    f = np.asarray(link.link(scores.astype(np.float64)), dtype=np.float32)
    known = observed != NO_LABEL
    labels = observed[known]
    if mode == "paper":
        gamma, corruption = mixture
        clean = cleanness(gamma, f[known], outlier_probability(f[known], corruption, labels), labels)
        f[known] = refurbished(clean, f[known], labels)
    else:
        f[known] = posterior(f[known], link.transition, labels)
    return f


# --- cycles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best cycle."""

    fit: Fit
    weights: FloatArray  # [d, S, K] of its regressions
    mean: FloatArray  # [S, K]
    targets: FloatArray  # [N, S, K] q of its E-step, trusted rows one-hot
    curve: tuple[dict[str, float], ...]


def run_cycles(regression: CrossFit, evidence: Evidence, *, mode: Mode, cycles: int, scaled: Rows) -> Found:
    """Warm-up on the observed labels, then M- and E-steps until `PATIENCE` cycles are no better.

    Args:
        scaled: noisy rows whose scores set link and T.
    """
    learns = evidence.learns
    targets = evidence.warm_up()
    best: Found | None = None
    fit: Fit | None = None
    chosen, curve = 0, []
    with progress_bar("two_em: cycles", cycles) as advance:
        for cycle in range(cycles):
            weights, mean = regression.regress(targets, learns)
            scores = regression.scores(targets, learns, weights, mean)
            held = scores[np.arange(len(scores)), evidence.split]
            fit = fit_scores(held, evidence, mode, scaled, fit.full if fit else None)
            q = e_step(scores, fit, evidence, mode)
            moved = float(np.abs(q - targets).sum(axis=2).mean() / 2)
            curve.append({"cycle": cycle + 1.0, "log_likelihood": fit.log_likelihood, "moved": moved, "loss": fit.loss})
            targets = q
            if best is None or fit.loss < best.fit.loss:
                best, chosen = Found(fit=fit, weights=weights, mean=mean, targets=q, curve=()), cycle
            advance(note=f"loss {fit.loss:.4f}")
            if cycle - chosen >= PATIENCE:
                break
    assert best is not None
    return Found(fit=best.fit, weights=best.weights, mean=best.mean, targets=best.targets, curve=tuple(curve))


def e_step(scores: FloatArray, fit: Fit, evidence: Evidence, mode: Mode) -> FloatArray:
    """Targets q [N, S, K] of all runs from their scores [N, S, K]: run s by a link that saw no verified label of s."""
    targets = np.empty_like(scores)
    for run, link in enumerate(fit.folds):
        targets[:, run] = posteriors(scores[:, run], evidence.observed, link, fit.mixture, mode)
    return evidence.pinned(targets)
