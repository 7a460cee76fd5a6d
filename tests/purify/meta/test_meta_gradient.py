"""Meta-gradients against the exact ones: a differentiable step of SGD, and Prop. 2 and Alg. 2 written as loops."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call

from lnl_core.purify.meta.forward_batch_norm import running_statistics_kept
from lnl_core.purify.meta.forward_convolution import recording
from lnl_core.purify.meta.meta_gradient import (
    StudentStep,
    Weights,
    copied_weights,
    finite_difference,
    fpmg,
    gradient,
    log_prob_jvp,
    log_probabilities,
    soft_cross_entropy,
)

CLASSES, LR = 10, 0.1
Gradient = dict[str, Tensor]


class Corrector(nn.Module):
    """A small teacher: soft labels from the image and the observed label."""

    def __init__(self) -> None:
        super().__init__()
        self.by_image = nn.Linear(64, CLASSES)
        self.by_label = nn.Embedding(CLASSES, CLASSES)

    def forward(self, images: Tensor, observed: Tensor) -> Tensor:
        soft: Tensor = (self.by_image(images.flatten(1)) + self.by_label(observed)).softmax(dim=1)
        return soft


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.BatchNorm2d(6, affine=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    ).train()


@pytest.fixture
def teacher() -> Corrector:
    torch.manual_seed(1)
    return Corrector()


def digits(start: int, count: int = 12) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 8, 8] and labels of scikit-learn's digits."""
    data = load_digits()
    images = torch.tensor(data.images[start : start + count] / 16).unsqueeze(1)
    return images, torch.tensor(data.target[start : start + count])


def trusted_loss(student: nn.Module, weights: Weights) -> Tensor:
    images, label = digits(200, 16)
    with running_statistics_kept(student):
        return nn.functional.cross_entropy(functional_call(student, dict(weights), (images,)), label)


