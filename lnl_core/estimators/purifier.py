"""Purifiers as scikit-learn estimators: the same labels as `lnl purify`, from arrays or paths.

    purifier = IPCEnsemble().fit(features, labels, trusted=(rows, verified))
    purifier.labels_, purifier.confidence_, purifier.predict_proba(new_features)

Held in memory: the trusted features, n x K probabilities, what the method states, and `head_rows` rows of features for
the head that predicts new rows. The features themselves stream. torch and the methods are imported by `fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from lnl_core.config import ConfigError, Settings, parse

if TYPE_CHECKING:
    from lnl_core.estimators.fitting import Fitted

HEAD_ROWS = 50_000  # 400 MB of float32 at 2,048 features, once more while they are standardised
_BATCH = 8192  # new rows predicted at a time


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
        from lnl_core.estimators.fitting import as_array, fit_purifier

        method, config = self._method()
        if not isinstance(features, str | Path):
            features = validate_data(self, as_array(features), dtype="numeric", ensure_all_finite=False)
        self._keep(
            fit_purifier(
                method,
                config,
                features,
                labels,
                trusted,
                classes=classes,
                seed=self._seed(),
                head_rows=self.head_rows,
            )
        )
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
        from lnl_core.estimators.fitting import as_array, probabilities_of

        array = validate_data(self, as_array(features), reset=False, dtype="numeric")
        starts = range(0, len(array), _BATCH)
        return np.concatenate([probabilities_of(self._head, array[start : start + _BATCH]) for start in starts])

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

    def _keep(self, found: Fitted) -> None:
        self.classes_, self.ids_, self.metrics_ = found.classes, found.ids, found.metrics
        self.labels_, self.confidence_, self.soft_labels_ = found.labels, found.confidence, found.soft_labels
        self.changed_, self.route_ = found.changed, found.route
        self.n_features_in_ = found.width
        self._head = found.head


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
        from lnl_core.purify import PURIFIERS

        return self.method, parse(PURIFIERS.get(self.method).config, self.settings, self.method)
