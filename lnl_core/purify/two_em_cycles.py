"""The cycles of `two_em`: E-step and M-step in closed form, several runs side by side on one sample of rows.

A run is one EM with its own anchors: the last run holds all trusted rows fixed, run b treats those of fold b as noisy
rows, so that their verified label is never seen. All runs share the features, so a cycle costs two thin products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lnl_core.blocks.moments import accumulate
from lnl_core.blocks.ridge import RidgePath
from lnl_core.blocks.soft_link import fit_soft_link
from lnl_core.blocks.softmax_link import SoftmaxLink
from lnl_core.blocks.transition import posterior
from lnl_core.blocks.two_em_mixture import (
    clean_share,
    cleanness,
    corruption_matrix,
    outlier_probability,
    refurbished,
)
from lnl_core.contracts import NO_LABEL, BoolArray, FloatArray, IntArray
from lnl_core.progress import progress_bar

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
LARGEST_LEVERAGE = 0.99  # a row alone in its direction of the features: its own label stays out, its score stays finite
_CHUNK = 8192  # rows held in float64 at a time


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of the rows that the heads learn from: noisy ones first, trusted ones last."""

    observed: IntArray  # [N], NO_LABEL where a trusted row never had one
    verified: IntArray  # [N], NO_LABEL for noisy rows
    anchored: BoolArray  # [N, B] whether run b holds the row's verified label fixed
    classes: int
    anchor_weight: float  # how many noisy rows an anchor stands for in T and in the scale of the scores
    smoothing: float  # rows of the start that are added to each class of T

    def likelihood(self, transition: Array) -> FloatArray:
        """T[y, observed] [N, B, K]; 1 where no label was observed.

        Args:
            transition: [B, K, K].
        """
        runs, classes = transition.shape[:2]
        columns = np.concatenate([transition, np.ones((runs, classes, 1))], axis=2)  # column -1 is NO_LABEL's
        return np.asarray(columns[:, :, self.observed].transpose(2, 0, 1), dtype=np.float32)

    def pinned(self, targets: FloatArray) -> FloatArray:
        """Targets [N, B, K] with every anchor's row one-hot."""
        rows, runs = np.nonzero(self.anchored)
        targets[rows, runs] = np.eye(self.classes, dtype=np.float32)[self.verified[rows]]
        return targets

    def transition(self, targets: FloatArray, start: Array) -> Array:
        """T [B, K, K] by counting the targets; anchors count `anchor_weight` times."""
        rows, runs, classes = targets.shape
        known = self.observed != NO_LABEL
        seen = np.zeros((rows, classes), dtype=np.float32)
        seen[known, self.observed[known]] = 1.0
        weighted = targets * np.where(self.anchored, self.anchor_weight, 1.0)[:, :, None].astype(np.float32)
        counts = (weighted.reshape(rows, -1).T @ seen).reshape(runs, classes, classes) + self.smoothing * start
        return np.asarray(counts / counts.sum(axis=2, keepdims=True), dtype=np.float64)

    def anchors_alone(self, start: Array) -> Array:
        """T [B, K, K] of the anchors with an observed label, where there are some, and of the start."""
        nothing = np.zeros((*self.anchored.shape, self.classes), dtype=np.float32)
        return self.transition(self.pinned(nothing), start)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """Ridge regression from features to any targets, each row predicted by the regression on all others."""

    rotated: FloatArray  # [N, d] features in the basis of their Gram matrix
    inverse: FloatArray  # [d] 1 / (g + penalty)
    leverage: FloatArray  # [N]
    shift: Array  # [d]
    scale: Array  # [d]
    basis: Array  # [d, d]
    chosen: Mapping[str, str | float] = field(default_factory=dict)

    def regress(self, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weights [d, B, K] in the basis and means [B, K] of the targets [N, B, K]."""
        mean = targets.mean(axis=0, dtype=np.float64).astype(np.float32)
        cross = self.rotated.T @ (targets - mean).reshape(len(targets), -1)
        return (self.inverse[:, None] * cross).reshape(-1, *mean.shape), mean

    def scores(self, targets: FloatArray) -> FloatArray:
        """[N, B, K]: s_-i = (s_i - h_i y_i) / (1 - h_i), the score of row i without its own target."""
        weights, mean = self.regress(targets)
        fitted = (self.rotated @ weights.reshape(len(weights), -1)).reshape(targets.shape) + mean
        leverage = self.leverage[:, None, None]
        return np.asarray((fitted - leverage * targets) / (1 - leverage))

    def rotate(self, features: FloatArray) -> FloatArray:
        """Other rows [b, d] in the same basis."""
        return np.asarray(((features - self.shift) * self.scale) @ self.basis, dtype=np.float32)


def leave_one_out(
    features: FloatArray, observed: IntArray, classes: int, penalties: tuple[float, ...], scored: Rows
) -> LeaveOneOut:
    """The transform and penalty that predict the observed labels of the `scored` rows best, each without itself.

    No verified label and no noise rate is needed for that choice: a label predicts as well as its noise lets it. What
    counts is the cosine of prediction and label, not the error: the noise shrinks the best prediction, so the error
    asks for a large penalty for its scale alone, which the link restores anyway.
    Rows without an observed label count as the mean of the others.
    """
    known = observed != NO_LABEL
    filled = np.where(known, observed, 0).astype(np.int32)
    blocks = [slice(start, min(start + _CHUNK, len(features))) for start in range(0, len(features), _CHUNK)]
    moments = accumulate(((rows, features[rows]) for rows in blocks), filled, features.shape[1], classes)
    onehot = np.eye(classes, dtype=np.float32)[filled]
    onehot[~known] = onehot[known].mean(axis=0) if known.any() else 1 / classes
    target = onehot - onehot.mean(axis=0)
    best: tuple[float, LeaveOneOut] | None = None
    for transform in ("centre", "standardise"):
        shift, scale = moments.affine(transform)
        path = RidgePath.of(*moments.transformed(shift, scale))
        rotated = np.empty(features.shape, dtype=np.float32)
        for rows in blocks:
            rotated[rows] = ((features[rows] - shift) * scale) @ path.basis
        cross = rotated.T @ target
        for penalty in penalties:
            inverse = (1.0 / (path.spectrum + penalty * len(features))).astype(np.float32)
            squared = np.square(rotated[scored]) @ inverse + 1 / len(features)
            held = _capped(squared)[:, None]
            fitted = rotated[scored] @ (inverse[:, None] * cross)
            left = (fitted - held * target[scored]) / (1 - held)  # without the row's own label
            error = -float((left * target[scored]).sum() / max(float(np.linalg.norm(left)), 1e-30))
            if best is None or error < best[0]:
                found = LeaveOneOut(
                    rotated=rotated, inverse=inverse, leverage=squared, shift=shift, scale=scale, basis=path.basis
                )
                best = (error, replace(found, chosen={"transform": transform, "ridge": penalty}))
    assert best is not None
    regression = best[1]
    leverage = np.concatenate([np.square(regression.rotated[rows]) @ regression.inverse for rows in blocks])
    return replace(regression, leverage=_capped(leverage + np.float32(1 / len(features))))


def _capped(leverage: FloatArray) -> FloatArray:
    return np.asarray(np.minimum(leverage, np.float32(LARGEST_LEVERAGE)))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the runs hold of the noise."""

    transition: Array  # [B, K, K] T
    mixtures: list[tuple[float, Array]]  # B times (gamma, T_c), used in mode `paper`


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the cycles ended."""

    probabilities: FloatArray  # [N, B, K] f(x): p(true | x) without the row's own label
    targets: FloatArray  # [N, B, K] q of the last E-step, anchors one-hot
    links: list[SoftmaxLink]  # B
    start: Array  # [K, K] the start of T
    curve: tuple[dict[str, float], ...]


def run_cycles(
    regression: LeaveOneOut, evidence: Evidence, *, mode: str, cycles: int, tolerance: float, scaled: Rows
) -> Found:
    """Warm-up on the observed labels, then E- and M-steps until the targets rest.

    Args:
        mode: `fixed` or `paper`, see `two_em`.
        tolerance: mean absolute move of the targets below which the cycles end.
        scaled: rows whose scores set the links (all anchors set them too).
    """
    targets, start = _warm_up(regression, evidence)
    noise = first_noise(evidence, start)
    links: list[SoftmaxLink] = []
    curve: list[dict[str, float]] = []
    with progress_bar("two_em: cycles", cycles) as advance:
        for cycle in range(cycles):
            scores = regression.scores(targets)
            before: Sequence[SoftmaxLink | None] = links if links else [None] * len(noise.transition)
            links = [_link(scores, targets, evidence, run, scaled, link) for run, link in enumerate(before)]
            probabilities = _linked(scores, links)
            answer, noise, likelihood = em_step(probabilities, evidence, noise, start, mode)
            moved = float(np.abs(answer - targets).sum(axis=2).mean() / 2)
            targets = answer
            curve.append({"cycle": cycle + 1.0, "log_likelihood": likelihood, "moved": moved})
            advance(note=f"moved {moved:.4f}")
            if moved < tolerance:
                break
    return Found(
        probabilities=probabilities,
        targets=targets,
        links=links,
        start=start,
        curve=tuple(curve),
    )


def first_noise(evidence: Evidence, start: Array) -> Noise:
    """The noise before the first cycle: the start, and where anchors have observed labels, their counts."""
    runs = evidence.anchored.shape[1]
    gamma = float(np.diag(start).mean())
    uniform = np.full(start.shape, 1 / evidence.classes)
    return Noise(transition=evidence.anchors_alone(start), mixtures=[(gamma, uniform)] * runs)


def em_step(
    probabilities: FloatArray, evidence: Evidence, noise: Noise, start: Array, mode: str
) -> tuple[FloatArray, Noise, float]:
    """Targets [N, B, K] under the noise so far, the noise they imply, and the mean log-likelihood of noisy labels.

    Args:
        probabilities: f(x) [N, B, K].  start: [K, K].
    """
    joint = probabilities * evidence.likelihood(noise.transition)
    mass = np.maximum(joint.sum(axis=2, keepdims=True), 1e-30)
    likelihood = float(np.log(mass[evidence.verified == NO_LABEL, -1]).mean())
    mixtures = noise.mixtures
    if mode == "paper":
        answer, mixtures = _mixture_step(probabilities, evidence, mixtures)
    else:
        answer = joint / mass
    answer = evidence.pinned(answer)
    return answer, Noise(transition=evidence.transition(answer, start), mixtures=mixtures), likelihood


def settled(
    probabilities: FloatArray, evidence: Evidence, start: Array, mode: str, steps: int = 50
) -> tuple[Noise, float]:
    """The noise of fixed f(x) [N, B, K], by E- and M-steps of T alone, and its log-likelihood."""
    noise = first_noise(evidence, start)
    for _ in range(steps):
        before = noise.transition
        _, noise, likelihood = em_step(probabilities, evidence, noise, start, mode)
        if np.abs(noise.transition - before).max() < 1e-4:
            break
    return noise, likelihood


def _linked(scores: FloatArray, links: Sequence[SoftmaxLink]) -> FloatArray:
    """f(x) [N, B, K] of the scores [N, B, K]; the link is float64, so a run at a time."""
    found = np.empty_like(scores)
    for run, link in enumerate(links):
        found[:, run] = link(scores[:, run].astype(np.float64))
    return found


def _warm_up(regression: LeaveOneOut, evidence: Evidence) -> tuple[FloatArray, Array]:
    """Targets from the observed labels, and T = gamma I + (1 - gamma) / K with gamma from the warm-up's accuracy.

    The paper takes the accuracy on the observed labels itself for gamma. Here it is the accuracy of predictions that
    did not see the label, less what chance gives, because the corrupted part hits the prediction too.
    """
    classes, known = evidence.classes, evidence.observed != NO_LABEL
    onehot = np.full((len(known), 1, classes), 1 / classes, dtype=np.float32)
    onehot[known, 0] = np.eye(classes, dtype=np.float32)[evidence.observed[known]]
    scores = regression.scores(onehot)[:, 0]
    right = float((scores[known].argmax(axis=1) == evidence.observed[known]).mean())
    gamma = float(np.clip((right - 1 / classes) / (1 - 1 / classes), 0.05, 0.95))
    start = gamma * np.eye(classes) + (1 - gamma) / classes  # eps = 1/K at first
    target = gamma * onehot + (1 - gamma) / classes
    return evidence.pinned(np.repeat(target, evidence.anchored.shape[1], axis=1).astype(np.float32)), start


def _link(
    scores: FloatArray, targets: FloatArray, evidence: Evidence, run: int, scaled: Rows, start: SoftmaxLink | None
) -> SoftmaxLink:
    """M-step of the scale and the class biases of f: noisy rows by their targets, anchors `anchor_weight` times."""
    anchors = np.flatnonzero(evidence.anchored[:, run])
    free = scaled[~evidence.anchored[scaled, run]]
    rows = np.concatenate([free, anchors])
    weights = np.ones(len(rows))
    weights[: len(free)] = (len(scores) - len(anchors)) / max(len(free), 1)
    weights[len(free) :] = evidence.anchor_weight
    wanted = (scores[rows, run].astype(np.float64), targets[rows, run].astype(np.float64))
    return fit_soft_link(*wanted, weights, start, steps=30 if start is None else 8)


def _mixture_step(
    probabilities: FloatArray, evidence: Evidence, mixtures: list[tuple[float, Array]]
) -> tuple[FloatArray, list[tuple[float, Array]]]:
    """One E-step as printed: Eq. 4, 6, 11 and 14 for each run, with g = f; rows without a label keep f(x)."""
    answer, updated = probabilities.copy(), []
    known = evidence.observed != NO_LABEL
    observed = evidence.observed[known]
    for run, (gamma, corruption) in enumerate(mixtures):
        f = probabilities[known, run]
        clean = cleanness(gamma, f, outlier_probability(f, corruption, observed), observed)
        answer[known, run] = refurbished(clean, f, observed)
        matrix = corruption_matrix(clean, f, observed, evidence.smoothing)
        updated.append((clean_share(clean), matrix.astype(np.float64)))
    return answer, updated


def answers(
    probabilities: FloatArray, observed: IntArray, transition: Array, mixture: tuple[float, Array], mode: str
) -> FloatArray:
    """p(true | x, observed) [n, K] from f(x) [n, K]; f(x) itself where no label was observed."""
    found, known = probabilities.copy(), observed != NO_LABEL
    f, labels = probabilities[known], observed[known]
    if mode == "paper":
        gamma, corruption = mixture
        found[known] = refurbished(cleanness(gamma, f, outlier_probability(f, corruption, labels), labels), f, labels)
    else:
        found[known] = posterior(f, transition, labels)
    return found