def trusted_gradient(student: nn.Module, weights: Weights) -> Gradient:
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    found = torch.autograd.grad(trusted_loss(student, leaves), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def noisy_gradient(student: nn.Module, weights: Weights, images: Tensor, soft: Tensor) -> Gradient:
    """grad_w L~, differentiable with respect to the teacher."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    with running_statistics_kept(student):
        loss = soft_cross_entropy(log_probabilities(functional_call(student, leaves, (images,))), soft)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), create_graph=True), strict=True))


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    flat = [torch.cat([value.flatten() for value in values]) for values in (found, exact)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def trajectory(student: nn.Module, teacher: Corrector, steps: int) -> tuple[list[StudentStep], Gradient]:
    """So many steps of SGD on noisy batches, the oldest first, and g_w after the last."""
    images, _ = digits(0)
    student(images)  # builds the lazy layer
    weights, taken = copied_weights(student), []
    for number in range(steps):
        images, label = digits(20 * number)
        soft = teacher(images, (label + 3) % CLASSES)
        taken.append(StudentStep(weights=weights, inputs=images, soft_label=soft, lr=LR))
        found = noisy_gradient(student, weights, images, soft.detach())
        weights = {name: value - LR * found[name].detach() for name, value in weights.items()}
    return taken, trusted_gradient(student, weights)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 5e-2)])
def test_one_step_is_the_exact_meta_gradient(
    student: nn.Module, teacher: Corrector, momentum: float, decay: float
) -> None:
    """Prop. 1: differentiate the trusted loss through the step itself, also with momentum and weight decay."""
    images, label = digits(0)
    student(images)
    weights = copied_weights(student)
    velocity = {name: 0.1 * torch.randn_like(value) for name, value in weights.items()}
    soft = teacher(images, (label + 3) % CLASSES)
    found = noisy_gradient(student, weights, images, soft)
    after = {
        name: value - LR * (momentum * velocity[name] + found[name] + decay * value) for name, value in weights.items()
    }
    exact = torch.autograd.grad(trusted_loss(student, after), list(teacher.parameters()), retain_graph=True)

    direction = trusted_gradient(student, after)
    step = StudentStep(weights=weights, inputs=images, soft_label=soft, lr=LR)
    meta = torch.autograd.grad(fpmg(student, [step], direction), list(teacher.parameters()))
    assert relative_error(meta, exact) < 1e-10


def test_one_step_in_float32_is_exact_to_its_rounding(student: nn.Module, teacher: Corrector) -> None:
    [step], direction = trajectory(student, teacher, 1)
    exact = torch.autograd.grad(fpmg(student, [step], direction), list(teacher.parameters()))

    single = copy.deepcopy(student).float(), copy.deepcopy(teacher).float()
    images, label = digits(0)
    rounded = StudentStep(
        weights={name: value.float() for name, value in step.weights.items()},
        inputs=images.float(),
        soft_label=single[1](images.float(), (label + 3) % CLASSES),
        lr=LR,
    )
    surrogate = fpmg(single[0], [rounded], {name: value.float() for name, value in direction.items()})
    meta = torch.autograd.grad(surrogate, list(single[1].parameters()))
    assert relative_error([value.double() for value in meta], exact) < 1e-5


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_k_steps_are_proposition_two(student: nn.Module, teacher: Corrector, steps: int) -> None:
    """Eq. 8: -eta_w sum_tau (1 - eta_w)^(t - tau) g_w^T H(tau), with each H(tau) by double backward."""
    taken, direction = trajectory(student, teacher, steps)
    expected = [torch.zeros_like(value) for value in teacher.parameters()]
    for tau, step in enumerate(taken):
        found = noisy_gradient(student, step.weights, step.inputs, step.soft_label)
        along = torch.stack([(direction[name] * found[name]).sum() for name in found]).sum()
        product = torch.autograd.grad(along, list(teacher.parameters()), retain_graph=True)
        discount = (1 - LR) ** (steps - 1 - tau)
        expected = [total - LR * discount * value for total, value in zip(expected, product, strict=True)]
    meta = torch.autograd.grad(fpmg(student, taken, direction), list(teacher.parameters()))
    assert relative_error(meta, expected) < 1e-10


def test_reversed_is_the_published_join(student: nn.Module, teacher: Corrector) -> None:
    """Discounted products stacked newest first, soft labels stacked oldest first, multiplied row by row."""
    taken, direction = trajectory(student, teacher, 3)
    products, discount = [], 1.0
    for step in reversed(taken):
        products.append(discount * log_prob_jvp(student, step.weights, step.inputs, direction))
        discount *= 1 - LR
    soft = torch.cat([step.soft_label for step in taken])
    published = LR * (soft * torch.cat(products)).sum() / len(taken[0].inputs)
    expected = torch.autograd.grad(published, list(teacher.parameters()), retain_graph=True)
    surrogate = fpmg(student, taken, direction, joined="reversed")
    meta = torch.autograd.grad(surrogate, list(teacher.parameters()), retain_graph=True)
    assert relative_error(meta, expected) < 1e-10
    matched = torch.autograd.grad(fpmg(student, taken, direction), list(teacher.parameters()), retain_graph=True)
    assert relative_error(matched, expected) > 1e-2
    middle = [fpmg(student, taken[1:2], direction, joined=joined) for joined in ("matched", "reversed")]
    assert middle[0] == middle[1], "with one step there is nothing to reverse"


def test_finite_difference_is_two_gradients_of_the_teacher(student: nn.Module, teacher: Corrector) -> None:
    """MLC's definition, each gradient on its own; and it tends to the exact product as epsilon falls."""
    [step], direction = trajectory(student, teacher, 1)
    parameters = list(teacher.parameters())
    length = torch.cat([value.flatten() for value in direction.values()]).norm()
    e = 0.01 / length
    sides = []
    for sign in (1, -1):
        moved = {name: value + sign * e * direction[name] for name, value in step.weights.items()}
        with running_statistics_kept(student):
            log_probs = functional_call(student, moved, (step.inputs,)).log_softmax(dim=1).detach()
        loss = -(step.soft_label * log_probs).sum() / len(log_probs)
        sides.append(torch.autograd.grad(loss, parameters, retain_graph=True))
    expected = [-LR * (plus - minus) / (2 * e) for plus, minus in zip(*sides, strict=True)]

    def meta(epsilon: float) -> Sequence[Tensor]:
        surrogate = finite_difference(student, step, direction, epsilon=epsilon)
        return torch.autograd.grad(surrogate, parameters, retain_graph=True)

    assert relative_error(meta(0.01), expected) < 1e-9
    exact = torch.autograd.grad(fpmg(student, [step], direction), parameters, retain_graph=True)
    assert relative_error(meta(1e-4), exact) < 1e-4 < relative_error(meta(1.0), exact)


def test_jvp_of_one_linear_layer_by_hand() -> None:
    """Logits (w1 x, w2 x) with x = 2 at w = 0: p = 1/2 each, d log p1 = x (d1 - (d1 + d2) / 2)."""
    layer = nn.Linear(1, 2, bias=False)
    weights, direction = {"weight": torch.zeros(2, 1)}, {"weight": torch.tensor([[3.0], [1.0]])}
    found = log_prob_jvp(layer, weights, torch.tensor([[2.0]]), direction)
    torch.testing.assert_close(found, torch.tensor([[2.0, -2.0]]))


def test_nothing_of_the_student_changes(student: nn.Module, teacher: Corrector) -> None:
    [step], direction = trajectory(student, teacher, 1)
    before = copy.deepcopy(student.state_dict())
    log_prob_jvp(student, step.weights, step.inputs, direction)
    finite_difference(student, step, direction)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    student(step.inputs)
    assert student.state_dict()["1.num_batches_tracked"] == before["1.num_batches_tracked"] + 1


def test_evaluation_mode_goes_by_the_running_statistics(student: nn.Module, teacher: Corrector) -> None:
    [step], direction = trajectory(student, teacher, 1)
    student.eval()
    whole = log_prob_jvp(student, step.weights, step.inputs, direction)
    alone = log_prob_jvp(student, step.weights, step.inputs[:1], direction)
    torch.testing.assert_close(whole[:1], alone)


def test_gradient_by_name(student: nn.Module) -> None:
    images, label = digits(0)
    found = gradient(nn.functional.cross_entropy(student(images), label), student)
    nn.functional.cross_entropy(student(images), label).backward()  # type: ignore[no-untyped-call]
    for name, value in student.named_parameters():
        torch.testing.assert_close(found[name], value.grad)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_is_near_float32(student: nn.Module, teacher: Corrector, channels_last: bool) -> None:
    [step], direction = trajectory(student, teacher, 1)
    student = student.float()
    weights, along = ({k: v.float() for k, v in values.items()} for values in (step.weights, direction))
    inputs = step.inputs.float()
    exact = log_prob_jvp(student, weights, inputs, along)
    if channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = log_prob_jvp(student, weights, inputs, along)
    assert rounded.dtype == torch.float32
    assert relative_error([rounded], [exact]) < 0.05


def test_recorded_convolutions_give_the_same_product(student: nn.Module, teacher: Corrector) -> None:
    """Also after the step has changed the weights in place, and where an output was overwritten."""
    [step], direction = trajectory(student, teacher, 1)
    expected = log_prob_jvp(student, step.weights, step.inputs, direction)
    with recording(student) as record:
        logits = student(step.inputs)
    assert sum(len(outputs) for outputs in record.values()) == 2
    logits.sum().backward()
    with torch.no_grad():
        for value in student.parameters():
            value.sub_(LR * torch.ones_like(value))
    torch.testing.assert_close(log_prob_jvp(student, step.weights, step.inputs, direction, record), expected)
    for [(output, _)] in record.values():
        output.zero_()
    torch.testing.assert_close(log_prob_jvp(student, step.weights, step.inputs, direction, record), expected)


def test_recorded_convolutions_are_not_computed_again(student: nn.Module, teacher: Corrector) -> None:
    """Outputs from elsewhere show through: the replay takes them as they are."""
    [step], direction = trajectory(student, teacher, 1)
    with recording(student) as record:
        student(step.inputs + 1)
    found = log_prob_jvp(student, step.weights, step.inputs, direction, record)
    assert relative_error([found], [log_prob_jvp(student, step.weights, step.inputs, direction)]) > 1e-2
