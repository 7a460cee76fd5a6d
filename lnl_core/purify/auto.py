"""Try several purifiers, keep the one that is right most often on trusted rows whose labels it has not seen.

Every candidate purifies the noisy rows and predicts the trusted rows out of fold (`decide/cross_fit.py`), weighted
to the class prior of the noisy rows. The choice:

    1. the share of right labels of each candidate, and the standard error of its paired difference to the highest
    2. of those within one standard error of the highest, the one with the lowest log-loss
    3. a pool of the two candidates of lowest log-loss (geometric mean of their posteriors) replaces it where the pool
       is right more often than the chosen one by more than one standard error

So on the trusted rows the choice is never below a candidate, trivial ones (`none`, `trusted_only`, `knn`) included, by
more than the standard error of the difference. A trusted row whose observed label nobody knows gets one drawn from a
transition matrix that comes from the trusted rows' own classifier, the same draw for all candidates;
`observed_labels_drawn` counts them. Without trusted rows nothing can be compared: the first of `FALLBACK` among the
candidates purifies.

Held: a posterior n x K for each candidate, and what the hungriest candidate holds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import ConfigError, Settings, parse
from lnl_core.contracts import NO_LABEL, FloatArray, IntArray
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.cross_fit import known_or_drawn, out_of_fold
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.statistics.calibration import prior_weights
from lnl_core.statistics.softmax_link import row_losses
from lnl_core.statistics.transition import estimate_transition

log = logging.getLogger("lnl")
Array = npt.NDArray[np.float64]
FALLBACK = ("two_em", "confident_learning", "knn", "none")  # without trusted rows: the first of these that may run
POOL = "pool of "


class AutoConfig(Settings):
    """Settings of auto."""

    candidates: tuple[str, ...] = Field(
        default=("ipc_ensemble", "two_em", "trusted_only", "knn", "confident_learning", "none"), min_length=1
    )
    options: dict[str, dict[str, Any]] = Field(  # settings of a candidate by its name; else its defaults
        default={
            "ipc_ensemble": {"eac_hidden": 512, "vote_work": 3e12}
        }  # minutes instead of seconds, and more labels right
    )
    cross_fits: int = Field(default=3, ge=2, le=20)  # further fits of a candidate without out-of-fold predictions
    pool: bool = True  # may the two best be averaged?


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A purifier's predictions and what they cost."""

    name: str
    found: Purification
    held_out: FloatArray  # [m, K] NaN where there is no prediction
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """A candidate on the trusted rows that all candidates predict."""

    right: Array  # [s] 0 or 1
    loss: Array  # [s] nats
    weight: Array  # [s] sums to 1

    @property
    def accuracy(self) -> float:
        return float(self.weight @ self.right)

    @property
    def log_loss(self) -> float:
        return float(self.weight @ self.loss)

    def behind(self, other: Score) -> tuple[float, float]:
        """(accuracy of `other` minus this one's, its standard error), paired by row.

        The error is that of two equally good methods (McNemar 1947): sqrt(sum w^2 gap^2), so one row decides nothing.
        """
        gap = other.right - self.right
        return float(self.weight @ gap), float(np.sqrt(np.square(self.weight * gap).sum()))


@PURIFIERS.register(
    "auto",
    config=AutoConfig,
    summary="cross-validates several purifiers on the trusted rows and keeps the best (without trusted rows: two_em)",
)
def auto(task: PurifyTask, config: AutoConfig, generator: np.random.Generator) -> Purification:
    """Purify by the candidate that the trusted rows speak for.

    Raises:
        ConfigError: an unknown candidate or option, or none that can run.
    """
    settings = _settings(config)
    if len(task.trusted_label) == 0:
        return _without_trusted(task, settings, generator)
    transition = _evidence(task, generator)
    observed = known_or_drawn(task, transition, generator)
    candidates, left_out = _run_all(task, settings, config, observed, transition, generator)
    compared = np.asarray(np.isfinite(np.stack([each.held_out for each in candidates])).all(axis=(0, 2)))
    if not compared.any():
        raise ConfigError(
            f"auto: no trusted row can be predicted out of fold by all of {', '.join(settings)}; "
            "add trusted rows, two of a class at least"
        )
    weight = _weights(candidates, task.trusted_label, compared)
    scores = {each.name: _score(each.held_out[compared], task.trusted_label[compared], weight) for each in candidates}
    chosen = choose(scores)
    pooled = _pool(candidates, scores, task.trusted_label, compared, weight) if config.pool else None
    if pooled is not None:
        scores[pooled.name] = _score(pooled.held_out[compared], task.trusted_label[compared], weight)
        gap, error = scores[chosen].behind(scores[pooled.name])
        if gap > error * (1 + 1e-9):
            chosen = pooled.name
            candidates = [*candidates, pooled]
    winner = next(each for each in candidates if each.name == chosen)
    seconds = {each.name: each.seconds for each in candidates}
    metrics = {
        **_inherited(winner.found),
        "candidates": _table(scores, seconds, chosen),
        "chosen": {"method": chosen},
        **({"left_out": left_out} if left_out else {}),
        "trusted_rows": len(task.trusted_label),
        "observed_labels_drawn": int((task.trusted_observed == NO_LABEL).sum()),
        "held_out_accuracy": round(scores[chosen].accuracy, 5),
    }
    log.info("auto: %s (%.3f right on held-out trusted rows)", chosen, scores[chosen].accuracy)
    return Purification(
        posterior=winner.found.posterior,
        metrics=metrics,
        curve=winner.found.curve,
        trusted_posterior=_own_predictions(winner, task),
    )


