"""HOC: the transition matrix and the class prior from how often a row and its two nearest neighbours agree.

Zhu, Song, Liu: "Clusterability as an Alternative to Anchor Points When Learning with Noisy Labels", ICML 2021. Where a
row and its two nearest neighbours share their true class y and their labels are wrong independently of each other,

    c1[i] = sum_y p_y T_yi                 Eq. of the first order
    c2[i, j] = sum_y p_y T_yi T_yj         of the second
    c3[i, j, k] = sum_y p_y T_yi T_yj T_yk of the third

and three orders are enough to find T and p, given that most labels of each class are right. Where the features are so
weak that neighbours are often of other classes, that shows as noise: the estimate is then too high, not too low.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor

from lnl_core.contracts import FloatArray, IntArray

Array = npt.NDArray[np.float64]
_CHUNK = 2048  # rows whose similarities are held at once
START_LOGIT = 2.0  # T starts with its diagonal e^2 times the other entries: of the K! relabellings, the plausible one


@dataclass(frozen=True, kw_only=True)
class Consensus:
    """Shares of label pairs and triples of a row and its two nearest neighbours."""

    first: Array  # [K]
    second: Array  # [K, K]
    third: Array  # [K, K, K]
    rows: int  # triples that were counted


def two_nearest(features: FloatArray) -> npt.NDArray[np.intp]:
    """[n, 2] the two rows with the largest cosine similarity, the row itself left out; needs three rows.

    Holds 2048 x n similarities.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    nearest = np.empty((len(unit), 2), dtype=np.intp)
    for start in range(0, len(unit), _CHUNK):
        similarity = torch.from_numpy(unit[start : start + _CHUNK] @ unit.T)
        similarity.diagonal(offset=start).fill_(-torch.inf)
        nearest[start : start + _CHUNK] = similarity.topk(2, dim=1).indices.numpy()
    return nearest


def consensus(triples: IntArray, classes: int) -> Consensus:
    """Counted shares of the labels [n, 3] of rows, first and second neighbours."""
    flat = (triples[:, 0] * classes + triples[:, 1]) * classes + triples[:, 2]
    third = np.bincount(flat, minlength=classes**3).reshape(classes, classes, classes) / len(triples)
    return Consensus(first=third.sum(axis=(1, 2)), second=third.sum(axis=2), third=third, rows=len(triples))


def expected_consensus(prior: Tensor, transition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three orders under p [K] and T [K, K]."""
    weighted = prior[:, None] * transition  # p_y T_yi
    pairs = (transition[:, :, None] * transition[:, None, :]).flatten(1)  # T_yj T_yk
    second = weighted.T @ transition
    third = (weighted.T @ pairs).view(*second.shape, -1)
    return weighted.sum(dim=0), second, third


def fit_consensus(found: Consensus, start: tuple[Array, Array] | None = None, steps: int = 500) -> tuple[Array, Array]:
    """(p [K], T [K, K]) that reproduce the three orders best in squared error, each order of equal weight.

    p and the rows of T are softmaxes of free numbers, so the constraints hold by themselves. Near pure noise p is all
    but undetermined (all rows of T are alike), so the variance of log p is held down with weight K / rows, about the
    size of the counts' own error.

    Args:
        start: (p, T) where the search starts, e.g. for another draw of the same rows.
    """
    classes = len(found.first)
    wanted = [torch.from_numpy(order) for order in (found.first, found.second, found.third)]
    norms = [float(order.square().sum()) for order in wanted]

    def objective(free: Array) -> tuple[float, Array]:
        numbers = torch.from_numpy(free.copy()).requires_grad_()
        prior = numbers[:classes].softmax(dim=0)
        transition = numbers[classes:].view(classes, classes).softmax(dim=1)
        orders = expected_consensus(prior, transition)
        loss = sum(
            ((order - target).square().sum() / norm for order, target, norm in zip(orders, wanted, norms, strict=True)),
            start=torch.zeros((), dtype=torch.float64),
        )
        loss = loss + classes / found.rows * prior.log().var(correction=0)
        loss.backward()  # type: ignore[no-untyped-call]
        assert numbers.grad is not None
        return float(loss.detach()), numbers.grad.numpy()

    if start is None:
        first = np.concatenate([np.log(found.first + 1 / classes / 100), (START_LOGIT * np.eye(classes)).ravel()])
    else:
        first = np.log(np.concatenate([start[0], start[1].ravel()]) + 1e-6)
    options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-8}
    best = minimize(objective, first, jac=True, method="L-BFGS-B", options=options).x
    free = torch.from_numpy(best)
    return free[:classes].softmax(dim=0).numpy(), free[classes:].view(classes, classes).softmax(dim=1).numpy()
