"""Seconds of an epoch of each training method in epochs of cross-entropy, beside the passes that the method needs.

    python benchmarks/train_epochs.py --write benchmarks/results/train_epochs.md

A row's pass through a network forward counts 1, forward and backward 3; an epoch of cross-entropy is 3 a row. Passes
are counted where they happen, in `TrainTask.forward`. Epochs of cross-entropy are timed before and after those of each
method, on the same rows and with the same network, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import machine, machine_line
from torch import Tensor, nn

from lnl_core.config import ModelSettings, parse
from lnl_core.contracts import string_ids
from lnl_core.models.classifier import build_classifier
from lnl_core.runtime import Runtime
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train import TRAINERS, epochs
from lnl_core.train.task import HeldOut, TrainTask

CLASSES, SIDE = 10, 32
NAMES = {
    "divide_mix": "DivideMix",
    "pro_mix": "ProMix",
    "flywheel": "LNL-flywheel",
    "elr_plus": "ELR+",
    "ssr": "SSR+",
}
# Settings under which the epochs that are timed are those of the method's main phase; the number of epochs before it.
METHODS: dict[str, tuple[int, dict[str, Any]]] = {
    "cross_entropy": (1, {}),
    "divide_mix": (3, {"warmup_epochs": 3, "lambda_u": 25, "lambda_u_ramp": 0, "lr": 0.05}),
    "pro_mix": (3, {"warmup_epochs": 3, "ramp_epochs": 0, "agree_from": 0, "lr": 0.05}),
    "flywheel": (4, {"warmup_epochs": 3, "regulariser_ramp": 0, "lr": 0.05}),  # its first cycle has no main M-step
    "elr_plus": (1, {"lr": 0.05}),
    "ssr": (3, {"warmup_epochs": 3, "lr": 0.05}),
}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch: its time, and the passes of rows through networks."""

    seconds: float
    forward: int
    both: int

    @property
    def passes(self) -> int:
        return self.forward + 3 * self.both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3, help="epochs that are timed")
    parser.add_argument("--arch", default="preact_resnet18")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--methods", nargs="+", default=[name for name in METHODS if name != "cross_entropy"])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = []
    for method in arguments.methods:
        before = timed("cross_entropy", arguments)
        found = timed(method, arguments)
        after = timed("cross_entropy", arguments)
        lines.append(line(method, found, [*before, *after]))
        print(lines[-1], flush=True)
    text = page(lines, arguments)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


def timed(method: str, arguments: argparse.Namespace) -> list[Epoch]:
    """The epochs of the main phase."""
    skipped, settings = METHODS[method]
    entry = TRAINERS.get(method)
    config = parse(entry.config, {"epochs": skipped + arguments.rounds, **settings}, method)
    with tempfile.TemporaryDirectory() as folder, counted() as found:
        entry.make(make_task(Path(folder), arguments), config)
    return found[skipped:]


@contextmanager
def counted() -> Iterator[list[Epoch]]:
    """Counts and times every epoch that is trained inside; checkpoints are left out."""
    found: list[Epoch] = []
    state = {"forward": 0, "both": 0, "start": time.perf_counter()}
    forward, score, save = TrainTask.forward, epochs.score_held_out, epochs.save_checkpoint

    def counting(task: TrainTask, module: nn.Module, *inputs: Tensor) -> Any:
        state["both" if torch.is_grad_enabled() else "forward"] += len(inputs[0])
        return forward(task, module, *inputs)

    def epoch_ends(*_: Any) -> None:
        seconds = time.perf_counter() - state["start"]
        found.append(Epoch(seconds=seconds, forward=state["forward"], both=state["both"]))
        state.update(forward=0, both=0, start=time.perf_counter())

    TrainTask.forward, epochs.score_held_out = counting, epoch_ends  # type: ignore[method-assign, assignment]
    epochs.save_checkpoint = lambda *_: None
    try:
        yield found
    finally:
        TrainTask.forward, epochs.score_held_out = forward, score  # type: ignore[method-assign]
        epochs.save_checkpoint = save


def make_task(folder: Path, arguments: argparse.Namespace) -> TrainTask:
    """Noisy copies of one picture a class, half of whose labels are drawn anew: easy to learn, hard to memorise."""
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (CLASSES, 3, 4, 4)).repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    true = draw.integers(0, CLASSES, arguments.rows)
    pixels = np.clip(pictures[true] * 0.5 + draw.normal(64, 40, (arguments.rows, 3, SIDE, SIDE)), 0, 255)
    label = np.where(draw.random(arguments.rows) < 0.5, draw.integers(0, CLASSES, arguments.rows), true)
    model = ModelSettings(arch=arguments.arch, stem="cifar", width=arguments.width)
    return TrainTask(
        ids=string_ids([f"r{row:06d}" for row in range(arguments.rows)]),
        pixels=torch.from_numpy(pixels.astype(np.uint8)),
        label=torch.from_numpy(label),
        soft_label=None,
        held_out=HeldOut(
            pixels=torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8), label=torch.empty(0).long(), kind="none"
        ),
        classes=CLASSES,
        flip=True,
        noise=NoiseEstimate(
            rate=0.45, source="set", prior=np.full(CLASSES, 1 / CLASSES), transition=np.eye(CLASSES) * 0.5 + 0.05
        ),
        make_model=lambda seed: build_classifier(model, 3, CLASSES, seed=seed),
        runtime=Runtime(device=torch.device("cpu"), precision=arguments.precision, seed=0, image_memory_mb=1024),
        checkpoint=folder / "state.pt",
        fingerprint="benchmark",
        purpose="model",
    )


def line(method: str, found: list[Epoch], plain: list[Epoch]) -> str:
    seconds = statistics.median(epoch.seconds for epoch in found)
    base = statistics.median(epoch.seconds for epoch in plain)
    rows = plain[0].both
    forward, both = (statistics.median(getattr(epoch, name) for epoch in found) / rows for name in ("forward", "both"))
    passes = statistics.median(epoch.passes for epoch in found) / (3 * rows)
    times = seconds / base
    return (
        f"| {NAMES.get(method, method)} | {base:.2f} | {seconds:.2f} | {forward:.2f} | {both:.2f} | {passes:.2f} | "
        f"{times:.2f} | {times / passes:.2f} |"
    )


def page(lines: list[str], arguments: argparse.Namespace) -> str:
    where = machine_line([{"machine": machine(arguments.threads)}])
    head = [
        "# An epoch of each method in epochs of cross-entropy",
        "",
        f"{arguments.arch}, width {arguments.width}, {arguments.rows} images of {SIDE}x{SIDE}, each method's own batch "
        f"size, half of the labels drawn anew, {arguments.precision}, median of {arguments.rounds} epochs of the main "
        f"phase (`python benchmarks/train_epochs.py`). {where}",
        "",
        "Passes a row of the data: forward alone, and forward with backward, which counts 3. The last column is to "
        "stay below 1.15: what an epoch costs beyond its passes (augmentation, mixtures, neighbours).",
        "",
        "| method | CE, s | epoch, s | forward | with backward | passes, in CE's | time, in CE's | time / passes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *lines, ""])


if __name__ == "__main__":
    main()
