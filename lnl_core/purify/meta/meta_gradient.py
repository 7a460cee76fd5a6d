"""The gradient of a student's trusted loss with respect to the teacher whose soft labels trained the student.

Student p_w, teacher q_alpha. The student descends L~ = -(1/n) sum_i q_alpha(i) . log p_w(i) on noisy rows; the teacher
is to lower the student's loss L on trusted rows after that step. With g = grad L(w(t+1)), the direction:

    FPMG  Taraday and Baskin, Enhanced Meta Label Correction (EMLC), ICCV 2023, Eq. 10 and 11, Alg. 2: the mixed
          second derivative of L~ is -J_w^T J_alpha, and J_w g is one forward-mode product. For one step of SGD it is
          the exact meta-gradient (Prop. 1), for k steps a discounted sum over them (Prop. 2).
    MLC   Zheng, Awadallah, Dumais, Meta Label Correction, AAAI 2021: the same derivative by central differences of
          the noisy loss at w(t) +- epsilon g.

Each comes as a scalar whose gradient with respect to alpha is the meta-gradient, so that it can be added to the
teacher's other losses and share their backward pass.

What is exact for k = 1: SGD, also with momentum and (coupled) weight decay, for neither the velocity before the step
nor the decay depends on this step's soft labels. Dampening d scales it by 1 - d, Nesterov momentum m by 1 + m (1 - d).

Batch normalisation: log p_w of a training step depends on its batch statistics, which depend on w. The product is
taken through them on the same batch; running statistics are neither read nor written (`running_statistics_kept`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from lnl_core.purify.meta.forward_batch_norm import forward_mode_batch_norm, running_statistics_kept
from lnl_core.purify.meta.forward_convolution import Record, replaying

Weights = Mapping[str, Tensor]  # by parameter name


@dataclass(frozen=True, kw_only=True)
class StudentStep:
    """One step of the student on a noisy batch."""

    weights: Weights  # w(tau), before the update
    inputs: Tensor  # [batch, ...]
    soft_label: Float[Tensor, "batch classes"]  # q_alpha of the batch, attached to the teacher
    lr: float  # eta_w
    record: Record | None = None  # of the step's forward pass, to spare a third of the product's time


def copied_weights(network: nn.Module) -> dict[str, Tensor]:
    """The parameters as they are now, detached and by name."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def gradient(loss: Float[Tensor, ""], network: nn.Module) -> dict[str, Tensor]:
    """grad of `loss` with respect to the parameters of `network`, by name; `.grad` is left alone."""
    parameters = dict(network.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def log_probabilities(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Log-softmax, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)


def soft_cross_entropy(
    log_probs: Float[Tensor, "batch classes"], soft_label: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """L~ of Eq. 6."""
    return -(soft_label * log_probs).sum(dim=1).mean()


def log_prob_jvp(
    student: nn.Module, weights: Weights, inputs: Tensor, direction: Weights, record: Record | None = None
) -> Float[Tensor, "batch classes"]:
    """J_w log p_w(y | x_i) at `weights`, times `direction`, for each row: one pass of forward-mode differentiation.

    Args:
        record: of a forward pass with these weights and inputs (`recording`), whose convolutions are then not repeated.
    """
    with (
        torch.no_grad(),
        forward_ad.dual_level(),
        forward_mode_batch_norm(student),
        replaying(student, record or {}),
    ):
        dual = {name: forward_ad.make_dual(weights[name], direction[name]) for name in weights}  # type: ignore[no-untyped-call]
        log_probs = log_probabilities(functional_call(student, dual, (inputs,)))
        tangent: Tensor = forward_ad.unpack_dual(log_probs).tangent  # type: ignore[no-untyped-call]
        return tangent.clone()


def meta_surrogate(
    soft_label: Float[Tensor, "batch classes"], jvp: Float[Tensor, "batch classes"], lr: float
) -> Float[Tensor, ""]:
    """Eq. 10 as a scalar: its gradient with respect to the teacher is eta_w/n sum_i jvp_i^T J_alpha(i)."""
    return lr * (soft_label * jvp.detach()).sum(dim=1).mean()


def fpmg(
    student: nn.Module,
    steps: Sequence[StudentStep],
    direction: Weights,
    *,
    joined: Literal["matched", "reversed"] = "matched",
) -> Float[Tensor, ""]:
    """Alg. 2: a scalar whose gradient with respect to the teacher is the meta-gradient over the last k steps.

    Line 6 of Alg. 2 prints w(t); Prop. 2 and Eq. 11, which it computes, have w(tau), and so has this.

    Args:
        steps: the last k steps, the oldest first; their soft labels by the teacher as it is now (it does not change
            between its updates).
        direction: g_w, the gradient of the trusted loss at w(t+1).
        joined: `reversed` is the published code for k > 1: the products, computed newest first, are put in a row
            against the soft labels, which lie oldest first, so that for odd k the middle step alone meets its own.
            It needs batches of one size.
    """
    products = [log_prob_jvp(student, step.weights, step.inputs, direction, step.record) for step in steps]
    return joined_surrogate(steps, products, joined=joined)


def joined_surrogate(
    steps: Sequence[StudentStep], products: Sequence[Tensor], *, joined: str = "matched"
) -> Float[Tensor, ""]:
    """The discounted sum of Eq. 11 from products [batch, classes] that are there already, the oldest step first."""
    total, discount = torch.zeros((), device=products[0].device), 1.0
    for back in range(len(steps)):
        step, jvp = steps[-1 - back], products[-1 - back]
        labelled = steps[back] if joined == "reversed" else step
        total = total + discount * meta_surrogate(labelled.soft_label, jvp, step.lr)
        discount *= 1 - step.lr  # gamma_w of Prop. 2
    return total


def finite_difference(
    student: nn.Module, step: StudentStep, direction: Weights, *, epsilon: float = 0.01
) -> Float[Tensor, ""]:
    """MLC's kind of meta-gradient: -eta_w (grad_alpha L~(w + e g) - grad_alpha L~(w - e g)) / (2 e), as a scalar.

    Args:
        epsilon: e = epsilon / |g|, as in Liu et al., DARTS, ICLR 2019, Sec. 2.3.
    """
    losses, scale = [], epsilon / float(norm(direction))
    for sign in (1, -1):
        log_probs = _log_probs_at(student, step, direction, sign * scale)
        losses.append(soft_cross_entropy(log_probs, step.soft_label))
    return -step.lr * (losses[0] - losses[1]) / (2 * scale)


def norm(direction: Weights) -> Float[Tensor, ""]:
    """Euclidean norm over all parameters; at least the smallest number that can divide."""
    squares = torch.stack([value.float().square().sum() for value in direction.values()])
    return squares.sum().sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _log_probs_at(
    student: nn.Module, step: StudentStep, direction: Weights, scale: float
) -> Float[Tensor, "batch classes"]:
    moved = {name: value + scale * direction[name] for name, value in step.weights.items()}
    with torch.no_grad(), running_statistics_kept(student):
        return log_probabilities(functional_call(student, moved, (step.inputs,)))
