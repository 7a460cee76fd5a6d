"""What training methods conclude from the noise estimate that they are given; the truth is never among it.

Published settings are tables over true noise rates. Here each is a rule over the estimated share of wrong labels,
which meets the published values at the published rates (inclusive symmetric noise: "50 %" of CIFAR-10 is 45 % wrong)
and has a value in between. A setting given by the user is never replaced.

| rule | of | published | here |
|---|---|---|---|
| `lambda_u` | DivideMix Table 6 | C10 0, 25, 25, 50 at 20, 50, 80, 90 %, asym 0; C100 25, else 150 | cut half-way |
| `p_threshold` | DivideMix Sec. 4.2 | .5, .6 at 90 % | .6 from 76.5 % wrong |
| `loss_window` | DivideMix Sec. 3.1 | 1, mean of the last 5 epochs at 90 % | 5 from 76.5 % wrong |
| `confidence_penalty` | DivideMix Sec. 3.1 | asymmetric noise | asymmetric noise |
| `forget_rate` | Co-teaching, CDR: tau | the noise rate | the noise rate |
| `class_forget_rates` | Co-teaching: tau of each observed class | one for all | p(wrong given the class), mean tau |
| `clean_ratio` | ProMix: rho | .7 at 20 %, .5 | 0.9 (1 - rate), in 0.1..0.7 |
| `elr_constants` | ELR+: beta, lambda | C10 sym .7, 3; asym .9, 1; C100 .9, 7 | many classes as C100, else by type |
| `elr_lambda_ramp` | ELR+: share of training in which lambda rises | C10 0, C100 0.4 | .4 with many classes |
| `relabel_threshold` | SSR+: theta_r | .9 C10 sym, else .8 | .9 for symmetric noise of few classes, else .8 |
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lnl_core.statistics.noise_estimate import NoiseEstimate

Array = npt.NDArray[np.float64]
FEW_CLASSES = ((0.315, 0.0), (0.765, 25.0), (1.0, 50.0))  # CIFAR-10: (wrong share up to which, lambda_u)
MANY_CLASSES = ((0.35, 25.0), (1.0, 150.0))  # CIFAR-100: 25 at 20 %, else 150
MANY = 50  # classes from which CIFAR-100's constants hold
EXTREME = 0.765  # wrong share half-way between CIFAR-10's 80 % (72 % wrong) and 90 % (81 %)


def lambda_u(noise: NoiseEstimate) -> float:
    """Weight of DivideMix's unlabelled loss at the nearest noise share of its tables."""
    if noise.kind == "asymmetric" and noise.classes < MANY:
        return 0.0
    table = MANY_CLASSES if noise.classes >= MANY else FEW_CLASSES
    return next(value for bound, value in table if noise.rate <= bound)


def p_threshold(noise: NoiseEstimate) -> float:
    """Probability from which DivideMix takes a label for right."""
    return 0.6 if noise.rate > EXTREME else 0.5


def loss_window(noise: NoiseEstimate) -> int:
    """Over how many epochs DivideMix averages a row's loss."""
    return 5 if noise.rate > EXTREME else 1


def confidence_penalty(noise: NoiseEstimate) -> bool:
    """Whether the warm-up fights over-confidence."""
    return noise.kind == "asymmetric"


def forget_rate(noise: NoiseEstimate) -> float:
    """tau of Co-teaching and CDR; below 1, so that something is left to learn from."""
    return min(noise.rate, 0.95)


def class_forget_rates(noise: NoiseEstimate, tau: float) -> Array:
    """p(wrong label | observed class) [K], scaled so that the rows' mean is `tau`; below 1 like `forget_rate`.

    `tau` itself for a class that is never observed, and for all where the matrix has no noise.
    """
    joint = noise.prior[:, None] * noise.transition
    observed = joint.sum(axis=0)
    wrong = observed - np.diag(joint)
    if wrong.sum() <= 0:
        return np.full(noise.classes, tau)
    scale = tau * observed.sum() / wrong.sum()
    rates = np.where(observed > 0, scale * wrong / np.where(observed > 0, observed, 1.0), tau)
    return rates.clip(0.0, 0.95)


def clean_ratio(noise: NoiseEstimate) -> float:
    """rho of ProMix's class-wise selection: a little less than the share of right labels."""
    return min(max(0.9 * (1 - noise.rate), 0.1), 0.7)


def elr_constants(noise: NoiseEstimate) -> tuple[float, float]:
    """(beta, lambda) of ELR+."""
    if noise.classes >= MANY:
        return 0.9, 7.0
    return (0.9, 1.0) if noise.kind == "asymmetric" else (0.7, 3.0)


def elr_lambda_ramp(noise: NoiseEstimate) -> float:
    """Share of the training in which ELR+'s lambda rises: with many classes early predictions are still poor."""
    return 0.4 if noise.classes >= MANY else 0.0


def relabel_threshold(noise: NoiseEstimate) -> float:
    """theta_r of SSR+: lower where probability is shared among many classes, or between a class and its double."""
    return 0.9 if noise.kind == "symmetric" and noise.classes < MANY else 0.8