def choose(scores: Mapping[str, Score]) -> str:
    """The name with the lowest log-loss among those within one standard error of the highest accuracy."""
    best = max(scores.values(), key=lambda score: score.accuracy)
    close = {}
    for name, score in scores.items():
        gap, error = score.behind(best)
        if gap <= error * (1 + 1e-9):  # one row apart: equal up to rounding
            close[name] = score.log_loss
    return min(close, key=lambda name: close[name])


def geometric_mean(first: FloatArray, second: FloatArray) -> FloatArray:
    """[n, K] proportional to sqrt(p q), rows sum to 1; each taken as at least 1e-6, so that neither can forbid."""
    pooled = np.sqrt(np.maximum(first, np.float32(1e-6)) * np.maximum(second, np.float32(1e-6)))
    return np.asarray(pooled / pooled.sum(axis=1, keepdims=True), dtype=np.float32)


def _settings(config: AutoConfig) -> dict[str, Settings]:
    """The settings of each candidate.

    Raises:
        ConfigError: an unknown name, `auto` itself, or options of what is no candidate.
    """
    given = config.options if "options" in config.model_fields_set else {}
    spare = sorted(set(given) - set(config.candidates))
    if spare:
        raise ConfigError(
            f"auto.options.{spare[0]}: no candidate (candidates: {', '.join(config.candidates)}); drop it"
        )
    if "auto" in config.candidates:
        raise ConfigError("auto.candidates: auto cannot be its own candidate; drop it")
    return {
        name: parse(PURIFIERS.get(name).config, config.options.get(name), f"auto.options.{name}")
        for name in dict.fromkeys(config.candidates)
    }


def _without_trusted(
    task: PurifyTask, settings: Mapping[str, Settings], generator: np.random.Generator
) -> Purification:
    free = [name for name in settings if not PURIFIERS.get(name).needs_trusted]
    if not free:
        raise ConfigError(
            f"auto: every candidate needs trusted rows ({', '.join(settings)}) and there are none; "
            "add trusted rows, or a candidate such as two_em"
        )
    name = next((name for name in FALLBACK if name in free), free[0])
    log.info("auto: there are no trusted rows to compare methods on; %s purifies", name)
    found = PURIFIERS.get(name).make(task, settings[name], generator)
    metrics = {**_inherited(found), "chosen": {"method": name}, "trusted_rows": 0}
    return Purification(posterior=found.posterior, metrics=metrics, curve=found.curve)


def _evidence(task: PurifyTask, generator: np.random.Generator) -> Array:
    """T from a classifier of the trusted rows, by expectation-maximisation; read only where labels are unknown."""
    if (task.trusted_observed != NO_LABEL).all():
        return np.eye(task.classes)
    alone = PURIFIERS.get("trusted_only")
    probabilities = alone.make(task, alone.config(), generator).posterior
    return estimate_transition(
        probabilities, task.observed, anchor_label=task.trusted_label, anchor_observed=task.trusted_observed
    )


def _run_all(
    task: PurifyTask,
    settings: Mapping[str, Settings],
    config: AutoConfig,
    observed: IntArray,
    transition: Array,
    generator: np.random.Generator,
) -> tuple[list[Candidate], list[dict[str, str]]]:
    """Every candidate, and those that say that they cannot work with these trusted rows, in their words."""
    candidates: list[Candidate] = []
    left_out: list[dict[str, str]] = []
    for (name, setting), own in zip(settings.items(), generator.spawn(len(settings)), strict=True):
        make, start = PURIFIERS.get(name).make, time.perf_counter()
        try:
            found = make(task, setting, own)
        except ConfigError as error:
            log.warning("auto: %s is left out: %s", name, error)
            left_out.append({"method": name, "reason": str(error)})
            continue
        held_out = out_of_fold(make, setting, task, found, observed, transition, own, folds=config.cross_fits)
        held_out = _evidence_alone(held_out, task, observed)
        seconds = time.perf_counter() - start
        candidates.append(Candidate(name=name, found=found, held_out=held_out, seconds=seconds))
    if not candidates:
        raise ConfigError("auto: no candidate can run\n" + "\n".join(record["reason"] for record in left_out))
    return candidates, left_out


