"""Purifiers as scikit-learn estimators: the same labels as `lnl purify`, from arrays or paths.

    purifier = IPCEnsemble().fit(features, labels, trusted=(rows, verified))
    purifier.labels_, purifier.confidence_, purifier.predict_proba(new_features)

Held in memory: the trusted features, n x K probabilities, what the method states, and `head_rows` rows of features for
the head that predicts new rows. The features themselves stream.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lnl_core.config import ConfigError, Settings, parse
from lnl_core.contracts import NO_LABEL, ContractError, FloatArray, Ids, IntArray, Purified, check_unique
from lnl_core.estimators.features import ArrayFeatures, FeatureSource, Rows, as_array, open_path
from lnl_core.estimators.labels import GivenLabels, classes_of
from lnl_core.estimators.trusted import GivenTrusted, id_labels, trusted_of
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.check import CheckedFeatures
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.noise_metrics import noise_metrics
from lnl_core.purify.task import FeatureRows, PurifyTask
from lnl_core.runtime import seed_for
from lnl_core.statistics.linear_probe import LinearProbe, fit_linear_probe

HEAD_ROWS = 50_000  # 400 MB of float32 at 2,048 features, once more while they are standardised
_BATCH = 8192  # new rows predicted at a time


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Who is purified and who is trusted, in class numbers."""

    observed: IntArray  # [n] in the caller's order, NO_LABEL where there is none
    noisy: Rows  # rows to be purified, in the order in which they stream
    trusted: GivenTrusted
    verified: IntArray  # [m]


class PurifierEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What all estimators share; `Purifier` and the classes named after methods add their parameters.

    Attributes:
        labels_: [n] purified labels in the caller's type and order; the verified label where a row is trusted.
        confidence_: [n] probability that the label is right; 1 where trusted.
        soft_labels_: [n, K] p(true label | features, observed label), columns as in `classes_`.
        changed_: [n] whether the label is another than the one given.
        route_: [n] keep, relabel or review; without a promise about wrong changes no row is left to review.
        classes_: [K] sorted.
        ids_: [n] ids of the rows; their numbers as texts where features were an array.
        metrics_: what the method reports: choices, noise rate, transition matrix.
        n_features_in_: width of the features.
    """

    random_state: int
    head_rows: int

    def fit(self, features: Any, labels: Any, trusted: Any = None, *, classes: Any = None) -> Any:
        """Purify `labels`.

        Args:
            features: [n, d] numpy (memory-mapped too), torch, or anything that numpy makes an array of; or the path
                of a feature cache (folder of part-*.parquet) or of a Parquet or CSV table with columns id and feature.
            labels: [n] observed labels, ints or names, in the order of `features`. With features from a path they
                are joined on id: a mapping id -> label, a pair (ids, labels), or a file with columns id and label.
            trusted: (rows, labels): verified labels of some rows of `features`, as row numbers, as a mask [n], or, with
                features from a path, as ids; a mapping row or id -> label says the same. Or (features [m, d], labels):
                rows of their own, which are not purified. A trusted row may lack an observed label (-1, None, NaN).
            classes: all class labels, where some do not occur.

        Raises:
            ConfigError: a setting out of range; no trusted rows for a method that needs them.
            ContractError: labels, ids or features that do not fit; the message names the row.
        """
        method, config = self._method()
        with tempfile.TemporaryDirectory(prefix="lnl-") as scratch:
            source, given = self._open(features, labels, Path(scratch))
            verified = trusted_of(trusted, source.ids, source.width, by_id=not isinstance(source, ArrayFeatures))
            self.classes_ = classes_of(classes, given, verified.labels)
            rows = _split(source, given, verified, self.classes_)
            task = _task(source, rows, len(self.classes_))
            names = tuple(str(name) for name in self.classes_)
            purified, metrics = purify(method, config, task, source.ids[rows.noisy], names, self._seed())
            self._keep(source.ids, rows, purified, {**metrics, **noise_metrics(task, self._seed())})
            self._head = self._fit_head(source, rows, task)
        return self

    def predict_proba(self, features: Any = None) -> npt.NDArray[Any]:
        """[r, K] p(true label | features); without an argument `soft_labels_`, the posterior of the rows of `fit`.

        New rows have no observed label, so a linear head predicts them: multinomial logistic regression on the
        purified soft labels of at most `head_rows` rows of `fit` and on the trusted rows.
        """
        check_is_fitted(self, "soft_labels_")
        if features is None:
            return self.soft_labels_
        if self._head is None:
            raise ConfigError("head_rows = 0: there is no head for new rows; fit with head_rows of 1 or more")
        array = validate_data(self, as_array(features), reset=False, dtype="numeric")
        starts = range(0, len(array), _BATCH)
        return np.concatenate([_probabilities(self._head, array[start : start + _BATCH]) for start in starts])

    def predict(self, features: Any = None) -> npt.NDArray[Any]:
        """[r] most probable classes of new rows; without an argument `labels_`."""
        probabilities = self.predict_proba(features)
        return self.labels_ if features is None else self.classes_[probabilities.argmax(axis=1)]

    def fit_predict(self, features: Any, labels: Any, trusted: Any = None, *, classes: Any = None) -> npt.NDArray[Any]:
        """`fit`, then `labels_`."""
        return np.asarray(self.fit(features, labels, trusted, classes=classes).labels_)

    def _method(self) -> tuple[str, Settings]:
        """Name and settings, checked."""
        raise NotImplementedError

    def _seed(self) -> int:
        if not isinstance(self.random_state, int | np.integer) or self.random_state < 0:
            raise ConfigError(f"random_state = {self.random_state!r}: must be a whole number of 0 or more")
        return int(self.random_state)

    def _open(self, features: Any, labels: Any, scratch: Path) -> tuple[FeatureSource, GivenLabels]:
        if isinstance(features, str | Path):
            ids, given = id_labels(labels, "labels")
            check_unique(ids, given.what)
            source = open_path(Path(features), ids, scratch)
            self.n_features_in_ = source.width
            return source, given
        array = validate_data(self, as_array(features), dtype="numeric", ensure_all_finite=False)
        if labels is None:
            raise ContractError(
                "labels: requires y to be passed, but the target y is None; give one label for each row"
            )
        given = GivenLabels.of(labels, "labels")
        if len(given) != len(array):
            raise ContractError(f"labels: {len(given)} labels for {len(array)} rows of features; give one for each row")
        return ArrayFeatures(array), given

    def _keep(self, ids: Ids, rows: _Rows, purified: Purified, metrics: Mapping[str, Any]) -> None:
        """Put the labels into the caller's order."""
        label = rows.observed.copy()
        label[rows.noisy] = purified.purified_label
        label[rows.trusted.rows] = rows.verified[: len(rows.trusted.rows)]
        self.soft_labels_ = np.eye(len(self.classes_), dtype=np.float32)[label]
        self.soft_labels_[rows.noisy] = purified.soft_label
        self.confidence_ = np.ones(len(label), dtype=np.float32)
        self.confidence_[rows.noisy] = purified.confidence
        self.labels_ = self.classes_[label]
        self.changed_ = (label != rows.observed) & (rows.observed != NO_LABEL)
        self.route_ = np.where(self.changed_, "relabel", "keep").astype(object)
        self.route_[rows.noisy] = purified.route
        self.ids_, self.metrics_ = ids, dict(metrics)

    def _fit_head(self, source: FeatureSource, rows: _Rows, task: PurifyTask) -> LinearProbe | None:
        if self.head_rows < 1:
            return None
        generator = np.random.default_rng(seed_for(self._seed(), "estimator", "head"))
        count = min(self.head_rows, len(rows.noisy))
        picked = np.sort(generator.choice(len(rows.noisy), size=count, replace=False))
        soft = np.concatenate([self.soft_labels_[rows.noisy[picked]], np.eye(task.classes)[rows.verified]])
        sample = CheckedFeatures(source.stream(rows.noisy[picked]), source.ids[rows.noisy[picked]])
        features = np.concatenate([_read(sample), task.trusted])
        return fit_linear_probe(torch.from_numpy(features), torch.from_numpy(soft.astype(np.float32)), task.classes)


class Purifier(PurifierEstimator):
    """Any registered purifier by name.

    Args:
        method: as in `lnl methods`.
        settings: what to set otherwise than by default; checked by `fit`.
        random_state: a whole number; the same one gives the same labels.
        head_rows: rows that the head for new features learns from; 0 for none.
    """

    def __init__(
        self,
        method: str = "ipc_ensemble",
        *,
        settings: Mapping[str, Any] | None = None,
        random_state: int = 0,
        head_rows: int = HEAD_ROWS,
    ) -> None:
        self.method = method
        self.settings = settings
        self.random_state = random_state
        self.head_rows = head_rows

    def _method(self) -> tuple[str, Settings]:
        return self.method, parse(PURIFIERS.get(self.method).config, self.settings, self.method)


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


def _probabilities(head: LinearProbe, features: npt.NDArray[Any]) -> FloatArray:
    scores = head.scores(torch.from_numpy(np.asarray(features, dtype=np.float32)))
    return np.asarray(scores.double().softmax(dim=1).float().numpy())
