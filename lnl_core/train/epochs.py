"""The frame around a method's epochs: resume, score on held-out rows, keep the best, save. What an epoch does is the
method's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from lnl_core.config import ConfigError
from lnl_core.progress import progress_bar
from lnl_core.train.held_out import score_held_out, score_record
from lnl_core.train.task import Trained, TrainTask
from lnl_core.training.best_epoch import BestEpoch, copy_weights
from lnl_core.training.checkpoint import load_checkpoint, save_checkpoint
from lnl_core.training.memory import Stateful
from lnl_core.world import rank

Record = dict[str, float]


def train_epochs(
    task: TrainTask,
    *,
    method: str,
    epochs: int,
    parts: Mapping[str, Stateful],
    predictors: Sequence[nn.Module],
    epoch: Callable[[int], Record],
    metrics: Callable[[], Mapping[str, Any]] = dict,
) -> Trained:
    """Call `epoch(0)`, `epoch(1)`, ... up to `epochs`, from where an interrupted run left off.

    Args:
        method: its name in the settings.
        parts: everything that changes from epoch to epoch (networks, optimisers, `Memory`), by name.
        predictors: the networks whose averaged softmax predicts, with the state dict of `task.make_model`'s.
        epoch: trains one epoch; returns a record with `loss`. Its draws depend on the epoch's number alone.
        metrics: called at the end.

    Raises:
        ConfigError: a loss that is not finite.
    """
    best, curve = BestEpoch(), list[dict[str, int | float]]()
    if (saved := load_checkpoint(task.checkpoint, task.fingerprint)) is not None:
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        best.load(saved["best"])
        curve = saved["curve"]
    with progress_bar(f"{method} ({task.purpose})", epochs, "epochs") as advance:
        advance(len(curve))
        for number in range(len(curve), epochs):
            record = epoch(number)
            _check_finite(record, method, number)
            score = score_held_out(task.held_out, predictors, task.runtime)
            curve.append({"epoch": number + 1, **record, **score_record(score)})
            best.offer(number + 1, score, predictors)
            if not rank():
                state = {name: part.state_dict() for name, part in parts.items()}
                save_checkpoint(
                    task.checkpoint, task.fingerprint, {"parts": state, "best": best.state(), "curve": curve}
                )
            advance(note=f"loss {record['loss']:.3f}")
    return Trained(
        best=best.weights,
        last=copy_weights(predictors),
        best_epoch=best.epoch,
        curve=tuple(curve),
        metrics={"final_loss": curve[-1]["loss"], **metrics()},
    )


def _check_finite(record: Record, method: str, epoch: int) -> None:
    for name, value in record.items():
        if not math.isfinite(value):
            raise ConfigError(
                f"train.{method}.lr: {name} became {value} in epoch {epoch + 1}; set a lower lr (it is a setting of "
                f"train.{method})"
            )
