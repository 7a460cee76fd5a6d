"""What `fit` of an estimator does: rows from arrays or paths through a purifier, and a head for new rows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lnl_core.config import Settings
from lnl_core.contracts import NO_LABEL, BoolArray, ContractError, FloatArray, Ids, IntArray, Purified, check_unique
from lnl_core.estimators.features import ArrayFeatures, FeatureSource, Rows, as_array, open_path
from lnl_core.estimators.labels import GivenLabels, classes_of
from lnl_core.estimators.trusted import GivenTrusted, id_labels, trusted_of
from lnl_core.purify.decide.check import CheckedFeatures
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.noise_metrics import noise_metrics
from lnl_core.purify.task import FeatureRows, PurifyTask
from lnl_core.runtime import seed_for
from lnl_core.statistics.linear_probe import LinearProbe, fit_linear_probe

__all__ = ["Fitted", "as_array", "fit_purifier", "probabilities_of"]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fitted estimator holds, in the caller's order; see `PurifierEstimator`."""

    classes: npt.NDArray[Any]  # [K]
    ids: Ids  # [n]
    labels: npt.NDArray[Any]  # [n]
    confidence: FloatArray  # [n]
    soft_labels: FloatArray  # [n, K]
    changed: BoolArray  # [n]
    route: npt.NDArray[Any]  # [n]
    metrics: dict[str, Any]
    width: int
    head: LinearProbe | None


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Who is purified and who is trusted, in class numbers."""

    observed: IntArray  # [n] in the caller's order, NO_LABEL where there is none
    noisy: Rows  # rows to be purified, in the order in which they stream
    trusted: GivenTrusted
    verified: IntArray  # [m]


def fit_purifier(
    method: str,
    config: Settings,
    features: Any,
    labels: Any,
    trusted: Any,
    *,
    classes: Any,
    seed: int,
    head_rows: int,
) -> Fitted:
    """Purify the labels of `features` [n, d] or of those at a path; arguments and errors as in `fit`."""
    with tempfile.TemporaryDirectory(prefix="lnl-") as scratch:
        source, given = _open(features, labels, Path(scratch))
        verified = trusted_of(trusted, source.ids, source.width, by_id=not isinstance(source, ArrayFeatures))
        names = classes_of(classes, given, verified.labels)
        rows = _split(source, given, verified, names)
        task = _task(source, rows, len(names))
        texts = tuple(str(name) for name in names)
        purified, metrics = purify(method, config, task, source.ids[rows.noisy], texts, seed)
        metrics = {**metrics, **noise_metrics(task, seed)}
        soft = _soft_labels(rows, purified, len(names))
        head = _fit_head(source, rows, task, soft, seed, head_rows) if head_rows >= 1 else None
    label = _label(rows, purified)
    changed = (label != rows.observed) & (rows.observed != NO_LABEL)
    route = np.where(changed, "relabel", "keep").astype(object)
    route[rows.noisy] = purified.route
    confidence = np.ones(len(label), dtype=np.float32)
    confidence[rows.noisy] = purified.confidence
    return Fitted(
        classes=names,
        ids=source.ids,
        labels=names[label],
        confidence=confidence,
        soft_labels=soft,
        changed=changed,
        route=route,
        metrics=metrics,
        width=source.width,
        head=head,
    )


def probabilities_of(head: LinearProbe, features: npt.NDArray[Any]) -> FloatArray:
    """[r, K] of new rows [r, d]."""
    scores = head.scores(torch.from_numpy(np.asarray(features, dtype=np.float32)))
    return np.asarray(scores.double().softmax(dim=1).float().numpy())


def _open(features: Any, labels: Any, scratch: Path) -> tuple[FeatureSource, GivenLabels]:
    if isinstance(features, str | Path):
        ids, given = id_labels(labels, "labels")
        check_unique(ids, given.what)
        return open_path(Path(features), ids, scratch), given
    if labels is None:
        raise ContractError("labels: requires y to be passed, but the target y is None; give one label for each row")
    given = GivenLabels.of(labels, "labels")
    if len(given) != len(features):
        raise ContractError(f"labels: {len(given)} labels for {len(features)} rows of features; give one for each row")
    return ArrayFeatures(features), given


def _label(rows: _Rows, purified: Purified) -> IntArray:
    """Class numbers [n] in the caller's order."""
    label = rows.observed.copy()
    label[rows.noisy] = purified.purified_label
    label[rows.trusted.rows] = rows.verified[: len(rows.trusted.rows)]
    return label


def _soft_labels(rows: _Rows, purified: Purified, classes: int) -> FloatArray:
    soft = np.eye(classes, dtype=np.float32)[_label(rows, purified)]
    soft[rows.noisy] = purified.soft_label
    return soft


def _fit_head(
    source: FeatureSource, rows: _Rows, task: PurifyTask, soft_labels: FloatArray, seed: int, head_rows: int
) -> LinearProbe:
    generator = np.random.default_rng(seed_for(seed, "estimator", "head"))
    count = min(head_rows, len(rows.noisy))
    picked = np.sort(generator.choice(len(rows.noisy), size=count, replace=False))
    soft = np.concatenate([soft_labels[rows.noisy[picked]], np.eye(task.classes)[rows.verified]])
    sample = CheckedFeatures(source.stream(rows.noisy[picked]), source.ids[rows.noisy[picked]])
    features = np.concatenate([_read(sample), task.trusted])
    return fit_linear_probe(torch.from_numpy(features), torch.from_numpy(soft.astype(np.float32)), task.classes)


def _split(source: FeatureSource, given: GivenLabels, trusted: GivenTrusted, classes: npt.NDArray[Any]) -> _Rows:
    """Noisy and trusted rows; a row that is neither trusted nor labelled is an error."""
    observed, verified = given.numbers(classes), trusted.labels.numbers(classes)
    is_trusted = np.zeros(len(given), dtype=bool)
    is_trusted[trusted.rows] = True
    neither = np.flatnonzero((observed == NO_LABEL) & ~is_trusted)
    if len(neither):
        raise ContractError(
            f"{given.what}: row {neither[0]} (id {source.ids[neither[0]]!r}) has no label and is not trusted "
            f"({len(neither)} such rows); leave these rows out, or, where -1 is a class, call it otherwise"
        )
    noisy = source.order[~is_trusted[source.order]]
    return _Rows(observed=observed, noisy=noisy, trusted=trusted, verified=verified)


def _task(source: FeatureSource, rows: _Rows, classes: int) -> PurifyTask:
    own = rows.trusted.features
    unknown = np.full(len(rows.verified), NO_LABEL, dtype=np.int32)
    return PurifyTask(
        noisy=source.stream(rows.noisy),
        observed=rows.observed[rows.noisy],
        trusted=source.take(rows.trusted.rows) if own is None else own,
        trusted_label=rows.verified,
        trusted_observed=rows.observed[rows.trusted.rows] if own is None else unknown,
        classes=classes,
    )


def _read(rows: FeatureRows) -> FloatArray:
    """[n, d] of a few rows."""
    found = np.empty(rows.shape, dtype=np.float32)
    for place, features in rows.batches():
        found[place] = features
    return found
