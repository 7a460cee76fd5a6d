"""DMLP: the decoupled meta label purifier of Tu et al., CVPR 2023, Alg. 1.

Features stay frozen; the soft labels Y of the noisy rows are what is learned, by minibatches:

    IPC  w*(Y) = (F'F)^-1 F'Y,  P(Y) = F_v w*(Y)                           Eq. 6, 7
         Y <- Y - eta_I dL_val(P(Y)) / dY                                  Eq. 9, with L_val of Eq. 8
    EAC  a linear classifier C learns the corrected labels                 Eq. 10
         Y <- (1 - eta_E) Y + eta_E C(F), every T epochs                   Eq. 11

Mode `paper` runs the equations as printed, mode `released` what the authors' program does as far as we have read it;
`DMLPConfig` has a field for each difference, with its reason, and docs/methods.md a table of them. `ipc_ensemble` is
our own method on the same two ideas, and what `lnl purify` uses by default.

Deviations of both modes: rows are put into equal minibatches of about `batch_rows`, for a short tail would have no
inverse; the numbers come without an inverse per step (`published/ipc.py`), equal to the slow twin's to 1e-4.
"""

from __future__ import annotations

import logging

import numpy as np

from lnl_core.purify import PURIFIERS
from lnl_core.purify.published.procedure import published_dmlp
from lnl_core.purify.published.settings import DMLPConfig
from lnl_core.purify.task import Purification, PurifyTask
from lnl_core.purify.trusted_set import check_trusted_set

log = logging.getLogger("lnl")

__all__ = ["DMLPConfig", "dmlp"]


@PURIFIERS.register(
    "dmlp",
    config=DMLPConfig,
    summary="decoupled meta label purifier: the published procedure on frozen features (needs trusted rows)",
    source="Tu et al., CVPR 2023",
    needs_trusted=True,
)
def dmlp(task: PurifyTask, config: DMLPConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`.

    Raises:
        ConfigError: no trusted rows, or a class without one; F'F of a minibatch has no inverse. The message says what
            to do.
        ContractError: NaN or infinite features.
    """
    if "mode" not in config.model_fields_set:
        log.warning(
            "dmlp: purify.dmlp.mode is not set, so this is the paper's procedure (mode `paper`); what dmlp did by "
            "default up to version 0.1.0 is called ipc_ensemble now"
        )
    check_trusted_set("dmlp", task)
    return published_dmlp(task, config, generator)
