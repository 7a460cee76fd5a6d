"""What a training method gets and gives. Nothing here holds a true label of a noisy row.

Several processes of one training (`lnl_core/world.py`) see the same task and draw the same batches; whatever goes
through a network goes through `forward`, which shares the rows among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.contracts import Ids
from lnl_core.images.augment import strong_view
from lnl_core.images.encoded import Pixels
from lnl_core.images.network_input import as_input
from lnl_core.images.weak_batch import weak_views
from lnl_core.runtime import Runtime, seed_for
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train.sampling import Sampling
from lnl_core.training.row_batches import shuffled_batches
from lnl_core.training.synced_batch_norm import synced
from lnl_core.training.training_trace import TraceEpoch, traced_epochs, write_trace
from lnl_core.world import rank, run_shared

Module = TypeVar("Module", bound=nn.Module)
Image = Float[Tensor, "batch channels height width"]
EVALUATION_ROWS = 512  # rows a forward pass where all rows are looked at


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Rows that choose the checkpoint: trusted rows, or noisy validation rows; never test rows."""

    pixels: Pixels
    label: Int[Tensor, "rows"]
    kind: str  # "trusted" | "val" | "none"


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """The training rows, sorted by id, with the labels to learn from (observed or purified)."""

    ids: Ids
    pixels: Pixels  # uint8 in memory, on the GPU or memory-mapped; or encoded, decoded batch by batch
    label: Int[Tensor, "rows"]
    soft_label: Float[Tensor, "rows classes"] | None  # purified soft labels, where there are some
    held_out: HeldOut
    classes: int
    flip: bool  # may weak augmentation mirror?
    noise: NoiseEstimate  # an estimate
    make_model: Callable[[int], nn.Module]  # seed -> Classifier, from scratch or from a given start
    runtime: Runtime
    checkpoint: Path  # file for the state of an unfinished run
    fingerprint: str  # settings and data that the checkpoint belongs to
    purpose: str  # "model" | "yardstick"; salts the generators and names the progress bar
    weight: Float[Tensor, "rows"] | None = None  # how much each label counts, mean 1; None: all alike
    verified: Bool[Tensor, "rows"] | None = None  # rows whose label is known to be right; None: no row
    sampling: Sampling = field(default_factory=Sampling)
    trace: Path | None = None  # folder for what the method holds of the rows; None: not wanted
    compiled: bool = False  # torch.compile

    def new_network(self, seed: int) -> nn.Module:
        """A new classifier on the runtime's device; `.encoder` gives features [batch, width], `.head` their logits."""
        return self.place(self.make_model(seed))

    def place(self, module: Module) -> Module:
        """`module` on the runtime's device, channels last, compiled if `compiled`, statistics of the global batch."""
        module = module.to(memory_format=torch.channels_last).to(self.runtime.device)  # type: ignore[call-overload]
        synced(module)
        if self.compiled:
            module.compile()
        return module

    def forward(self, module: nn.Module, *inputs: Tensor) -> Any:
        """`module(*inputs)` in mixed precision, its output (a tensor or a tuple of tensors) in float32.

        All inputs and outputs have one entry a row of the global batch; each process runs its share of them.
        """
        with self.runtime.autocast():
            outputs = run_shared(module, *inputs)
        return outputs.float() if isinstance(outputs, Tensor) else tuple(value.float() for value in outputs)

    @torch.no_grad()
    def predict(self, module: nn.Module, views: list[Image]) -> Float[Tensor, "views batch classes"]:
        """Probabilities of each view, without gradients, in the mode the module is in.

        In evaluation mode rows do not meet each other, so all views are one pass; with batch statistics each view has
        its own.
        """
        rows = len(views[0])
        if not rows:
            return torch.zeros(len(views), 0, self.classes, device=self.runtime.device)
        if module.training:
            logits = torch.stack([self.forward(module, view) for view in views])
        else:
            logits = self.forward(module, join_views(views)).view(len(views), rows, -1)
        return logits.softmax(dim=2)

    def row_chunks(self, module: nn.Module, rows: Int[Tensor, " rows"]) -> Any:
        """(row numbers, outputs on the device) of some hundred rows at a time; the module is left evaluating."""
        module.eval()
        for chunk in rows.split(EVALUATION_ROWS):  # type: ignore[no-untyped-call]
            with torch.no_grad():
                outputs = self.forward(module, self.plain(chunk))
            yield chunk, outputs

    def plain(self, rows: Int[Tensor, " batch"]) -> Image:
        """The images as they are."""
        return as_input(self.pixels[rows.to(self.pixels.device)], self.runtime.device)

    def weak(self, rows: Int[Tensor, " batch"], generator: torch.Generator, views: int = 1) -> list[Image]:
        """So many independent weak views: shifted, and mirrored where that is allowed."""
        return weak_views(self.pixels, rows, generator, views=views, flip=self.flip, device=self.runtime.device)

    def strong(self, rows: Int[Tensor, " batch"], generator: torch.Generator) -> Image:
        """One strong view: weak, RandAugment, cutout."""
        if not len(rows):
            return self.plain(rows)
        view = strong_view(self.plain(rows), generator, flip=self.flip)
        return view.contiguous(memory_format=torch.channels_last)

    def targets(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        """What the given rows are trained on, on the runtime's device: the soft label, or the label as one-hot."""
        if self.soft_label is not None:
            return self.soft_label[rows].to(self.runtime.device)
        return functional.one_hot(self.label[rows], self.classes).float().to(self.runtime.device)

    def weights(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """How much the labels of these rows count in a loss, on the runtime's device; 1 where nothing is said."""
        if self.weight is None:
            return torch.ones(len(rows), device=self.runtime.device)
        return self.weight[rows].to(self.runtime.device)

    def known(self, rows: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which of these rows have a verified label, on the CPU."""
        return torch.zeros(len(rows), dtype=torch.bool) if self.verified is None else self.verified[rows]

    def epoch_rows(self, generator: torch.Generator) -> Int[Tensor, " sample"]:
        """The rows of one epoch, sorted: all, or the sample that the settings want (with every verified row)."""
        drawn = self.sampling.draw(self.label, generator)
        if self.verified is None or len(drawn) == len(self.label):
            return drawn
        everything: Tensor = torch.cat([drawn, self.verified.nonzero().flatten()]).unique()  # type: ignore[no-untyped-call]
        return everything

    def epoch_batches(self, batch_size: int, generator: torch.Generator) -> list[Int[Tensor, " batch"]]:
        """The rows of one epoch in shuffled batches."""
        return shuffled_batches(self.epoch_rows(generator), batch_size, generator)

    def prior(self, *, uniform: bool = False) -> Float[Tensor, " classes"]:
        """The estimated class prior of an epoch's rows, on the device; no class below a thousandth of an even share.

        Args:
            uniform: even shares instead, which most papers assume.
        """
        if uniform:
            return torch.full((self.classes,), 1 / self.classes, device=self.runtime.device)
        prior = self.noise.prior_of_balanced() if self.sampling.balanced else self.noise.prior
        prior = np.maximum(prior, 1e-3 / self.classes)
        return torch.from_numpy(prior / prior.sum()).float().to(self.runtime.device)

    def generator(self, method: str, *what: object) -> torch.Generator:
        """A generator for each method, arm and purpose; give it the epoch, and a resumed run draws the same."""
        return self.runtime.generator(method, self.purpose, *what)

    def seed(self, method: str, *what: object) -> int:
        """A seed for what takes no generator: initial weights, scikit-learn's mixtures (32 bits)."""
        return seed_for(self.runtime.seed, method, self.purpose, *what) % 2**32

    def remember(
        self,
        epoch: int,
        epochs: int,
        rows: Int[Tensor, " rows"],
        *,
        mixture: Mapping[str, list[float]] | None = None,
        **columns: npt.NDArray[Any] | Tensor,
    ) -> None:
        """Write what the method held in `epoch` (0 is the first) of these rows; a few epochs are kept, see TraceEpoch.

        Args:
            columns: selected, clean, predicted, loss; each [rows].
        """
        if self.trace is None or rank() or epoch + 1 not in traced_epochs(epochs):
            return
        order = np.argsort(rows.numpy(), kind="stable")
        kinds = {"selected": np.bool_, "clean": np.float32, "predicted": np.int32, "loss": np.float32}
        held: dict[str, Any] = {
            name: np.asarray(torch.as_tensor(value).cpu())[order].astype(kinds[name]) for name, value in columns.items()
        }
        ids = self.ids[rows.numpy()[order]]
        write_trace(self.trace, TraceEpoch(epoch=epoch + 1, ids=ids, mixture=dict(mixture or {}), **held))


def join_views(views: list[Tensor]) -> Image:
    """Views one below the other, channels last: rows of the first, then of the second, ..."""
    return torch.cat(views).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The networks (their averaged softmax is the prediction) at the best held-out epoch and at the last."""

    best: tuple[Mapping[str, Tensor], ...]  # state dicts
    last: tuple[Mapping[str, Tensor], ...]
    best_epoch: int
    curve: tuple[Mapping[str, int | float], ...]  # an epoch: epoch, loss, held_out_accuracy, the method's own
    metrics: Mapping[str, Any]


class Trainer(Protocol):
    """`(task, config) -> Trained`; resumes from `task.checkpoint` exactly."""

    def __call__(self, task: TrainTask, config: Any) -> Trained: ...
