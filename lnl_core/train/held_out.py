"""Scores on the held-out rows, which choose the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from lnl_core.models.classifier import Ensemble
from lnl_core.models.predictions import predict_probabilities
from lnl_core.runtime import Runtime
from lnl_core.train.task import HeldOut
from lnl_core.training.best_epoch import HeldOutScore


def score_held_out(held_out: HeldOut, networks: Sequence[nn.Module], runtime: Runtime) -> HeldOutScore | None:
    """Accuracy and loss of the networks' averaged softmax; None where no rows are held out.

    The networks are left in evaluation mode.
    """
    if not len(held_out.label):
        return None
    probabilities = predict_probabilities(Ensemble(networks), held_out.pixels, runtime)
    label = held_out.label.cpu().numpy()
    of_label = probabilities[np.arange(len(label)), label]
    return HeldOutScore(
        accuracy=float((probabilities.argmax(axis=1) == label).mean()),
        loss=float(-np.log(np.maximum(of_label, 1e-12)).mean()),
    )


def score_record(score: HeldOutScore | None) -> dict[str, float]:
    """The score as columns of a curve; no columns where no rows are held out."""
    return {} if score is None else {"held_out_accuracy": score.accuracy, "held_out_loss": score.loss}
