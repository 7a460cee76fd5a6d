"""Two-EM: the clean posterior and the refurbished labels of the LNL-flywheel on frozen features. No trusted set needed.

Kim et al., "Learning with Noisy Labels: Interconnection of Two Expectation-Maximizations" (LNL-flywheel). An observed
label comes from the clean part g(x) with probability gamma, else from a corrupted part eps(x):

    q(s = 1) = gamma g(x)[o] / (gamma g(x)[o] + (1 - gamma) eps)           Eq. 4: the clean posterior
    gamma = mean q(s = 1)                                                  Eq. 6
    q(y) = q(s = 1) e_o[y] + q(s = 0) f(x)[y]                              Eq. 11: the refurbished target
    eps_i = sum_y f(x_i)[y] T_c[y, o_i]                                    Eq. 14, T_c the corruption matrix

The equations themselves stand in blocks/two_em_mixture. Modes:
  - `paper`: as printed. Where the label is corrupted, Eq. 11 throws it away.
  - `fixed`: the corrupted label is evidence too: p(y | x, o, s = 0) is f(x)[y] T_c[y, o] / eps. With it the target is
    Bayes' rule for the matrix T = gamma I + (1 - gamma) T_c, of which alone the data speak: q(y) ~ f(x)[y] T[y, o].

On frozen features, in both modes:
  - f is linear: ridge regression onto the targets with a fitted link in the cycles (closed form), then softmax heads
    (Eq. 13), mixed by the likelihood of the observed labels. A network trained on the argmax of a linear f is a
    sharper copy of it, so the main network g is f, and the confidence regulariser that would keep it from the noise
    is not needed: the heads are too small to learn single labels;
  - a row is never predicted by a head that learned its own label: leave-one-out for ridge, cross-fitting for the
    softmax heads. Else f leans to the observed label, and the noise looks small;
  - trusted rows are anchors: their label is fixed, and their observed label counts in T.

What cannot be known: without anchors T is identified only as far as most labels of each class are right: above 50 %
asymmetric noise two classes may come out swapped, and close to pure noise the classes are only as good as the features'
clusters. Anchors with known observed labels cure both.

Held: a sample of at most `rows` rows and the trusted ones in float32, twice; Gram matrices [d, d] in float64; n x K.
The features stream twice, once where the sample is everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.blocks.soft_link import fit_soft_link
from lnl_core.blocks.softmax_heads import softmax_heads
from lnl_core.blocks.softmax_link import SoftmaxLink
from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, FloatArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.purify.two_em_cycles import (
    Evidence,
    Found,
    LeaveOneOut,
    Noise,
    answers,
    leave_one_out,
    run_cycles,
    settled,
)

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class TwoEMConfig(Settings):
    """Settings of the two-EM purifier; none of them needs a trusted set."""

    mode: Literal["fixed", "paper"] = "fixed"  # paper: Eq. 11 as printed, the corrupted label is thrown away
    rows: int = Field(default=50_000, ge=10)  # the heads learn on a uniform sample of at most this many rows
    ridge: tuple[float, ...] = Field(
        default=(0.01, 0.1), min_length=1
    )  # per row; larger ones fit noisy labels, not targets
    cycles: int = Field(default=40, ge=1)  # most E- and M-steps
    tolerance: float = Field(default=1e-3, ge=0)  # the cycles end when targets move less than this in the mean
    smoothing: float = Field(default=10.0, ge=0)  # rows of the start added to each class of T: small classes stay near
    anchor_weight: float = Field(default=20.0, gt=0)  # a verified label says more of T and scale than a guessed one
    link_rows: int = Field(default=5000, ge=10)  # rows that set scale and biases of f in a cycle
    folds: int = Field(default=5, ge=2, le=20)  # splits of the softmax heads, and folds of the trusted rows
    head_steps: int = Field(default=1000, ge=0)  # minibatches of the softmax heads (Eq. 13); 0: ridge regression alone
    head_batch: int = Field(default=500, ge=1)
    head_lr: float = Field(default=0.002, gt=0)  # Adam, cosine to zero
    head_weight_decay: float = Field(default=0.001, ge=0)  # on the squared weights of standardised features
    mix: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0), min_length=1)  # shares of the softmax heads in f


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows that the heads learn from: the sampled noisy ones, then all trusted ones."""

    sampled: Rows  # [s] their rows in the task, ascending
    split: npt.NDArray[np.intp]  # [N] cross-fitting split of each, and fold of the trusted ones
    evidence: Evidence


