"""The vote of a row's neighbours: a kernel smoother over soft labels by cosine similarity.

p(y | x) ~ sum_j exp(cos(x, x_j) / tau) Q_j(y) over reference rows j other than x itself. An ensemble member beside the
linear ones, since it errs on other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.statistics.log_pool import fit_log_pool
from lnl_core.statistics.softmax_link import SoftmaxLink, fit_link, log_loss

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
TEMPERATURES = (0.02, 0.03, 0.045, 0.07, 0.1)  # tau; cosine similarities of neighbours differ by some hundredths
_CHUNK = 1024  # rows at a time: a block of similarities is 4 * 1024 * R bytes
_SMOOTHING = 1e-3


@dataclass(frozen=True, kw_only=True)
class NeighbourVote:
    """Votes for J sets of soft labels at once, each with a link of its own."""

    reference: FloatArray  # [R, d] unit length
    labels: FloatArray  # [R, J * K]
    temperature: float
    links: list[SoftmaxLink]  # J

    def __call__(self, features: FloatArray, own: Rows | None = None) -> FloatArray:
        """[s, d] unit length -> [J, s, K]; `own` [s]: number of the reference row that is the row itself, or -1."""
        found = self._empty(len(features))
        with progress_bar("ipc_ensemble: neighbours", len(features), "rows") as advance:
            for start in range(0, len(features), _CHUNK):
                part = slice(start, start + _CHUNK)
                skip = None if own is None else own[part]
                votes = _votes(features[part], self.reference, self.labels, (self.temperature,), skip)[0]
                found[:, part] = self._linked(votes)
                advance(len(votes))
        return found

    def among_themselves(self) -> FloatArray:
        """The reference rows' own votes [J, R, K], each without itself: half the work, as similarity is mutual."""
        rows = len(self.reference)
        total = np.zeros(self.labels.shape, dtype=np.float32)
        mass = np.zeros((rows, 1), dtype=np.float32)
        parts = [slice(start, min(start + _CHUNK, rows)) for start in range(0, rows, _CHUNK)]
        with progress_bar("ipc_ensemble: neighbours", rows, "rows") as advance:
            for number, one in enumerate(parts):
                for other in parts[number:]:
                    similarity = self.reference[one] @ self.reference[other].T
                    similarity -= 1  # the largest there is, so that no row's sum overflows
                    similarity /= np.float32(self.temperature)
                    weight = np.exp(similarity, out=similarity)
                    if other == one:
                        np.fill_diagonal(weight, 0)
                    else:
                        total[other] += weight.T @ self.labels[one]
                        mass[other, 0] += weight.sum(axis=0)
                    total[one] += weight @ self.labels[other]
                    mass[one, 0] += weight.sum(axis=1)
                advance(one.stop - one.start)
        found = self._empty(rows)
        for part in parts:
            found[:, part] = self._linked(total[part] / np.maximum(mass[part], np.float32(1e-37)))
        return found

    def _empty(self, rows: int) -> FloatArray:
        return np.empty((len(self.links), rows, self.labels.shape[1] // len(self.links)), dtype=np.float32)

    def _linked(self, votes: npt.NDArray[np.floating]) -> Array:
        """[b, J * K] -> [J, b, K]."""
        scores = _by_set(votes, len(self.links))
        return np.stack([link(one) for one, link in zip(scores, self.links, strict=True)])


def fit_votes(
    reference: FloatArray,
    labels: FloatArray,
    trusted: FloatArray,
    trusted_label: IntArray,
    inside: list[Rows],
    beside: Array,
) -> tuple[NeighbourVote, Array]:
    """Choose tau by the held-out log-loss of the vote pooled with the member beside it, and fit the links.

    Alone, a vote is better over many neighbours; but then it says what a linear member says already.

    Args:
        reference: [R, d] unit length.  labels: [R, J, K]: set j was made from the trusted rows inside[j] alone; the
            last set from all of them.
        trusted: [m, d] unit length.
        beside: out-of-fold probabilities [m, K] by the other member.
    Returns:
        The vote, and its out-of-fold probabilities of the trusted rows [m, K].
    """
    flat = np.ascontiguousarray(labels.reshape(len(labels), -1))
    best: tuple[float, float, list[SoftmaxLink], Array] | None = None
    blocks = [
        _votes(trusted[start : start + _CHUNK], reference, flat, TEMPERATURES, None)
        for start in range(0, len(trusted), _CHUNK)
    ]
    for temperature, votes in zip(TEMPERATURES, np.concatenate(blocks, axis=1), strict=True):
        scores = _by_set(votes, len(inside))
        links = [fit_link(one[rows], trusted_label[rows]) for one, rows in zip(scores, inside, strict=True)]
        held_out = out_of_fold([link(one) for link, one in zip(links, scores, strict=True)], inside)
        both = np.stack([beside, held_out])
        loss = log_loss(fit_log_pool(both, trusted_label)(both), trusted_label)
        if best is None or loss < best[0]:
            best = (loss, temperature, links, held_out)
    assert best is not None  # TEMPERATURES is not empty
    return NeighbourVote(reference=reference, labels=flat, temperature=best[1], links=best[2]), best[3]


def out_of_fold(found: list[Array], inside: list[Rows]) -> Array:
    """[J][m, K] -> [m, K]: each row from the set that was made without it; the last set, made with all, is left out."""
    result = found[-1].copy()
    for one, rows in zip(found[:-1], inside[:-1], strict=True):
        outside = np.ones(len(result), dtype=bool)
        outside[rows] = False
        result[outside] = one[outside]
    return result


def unit_rows(features: FloatArray) -> FloatArray:
    """Rows scaled to length 1, in place; rows of zeros stay."""
    features /= np.maximum(np.sqrt(np.einsum("ij,ij->i", features, features)), 1e-12)[:, None]
    return features


def _votes(
    features: FloatArray, reference: FloatArray, labels: FloatArray, temperatures: tuple[float, ...], own: Rows | None
) -> FloatArray:
    """Weighted means of the reference's labels [temperatures, b, J * K]."""
    similarity = features @ reference.T
    if own is not None:
        rows = np.flatnonzero(own >= 0)
        similarity[rows, own[rows]] = -np.inf
    similarity -= similarity.max(axis=1, keepdims=True)
    votes = np.empty((len(temperatures), len(features), labels.shape[1]), dtype=np.float32)
    for number, temperature in enumerate(temperatures):
        weight = np.exp(similarity / np.float32(temperature))
        votes[number] = weight @ labels / weight.sum(axis=1, keepdims=True)
    return votes


def _by_set(votes: npt.NDArray[np.floating], sets: int) -> Array:
    """[b, J * K] -> log votes [J, b, K]."""
    return np.log(votes.reshape(len(votes), sets, -1).transpose(1, 0, 2).astype(np.float64) + _SMOOTHING)
