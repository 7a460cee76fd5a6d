"""The image step of EMLC against its passes written out one by one, and what it says without images."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from lnl_core.config import ConfigError, ModelSettings
from lnl_core.models.encoder import build_encoder
from lnl_core.purify.meta.forward_batch_norm import running_statistics_kept
from lnl_core.purify.meta.images import EMLCImageSettings, purify_images
from lnl_core.purify.meta.step import EMLCNetworks, NoisyAndTrusted, StepSettings, new_networks
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import Runtime
from lnl_core.training.updates import MomentumSGD

CPU = Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=1)
SETTINGS = StepSettings(student_lr=0.1, teacher_lr=0.1, corruption="none", joined="matched", mix=False)
MODEL = ModelSettings(arch="preact_resnet18", width=4)


@pytest.fixture
def networks() -> EMLCNetworks:
    return new_networks(
        lambda seed: build_encoder(MODEL, 1, seed=seed),
        10,
        (0, 1),
        lambda network: network.double().train(),
        lambda network: MomentumSGD(network, CPU, momentum=0.9, weight_decay=1e-2),
        contextlib.nullcontext,
    )


@pytest.fixture
def batch() -> NoisyAndTrusted:
    digits = load_digits()
    images, label = torch.tensor(digits.images[:32] / 16).unsqueeze(1), torch.tensor(digits.target[:32])
    return NoisyAndTrusted(noisy=images[:16], observed=(label[:16] + 1) % 10, trusted=images[16:], label=label[16:])


@pytest.mark.parametrize("mix", [False, True])
def test_step_is_the_exact_one(networks: EMLCNetworks, batch: NoisyAndTrusted, mix: bool) -> None:
    """Eq. 12 by double backward through the student's step: after it both networks hold the same weights."""
    teacher, student = copy.deepcopy(networks.teacher), copy.deepcopy(networks.student)
    trained = len(batch.label) // 2 if mix else 0
    representation = teacher.backbone(torch.cat([batch.noisy, batch.trusted]))
    logits = teacher.classifier(representation)
    soft = teacher.correct(representation[:16], logits[:16], batch.observed).soft_label
    targets = torch.cat([soft, functional.one_hot(batch.label[:trained], 10).double()])
    weights = dict(student.named_parameters())
    images = torch.cat([batch.noisy, batch.trusted[:trained]])
    loss = -(targets * student(images).log_softmax(dim=1)).sum(dim=1).mean()
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    after = {
        name: value.detach() - 0.1 * (slope + 1e-2 * value.detach())
        for (name, value), slope in zip(weights.items(), found, strict=True)
    }
    with running_statistics_kept(student):
        meta = functional.cross_entropy(
            functional_call(student, after, (batch.trusted[trained:],)), batch.label[trained:]
        )
    total = functional.cross_entropy(logits[16:].float(), batch.label) + meta
    slopes = torch.autograd.grad(total, list(teacher.parameters()))
    expected = [
        value.detach() - 0.1 * (slope + 1e-2 * value.detach())
        for value, slope in zip(teacher.parameters(), slopes, strict=True)
    ]

    settings = dataclasses.replace(SETTINGS, mix=mix)
    losses = networks.step(batch, settings, torch.Generator(), update_teacher=True)
    for name, value in networks.student.named_parameters():
        torch.testing.assert_close(value.detach(), after[name].detach(), rtol=1e-9, atol=1e-9)
    for value, wanted in zip(networks.teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(value.detach(), wanted, rtol=1e-6, atol=1e-6)  # logits of the CE are in float32
    torch.testing.assert_close(losses.student, loss.detach())
    assert losses.trusted is not None
    torch.testing.assert_close(losses.trusted, meta.detach().float(), check_dtype=False)


def test_teacher_waits_for_the_end_of_the_window(networks: EMLCNetworks, batch: NoisyAndTrusted) -> None:
    before = copy.deepcopy([value.detach() for value in networks.teacher.parameters()])
    assert networks.step(batch, SETTINGS, torch.Generator(), update_teacher=False).trusted is None
    assert all(torch.equal(a, b) for a, b in zip(before, networks.teacher.parameters(), strict=True))
    networks.step(batch, SETTINGS, torch.Generator(), update_teacher=True)
    assert not networks.window
    moved = [not torch.equal(a, b) for a, b in zip(before, networks.teacher.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_features_alone_are_refused() -> None:
    class NoFeatures:
        shape = (2, 1)

        def batches(self) -> Iterator[tuple[slice, np.ndarray]]:
            raise AssertionError("not to be read")

    task = PurifyTask(
        noisy=NoFeatures(),
        observed=np.zeros(2, dtype=np.int32),
        trusted=np.zeros((1, 1), dtype=np.float32),
        trusted_label=np.zeros(1, dtype=np.int32),
        trusted_observed=np.zeros(1, dtype=np.int32),
        classes=2,
    )
    with pytest.raises(ConfigError, match="the pipeline"):
        purify_images(task, EMLCImageSettings(), np.random.default_rng(0))


def test_both_backbones_are_drawn_from_their_seed(networks: EMLCNetworks) -> None:
    def first(network: nn.Module) -> torch.Tensor:
        return next(network.parameters()).detach()

    assert not torch.equal(first(networks.teacher), first(networks.student))
