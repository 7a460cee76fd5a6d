"""Two-EM: the clean posterior and the refurbished labels of the LNL-flywheel on frozen features. No trusted set needed.

Kim et al., "Learning with Noisy Labels: Interconnection of Two Expectation-Maximizations" (LNL-flywheel). An observed
label comes from the clean part g(x) with probability gamma, else from a corrupted part eps(x):

    q(s = 1) = gamma g(x)[o] / (gamma g(x)[o] + (1 - gamma) eps)           Eq. 4: the clean posterior
    gamma = mean q(s = 1)                                                  Eq. 6
    q(y) = q(s = 1) e_o[y] + q(s = 0) f(x)[y]                              Eq. 11: the refurbished target
    eps_i = sum_y f(x_i)[y] T_c[y, o_i]                                    Eq. 14, T_c the corruption matrix

The equations themselves stand in statistics/two_em_mixture. Modes:
  - `paper`: as printed. Where the label is corrupted, Eq. 11 throws it away.
  - `fixed`: the corrupted label is evidence too: p(y | x, o, s = 0) is f(x)[y] T_c[y, o] / eps. With it the target is
    Bayes' rule for the matrix T = gamma I + (1 - gamma) T_c, of which alone the data speak: q(y) ~ f(x)[y] T[y, o].

On frozen features, in both modes:
  - f is linear: ridge regression onto the targets in the cycles (closed form), then softmax heads (Eq. 13). A network
    trained on the argmax of a linear f is a sharper copy of it, so the main network g is f, and the confidence
    regulariser that would keep it from the noise is not needed: the heads are too small to learn single labels;
  - a row is never predicted by a head that learned its own label, see `two_em_cycles`. Else f leans to the observed
    label, and the noise looks small;
  - the scale of f and the noise are fitted together, by maximum likelihood of the observed labels. The noise is
    gamma I + (1 - gamma) / K (Sec. 3.1) unless a full T (Eq. 14) explains the labels better than its K (K - 1)
    parameters cost (Bayesian information criterion);
  - more cycles are not always better: a weak f confirms itself. The cycle, and the share of the softmax heads in f,
    are those under which held-out verified labels are likeliest, or without trusted rows the held-out observed labels;
  - trusted rows are anchors: their label is fixed, and their observed label counts in T.

What cannot be known: without anchors T is identified only as far as most labels of each class are right: above 50 %
asymmetric noise two classes may come out swapped, and close to pure noise the classes are only as good as the features'
clusters. Anchors with known observed labels cure both. Classes that no row ends up in, and classes whose commonest
observed label is another, are in the metrics and logged.

Held: a sample of at most `rows` rows and the trusted ones in float32; Gram matrices [d, d] in float64; n x K.
The features stream twice, once where the sample is everything.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, FloatArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.row_sample import row_sample
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.purify.two_em_cycles import CrossFit, Evidence, Fit, Found, cross_fit, fit_scores, posteriors, run_cycles
from lnl_core.purify.two_em_heads import softmax_heads

log = logging.getLogger("lnl")
Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


class TwoEMConfig(Settings):
    """Settings of the two-EM purifier; none of them needs a trusted set."""

    mode: Literal["fixed", "paper"] = "fixed"  # paper: Eq. 11 as printed, the corrupted label is thrown away
    rows: int = Field(default=50_000, ge=10)  # the heads learn on a uniform sample of at most this many rows
    ridge: tuple[float, ...] = Field(
        default=(0.01, 0.1), min_length=1
    )  # per row; larger ones fit noisy labels, not targets
    cycles: int = Field(default=10, ge=1)  # most E- and M-steps
    smoothing: float = Field(default=10.0, ge=0)  # rows of a uniform T added to each class: small classes stay near
    anchor_weight: float = Field(default=20.0, gt=0)  # a verified label says more of T and scale than a guessed one
    link_rows: int = Field(default=20_000, ge=10)  # noisy rows that scale and biases of f and T are fitted on
    folds: int = Field(default=5, ge=2, le=20)  # splits of the rows: a head learns from all but one
    head_steps: int = Field(default=1000, ge=0)  # minibatches of the softmax heads (Eq. 13); 0: ridge regression alone
    head_batch: int = Field(default=500, ge=1)
    head_lr: float = Field(default=0.002, gt=0)  # Adam, cosine to zero
    head_weight_decay: float = Field(default=0.001, ge=0)  # on the squared weights of standardised features
    mix: tuple[float, ...] = Field(default=(0.0, 0.5, 1.0), min_length=1)  # shares of the softmax heads in log f


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The rows that the heads learn from: the sampled noisy ones, then all trusted ones."""

    sampled: Rows  # [s] their rows in the task, ascending
    scaled: Rows  # of them, those that scale and T are fitted on
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
    regression = cross_fit(features, rows.evidence.observed, task.classes, config.ridge, rows.scaled)
    found = run_cycles(regression, rows.evidence, mode=config.mode, cycles=config.cycles, scaled=rows.scaled)
    heads = _heads(regression, found, rows, config, generator)
    chosen = _mixed(found, heads, rows, config)
    posterior = _predict(task, rows, regression, found, heads, chosen, config.mode)
    return Purification(
        posterior=posterior,
        metrics=_metrics(regression, chosen, posterior, rows, task),
        curve=found.curve,
        trusted_posterior=chosen.fit.trusted,
    )