def _evidence_alone(held_out: FloatArray, task: PurifyTask, observed: IntArray) -> FloatArray:
    """Rows that a method cannot predict without an observed label (`none`): what the drawn label alone says."""
    silent = ~np.isfinite(held_out).all(axis=1) & (task.trusted_observed == NO_LABEL)
    drawn = np.eye(task.classes, dtype=np.float32)[observed[silent]]
    filled = held_out.copy()
    filled[silent] = drawn
    return filled


def _weights(candidates: list[Candidate], label: IntArray, compared: npt.NDArray[np.bool_]) -> Array:
    """[s] sum 1: the class prior is that of the candidate of lowest log-loss."""
    best = min(candidates, key=lambda each: float(_losses(each.held_out[compared], label[compared]).mean()))
    weight = prior_weights(label[compared], best.found.posterior.mean(axis=0, dtype=np.float64))
    return np.asarray(weight / weight.sum())


def _score(held_out: FloatArray, label: IntArray, weight: Array) -> Score:
    right = (held_out.argmax(axis=1) == label).astype(np.float64)
    return Score(right=right, loss=_losses(held_out, label), weight=weight)


def _losses(held_out: FloatArray, label: IntArray) -> Array:
    return row_losses(held_out.astype(np.float64), label)


def _pool(
    candidates: list[Candidate],
    scores: Mapping[str, Score],
    label: IntArray,
    compared: npt.NDArray[np.bool_],
    weight: Array,
) -> Candidate | None:
    """The geometric mean of the two candidates of lowest log-loss; the posterior only where it will be needed."""
    if len(candidates) < 2:
        return None
    first, second = sorted(candidates, key=lambda each: scores[each.name].log_loss)[:2]
    held_out = geometric_mean(first.held_out, second.held_out)
    best = max(score.accuracy for score in scores.values())
    if _score(held_out[compared], label[compared], weight).accuracy <= best:
        return None
    return Candidate(
        name=f"{POOL}{first.name} and {second.name}",
        found=Purification(
            posterior=geometric_mean(first.found.posterior, second.found.posterior),
            metrics=first.found.metrics,
            curve=first.found.curve,
            trusted_posterior=_pooled_predictions(first.found, second.found),
        ),
        held_out=held_out,
        seconds=first.seconds + second.seconds,
    )


def _pooled_predictions(first: Purification, second: Purification) -> FloatArray | None:
    if first.trusted_posterior is None or second.trusted_posterior is None:
        return None
    return geometric_mean(first.trusted_posterior, second.trusted_posterior)


def _own_predictions(winner: Candidate, task: PurifyTask) -> FloatArray:
    """[m, K] as `Purification.trusted_posterior` wants it: no drawn label as evidence.

    A method that was fitted again has seen the drawn label of a row of unknown observed label; that prediction is NaN.
    """
    if winner.found.trusted_posterior is not None:
        return winner.found.trusted_posterior
    predicted = winner.held_out.copy()
    predicted[task.trusted_observed == NO_LABEL] = np.nan
    return predicted


def _inherited(found: Purification) -> dict[str, Any]:
    """The chosen method's figures; its own tables keep apart from those of `auto`."""
    renamed = {"candidates": "candidates_within", "chosen": "chosen_within", "trusted_rows": "trusted_rows"}
    return {renamed.get(key, key): value for key, value in found.metrics.items()}


def _table(scores: Mapping[str, Score], seconds: Mapping[str, float], chosen: str) -> list[dict[str, Any]]:
    """A record for each candidate, best first; the standard error is that of its distance to the highest accuracy."""
    best = max(scores.values(), key=lambda score: score.accuracy)
    ranked = sorted(scores.items(), key=lambda item: (item[0] != chosen, -item[1].accuracy))
    return [
        {
            "method": name,
            "right": round(score.accuracy, 5),
            "behind_best": round(score.behind(best)[0], 5),
            "standard_error": round(score.behind(best)[1], 5),
            "log_loss": round(score.log_loss, 5),
            "seconds": round(seconds[name], 2) if name in seconds else None,
        }
        for name, score in ranked
    ]
