"""ELR: cross-entropy, and a penalty that keeps each prediction near what the network said of the row before.

Liu, Niles-Weed, Razavian, Fernandez-Granda: Early-Learning Regularization Prevents Memorization of Noisy Labels,
NeurIPS 2020 (arXiv 2007.00151). One network; t_i <- beta t_i + (1 - beta) p_i at each visit of row i (temporal
ensembling); loss = CE + lambda/n sum log(1 - <p_i, t_i>). No row is selected or relabelled.

Deviations: beta and lambda follow from the noise estimate unless they are set (`noise_rules.elr_constants`); the paper
sets them by the true type. A verified row's target is its label. The rate falls at a third and two thirds of the
epochs, which are the paper's 40 and 80 of CIFAR-10's 120 (C100: 80 and 120 of 150: `milestones`). The paper's second
schedule, a cosine that starts anew every ten epochs, is left out; `schedule: cosine` falls once.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lnl_core.train import TRAINERS
from lnl_core.train.epochs import Record, train_epochs
from lnl_core.train.noise_rules import elr_constants
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.elr import ELRSettings, clamped_softmax, elr_penalty
from lnl_core.training.mean_record import MeanRecord
from lnl_core.training.milestones import with_milestones
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.updates import momentum_sgd
from lnl_core.training.weighted_loss import weighted_cross_entropy

NAME = "elr"


class ELRConfig(ELRSettings):
    """Defaults: the paper's CIFAR-10 settings (ResNet-34)."""

    epochs: int = Field(default=120, ge=1)  # 150 on CIFAR-100
    weight_decay: float = Field(default=1e-3, ge=0)
    schedule: Literal["cosine", "step"] = "step"
    lr_factor: float = Field(default=0.01, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _thirds(cls, values: Any) -> Any:
        return with_milestones(values, epochs=120, parts=(1, 2), of=3)


@TRAINERS.register(
    NAME,
    config=ELRConfig,
    summary="cross-entropy and a penalty that keeps predictions near the earlier ones",
    source="Liu et al.: Early-Learning Regularization, NeurIPS 2020, arXiv 2007.00151",
)
def train_elr(task: TrainTask, config: ELRConfig) -> Trained:
    """Train one classifier; holds the network, its momentum, the best epoch's weights, and targets [rows, K].

    The targets are float32: 4 GB for 1,000 classes and a million rows, half with `target_precision: float16`.
    """
    network = task.new_network(task.seed(NAME, "weights"))
    updates = momentum_sgd(network, task.runtime, config)
    beta, lambda_ = config.constants(elr_constants(task.noise))
    store = config.new_targets(task.label, task.classes, verified=task.verified, device=task.runtime.device)

    def epoch(number: int) -> Record:
        generator = task.generator(NAME, number)
        rows = task.epoch_rows(generator)
        batches = shuffled_batches(rows, config.batch_size, generator)
        sums = MeanRecord(len(batches))
        network.train()
        for step, batch in enumerate(batches):
            [images] = task.weak(batch, generator)
            logits = task.forward(network, images)
            probabilities = clamped_softmax(logits)
            label_loss = weighted_cross_entropy(logits, task.targets(batch), task.weights(batch))
            penalty = elr_penalty(probabilities, store.move(batch, probabilities, beta))
            loss = label_loss + lambda_ * penalty
            updates.step(loss, config.lr_at(number, step / len(batches)))
            sums.add(loss=loss, label_loss=label_loss, penalty=penalty)
        predicted, clean = store.predicted(rows, task.label[rows])
        task.remember(number, config.epochs, rows, predicted=predicted, clean=clean)
        return sums.means()

    return train_epochs(
        task,
        method=NAME,
        epochs=config.epochs,
        parts={"network": network, "updates": updates, "targets": store},
        predictors=[network],
        epoch=epoch,
        metrics=lambda: {"derived": {"beta": beta, "lambda_": lambda_}},
    )