def _rows(task: PurifyTask, config: TwoEMConfig, generator: np.random.Generator) -> tuple[_Rows, FloatArray]:
    """The rows to learn from and their features [N, d], read in one pass."""
    trusted = len(task.trusted_label)
    sampled, features = row_sample(task.noisy, config.rows, generator, room=trusted)
    features[len(sampled) :] = task.trusted
    folds = min(config.folds, len(sampled))
    evidence = Evidence(
        observed=np.concatenate([task.observed[sampled], task.trusted_observed]).astype(np.int32),
        verified=np.concatenate([np.full(len(sampled), NO_LABEL), task.trusted_label]).astype(np.int32),
        split=np.concatenate([generator.permutation(size) % folds for size in (len(sampled), trusted)]),
        classes=task.classes,
        anchor_weight=config.anchor_weight,
        smoothing=config.smoothing,
    )
    scaled = np.sort(generator.choice(len(sampled), size=min(config.link_rows, len(sampled)), replace=False))
    return _Rows(sampled=sampled, scaled=scaled, evidence=evidence), features


# --- softmax heads (Eq. 13) --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Softmax heads on the rotated features: head s learned from the rows outside split s."""

    weights: FloatArray  # [d, S, K]
    bias: Array  # [S, K]
    fit: Fit

    def scores(self, rotated: FloatArray) -> Array:
        """Of rows [b, d], by every head: [b, S, K]."""
        folded = rotated @ self.weights.reshape(len(self.weights), -1)
        return np.asarray(folded.reshape(len(rotated), *self.bias.shape) + self.bias)


def _heads(
    regression: CrossFit, found: Found, rows: _Rows, config: TwoEMConfig, generator: np.random.Generator
) -> _Heads | None:
    """Eq. 13: cross-entropy against the refurbished targets, cross-fitted."""
    if config.head_steps == 0:
        return None
    evidence, rotated = rows.evidence, regression.rotated
    deviation = np.sqrt(np.square(rotated).mean(axis=0, dtype=np.float64))  # rotated features are centred
    scale = np.where(deviation > 1e-5 * deviation.max(), 1 / np.maximum(deviation, 1e-30), 0).astype(np.float32)
    weights, bias = softmax_heads(
        rotated,
        found.targets,
        evidence.learns,
        generator,
        scale=scale,
        steps=config.head_steps,
        batch=config.head_batch,
        lr=config.head_lr,
        weight_decay=config.head_weight_decay,
        title="two_em: heads",
    )
    folded = np.asarray(weights * scale[:, None, None], dtype=np.float32)
    held = np.empty((len(rotated), evidence.classes), dtype=np.float32)
    for split in range(evidence.splits):
        inside = np.flatnonzero(evidence.split == split)
        held[inside] = rotated[inside] @ folded[:, split] + bias[split]
    return _Heads(weights=folded, bias=bias, fit=fit_scores(held, evidence, config.mode, rows.scaled))


@dataclass(frozen=True, kw_only=True)
class _Mixed:
    """f as the geometric mean of ridge regression and softmax heads."""

    share: float  # of the softmax heads
    fit: Fit  # of the mean of their log f
    tried: list[dict[str, float | str]]


