"""What a step of EMLC costs, in training steps of the same network in the same precision; beside it MLC's.

Teacher and student are PreAct ResNet-18, images 32x32, so many noisy and as many trusted rows a step, k = 1. A plain
step is forward, backward and update on the noisy rows. The variants take turns within each round, so that other work on
the machine hits all alike, and every ratio is the median over rounds of the ratio within a round.

MLC comes in two shapes, of which the second has the same networks to train:
  as released   its own procedure: teacher a small network on the student's features, meta-gradient by backward through
                the student's gradient, which also runs into the student's weights, and a trusted gradient before and
                after the step;
  differences   the step of EMLC with the same networks and losses, the meta-gradient by MLC's two-sided difference,
                each side with its own gradient of the teacher.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lnl_core.config import ModelSettings
from lnl_core.models.encoder import build_encoder
from lnl_core.purify.meta.forward_batch_norm import running_statistics_kept
from lnl_core.purify.meta.meta_gradient import copied_weights, gradient, log_probabilities, norm, soft_cross_entropy
from lnl_core.purify.meta.step import EMLCNetworks, NoisyAndTrusted, StepSettings, new_networks
from lnl_core.runtime import Runtime
from lnl_core.training.updates import MomentumSGD

CLASSES = 10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SETTINGS = StepSettings(student_lr=1e-3, teacher_lr=1e-3, corruption="random", joined="matched", mix=False)
BOUNDS = (
    ("EMLC, float32", "plain, float32", "at most", 5.0),
    ("EMLC, float32 channels-last", "plain, float32 channels-last", "at most", 5.0),
    ("EMLC, bfloat16 channels-last", "plain, bfloat16 channels-last", "at most", 5.0),
    ("MLC as released, float32", "EMLC, float32", "at least", 1.2),
    ("MLC by differences, float32", "EMLC, float32", "at least", 1.2),
    ("EMLC, float32", "EMLC, bfloat16 channels-last", "at least", 1.8),
    ("plain, float32", "plain, bfloat16 channels-last", "", 0.0),
)


class Bench:
    """Networks in one precision and layout, and the steps to be timed."""

    def __init__(self, precision: str, *, channels_last: bool, batch: int, width: int) -> None:
        self.runtime = Runtime(device=torch.device("cpu"), precision=precision, seed=0, image_memory_mb=1)
        layout = torch.channels_last if channels_last else torch.contiguous_format

        def prepare(network: nn.Module) -> nn.Module:
            return network.to(memory_format=layout).train()  # type: ignore[call-overload,no-any-return]

        model = ModelSettings(arch="preact_resnet18", stem="cifar", width=width)
        self.nets: EMLCNetworks = new_networks(
            lambda seed: build_encoder(model, 3, seed=seed),
            CLASSES,
            (0, 1),
            prepare,
            lambda network: MomentumSGD(network, self.runtime, momentum=0.9, weight_decay=5e-4),
            self.runtime.autocast,
        )
        self.generator = torch.Generator().manual_seed(0)
        images = [torch.rand(batch, 3, 32, 32, generator=self.generator).contiguous(memory_format=layout) for _ in "ab"]
        labels = [torch.randint(CLASSES, (batch,), generator=self.generator) for _ in "ab"]
        self.batch = NoisyAndTrusted(noisy=images[0], observed=labels[0], trusted=images[1], label=labels[1])
        self.small_teacher = nn.Sequential(
            nn.Linear(8 * width + CLASSES, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, CLASSES)
        )

    def plain(self) -> None:
        """A training step of the student on the noisy rows."""
        with self.runtime.autocast():
            logits = self.nets.student(self.batch.noisy)
        self.nets.student_optimizer.step(functional.cross_entropy(logits.float(), self.batch.observed), 1e-3)

    def emlc(self) -> None:
        """A step of EMLC with k = 1, as training takes it."""
        self.nets.step(self.batch, SETTINGS, self.generator, update_teacher=True)

    def mlc_differences(self) -> None:
        """The same step with MLC's differences."""
        student, teacher, batch = self.nets.student, self.nets.teacher, self.batch
        with torch.no_grad(), self.runtime.autocast(), running_statistics_kept(teacher):
            soft = teacher(batch.noisy, batch.observed).soft_label
        weights = copied_weights(student)
        with self.runtime.autocast():
            loss = soft_cross_entropy(log_probabilities(student(batch.noisy)), soft)
        self.nets.student_optimizer.step(loss, 1e-3)
        direction = self._trusted_gradient()
        scale = 0.01 / float(norm(direction))
        sides: list[dict[str, Tensor]] = []
        for sign in (1, -1):
            moved = {name: value + sign * scale * direction[name] for name, value in weights.items()}
            with torch.no_grad(), self.runtime.autocast(), running_statistics_kept(student):
                log_probs = log_probabilities(functional_call(student, moved, (batch.noisy,)))
            with self.runtime.autocast(), running_statistics_kept(teacher):
                corrected = teacher(batch.noisy, batch.observed).soft_label
            sides.append(gradient(soft_cross_entropy(log_probs, corrected), teacher))
        with self.runtime.autocast():
            logits = teacher.classifier(teacher.backbone(batch.trusted))
        supervised = functional.cross_entropy(logits.float(), batch.label)
        meta = {name: -1e-3 * (sides[0][name] - sides[1][name]) / (2 * scale) for name in sides[0]}
        along = torch.stack([(value * meta[name]).sum() for name, value in teacher.named_parameters()]).sum()
        self.nets.teacher_optimizer.step(supervised + along, 1e-3)

    def mlc_released(self) -> None:
        """MLC's own step: three gradients of the student and one through the first of them."""
        student, batch = self.nets.student, self.batch
        before = self._trusted_gradient()
        with self.runtime.autocast():
            features = student.backbone(batch.noisy)
            logits = student.classifier(features)
            onehot = functional.one_hot(batch.observed, CLASSES).to(features.dtype)
            soft = self.small_teacher(torch.cat([features.detach(), onehot], dim=1)).float().softmax(dim=1)
        # the graph of the first gradient holds these weights: they move as copies do in the released code
        names, parameters = zip(*student.named_parameters(), strict=True)
        loss = soft_cross_entropy(log_probabilities(logits), soft)
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        old = [value.data for value in parameters]
        for value, slope in zip(parameters, found, strict=True):
            value.data = value.data - 1e-3 * slope.detach()
        after = self._trusted_gradient()
        float(torch.stack([(after[name] * before[name]).sum() for name in names]).sum())  # its discount
        proxy = (
            -1e-3 * torch.stack([(after[name] * slope).sum() for name, slope in zip(names, found, strict=True)]).sum()
        )
        proxy.backward()  # type: ignore[no-untyped-call]
        for value, weight in zip(parameters, old, strict=True):
            value.data, value.grad = weight, None
        with torch.no_grad():
            for value, slope in zip(parameters, found, strict=True):
                value.sub_(slope.detach(), alpha=1e-3)
            for value in self.small_teacher.parameters():
                assert value.grad is not None
                value.sub_(value.grad, alpha=1e-3)
                value.grad = None

    def _trusted_gradient(self) -> dict[str, Tensor]:
        with self.runtime.autocast(), running_statistics_kept(self.nets.student):
            logits = self.nets.student(self.batch.trusted)
        return gradient(functional.cross_entropy(logits.float(), self.batch.label), self.nets.student)


