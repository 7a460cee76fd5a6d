"""Calibrated confidence: what the out-of-fold predictions on trusted rows say of the posterior of a chosen label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lnl_core.contracts import FloatArray, IntArray
from lnl_core.purify.decide.cross_fit import TrustedPredictions
from lnl_core.statistics.calibration import Calibration, calibrate, calibration_error, prior_weights


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The map from a posterior to a confidence, and the out-of-fold predictions that it was fitted to."""

    predictions: TrustedPredictions
    weight: FloatArray  # [s] mean 1: gives the trusted rows the class prior of the noisy ones
    calibration: Calibration

    @property
    def confidence(self) -> FloatArray:
        """[s] calibrated, by a map that was not fitted to the row."""
        return self.calibration.held_out.astype(np.float32)

    @classmethod
    def on(
        cls, predictions: TrustedPredictions | None, posterior: FloatArray, generator: np.random.Generator
    ) -> Calibrated | None:
        """Calibrate on trusted rows; None where there are no predictions.

        Args:
            posterior: [n, K] of the noisy rows, for their class prior.
        """
        if predictions is None:
            return None
        weight = prior_weights(predictions.label, posterior.mean(axis=0, dtype=np.float64))
        changed = predictions.purified != predictions.observed
        calibration = calibrate(of_mode(predictions.posterior), predictions.right, changed, weight, generator)
        return cls(predictions=predictions, weight=weight.astype(np.float32), calibration=calibration)

    def as_metrics(self) -> dict[str, Any]:
        """What the trusted rows say; shares are weighted to the class prior of the noisy rows."""
        predictions, weight = self.predictions, self.weight
        return {
            "calibrated_on": len(predictions),
            "observed_labels_drawn": int(predictions.simulated.sum()),
            "held_out_right": round(float(np.average(predictions.right, weights=weight)), 5),
            "held_out_confidence": round(float(np.average(self.confidence, weights=weight)), 5),
            "calibration_error": round(calibration_error(self.confidence, predictions.right, weight), 5),
            "calibration": self.calibration.chosen,
            "calibrations": self.calibration.table,
        }


def confidence_of(
    label: IntArray, posterior: FloatArray, observed: IntArray, calibrated: Calibrated | None
) -> FloatArray:
    """[n] the probability that each label is right: the calibrated one of a mode, where there are trusted rows.

    A held label that is not the mode keeps its posterior, for the map was fitted to modes.
    """
    own = of_mode(posterior)
    if calibrated is not None and calibrated.calibration.chosen != "identity":
        own = calibrated.calibration.map(own, label != observed).astype(np.float32)
    held = label != posterior.argmax(axis=1)
    return np.where(held, posterior[np.arange(len(label)), label], own).astype(np.float32)


def of_mode(posterior: FloatArray) -> FloatArray:
    """[n] the posterior at its mode."""
    return np.asarray(np.minimum(posterior.max(axis=1), 1.0), dtype=np.float32)
