"""EAC, the extrinsic auxiliary correction of DMLP: cross-fitted linear heads on IPC's labels (Eq. 10 and 11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lnl_core.blocks.moments import Moments
from lnl_core.blocks.softmax_link import fit_link, row_losses
from lnl_core.blocks.transition import estimate_transition, posterior
from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.dmlp_config import DMLPConfig
from lnl_core.purify.ipc import Choice, Head, IPCHead, training_rows
from lnl_core.purify.task import PurifyTask

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class EAC:
    """Cross-fitted heads: head j learned from the sampled rows outside split j."""

    heads: list[Head]
    split: npt.NDArray[np.int8]  # [n] split of a row; -1 where it was not sampled, so any head may predict it

    def __call__(self, features: FloatArray, rows: slice) -> Array:
        """[b, K] probabilities of the noisy rows `rows`."""
        found = np.stack([head(features) for head in self.heads])
        split = self.split[rows]
        chosen = found[np.maximum(split, 0), np.arange(len(split))]
        return np.where((split < 0)[:, None], found.mean(axis=0), chosen)


def with_eac(
    ipc: list[IPCHead],
    best: Choice,
    task: PurifyTask,
    moments: Moments,
    config: DMLPConfig,
    fold: Rows,
    generator: np.random.Generator,
) -> tuple[EAC | None, Array, float, list[dict[str, float]]]:
    """Train EAC per fold and cross-fitted; choose eta_E by the held-out log-loss of the mixture.

    Returns:
        EAC, the out-of-fold probabilities of the mixture [m, K], eta_E, and the table of what was tried.
    """
    if config.eac_steps == 0:
        return None, best.held_out, 0.0, []
    shift, scale = moments.affine("standardise")
    rows, sample = _sample(task, config.eac_rows, generator)
    split = generator.permutation(np.arange(len(rows)) % config.eac_splits)
    folds = training_rows(fold)
    targets = [_targets(head, sample, task, rows, inside) for head, inside in zip(ipc, folds, strict=True)]
    targets += [targets[-1]] * (config.eac_splits - 1)
    takes_part = np.ones((len(rows), len(targets)), dtype=np.float32)
    takes_part[:, len(ipc) - 1 :] = split[:, None] != np.arange(config.eac_splits)
    standard = ((sample - shift) * scale).astype(np.float32)
    weights, bias = eac_heads(standard, np.stack(targets, axis=1), takes_part, config, generator)
    folds += [folds[-1]] * (config.eac_splits - 1)
    trusted = ((task.trusted.astype(np.float64) - shift) * scale) @ weights.transpose(1, 0, 2) + bias[:, None]
    links = [fit_link(one[inside], task.trusted_label[inside]) for one, inside in zip(trusted, folds, strict=True)]
    held_out = np.empty_like(best.held_out)
    for number in range(len(ipc) - 1):
        held_out[fold == number] = links[number](trusted[number][fold == number])
    heads = [
        Head(shift=shift, scale=scale, weights=weights[:, number], bias=bias[number], link=links[number])
        for number in range(len(ipc) - 1, len(links))
    ]
    eta, mixture, table = _mix(best.held_out, held_out, task.trusted_label, config.eac_mix)
    of_row = np.full(task.noisy.shape[0], -1, dtype=np.int8)
    of_row[rows] = split
    return EAC(heads=heads, split=of_row), mixture, eta, table


def _mix(
    ipc: Array, eac: Array, labels: IntArray, etas: tuple[float, ...]
) -> tuple[float, Array, list[dict[str, float]]]:
    """eta_E by held-out log-loss, its mixture [m, K], and a record for each that was tried.

    Few trusted rows cannot tell the mixtures apart: of those within one standard error of the best (of the paired
    difference), the one nearest to an even mixture is taken.
    """
    mixtures = {eta: (1 - eta) * ipc + eta * eac for eta in etas}
    each = {eta: row_losses(mixture, labels) for eta, mixture in mixtures.items()}
    losses = {eta: float(loss.mean()) for eta, loss in each.items()}
    least = min(losses, key=lambda eta: losses[eta])
    behind = {eta: loss - each[least] for eta, loss in each.items()}
    close = [eta for eta, more in behind.items() if more.mean() <= more.std() / np.sqrt(len(more))]
    best = min(close, key=lambda eta: (abs(eta - 0.5), losses[eta]))
    table = [
        {
            "eta_E": eta,
            "held_out_loss": round(losses[eta], 5),
            "held_out_accuracy": round(float((mixture.argmax(axis=1) == labels).mean()), 5),
        }
        for eta, mixture in mixtures.items()
    ]
    return best, mixtures[best], table


def eac_heads(
    features: FloatArray,
    targets: FloatArray,
    takes_part: FloatArray,
    config: DMLPConfig,
    generator: np.random.Generator,
) -> tuple[Array, Array]:
    """Eq. 10 for several target sets at once: one stream of minibatches trains H independent linear heads.

    Args:
        features: [s, d] standardised.  targets: [s, H, K] soft labels.
        takes_part: [s, H] 1 where a head learns from a row, 0 where it does not.
    Returns:
        weights [d, H, K], biases [H, K].
    """
    rows, width = features.shape
    _, heads, classes = targets.shape
    x, y, part = torch.from_numpy(features), torch.from_numpy(targets), torch.from_numpy(takes_part)
    weights = torch.zeros(width, heads * classes, requires_grad=True)
    bias = torch.zeros(heads * classes, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=config.eac_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.eac_steps)
    with progress_bar("dmlp: EAC", config.eac_steps) as advance:
        for picked in _minibatches(rows, config.eac_batch, config.eac_steps, generator):
            logits = torch.addmm(bias, x[picked], weights).view(-1, heads, classes)
            loss = _eac_loss(logits, y[picked], part[picked], config)
            loss = loss + config.eac_weight_decay * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance()
    final = weights.detach().double().view(width, heads, classes).numpy()
    return final, bias.detach().double().view(heads, classes).numpy()


def _minibatches(rows: int, batch: int, steps: int, generator: np.random.Generator) -> Iterator[Tensor]:
    """Row numbers of `steps` minibatches: shuffled epochs, each without its incomplete tail."""
    batch = min(batch, rows)
    whole = rows // batch
    for step in range(steps):
        if step % whole == 0:
            order = torch.from_numpy(generator.permutation(rows))
        start = step % whole * batch
        yield order[start : start + batch]


def _eac_loss(logits: Tensor, targets: Tensor, takes_part: Tensor, config: DMLPConfig) -> Tensor:
    """Cross-entropy plus `eac_entropy` times the entropy of the predictions; a mean over rows, summed over heads."""
    logs = logits.log_softmax(dim=-1)
    loss = -(targets * logs).sum(dim=-1)
    if config.eac_entropy:
        loss = loss - config.eac_entropy * (logs.exp() * logs).sum(dim=-1)
    return ((loss * takes_part).sum(dim=0) / takes_part.sum(dim=0).clamp(min=1)).sum()


def _sample(task: PurifyTask, most: int, generator: np.random.Generator) -> tuple[Rows, FloatArray]:
    """A uniform sample of rows, in order, read in one pass: (row numbers, features [s, d])."""
    total, width = task.noisy.shape
    rows = np.sort(generator.choice(total, size=min(most, total), replace=False))
    features = np.empty((len(rows), width), dtype=np.float32)
    for block, batch in task.noisy.batches():
        start, stop = np.searchsorted(rows, [block.start, block.stop])
        features[start:stop] = batch[rows[start:stop] - block.start]
    return rows, features


def _targets(head: IPCHead, sample: FloatArray, task: PurifyTask, rows: Rows, inside: Rows) -> FloatArray:
    """IPC's corrected labels of the sample [s, K]: the posterior, with T from this fold's trusted rows only."""
    observed = task.observed[rows]
    probabilities = head.without_own_label(sample, observed)
    transition = estimate_transition(
        probabilities,
        observed,
        anchor_label=task.trusted_label[inside],
        anchor_observed=task.trusted_observed[inside],
    )
    return posterior(probabilities, transition, observed)