def variants(batch: int, width: int) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    wide = Bench("float32", channels_last=False, batch=batch, width=width)
    last = Bench("float32", channels_last=True, batch=batch, width=width)
    half = Bench("bfloat16", channels_last=True, batch=batch, width=width)
    return {
        "plain, float32": wide.plain,
        "EMLC, float32": wide.emlc,
        "MLC by differences, float32": wide.mlc_differences,
        "MLC as released, float32": wide.mlc_released,
        "plain, float32 channels-last": last.plain,
        "EMLC, float32 channels-last": last.emlc,
        "plain, bfloat16 channels-last": half.plain,
        "EMLC, bfloat16 channels-last": half.emlc,
    }


def measure(steps: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each variant by round; one round before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number, (name, step) in itertools.product(range(rounds + 1), steps.items()):
        started = clock()
        step()
        if number:
            seconds[name].append(clock() - started)
    return seconds


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))


def main() -> None:
    """Measure and print; the exit status says whether all bounds hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: seconds of computing, on a busy machine with --threads 1"
    )
    parser.add_argument("--batch", type=int, default=32, help="noisy rows, and as many trusted ones")
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage; 64 is ResNet-18")
    parser.add_argument("--json", action="store_true", help="print seconds and ratios as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = measure(variants(arguments.batch, arguments.width), arguments.rounds, CLOCKS[arguments.clock])
    ratios = {(over, under): ratio(seconds, over, under) for over, under, _, _ in BOUNDS}
    if arguments.json:
        table: dict[str, Any] = {"seconds": {name: statistics.median(found) for name, found in seconds.items()}}
        print(json.dumps(table | {"ratios": {f"{a} / {b}": value for (a, b), value in ratios.items()}}, indent=2))
    else:
        _print_table(seconds, ratios)
    held = [
        {"at most": ratios[over, under] <= bound, "at least": ratios[over, under] >= bound, "": True}[kind]
        for over, under, kind, bound in BOUNDS
    ]
    raise SystemExit(0 if all(held) else 1)


def _print_table(seconds: dict[str, list[float]], ratios: dict[tuple[str, str], float]) -> None:
    print("| step | median s | fastest s |\n|---|---:|---:|")
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.3f} | {min(found):.3f} |")
    print("\n| ratio | median | bound |\n|---|---:|---:|")
    for over, under, kind, bound in BOUNDS:
        print(f"| {over} / {under} | {ratios[over, under]:.2f} | {f'{kind} {bound}' if kind else ''} |")


if __name__ == "__main__":
    main()
