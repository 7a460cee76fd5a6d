"""SimCLR: an encoder from images alone, by distinguishing two views of an image from the views of all others.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations (arXiv 2002.05709). Loss and
projection head are lightly's; this is the only package that imports it.

Deviations, all usual for CIFAR: SGD with momentum instead of LARS (which is for batches of thousands), and no weight
decay on norms and biases, where it would only fight the normalisation. Both views pass the network as one batch, so
batch normalisation sees them together. No label is used to learn; the trusted rows only score the encoder on the way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from lnl_core.config import ConfigError, Settings
from lnl_core.images.augment import SimCLRViewSettings, simclr_view
from lnl_core.images.encoded import EncodedPixels, Pixels
from lnl_core.models.encoder import Encoder
from lnl_core.models.predictions import as_input
from lnl_core.progress import progress_bar
from lnl_core.runtime import Runtime, drawn_from
from lnl_core.statistics.knn import knn_accuracy
from lnl_core.statistics.linear_probe import probe_accuracy
from lnl_core.training.checkpoint import load_checkpoint, save_checkpoint
from lnl_core.training.schedule import cosine_lr

log = logging.getLogger("lnl")
RESIDENT_SHARE = 0.25  # of the free GPU memory may hold the pixels; the rest is for activations
Record = dict[str, float | int | None]


class SimCLRConfig(Settings):
    """Section `pretrain.simclr`. Defaults: the CIFAR recipe of the papers that purify on SimCLR features."""

    epochs: int = Field(default=500, ge=1)  # 1000 in the papers; most of the gain is there at half
    batch_size: int = Field(default=512, ge=2)  # 1024 in the papers; 512 fits a ResNet-18 at 32 px into 8 GB
    lr: float = Field(default=0.5, gt=0)  # at the end of the warm-up, not scaled by the batch size
    warmup_epochs: int = Field(default=10, ge=0)  # SimCLR, appendix B.9
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)  # on weights; norms and biases have none
    temperature: float = Field(default=0.5, gt=0, le=10)  # best on CIFAR, SimCLR appendix B.9
    projection_dim: int = Field(default=128, ge=2)  # SimCLR, Sec. 2.1
    hidden_dim: int = Field(default=0, ge=0)  # of the projection head; 0: as wide as the encoder's features
    views: SimCLRViewSettings = Field(default_factory=SimCLRViewSettings)
    probe_every: int = Field(default=50, ge=0)  # epochs between scores on the trusted rows; 0: only after the last
    probe_rows: int = Field(default=5000, ge=10)  # at most so many trusted rows are scored: the probe is no stage
    checkpoint_every: int = Field(default=10, ge=1)  # epochs; what a kill can cost


@dataclass(frozen=True, kw_only=True)
class TrustedRows:
    """Rows of the task's pixels whose verified labels score the encoder."""

    rows: Int[Tensor, " trusted"]
    label: Int[Tensor, " trusted"]
    classes: int


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """Images without labels, and where an unfinished run keeps its state."""

    pixels: Pixels  # in memory, memory-mapped, or encoded
    trusted: TrustedRows | None
    flip: bool  # may views mirror?
    encoder: Encoder  # freshly drawn, on the CPU; trained in place
    runtime: Runtime
    checkpoint: Path
    fingerprint: str  # settings and data that the checkpoint belongs to


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The trained encoder, on the CPU in evaluation mode, and a record an epoch."""

    encoder: Encoder
    curve: tuple[Record, ...]  # epoch, loss, lr, seconds, probe_accuracy, knn_accuracy (None where not measured)


def pretrain_simclr(task: PretrainTask, config: SimCLRConfig) -> Pretrained:
    """Train `task.encoder` on all rows; resumes exactly from `task.checkpoint` where that fits.

    An interrupted run that is started again ends with the same weights as one that was not: every epoch draws from
    generators of its own, made from the run's seed and the epoch, so the state is weights, momentum and epoch.
    Holds the pixels, on the GPU too where they take a quarter of its free memory or less, and one batch of views.

    Raises:
        ConfigError: fewer than two images.
        FloatingPointError: the loss is no longer finite.
    """
    learner = _Learner(task, config)
    curve = learner.resume()
    with progress_bar("pretraining", config.epochs, "epochs") as advance:
        advance(len(curve))
        for epoch in range(len(curve), config.epochs):
            curve.append(learner.epoch(epoch))
            advance(note=f"loss {curve[-1]['loss']:.3f}")
            if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
                learner.save(curve)
    return Pretrained(encoder=task.encoder.to("cpu").eval(), curve=tuple(curve))


class _Learner:
    """Network, head, optimizer and pixels of one run: what an epoch changes."""

    def __init__(self, task: PretrainTask, config: SimCLRConfig) -> None:
        rows = len(task.pixels)
        if rows < 2:
            raise ConfigError(f"pretrain: {rows} image(s) to learn from; contrast needs two or more")
        self.task, self.config = task, config
        self.device = task.runtime.device
        self.batch_size = min(config.batch_size, rows)  # the tail of an epoch is dropped, never a whole epoch
        self.steps = rows // self.batch_size
        self.pixels = _resident(task.pixels, self.device)
        self.encoder = task.encoder.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        head, self.criterion = _head_and_loss(task.encoder.width, config, task.runtime)
        self.head = head.to(self.device)
        parameters = _parameter_groups([self.encoder, self.head], config.weight_decay)
        self.optimizer = torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum)
        scaled = task.runtime.precision == "float16"  # bfloat16 has float32's range and needs no scaling
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)

    def epoch(self, epoch: int) -> Record:
        started = time.perf_counter()
        self.encoder.train()
        generator = self.task.runtime.generator("pretrain", "simclr", "epoch", epoch)
        order = torch.randperm(len(self.task.pixels), generator=generator)
        losses = torch.zeros((), device=self.device)
        for step in range(self.steps):
            self._set_lr(epoch * self.steps + step)
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            losses += self._step(rows, generator)
        loss = float(losses) / self.steps
        if loss != loss or loss == float("inf"):
            raise FloatingPointError(
                f"pretrain.simclr: the loss is {loss} in epoch {epoch + 1}; lower pretrain.simclr.lr "
                f"(now {self.config.lr:g}) or set run.precision to bfloat16 or float32"
            )
        probe, knn = self._scores(epoch)
        return {
            "epoch": epoch + 1,
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - started, 3),
            "probe_accuracy": probe,
            "knn_accuracy": knn,
        }

    def _step(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Float[Tensor, ""]:
        images = as_input(self.pixels[rows.to(self.pixels.device)], self.device)
        views = [simclr_view(images, self.config.views, generator, flip=self.task.flip) for _ in range(2)]
        with self.task.runtime.autocast():
            stacked = torch.cat(views).contiguous(memory_format=torch.channels_last)
            projected = self.head(self.encoder(stacked))
        first, second = projected.float().chunk(2)  # similarities in float32: at low temperature bfloat16 is too coarse
        loss: Tensor = self.criterion(first, second)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _set_lr(self, step: int) -> None:
        config = self.config
        lr = cosine_lr(step, config.epochs * self.steps, config.lr, config.warmup_epochs * self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _scores(self, epoch: int) -> tuple[float | None, float | None]:
        """Linear probe and kNN among the trusted rows, cross-validated; None where it is not their turn."""
        every, last = self.config.probe_every, epoch + 1 == self.config.epochs
        due = last or (every > 0 and (epoch + 1) % every == 0)
        trusted = self.task.trusted
        if not due or trusted is None:
            return None, None
        generator = self.task.runtime.generator("pretrain", "simclr", "probe")  # the same folds at every epoch
        chosen = torch.randperm(len(trusted.rows), generator=generator)[: self.config.probe_rows]
        features = self._encode(trusted.rows[chosen])
        label = trusted.label[chosen].to(self.device)
        probe = probe_accuracy(features, label, trusted.classes, generator=generator)
        knn = knn_accuracy(features, label, trusted.classes)
        log.info("epoch %d: linear probe %.4f, kNN %.4f on %d trusted rows", epoch + 1, probe, knn, len(label))
        return probe, knn

    @torch.no_grad()
    def _encode(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows features"]:
        self.encoder.eval()
        found = []
        for batch in torch.split(rows, self.batch_size):
            with self.task.runtime.autocast():
                features = self.encoder(as_input(self.pixels[batch.to(self.pixels.device)], self.device))
            found.append(features.float())
        return torch.cat(found)

    def save(self, curve: list[Record]) -> None:
        state = {
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "curve": list(curve),
        }
        save_checkpoint(self.task.checkpoint, self.task.fingerprint, state)

    def resume(self) -> list[Record]:
        """Load what was saved; the curve so far, empty for a fresh start."""
        state = load_checkpoint(self.task.checkpoint, self.task.fingerprint)
        if state is None:
            return []
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        curve: list[Record] = state["curve"]
        log.info("pretraining resumes after epoch %d", len(curve))
        return curve


def _head_and_loss(
    width: int, config: SimCLRConfig, runtime: Runtime
) -> tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]:
    """lightly's projection head and NT-Xent loss.

    torch draws initial weights from its global generator and lightly offers no other. The draw happens inside a fork
    of that generator with a seed of our own, so the global one is neither read nor moved.
    """
    from lightly.loss.ntx_ent_loss import NTXentLoss  # here, because it takes seconds and reading settings needs none
    from lightly.models.modules.heads import SimCLRProjectionHead

    with drawn_from(runtime.generator("pretrain", "simclr", "head").initial_seed()):
        head: nn.Module = SimCLRProjectionHead(width, config.hidden_dim or width, config.projection_dim)
    return head, NTXentLoss(temperature=config.temperature)


def _parameter_groups(networks: list[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Decay for weights of two or more axes; none for norms and biases, which have one."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _resident(pixels: Pixels, device: torch.device) -> Pixels:
    """The pixels on the GPU where they are small beside its free memory: then no batch crosses the bus."""
    if isinstance(pixels, EncodedPixels) or device.type != "cuda":
        return pixels
    free, _ = torch.cuda.mem_get_info(device)
    return pixels.to(device) if pixels.numel() <= RESIDENT_SHARE * free else pixels
