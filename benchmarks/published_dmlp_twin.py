"""DMLP's published procedure written out slowly: in every step an inverse, and gradients by autograd.

    w = inv(F'F) F'Y  on each minibatch;  a loss of F_v w on the trusted rows;  backward to Y;  Adam on the labels

The benchmark times it, the tests hold modes `released` and `paper` against it. It shares no formula with them:
losses are torch's functions, gradients autograd's, Adam torch's. It follows their order of rows and of random draws, so
that equal seeds mean equal minibatches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.purify.published.settings import DMLPConfig


@dataclass(kw_only=True)
class TwinTask:
    """Dense arrays; the second view only where EAC shall read it."""

    noisy: Tensor  # [n, d]
    observed: Tensor  # [n]
    trusted: Tensor  # [m, d]
    trusted_label: Tensor  # [m]
    prior: Tensor  # [K]
    second: Tensor | None = None  # [n, d2]


def twin_labels(task: TwinTask, settings: DMLPConfig, generator: np.random.Generator) -> Iterator[Tensor]:
    """The soft labels [n, K] after each epoch, in the precision of the features."""
    rows, kind = len(task.observed), task.noisy.dtype
    order = np.arange(rows)
    if settings.minibatches == "shuffled":
        order = generator.permutation(rows)
    count = max(round(rows / settings.batch_rows), 1)
    edges = [round(rows * number / count) for number in range(count + 1)]
    picked = [torch.from_numpy(order[edges[number] : edges[number + 1]]) for number in range(count)]
    labels = [functional.one_hot(task.observed[batch], len(task.prior)).to(kind).requires_grad_() for batch in picked]
    optimizers = [label_optimizer(task, batch, y, settings) for batch, y in zip(picked, labels, strict=True)]
    seen = task.noisy if task.second is None else task.second
    classifier = zero_classifier(seen.shape[1], len(task.prior), settings)
    adam = torch.optim.Adam(classifier.parameters(), weight_decay=settings.eac_weight_decay)
    for epoch in range(settings.epochs):
        turns = generator.permutation(count) if settings.minibatches == "shuffled" else np.arange(count)
        adam.param_groups[0]["lr"] = settings.eac_lr if epoch < settings.eac_high_epochs else settings.eac_later_lr
        for turn in turns:
            purify_step(task, picked[turn], labels[turn], optimizers[turn], settings)
            if settings.eac:
                parts = max(round(len(picked[turn]) / settings.eac_batch), 1)
                for part in np.array_split(generator.permutation(len(picked[turn])), parts):
                    inside = torch.from_numpy(part)
                    eac_step(classifier, adam, seen[picked[turn][inside]], labels[turn][inside], task, settings)
        if settings.swap_fires and (epoch + 1) % settings.period == 0:
            for batch, y in zip(picked, labels, strict=True):
                y.data = (1 - settings.eta) * y.data + settings.eta * classifier(
                    seen[batch].to(classifier.weight.dtype)
                ).softmax(1).to(kind)
        found = torch.empty(rows, len(task.prior), dtype=kind)
        for batch, y in zip(picked, labels, strict=True):
            found[batch] = y.detach()
        yield found


def trusted_scores(features: Tensor, labels: Tensor, trusted: Tensor, ridge: float) -> Tensor:
    """Eq. 6 and 7, with an explicit inverse."""
    identity = torch.eye(features.shape[1], dtype=features.dtype)
    weights = torch.linalg.inv(features.T @ features + ridge * len(features) * identity) @ features.T @ labels
    scores: Tensor = trusted @ weights
    return scores


def purify_step(
    task: TwinTask, batch: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, settings: DMLPConfig
) -> None:
    """Eq. 8 and 9 on one minibatch."""
    predicted = trusted_scores(task.noisy[batch], labels, task.trusted, settings.ridge)
    optimizer.zero_grad()
    validation_loss(predicted, task.trusted_label, task.prior, settings).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if settings.keep_simplex:
        with torch.no_grad():
            for row in labels:
                row.copy_(project(row))


def validation_loss(predicted: Tensor, label: Tensor, prior: Tensor, settings: DMLPConfig) -> Tensor:
    """L_val of raw scores [m, K]: the last softmax is the one inside cross_entropy."""
    probabilities = predicted
    for _ in range(settings.ipc_softmaxes - 1):
        probabilities = probabilities.softmax(dim=1)
    loss = functional.cross_entropy(probabilities, label)
    onehot = functional.one_hot(label, len(prior)).to(predicted.dtype)
    distances = (predicted - onehot).square().sum(dim=1)
    loss = loss + (distances.sum() if settings.squared_error == "sum" else distances.mean())
    mean = probabilities.softmax(dim=1).mean(dim=0)
    return loss + settings.ipc_prior_weight * functional.kl_div(mean.log(), prior, reduction="sum")


def eac_step(
    classifier: nn.Linear,
    adam: torch.optim.Optimizer,
    features: Tensor,
    labels: Tensor,
    task: TwinTask,
    settings: DMLPConfig,
) -> None:
    """Eq. 10 with the terms of the released code."""
    kind = classifier.weight.dtype
    scores = classifier(features.to(kind))
    for _ in range(settings.eac_softmaxes - 1):
        scores = scores.softmax(dim=1)
    loss = -(labels.detach().to(kind) * scores.log_softmax(dim=1)).sum(dim=1).mean()
    probabilities = scores.softmax(dim=1)
    prior = task.prior.to(kind)
    loss = loss + settings.eac_prior_weight * (prior * (prior / probabilities.mean(dim=0)).log()).sum()
    loss = loss + settings.eac_entropy * torch.special.entr(probabilities).sum(dim=1).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()


def label_optimizer(task: TwinTask, batch: Tensor, labels: Tensor, settings: DMLPConfig) -> torch.optim.Optimizer:
    """Each minibatch has labels of its own, so it has an optimizer of its own."""
    if settings.optimizer == "adam":
        assert settings.label_lr is not None
        return torch.optim.Adam(
            [labels], lr=settings.label_lr, betas=settings.label_betas, weight_decay=settings.label_weight_decay
        )
    rate = settings.label_lr or inverse_curvature(task, batch, settings)
    return torch.optim.SGD([labels], lr=rate, weight_decay=settings.label_weight_decay)


def inverse_curvature(task: TwinTask, batch: Tensor, settings: DMLPConfig) -> float:
    """The default step of mode `paper`: M from the scores of unit labels, its largest singular value."""
    identity = torch.eye(len(batch), dtype=task.noisy.dtype)
    linear = trusted_scores(task.noisy[batch], identity, task.trusted, settings.ridge)
    squared = 2.0 if settings.squared_error == "sum" else 2.0 / len(task.trusted)
    bound = squared + (0.5 + settings.ipc_prior_weight) / len(task.trusted)
    return 1.0 / (bound * float(torch.linalg.matrix_norm(linear, 2)) ** 2)


def zero_classifier(width: int, classes: int, settings: DMLPConfig) -> nn.Linear:
    classifier = nn.Linear(width, classes, dtype=getattr(torch, settings.eac_precision))
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def project(row: Tensor) -> Tensor:
    """The nearest point of the simplex by bisection on the shift."""
    low, high = row.min() - 1, row.max()
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
    return (row - (low + high) / 2).clamp(min=0)
