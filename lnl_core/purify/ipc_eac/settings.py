"""Settings of `ipc_ensemble`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lnl_core.config import Settings
from lnl_core.statistics.moments import Transform


class IPCEnsembleConfig(Settings):
    """Settings of the ensemble around IPC; lists are the grids that cross-validation searches."""

    transforms: tuple[Transform, ...] = Field(default=("centre", "standardise"), min_length=1)
    ridge: tuple[float, ...] = Field(default=(0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)  # per row, unit variance
    max_steps: int = Field(default=256, ge=0)  # IPC steps tried: 0, 1, 2, 4, ...; CIFAR-10 with 90 % noise took 64
    squared_error: float = Field(default=0.0, ge=0)  # weight of the paper's squared error in L_val (Eq. 8)
    folds: int = Field(default=5, ge=2, le=50)
    held_out_rows: int = Field(default=300, ge=1)  # few trusted rows get folds anew until so many are scored
    search_rows: int = Field(default=5000, ge=10)  # trusted rows that the grid is searched with; all serve in the end
    eac_rows: int = Field(default=100_000, ge=100)  # EAC learns on a uniform sample of at most this many rows
    eac_steps: int = Field(default=250, ge=0)  # minibatches; no better with four times as many; 0: IPC alone
    eac_batch: int = Field(default=500, ge=1)  # released code: 500
    eac_lr: float = Field(default=0.008, gt=0)  # Adam, cosine to zero; released code .006 then .0006
    eac_weight_decay: float = Field(default=0.01, ge=0)  # on the squared weights; released code 3e-4 with 100 epochs
    eac_entropy: float = Field(default=0.0, ge=0)  # weight of the entropy term of Eq. 10; calibration sharpens instead
    eac_hidden: int = Field(default=0, ge=0)  # hidden units of networks beside the linear heads; auto: 512
    eac_network_steps: int = Field(default=1200, ge=1)  # at most; 15 epochs of 50,000 rows need these
    vote_work: float = Field(default=0, ge=0)  # multiplications spent on a vote of neighbours; auto: 3e12
    prior: Literal["trusted", "uniform", "observed"] = "trusted"  # class prior of the noisy rows