@PURIFIERS.register(
    "two_em",
    config=TwoEMConfig,
    summary="two-EM of the LNL-flywheel on frozen features (needs no trusted rows; uses them as anchors)",
    source="Kim et al., LNL-flywheel",
)
def two_em(task: PurifyTask, config: TwoEMConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`."""
    rows, features = _rows(task, config, generator)
    scored = np.sort(generator.choice(len(features), size=min(config.link_rows, len(features)), replace=False))
    regression = leave_one_out(features, rows.evidence.observed, task.classes, config.ridge, scored)
    del features
    found = run_cycles(
        regression,
        rows.evidence,
        mode=config.mode,
        cycles=config.cycles,
        tolerance=config.tolerance,
        scaled=scored,
    )
    heads = _heads(regression, found, rows, config, generator)
    chosen = _mixed(found, heads, rows, config)
    answer = _predict(task, rows, regression, found, heads, chosen, config.mode)
    trusted = _trusted(chosen, rows, config.mode)
    return Purification(
        posterior=answer,
        metrics=_metrics(regression, chosen, answer, rows, task, trusted),
        curve=found.curve,
        trusted_posterior=trusted,
    )


def _rows(task: PurifyTask, config: TwoEMConfig, generator: np.random.Generator) -> tuple[_Rows, FloatArray]:
    """The rows to learn from and their features [N, d], read in one pass."""
    total, width = task.noisy.shape
    sampled = np.sort(generator.choice(total, size=min(config.rows, total), replace=False))
    trusted = len(task.trusted_label)
    features = np.empty((len(sampled) + trusted, width), dtype=np.float32)
    for block, batch in task.noisy.batches():
        start, stop = np.searchsorted(sampled, [block.start, block.stop])
        features[start:stop] = batch[sampled[start:stop] - block.start]
    features[len(sampled) :] = task.trusted
    folds = min(config.folds, len(sampled))
    split = np.concatenate([generator.permutation(size) % folds for size in (len(sampled), trusted)])
    runs = np.arange(folds + 1) if trusted else np.array([folds])
    anchored = (split[:, None] != runs) & (np.arange(len(features)) >= len(sampled))[:, None]
    evidence = Evidence(
        observed=np.concatenate([task.observed[sampled], task.trusted_observed]).astype(np.int32),
        verified=np.concatenate([np.full(len(sampled), NO_LABEL), task.trusted_label]).astype(np.int32),
        anchored=anchored,
        classes=task.classes,
        anchor_weight=config.anchor_weight,
        smoothing=config.smoothing,
    )
    return _Rows(sampled=sampled, split=split, evidence=evidence), features


# --- softmax heads (Eq. 13) --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Softmax heads on the rotated features: head j of a run learned from the rows outside split j."""

    scale: FloatArray  # [d] to unit variance
    weights: Array  # [d, S, K] of the run with all anchors
    bias: Array  # [S, K]
    links: list[SoftmaxLink]  # S
    probabilities: FloatArray  # [N, B, K] of the rows they learned from, cross-fitted

    def __call__(self, rotated: FloatArray) -> Array:
        """Rows that no head has seen [b, d] -> the mean of the heads [b, K]."""
        folded = (rotated * self.scale) @ self.weights.reshape(len(self.weights), -1).astype(np.float32)
        scores = folded.reshape(len(rotated), *self.bias.shape) + self.bias
        return np.asarray(np.mean([link(scores[:, head]) for head, link in enumerate(self.links)], axis=0))


def _heads(
    regression: LeaveOneOut, found: Found, rows: _Rows, config: TwoEMConfig, generator: np.random.Generator
) -> _Heads | None:
    """Eq. 13: cross-entropy against the refurbished targets, cross-fitted, each head with a link of its own.

    The run without trusted fold b has one head, which learned from the rows outside split b; the run with all anchors
    has a head for each split. Links are fitted to the targets of rows that the head did not learn from.
    """
    if config.head_steps == 0:
        return None
    splits, runs = int(rows.split.max()) + 1, rows.evidence.anchored.shape[1]
    owner = [*range(runs - 1), *[runs - 1] * splits]  # the run of each head
    outside = [*range(runs - 1), *range(splits)]  # the split that each head does not learn from
    scale = 1 / np.maximum(regression.rotated.std(axis=0), 1e-6).astype(np.float32)
    scale[regression.inverse * len(rows.split) >= 1e9] = 0
    features = regression.rotated * scale
    weights, bias = softmax_heads(
        features,
        found.targets[:, owner],
        rows.split[:, None] != np.array(outside),
        generator,
        steps=config.head_steps,
        batch=config.head_batch,
        lr=config.head_lr,
        weight_decay=config.head_weight_decay,
        title="two_em: heads",
    )
    probabilities = np.empty_like(found.probabilities)
    links = []
    for head, (run, split) in enumerate(zip(owner, outside, strict=True)):
        held = np.flatnonzero(rows.split == split)
        scores = features[held] @ weights[:, head].astype(np.float32) + bias[head]
        few = generator.permutation(len(held))[: config.link_rows]
        link = fit_soft_link(scores[few], found.targets[held[few], run].astype(np.float64), np.ones(len(few)))
        links.append(link)
        probabilities[held, run] = link(scores)
    # a fold's run is asked about its own fold alone: for the other rows its ridge prediction stands in
    for run in range(runs - 1):
        elsewhere = rows.split != run
        probabilities[elsewhere, run] = found.probabilities[elsewhere, run]
    last = slice(runs - 1, None)
    return _Heads(
        scale=scale, weights=weights[:, last], bias=bias[last], links=links[last], probabilities=probabilities
    )


@dataclass(frozen=True, kw_only=True)
class _Mixed:
    """f as the mixture of ridge regression and softmax heads."""

    share: float  # of the softmax heads
    probabilities: FloatArray  # [N, B, K]
    noise: Noise
    tried: list[dict[str, float]]


def _mixed(found: Found, heads: _Heads | None, rows: _Rows, config: TwoEMConfig) -> _Mixed:
    """The mixture under which the observed labels are likeliest: no row's f has learned its own label."""
    best: tuple[float, _Mixed] | None = None
    tried: list[dict[str, float]] = []
    for share in config.mix if heads is not None else (0.0,):
        f = found.probabilities
        if heads is not None and share:
            f = (np.float32(1 - share) * f + np.float32(share) * heads.probabilities).astype(np.float32)
        noise, likelihood = settled(f, rows.evidence, found.start, config.mode)
        tried.append({"softmax_share": share, "log_likelihood": round(likelihood, 5)})
        if best is None or likelihood > best[0]:
            best = (likelihood, _Mixed(share=share, probabilities=f, noise=noise, tried=tried))
    assert best is not None
    return best[1]


# --- answers -----------------------------------------------------------------------------------------------------


def _predict(
    task: PurifyTask,
    rows: _Rows,
    regression: LeaveOneOut,
    found: Found,
    heads: _Heads | None,
    chosen: _Mixed,
    mode: str,
) -> FloatArray:
    """The posterior [n, K]: sampled rows as they were predicted without their own label, all others streamed."""
    posterior = np.empty((len(task.observed), task.classes), dtype=np.float32)
    posterior[rows.sampled] = chosen.probabilities[: len(rows.sampled), -1]
    rest = np.ones(len(task.observed), dtype=bool)
    rest[rows.sampled] = False
    if rest.any():
        weights, mean = regression.regress(found.targets[:, -1:])
        for block, features in task.noisy.batches():
            new = np.flatnonzero(rest[block])
            rotated = regression.rotate(features[new])
            f = found.links[-1]((rotated @ weights[:, 0] + mean[0]).astype(np.float64))
            if heads is not None and chosen.share:
                f = (1 - chosen.share) * f + chosen.share * heads(rotated)
            posterior[block.start + new] = f
    return answers(posterior, task.observed, chosen.noise.transition[-1], chosen.noise.mixtures[-1], mode)


def _trusted(chosen: _Mixed, rows: _Rows, mode: str) -> FloatArray | None:
    """[m, K]: each trusted row by the run that treated it as noisy; None without trusted rows."""
    evidence, first = rows.evidence, len(rows.sampled)
    if len(rows.split) == first:
        return None
    found = np.empty((len(rows.split) - first, evidence.classes), dtype=np.float32)
    for run in range(evidence.anchored.shape[1] - 1):
        here = first + np.flatnonzero(rows.split[first:] == run)
        f = chosen.probabilities[here, run]
        found[here - first] = answers(
            f, evidence.observed[here], chosen.noise.transition[run], chosen.noise.mixtures[run], mode
        )
    return found


def _metrics(
    regression: LeaveOneOut,
    chosen: _Mixed,
    answer: FloatArray,
    rows: _Rows,
    task: PurifyTask,
    trusted: FloatArray | None,
) -> dict[str, Any]:
    transition = chosen.noise.transition[-1]
    metrics: dict[str, Any] = {
        "chosen": {**regression.chosen, "softmax_share": chosen.share},
        "mixtures": chosen.tried,
        "sampled_rows": len(rows.sampled),
        "trusted_rows": len(task.trusted_label),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - answer[np.arange(len(answer)), task.observed].mean()), 5),
    }
    if trusted is not None:
        metrics["held_out_accuracy"] = round(float((trusted.argmax(axis=1) == task.trusted_label).mean()), 5)
    return metrics
