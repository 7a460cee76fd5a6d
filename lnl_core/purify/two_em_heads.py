"""Several linear softmax heads side by side: one stream of minibatches, each head with its own targets and rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lnl_core.contracts import BoolArray, FloatArray
from lnl_core.progress import progress_bar

Array = npt.NDArray[np.float64]


def softmax_heads(
    features: FloatArray,
    targets: FloatArray,
    takes_part: BoolArray,
    generator: np.random.Generator,
    *,
    scale: FloatArray,
    steps: int,
    batch: int,
    lr: float,
    weight_decay: float,
    title: str,
) -> tuple[Array, Array]:
    """Adam with a cosine to zero on the cross-entropy against soft targets plus `weight_decay` |weights|^2.

    Args:
        features: [n, d].
        scale: [d] what features are multiplied by, to about unit variance; a minibatch at a time, so none is copied.
        targets: [n, H, K] soft labels of each head.
        takes_part: [n, H] whether head h learns from row i.
        title: of the progress bar.
    Returns:
        weights [d, H, K] of the scaled features, biases [H, K].
    """
    rows, width = features.shape
    _, heads, classes = targets.shape
    x, y, factor = torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(scale)
    part = torch.from_numpy(takes_part).float()
    weights = torch.zeros(width, heads * classes, requires_grad=True)
    bias = torch.zeros(heads * classes, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batch = min(batch, rows)
    whole = rows // batch
    with progress_bar(title, steps) as advance:
        for step in range(steps):
            if step % whole == 0:
                order = torch.from_numpy(generator.permutation(rows))
            start = step % whole * batch
            picked = order[start : start + batch]
            logs = torch.addmm(bias, x[picked] * factor, weights).view(-1, heads, classes).log_softmax(dim=-1)
            loss = -(y[picked] * logs).sum(dim=-1) * part[picked]
            mean = loss.sum(dim=0) / part[picked].sum(dim=0).clamp(min=1)
            optimizer.zero_grad()
            (mean.sum() + weight_decay * weights.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance()
    final = weights.detach().double().view(width, heads, classes).numpy()
    return final, bias.detach().double().view(heads, classes).numpy()
