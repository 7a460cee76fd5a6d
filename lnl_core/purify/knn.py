"""Nearest neighbours vote on the label, and learn from each other: no trusted set, nothing to train.

After Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022 (SimiFeat): the label
of a row is what its neighbours in feature space (cosine similarity) say. Departures:

    votes    p(y | x) = (1/K + sum over the k nearest r_j[y]) / (1 + k)       r_j one-hot observed in the first round
    evidence r_i[y] proportional to p(y | x_i) T[y, observed_i]; T counts the observed labels of the rows that a vote
             gives to y: noisy votes are no calibrated p(y | x), and expectation-maximisation finds too little noise
    rounds   neighbours vote again with r in place of their observed labels; 0 is the published vote
    k        the one under which the observed labels are likeliest as votes of the first round
    search   among a uniform sample of reference rows, in their leading principal components: exact neighbours of all
             rows cost n^2 d

No row votes for itself, so its own label enters once, as evidence. Trusted rows are no references: their verified
labels are not used.

Held: the references (`reference_rows` x d in float32 at first), n x K probabilities. The features stream twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify import PURIFIERS
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.transition import posterior

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
CHUNK = 1024  # queries compared at once; their similarities to all references are held


class KNNConfig(Settings):
    """Settings of knn."""

    k: tuple[int, ...] = Field(default=(10, 30, 100), min_length=1)  # SimiFeat 10; SSR+ 200: more noise, more votes
    rounds: int = Field(default=2, ge=0, le=20)  # of voting again with corrected labels; 0: as published
    reference_rows: int = Field(default=20_000, ge=2)  # 1,000,000 rows against them: minutes on two cores
    components: int = Field(default=64, ge=1)  # principal components; the search costs n x references x this
    smoothing: float = Field(default=0.1, gt=0)  # added to each count of T; a class may win no vote at all


@dataclass(frozen=True, kw_only=True)
class References:
    """The sampled rows in the space in which neighbours are sought."""

    rows: Rows  # [R] row numbers, ascending
    mean: FloatArray  # [d]
    basis: FloatArray  # [d, c]
    points: FloatArray  # [R, c] unit length

    def place(self, features: FloatArray) -> FloatArray:
        """[b, d] -> [b, c] of unit length."""
        return _unit(np.asarray((features - self.mean) @ self.basis))

    def nearest(self, queries: FloatArray, k: int, own: Rows) -> Rows:
        """[b, k] places in `rows`, nearest first.

        Args:
            queries: [b, c].  own: [b] the place of the query itself, which is barred; -1 where it is no reference.
        """
        found = np.empty((len(queries), k), dtype=np.intp)
        points = torch.from_numpy(self.points)
        for start in range(0, len(queries), CHUNK):
            chunk = slice(start, start + CHUNK)
            similarity = torch.from_numpy(queries[chunk]) @ points.T
            inside = np.flatnonzero(own[chunk] >= 0)
            similarity[inside, own[chunk][inside]] = -torch.inf
            found[chunk] = similarity.topk(k, dim=1).indices.numpy()
        return found


@PURIFIERS.register(
    "knn",
    config=KNNConfig,
    summary="nearest neighbours in feature space vote on each label (a yardstick; needs no trusted rows)",
    source="Zhu et al., ICML 2022 (SimiFeat)",
)
def knn(task: PurifyTask, config: KNNConfig, generator: np.random.Generator) -> Purification:
    """Purify by the votes of neighbours."""
    references = _references(task, config, generator)
    observed = task.observed[references.rows]
    most = len(references.rows) - 1
    if most < 1:
        return _alone(task)
    grid = tuple(dict.fromkeys(min(k, most) for k in config.k))
    nearest = references.nearest(references.points, max(grid), np.arange(most + 1))
    onehot = np.eye(task.classes, dtype=np.float32)
    tried = {k: _likelihood(onehot[observed], nearest[:, :k], observed) for k in grid}
    k = max(tried, key=lambda each: tried[each])
    opinion = _opinions(onehot[observed], nearest[:, :k], observed, config)
    probabilities, trusted = _vote_on_all(task, references, opinion, k)
    transition = vote_transition(probabilities, task.observed, config.smoothing)
    known = task.trusted_observed != NO_LABEL
    trusted[known] = posterior(trusted[known], transition, task.trusted_observed[known])
    purified = posterior(probabilities, transition, task.observed)
    metrics = {
        "candidates": [{"k": each, "log_likelihood_of_observed": round(found, 5)} for each, found in tried.items()],
        "chosen": {"k": k},
        "reference_rows": len(references.rows),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - purified[np.arange(len(purified)), task.observed].mean()), 5),
    }
    return Purification(posterior=purified, metrics=metrics, trusted_posterior=trusted)


def votes(opinion: FloatArray, nearest: Rows) -> FloatArray:
    """p(y | x) [b, K]: the mean opinion of the neighbours and of one that holds all classes equal.

    Args:
        opinion: [R, K] of the references.  nearest: [b, k].
    """
    classes, total = opinion.shape[1], np.zeros((len(nearest), opinion.shape[1]), dtype=np.float32)
    for place in range(nearest.shape[1]):  # one neighbour at a time: [b, k, K] would be large
        total += opinion[nearest[:, place]]
    return np.asarray((total + 1 / classes) / (nearest.shape[1] + 1), dtype=np.float32)


def _opinions(onehot: FloatArray, nearest: Rows, observed: IntArray, config: KNNConfig) -> FloatArray:
    """r [R, K] after the rounds."""
    opinion = onehot
    for _ in range(config.rounds):
        probabilities = votes(opinion, nearest)
        opinion = posterior(probabilities, vote_transition(probabilities, observed, config.smoothing), observed)
    return opinion


def _likelihood(onehot: FloatArray, nearest: Rows, observed: IntArray) -> float:
    """Mean log-probability of the observed labels as votes of their neighbours."""
    picked = votes(onehot, nearest)[np.arange(len(observed)), observed]
    return float(np.log(picked).mean())


def vote_transition(probabilities: FloatArray, observed: IntArray, smoothing: float) -> Array:
    """T[y, j] [K, K]: the share of rows observed as j among those whose vote is y."""
    counts = np.full((probabilities.shape[1],) * 2, smoothing)
    np.add.at(counts, (probabilities.argmax(axis=1), observed), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _references(task: PurifyTask, config: KNNConfig, generator: np.random.Generator) -> References:
    """A uniform sample and its principal components, in one pass."""
    rows, features = row_sample(task.noisy, config.reference_rows, generator)
    mean = features.mean(axis=0)
    features -= mean
    _, vectors = np.linalg.eigh((features.T @ features).astype(np.float64))
    basis = np.ascontiguousarray(vectors[:, ::-1][:, : config.components], dtype=np.float32)
    return References(rows=rows, mean=mean, basis=basis, points=_unit(features @ basis))


def _vote_on_all(
    task: PurifyTask, references: References, opinion: FloatArray, k: int
) -> tuple[FloatArray, FloatArray]:
    """p(y | x) of the noisy rows [n, K] and of the trusted rows [m, K]."""
    probabilities = np.empty((task.noisy.shape[0], task.classes), dtype=np.float32)
    with progress_bar("knn: votes", len(probabilities), "rows") as advance:
        for block, batch in task.noisy.batches():
            start, stop = np.searchsorted(references.rows, [block.start, block.stop])
            own = np.full(len(batch), -1, dtype=np.intp)
            own[references.rows[start:stop] - block.start] = np.arange(start, stop)
            probabilities[block] = votes(opinion, references.nearest(references.place(batch), k, own))
            advance(len(batch))
    strangers = np.full(len(task.trusted), -1, dtype=np.intp)
    return probabilities, votes(opinion, references.nearest(references.place(task.trusted), k, strangers))


def _alone(task: PurifyTask) -> Purification:
    """A single row has no neighbour and keeps its label."""
    onehot = np.eye(task.classes, dtype=np.float32)
    even = np.full((len(task.trusted), task.classes), 1 / task.classes, dtype=np.float32)
    return Purification(posterior=onehot[task.observed], metrics={"reference_rows": 1}, trusted_posterior=even)


def _unit(points: npt.NDArray[np.floating]) -> FloatArray:
    length = np.sqrt(np.square(points).sum(axis=1, keepdims=True))
    return np.asarray(points / np.maximum(length, 1e-12), dtype=np.float32)
