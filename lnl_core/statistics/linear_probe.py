"""The linear probe: multinomial logistic regression on frozen features, and its cross-validated accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lnl_core.statistics.folds import stratified_folds


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Scores are (features - mean) / std @ weight + bias."""

    mean: Float[Tensor, " features"]
    std: Float[Tensor, " features"]
    weight: Float[Tensor, "features classes"]
    bias: Float[Tensor, " classes"]

    def scores(self, features: Float[Tensor, "rows features"]) -> Float[Tensor, "rows classes"]:
        return (features - self.mean) / self.std @ self.weight + self.bias


def fit_linear_probe(
    features: Float[Tensor, "rows features"],
    label: Int[Tensor, " rows"] | Float[Tensor, "rows classes"],
    classes: int,
    *,
    penalty: float = 1.0,  # scikit-learn's default (C = 1): 1/2 |W|^2 against the summed cross-entropy
    iterations: int = 100,
) -> LinearProbe:
    """Fit on standardised features by full-batch L-BFGS from zero: no random number, the same result every time.

    Args:
        label: class numbers, or soft labels whose rows sum to 1.
    """
    target = label if label.is_floating_point() else label.long()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0).clamp_min(1e-6)
    inputs = (features - mean) / std
    weight = torch.zeros(features.shape[1], classes, device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        entropy = F.cross_entropy(inputs @ weight + bias, target)
        loss = entropy + 0.5 * penalty * weight.square().sum() / len(inputs)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(objective)  # type: ignore[no-untyped-call]
    return LinearProbe(mean=mean, std=std, weight=weight.detach(), bias=bias.detach())


def probe_accuracy(
    features: Float[Tensor, "rows features"],
    label: Int[Tensor, " rows"],
    classes: int,
    *,
    generator: torch.Generator,
    folds: int = 5,
) -> float:
    """Accuracy of probes that never saw the row they predict: stratified cross-validation over `folds`."""
    shuffled = torch.randperm(len(label), generator=generator).numpy()
    fold = torch.from_numpy(stratified_folds(label.cpu().numpy(), folds, shuffled)).to(features.device)
    right = 0
    for held_out in range(folds):
        rows, rest = fold == held_out, fold != held_out
        if rows.any() and rest.any():
            probe = fit_linear_probe(features[rest], label[rest], classes)
            right += int((probe.scores(features[rows]).argmax(dim=1) == label[rows]).sum())
    return right / len(label)
