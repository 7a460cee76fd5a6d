"""The loop against Alg. 1 of the paper, each gradient by double backward."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from lnl_core.purify.meta.teacher import EMLCCorrector, Student, Teacher, feature_backbone
from lnl_core.purify.meta.training import FeatureInputs, MetaRows, MetaSchedule, MetaTrainer, NoisyBatch, TrustedBatch

SCHEDULE = MetaSchedule(
    epochs=2,
    batch_size=8,
    trusted_batch_size=6,
    steps=1,
    student_lr=0.3,
    momentum=0.0,
    weight_decay=0.0,
    cosine=False,
    mix=False,
    meta_weight=1.0,
    undo_lr=False,
    method="fpmg",
)


def networks(seed: int = 0) -> tuple[Student, EMLCCorrector]:
    torch.manual_seed(seed)
    student = Student(*feature_backbone(5, 6), 3).double()
    teacher = Teacher(*feature_backbone(5, 6), 3)
    return student, EMLCCorrector(teacher, "adversarial", gate_supervision=False)


def batches(rows: int = 8) -> tuple[NoisyBatch, TrustedBatch]:
    torch.manual_seed(1)
    noisy = NoisyBatch(rows=torch.arange(rows), inputs=torch.randn(rows, 5), observed=torch.randint(3, (rows,)))
    label = torch.randint(3, (6,))
    return noisy, TrustedBatch(inputs=torch.randn(6, 5), label=label, observed=torch.full((6,), -1))


class InDouble(torch.nn.Module):
    """A student in float64 that reads float32 batches."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.student(inputs.double())


def exact_teacher_step(
    student: torch.nn.Module,
    corrector: EMLCCorrector,
    noisy: NoisyBatch,
    trusted: TrustedBatch,
    schedule: MetaSchedule,
    teacher_lr: float,
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Student's and teacher's weights after one step: the trusted loss at w - eta grad L~(w, alpha), differentiated."""
    half = 3 if schedule.mix else 0
    weights = dict(student.named_parameters())
    soft = corrector.teacher(noisy.inputs, noisy.observed).soft_label
    loss = -(soft * student(noisy.inputs).log_softmax(1)).sum(1).mean()
    if half:
        loss = loss + F.cross_entropy(student(trusted.inputs[:half]), trusted.label[:half])
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    moved = {name: w - schedule.student_lr * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    meta_loss = F.cross_entropy(functional_call(student, moved, (trusted.inputs[half:],)), trusted.label[half:])
    logits = corrector.teacher.classifier(corrector.teacher.backbone(trusted.inputs))
    total = schedule.meta_weight * meta_loss + F.cross_entropy(logits, trusted.label)
    alpha = list(corrector.parameters())
    steps = torch.autograd.grad(total, alpha)
    after = [a.detach() - teacher_lr * g for a, g in zip(alpha, steps, strict=True)]
    return {name: value.detach() for name, value in moved.items()}, after


@pytest.mark.parametrize("mix", [False, True])
def test_one_step_is_algorithm_1_with_the_exact_meta_gradient(mix: bool) -> None:
    schedule = replace(SCHEDULE, mix=mix, meta_weight=2.0)
    student, corrector = networks()
    wrapped, (noisy, trusted) = InDouble(student), batches()
    weights, alpha = exact_teacher_step(wrapped, corrector, noisy, trusted, schedule, teacher_lr=0.5)
    before = [value.detach().clone() for value in corrector.parameters()]
    trainer = MetaTrainer(wrapped, corrector, torch.optim.SGD(corrector.parameters(), lr=0.5), schedule)
    trainer.step(noisy, trusted, torch.Generator().manual_seed(0), teach=True)
    for name, value in wrapped.named_parameters():
        torch.testing.assert_close(value.detach(), weights[name])
    for value, expected in zip(corrector.parameters(), alpha, strict=True):
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-7)
    moved = [not torch.equal(old, new) for old, new in zip(before, corrector.parameters(), strict=True)]
    assert all(moved), "the gate and the embedding learn by the meta-gradient alone here"


def test_undo_lr_takes_the_factor_out() -> None:
    """With eta_w undone and a weight of eta_w, nothing changes."""
    noisy, trusted = batches()
    ends = []
    for undo, weight in ((False, 1.0), (True, SCHEDULE.student_lr)):
        student, corrector = networks()
        schedule = replace(SCHEDULE, undo_lr=undo, meta_weight=weight)
        optimizer = torch.optim.SGD(corrector.parameters(), lr=0.5)
        MetaTrainer(InDouble(student), corrector, optimizer, schedule).step(
            noisy, trusted, torch.Generator().manual_seed(0), teach=True
        )
        ends.append([value.detach().clone() for value in corrector.parameters()])
    for first, second in zip(*ends, strict=True):
        torch.testing.assert_close(first, second)


def rows(noisy: int = 20) -> MetaRows:
    torch.manual_seed(2)
    return MetaRows(
        noisy=FeatureInputs(values=torch.randn(noisy, 5)),
        observed=torch.randint(3, (noisy,)),
        trusted=FeatureInputs(values=torch.randn(9, 5)),
        trusted_label=torch.arange(9) % 3,
        trusted_observed=torch.full((9,), -1),
        learnt=torch.arange(9),
    )


def test_teacher_moves_after_every_kth_step_alone() -> None:
    student, corrector = networks()
    trainer = MetaTrainer(
        InDouble(student), corrector, torch.optim.SGD(corrector.parameters(), lr=0.1), replace(SCHEDULE, steps=3)
    )
    noisy, trusted = batches()
    seen = []
    for step in range(1, 7):
        before = copy.deepcopy(list(corrector.parameters()))
        trainer.step(noisy, trusted, torch.Generator().manual_seed(step), teach=step % 3 == 0)
        seen.append(any(not torch.equal(a, b) for a, b in zip(before, corrector.parameters(), strict=True)))
    assert seen == [False, False, True, False, False, True]


def test_same_generator_same_networks_and_epochs_are_counted() -> None:
    ends = []
    for _ in range(2):
        student, corrector = networks()
        trainer = MetaTrainer(
            InDouble(student),
            corrector,
            torch.optim.SGD(corrector.parameters(), lr=0.1),
            replace(SCHEDULE, cosine=True),
        )
        epochs = list(trainer.run(rows(), torch.Generator().manual_seed(3)))
        assert [end.epoch for end in epochs] == [1, 2]
        assert set(epochs[0].losses) == {"student_loss", "meta_loss", "teacher_ce"}
        ends.append([value.detach().clone() for value in (*student.parameters(), *corrector.parameters())])
    for first, second in zip(*ends, strict=True):
        assert torch.equal(first, second)


def test_without_a_teacher_it_is_plain_training() -> None:
    student, corrector = networks()
    before = copy.deepcopy(list(corrector.parameters()))
    trainer = MetaTrainer(InDouble(student), corrector, None, SCHEDULE)
    [*_, last] = trainer.run(rows(), torch.Generator().manual_seed(0))
    assert set(last.losses) == {"student_loss"}
    assert all(torch.equal(a, b) for a, b in zip(before, corrector.parameters(), strict=True))
