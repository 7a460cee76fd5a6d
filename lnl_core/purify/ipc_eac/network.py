"""A hidden layer for EAC: what a linear head on frozen features cannot say (Eq. 10 with another classifier C).

Features enter scaled by their relevance, the length of their row of IPC's weights: where an encoder's features are
many and mostly idle, the network else learns the noise along the idle ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lnl_core.contracts import FloatArray
from lnl_core.purify.ipc_eac.settings import IPCEnsembleConfig
from lnl_core.statistics.softmax_link import SoftmaxLink

Array = npt.NDArray[np.float64]
_LEARNING_RATE = 1e-3  # AdamW's default; cosine to zero
_WEIGHT_DECAY = 0.01
_DROPOUT = 0.5
EPOCHS = (6, 15)  # a member each: longer training says more where few labels are wrong, and learns noise where many are
_FEWEST_STEPS = 300  # where an epoch has few minibatches


class Network:
    """ReLU network d -> hidden -> K on standardised features; calibrated by its link once that is fitted."""

    def __init__(self, relevance: Array, hidden: int, classes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        used = max(int((relevance > 0).sum()), 1)
        self.relevance = torch.from_numpy(relevance.astype(np.float32))
        self.second = torch.randn(hidden, classes, generator=generator) * np.sqrt(1.0 / hidden)
        self.first = torch.randn(len(relevance), hidden, generator=generator) * np.sqrt(2.0 / used)  # He et al. 2015
        self.first_bias = torch.zeros(hidden)
        self.second_bias = torch.zeros(classes)
        self.generator = generator
        self.link: SoftmaxLink | None = None

    def parameters(self) -> list[Tensor]:
        """The four tensors that are trained."""
        return [self.first, self.first_bias, self.second, self.second_bias]

    def logits(self, features: Tensor, *, train: bool = False) -> Tensor:
        """[b, d] -> [b, K]; dropout on the hidden layer while training."""
        hidden = torch.addmm(self.first_bias, features * self.relevance, self.first).relu()
        if train:
            kept = torch.rand(hidden.shape, generator=self.generator) >= _DROPOUT
            hidden = hidden * kept / (1 - _DROPOUT)
        return torch.addmm(self.second_bias, hidden, self.second)

    def scores(self, features: FloatArray) -> Array:
        """Standardised features [b, d] -> log-probabilities [b, K] before the link."""
        with torch.inference_mode():
            return np.asarray(self.logits(torch.from_numpy(features)).log_softmax(dim=1).numpy(), dtype=np.float64)

    def __call__(self, features: FloatArray) -> Array:
        """Standardised features [b, d] -> probabilities [b, K]."""
        assert self.link is not None  # fitted right after training
        return self.link(self.scores(features))


def train_network(
    network: Network, features: FloatArray, targets: FloatArray, rows: Tensor, epochs: int, config: IPCEnsembleConfig
) -> None:
    """Cross-entropy with soft `targets` [s, K] on some rows of `features` [s, d]; at most `eac_network_steps` steps."""
    batch = min(config.eac_batch, max(len(rows) // 20, 32), len(rows))
    whole = len(rows) // batch
    steps = min(config.eac_network_steps, max(epochs * whole, _FEWEST_STEPS))
    x, y = torch.from_numpy(features), torch.from_numpy(targets)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % whole == 0:
            order = rows[torch.randperm(len(rows), generator=network.generator)]
        picked = order[step % whole * batch :][:batch]
        logits = network.logits(x[picked], train=True)
        loss = -(y[picked] * logits.log_softmax(dim=1)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
