"""Confident learning: which labels disagree with confident out-of-sample predictions. No trusted set.

Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021, by its authors'
library cleanlab. The out-of-sample predictions are those of a linear head on the frozen features: ridge regression onto
the observed labels, each row predicted by the fit to all others (closed form), behind a softmax link.

    C[i, j]  rows observed as i whose p(j | x) exceeds class j's mean self-confidence     Eq. 1 and 2; cleanlab.count
    flagged  by `filter_by`, rows whose prediction is their observed label excepted       Sec. 3.2; cleanlab.filter
    label    the prediction where a row is flagged, the observed label elsewhere

The paper prunes flagged rows and gives no posterior. Here it is p(y | x) T[y, observed], T from the columns of C; where
its mode is not the label above, the two classes change values.

Held: Gram matrix [d, d] in float64, a sample of `sample_rows` x d, some n x K tables. The features stream three times,
twice where the caller keeps their moments.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.moments import Transform
from lnl_core.statistics.ridge import RidgePath
from lnl_core.statistics.softmax_link import SoftmaxLink, fit_link, log_loss
from lnl_core.statistics.transition import posterior

Array = npt.NDArray[np.float64]
Filter = Literal["prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given"]


class ConfidentLearningConfig(Settings):
    """Settings of confident_learning."""

    filter_by: Filter = "prune_by_noise_rate"  # cleanlab's default
    transform: Transform = "standardise"
    ridge: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)  # per row, unit variance
    sample_rows: int = Field(default=20_000, ge=10)  # penalty and link are chosen on a uniform sample


class LeaveOneOutHead:
    """Ridge regression onto observed labels: s_-i = (s_i - h_i y_i) / (1 - h_i) for labels centred at their mean."""

    def __init__(self, task: PurifyTask, transform: Transform) -> None:
        moments = task.moments()
        self.shift, self.scale = moments.affine(transform)
        self.path = RidgePath.of(*moments.transformed(self.shift, self.scale))
        self.mean = moments.counts / moments.rows
        self.rows = moments.rows

    def rotated(self, features: FloatArray) -> FloatArray:
        """[b, d] -> [b, d] transformed, in the basis of the Gram matrix."""
        return np.asarray(
            ((features - self.shift) * self.scale).astype(np.float32) @ self.path.basis.astype(np.float32)
        )

    def scores(self, rotated: npt.NDArray[np.floating], ridge: float, observed: IntArray | None) -> Array:
        """[b, K]; with `observed`, rows of the fit, each left out of it."""
        inverse = 1.0 / (self.path.spectrum + ridge * self.rows)
        fitted = rotated @ (self.path.cross * inverse[:, None])
        if observed is None:
            return np.asarray(fitted + self.mean)
        leverage = np.minimum(1 / self.rows + np.square(rotated) @ inverse, 0.999)[:, None]
        own = np.eye(len(self.mean))[observed] - self.mean
        return np.asarray((fitted - leverage * own) / (1 - leverage) + self.mean)


@PURIFIERS.register(
    "confident_learning",
    config=ConfidentLearningConfig,
    summary="cleanlab's confident learning on out-of-sample predictions of a linear head (needs no trusted rows)",
    source="Northcutt et al., JAIR 2021",
)
def confident_learning(
    task: PurifyTask, config: ConfidentLearningConfig, generator: np.random.Generator
) -> Purification:
    """Replace the labels that confident learning flags."""
    present = np.unique(task.observed)
    if len(present) < 2 or task.noisy.shape[0] < 3:
        return _nothing_to_compare(task)
    head = LeaveOneOutHead(task, config.transform)
    ridge, link, tried = _choose(head, task, config, generator)
    noisy, trusted = _predict(head, ridge, link, task)
    known = np.flatnonzero((task.trusted_observed != NO_LABEL) & np.isin(task.trusted_observed, present))
    observed = np.concatenate([task.observed, task.trusted_observed[known]])
    flagged, transition = flag(np.concatenate([noisy, trusted[known]]), observed, present, config.filter_by)
    rows = len(noisy)
    purified = decided(noisy, transition, task.observed, flagged[:rows])
    trusted[known] = decided(trusted[known], transition, task.trusted_observed[known], flagged[rows:])
    metrics = {
        "candidates": tried,
        "chosen": {"ridge": ridge},
        "flagged": int(flagged[:rows].sum()),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(flagged[:rows].mean()), 5),
    }
    return Purification(posterior=purified, metrics=metrics, trusted_posterior=trusted)


def flag(
    probabilities: FloatArray, observed: IntArray, present: IntArray, filter_by: Filter
) -> tuple[npt.NDArray[np.bool_], Array]:
    """cleanlab's label issues [n] and T[y, j] = p(observed = j | true = y) [K, K]; absent classes keep their labels.

    Args:
        probabilities: out-of-sample p(observed | x) [n, K].  present: the classes that occur, ascending.
    """
    from cleanlab.count import compute_confident_joint  # here, for it loads pandas: half a second for every command
    from cleanlab.filter import find_label_issues

    classes = probabilities.shape[1]
    inside = probabilities[:, present] / probabilities[:, present].sum(axis=1, keepdims=True)
    numbers = np.searchsorted(present, observed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that nothing is confident of; T keeps its labels below
        joint = compute_confident_joint(numbers, inside)
        issues = find_label_issues(numbers, inside, confident_joint=joint, filter_by=filter_by, n_jobs=1)
    transition = np.eye(classes)
    transition[np.ix_(present, present)] = _stochastic(np.asarray(joint, dtype=np.float64).T)  # C[s, y]
    return np.asarray(issues, dtype=bool), transition


def decided(
    probabilities: FloatArray, transition: Array, observed: IntArray, flagged: npt.NDArray[np.bool_]
) -> FloatArray:
    """The posterior [n, K] with the decision as its mode: the prediction where flagged, else the observed label."""
    decided = posterior(probabilities, transition, observed)
    rows, label = np.arange(len(decided)), np.where(flagged, probabilities.argmax(axis=1), observed)
    mode = decided.argmax(axis=1)
    decided[rows, mode], decided[rows, label] = decided[rows, label].copy(), decided[rows, mode].copy()
    return decided


def _stochastic(matrix: Array) -> Array:
    """Rows that sum to 1; rows that are not finite or empty become rows of the identity."""
    total = matrix.sum(axis=1, keepdims=True)
    good = np.isfinite(total) & (total > 0)
    return np.where(good, matrix / np.where(good, total, 1.0), np.eye(len(matrix)))


def _choose(
    head: LeaveOneOutHead, task: PurifyTask, config: ConfidentLearningConfig, generator: np.random.Generator
) -> tuple[float, SoftmaxLink, list[dict[str, float]]]:
    """The penalty whose leave-one-out predictions make the observed labels likeliest."""
    rows, sample = row_sample(task.noisy, config.sample_rows, generator, prepare=head.rotated)
    observed = task.observed[rows]
    links: dict[float, SoftmaxLink] = {}
    tried: list[dict[str, float]] = []
    for ridge in config.ridge:
        scores = head.scores(sample, ridge, observed)
        links[ridge] = fit_link(scores, observed)
        tried.append({"ridge": ridge, "left_out_loss": round(log_loss(links[ridge](scores), observed), 6)})
    ridge = min(tried, key=lambda record: record["left_out_loss"])["ridge"]
    return ridge, links[ridge], tried


def _predict(head: LeaveOneOutHead, ridge: float, link: SoftmaxLink, task: PurifyTask) -> tuple[FloatArray, FloatArray]:
    """Out-of-sample p(observed | x) of the noisy rows [n, K] and of the trusted rows [m, K]."""
    noisy = np.empty((head.rows, task.classes), dtype=np.float32)
    for block, batch in task.noisy.batches():
        noisy[block] = link(head.scores(head.rotated(batch), ridge, task.observed[block]))
    if len(task.trusted) == 0:
        return noisy, np.empty((0, task.classes), dtype=np.float32)
    return noisy, link(head.scores(head.rotated(task.trusted), ridge, None)).astype(np.float32)


def _nothing_to_compare(task: PurifyTask) -> Purification:
    """One class, or hardly a row: labels stay."""
    onehot = np.eye(task.classes, dtype=np.float32)
    known = (task.trusted_observed != NO_LABEL)[:, None]
    trusted = np.where(known, onehot[task.trusted_observed], np.float32(np.nan))
    return Purification(posterior=onehot[task.observed], metrics={"flagged": 0}, trusted_posterior=trusted)
