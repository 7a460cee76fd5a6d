"""Cross-entropy: the yardstick, and on purified labels the method that the literature calls DMLP-Naive.

One network, weak augmentation, SGD with momentum. Label smoothing (Szegedy et al. 2016) and mixup (Zhang et al.,
arXiv 1710.09412) are options. Where the task brings soft labels, they are the targets.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from lnl_core.train import TRAINERS
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.mixup import draw_lambda, mix
from lnl_core.training.sgd_settings import SGDSettings
from lnl_core.training.updates import momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "cross_entropy"


class CrossEntropyConfig(SGDSettings):
    """Defaults: what the noisy-label literature uses on CIFAR (the DivideMix code's optimiser, batch 128)."""

    epochs: int = Field(default=100, ge=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup_alpha: float = Field(default=0.0, ge=0)  # 0: no mixup; 1 is usual on CIFAR


@TRAINERS.register(
    NAME,
    config=CrossEntropyConfig,
    summary="one network, cross-entropy on the labels as they are: the yardstick",
    source="the usual baseline; on purified labels: Tu et al., DMLP, CVPR 2023 (DMLP-Naive)",
)
def train_cross_entropy(task: TrainTask, config: CrossEntropyConfig) -> Trained:
    """Train one classifier; holds the network, its momentum, and the weights of the best epoch."""
    network = task.new_network(task.seed(NAME, "weights"))
    updates = momentum_sgd(network, task.runtime, config)

    def epoch(number: int) -> Record:
        generator = task.generator(NAME, number)
        batches = task.epoch_batches(config.batch_size, generator)
        sums = MeanRecord(len(batches))
        network.train()
        for step, rows in enumerate(batches):
            loss = _loss(network, task, rows, config, generator)
            updates.step(loss, config.lr_at(number, step / len(batches)))
            sums.add(loss=loss)
        return sums.means()

    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={"network": network, "updates": updates},
        predictors=[network],
        epoch=epoch,
    )


def _loss(
    network: nn.Module, task: TrainTask, rows: Tensor, config: CrossEntropyConfig, generator: torch.Generator
) -> Tensor:
    [images] = task.weak(rows, generator)
    targets = task.targets(rows)
    if config.mixup_alpha > 0:
        images, targets = mix(images, targets, draw_lambda(1, config.mixup_alpha, generator), generator)
    logits = task.forward(network, images)
    return weighted_cross_entropy(logits, targets, task.weights(rows), config.label_smoothing)
