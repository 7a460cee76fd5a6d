"""Settings of `dmlp`: one field for each thing in which the paper and the released code differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from lnl_core.config import ModeSettings

Mode = Literal["paper", "released"]

MODES: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "minibatches": "shuffled",
        "optimizer": "gradient",
        "label_lr": None,
        "label_weight_decay": 0.0,
        "squared_error": "mean",
        "ipc_prior_weight": 0.0,
        "ipc_softmaxes": 1,
        "same_view": False,
        "swap_fires": True,
        "eac_prior_weight": 0.0,
        "eac_entropy": 1.0,
        "eac_softmaxes": 1,
    },
    "released": {
        "minibatches": "in_order",
        "optimizer": "adam",
        "label_lr": 0.01,
        "label_weight_decay": 3e-4,
        "squared_error": "sum",
        "ipc_prior_weight": 1.0,
        "ipc_softmaxes": 2,
        "same_view": True,
        "swap_fires": False,
        "eac_prior_weight": 2200.0,
        "eac_entropy": -0.4,
        "eac_softmaxes": 3,
    },
}


class DMLPConfig(ModeSettings):
    """DMLP by minibatches. Fields without a default follow the mode."""

    modes = MODES

    mode: Mode = "paper"  # as printed; or what the released code does, as far as we have read it

    # the loop (Alg. 1)
    epochs: int = Field(default=100, ge=1)  # released code
    batch_rows: int = Field(default=7000, ge=1)  # released code; the rows are put into batches of about this size
    minibatches: Literal["in_order", "shuffled"]  # shuffled: assigned at random once, visited in random order
    prior: Literal["uniform", "trusted", "observed"] = "uniform"  # classes of the prior terms; published: balanced
    same_view: bool  # IPC and EAC read the same features, even where there is a second view
    keep_simplex: bool = False  # project the labels of a step onto the simplex; as published they leave it
    ridge: float = Field(default=0.0, ge=0)  # penalty of Eq. 6 a row; the paper and the code have none
    # IPC (Eq. 6 to 9)
    optimizer: Literal["gradient", "adam"]  # Eq. 9 as printed, or Adam on the labels
    label_lr: float | None = Field(gt=0)  # eta_I; none: the inverse curvature of the batch (none is printed)
    label_betas: tuple[float, float] = (0.5, 0.999)  # Adam, released code
    label_weight_decay: float = Field(ge=0)  # Adam; pulls labels towards zero
    squared_error: Literal["mean", "sum"]  # over the trusted rows, beside the mean cross-entropy (Eq. 8)
    ipc_prior_weight: float = Field(ge=0)  # KL(prior || mean prediction), not in the paper
    ipc_softmaxes: int = Field(ge=1, le=5)  # softmaxes between scores and cross-entropy; 1 is right
    # EAC (Eq. 10, 11)
    eac: bool = True  # train the classifier, even where its predictions are never taken over
    swap_fires: bool  # Eq. 11 every `period` epochs; in the released code its condition is never true
    period: int = Field(default=20, ge=1)  # T
    eta: float = Field(default=0.5, ge=0, le=1)  # eta_E; no value is printed
    eac_batch: int = Field(default=500, ge=1)  # released code
    eac_lr: float = Field(default=0.006, gt=0)  # Adam, released code
    eac_later_lr: float = Field(default=0.0006, gt=0)  # after `eac_high_epochs`, released code
    eac_high_epochs: int = Field(default=4, ge=0)  # released code
    eac_weight_decay: float = Field(default=3e-4, ge=0)  # Adam, released code
    eac_prior_weight: float = Field(ge=0)
    eac_entropy: float = Field(ge=-100, le=100)  # Eq. 10 adds the entropy; the code 0.4 times the negative entropy
    eac_softmaxes: int = Field(ge=1, le=5)
    # the machine
    precision: Literal["float32", "float64"] = "float64"  # of IPC: Adam turns rounding of small gradients into steps
    eac_precision: Literal["float32", "float64"] = "float32"
    memory_mb: int = Field(default=2048, ge=0)  # what is larger (features, maps) lies in a scratch file

    @model_validator(mode="after")
    def _fields_fit(self) -> DMLPConfig:
        if self.optimizer == "adam" and self.label_lr is None:
            raise ValueError("optimizer 'adam' needs label_lr, e.g. 0.01")
        if self.swap_fires and not self.eac:
            raise ValueError("swap_fires needs eac: true, for it mixes EAC's predictions into the labels")
        if not all(0 <= beta < 1 for beta in self.label_betas):
            raise ValueError("label_betas must lie in [0, 1)")
        return self

    @classmethod
    def of(cls, mode: Mode, **changes: Any) -> DMLPConfig:
        """The settings of a mode with some fields changed."""
        return cls.model_validate({"mode": mode, **changes})
