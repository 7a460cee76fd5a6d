"""Trains methods under torch's launcher, for test_world.py: `torchrun ... shared_training.py OUT METHOD ...`.

Every method is trained on a few digits; the first process writes OUT/METHOD.pt with curve and last weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from lnl_core.config import ModelSettings, parse
from lnl_core.contracts import string_ids
from lnl_core.models.classifier import build_classifier
from lnl_core.runtime import Runtime
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train import TRAINERS
from lnl_core.train.task import HeldOut, TrainTask
from lnl_core.world import joined_world, rank

ROWS = 101  # odd, so that the processes' shares differ


def task_of(out: Path, method: str) -> TrainTask:
    """Cross-entropy trains the network with dropout, the others a small one."""
    arch = "cnn9" if method == "cross_entropy" else "small_cnn"
    digits = load_digits()
    pixels = torch.from_numpy(np.round(digits.images[: ROWS + 20] * (255 / 16)).astype(np.uint8))[:, None]
    label = torch.from_numpy(digits.target[: ROWS + 20].astype(np.int64))
    noisy = label.clone()
    noisy[::5] = (noisy[::5] + 3) % 10
    return TrainTask(
        ids=string_ids([f"d{row:03d}" for row in range(ROWS)]),
        pixels=pixels[:ROWS],
        label=noisy[:ROWS],
        soft_label=None,
        held_out=HeldOut(pixels=pixels[ROWS:], label=label[ROWS:], kind="trusted"),
        classes=10,
        flip=False,
        noise=NoiseEstimate(rate=0.2, source="set", prior=np.full(10, 0.1), transition=0.8 * np.eye(10) + 0.02),
        make_model=lambda seed: build_classifier(ModelSettings(arch=arch, width=4), 1, 10, seed=seed),
        runtime=Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64),
        checkpoint=out / f"{method}.state.{rank()}",
        fingerprint="shared",
        purpose="model",
    )


def train_all(out: Path, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    with joined_world(torch.device("cpu")):
        for method, values in settings.items():
            entry = TRAINERS.get(method)
            trained = entry.make(task_of(out, method), parse(entry.config, values, method))
            if not rank():
                torch.save(
                    {"curve": list(trained.curve), "last": [dict(state) for state in trained.last]},
                    out / f"{method}.pt",
                )


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), json.loads(sys.argv[2]))