def _mixed(found: Found, heads: _Heads | None, rows: _Rows, config: TwoEMConfig) -> _Mixed:
    """The share under which the held-out labels are likeliest: no row's f has learned its own label."""
    best: tuple[float, Fit] | None = None
    tried: list[dict[str, float | str]] = []
    for share in config.mix if heads is not None else (0.0,):
        scores = (1 - share) * _log_f(found.fit, found.fit.scores)
        if heads is not None and share:
            scores = scores + share * _log_f(heads.fit, heads.fit.scores)
        fit = fit_scores(scores.astype(np.float32), rows.evidence, config.mode, rows.scaled)
        tried.append({"softmax_share": share, "log_likelihood": round(fit.log_likelihood, 5)})
        if fit.trusted_loss is not None:
            tried[-1]["held_out_loss"] = round(fit.trusted_loss, 5)
        if best is None or fit.loss < best[1].loss:
            best = (share, fit)
    assert best is not None
    return _Mixed(share=best[0], fit=best[1], tried=tried)


def _log_f(fit: Fit, scores: npt.NDArray[np.floating]) -> Array:
    """log f [n, K] of scores [n, K]; log of the mean f of the runs where they are [n, S, K]."""
    f = fit.link.link(scores.astype(np.float64))
    return np.asarray(np.log(np.maximum(f if f.ndim == 2 else f.mean(axis=1), 1e-12)))


# --- posterior ---------------------------------------------------------------------------------------------------


def _predict(
    task: PurifyTask,
    rows: _Rows,
    regression: CrossFit,
    found: Found,
    heads: _Heads | None,
    chosen: _Mixed,
    mode: Literal["fixed", "paper"],
) -> FloatArray:
    """The posterior [n, K]: sampled rows as they were predicted without their own label, all others streamed."""
    fit, sampled = chosen.fit, rows.sampled
    posterior = np.empty((len(task.observed), task.classes), dtype=np.float32)
    posterior[sampled] = posteriors(fit.scores[: len(sampled)], task.observed[sampled], fit.link, fit.mixture, mode)
    rest = np.ones(len(task.observed), dtype=bool)
    rest[sampled] = False
    if rest.any():
        flat = found.weights.reshape(len(found.weights), -1)
        for block, features in task.noisy.batches():
            new = np.flatnonzero(rest[block])
            rotated = regression.rotate(features[new])
            scores = (1 - chosen.share) * _log_f(
                found.fit, (rotated @ flat).reshape(len(new), *found.mean.shape) + found.mean
            )
            if heads is not None and chosen.share:
                scores = scores + chosen.share * _log_f(heads.fit, heads.scores(rotated))
            here = block.start + new
            posterior[here] = posteriors(scores, task.observed[here], fit.link, fit.mixture, mode)
    return posterior


def _metrics(
    regression: CrossFit, chosen: _Mixed, posterior: FloatArray, rows: _Rows, task: PurifyTask
) -> dict[str, Any]:
    transition = chosen.fit.link.transition
    metrics: dict[str, Any] = {
        "chosen": {**regression.chosen, "noise": chosen.fit.structure, "softmax_share": chosen.share},
        "mixtures": chosen.tried,
        "sampled_rows": len(rows.sampled),
        "trusted_rows": len(task.trusted_label),
        "transition": [[round(float(value), 5) for value in row] for row in transition],
        "noise_rate": round(float(1 - posterior[np.arange(len(posterior)), task.observed].mean()), 5),
        **_collapse(transition, posterior, task),
    }
    if chosen.fit.trusted is not None:
        right = chosen.fit.trusted.argmax(axis=1) == task.trusted_label
        metrics["held_out_accuracy"] = round(float(right.mean()), 5)
        metrics["held_out_loss"] = round(float(chosen.fit.trusted_loss or 0.0), 5)
    return metrics


def _collapse(transition: Array, posterior: FloatArray, task: PurifyTask) -> dict[str, list[int]]:
    """Classes that EM may have lost: no row has them as purified label though some had observed it, or their
    commonest observed label is another one's."""
    seen = np.bincount(task.observed, minlength=task.classes) > 0
    kept = np.bincount(posterior.argmax(axis=1), minlength=task.classes) > 0
    empty = np.flatnonzero(seen & ~kept)
    swapped = np.flatnonzero(seen & (transition.argmax(axis=1) != np.arange(task.classes)))
    if len(empty):
        log.warning("two_em: no row is left in class %s; look at these classes by hand", ", ".join(map(str, empty)))
    if len(swapped):
        log.warning(
            "two_em: the commonest observed label of class %s is another class; without trusted rows nothing shows "
            "such a class from a swapped one",
            ", ".join(map(str, swapped)),
        )
    return {"empty_classes": empty.tolist(), "swapped_classes": swapped.tolist()}
