"""EMLC: enhanced meta label correction, with heads on cached features.

Keren Taraday and Baskin, "Enhanced Meta Label Correction for Coping with Label Corruption", ICCV 2023, arXiv
2305.12961. A teacher writes soft labels for the noisy rows, a student learns them, and three signals teach the teacher:

    q(y | x, observed) = w onehot(observed) + (1 - w) softmax(classifier(h(x)))         Sec. 3.6, Fig. 3
    L(alpha) = L_CE(trusted) + L_BCE(gate) + L_META(w*(alpha))                          Eq. 12

L_META is the student's loss on trusted rows, differentiated through its last k steps (Alg. 2, `meta/meta_gradient`).

Mode `fixed`, and where it departs from the paper:
  - the teacher reads its student (`ReadingTeacher`): its classifier adds to the student's log-probabilities, its gate
    to the log-odds that these give the observed label. A classifier of a thousand trusted rows knows less than a
    student of many half-right labels, which would learn its errors: at 50 % noise it lost to one on observed labels;
  - the classifier decays strongly: a thousand trusted rows are fitted exactly by a linear head on features, whose
    overconfident predictions then replace observed labels that were better;
  - the meta-gradient is taken without its factor eta_w: with eta_w = 0.02 it vanishes beside the supervised losses;
  - the gate learns from what the source said of the trusted rows, where known, rather than from artificial noise,
    whose share of one half shows nothing of the noise at hand;
  - folds: epoch and posterior are chosen on trusted rows that were not learnt from (the paper validates on those it
    learns from), and no row is corrected by networks that learned its observed label;
  - the posterior is the better of the teacher's q and the student's p(y | x) T[y, observed], both calibrated, the
    latter's two factors weighed on held-out trusted rows (`statistics/evidence`).

Memory: as `meta/features.py` says.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from lnl_core.config import ModeSettings
from lnl_core.purify import PURIFIERS
from lnl_core.purify.meta.features import purify_on_features
from lnl_core.purify.meta.folds import FeatureSettings, Heads
from lnl_core.purify.meta.images import EMLCImageSettings, purify_images
from lnl_core.purify.meta.teacher import EMLCCorrector, ReadingTeacher, Student, Teacher, feature_backbone
from lnl_core.purify.meta.training import MetaSchedule
from lnl_core.purify.task import Purification, PurifyTask

PUBLISHED: dict[str, Any] = {
    "k": 1,
    "epochs": 15,  # CIFAR, Sec. 4.1
    "min_steps": 0,
    "cosine": False,
    "weight_decay": 5e-4,
    "classifier_decay": 0.0,
    "meta_weight": 1.0,
    "undo_lr": False,
    "reads_student": False,
    "folds": 0,
    "posterior": "teacher",
    "corruption": "random",
    "gate_supervision": True,
    "jvp_joined": "matched",
    "trusted_in_noisy": False,
}
MODES: dict[str, dict[str, Any]] = {
    "paper": PUBLISHED,
    "released": PUBLISHED
    | {"k": 5, "gate_supervision": False, "jvp_joined": "reversed", "trusted_in_noisy": True},  # its CIFAR settings
    "fixed": {
        "k": 1,
        "epochs": 4,  # of 49,000 rows; the third is as good on held-out rows
        "min_steps": 400,  # of 1500 rows: at 200 the held-out loss is still falling
        "cosine": True,
        "weight_decay": 0.01,
        "classifier_decay": 1.0,
        "meta_weight": 1.0,
        "undo_lr": True,
        "reads_student": True,
        "folds": 4,
        "posterior": "best",
        "corruption": "observed",
        "gate_supervision": True,
        "jvp_joined": "matched",
        "trusted_in_noisy": False,
    },
}
HIDDEN_LAYER = {"weight_decay": 5e-4, "classifier_decay": 5e-4}  # what shrinks a linear head stops a hidden layer


class EMLCConfig(ModeSettings):
    """Settings of EMLC; those without a default are set by the mode."""

    modes = MODES

    mode: Literal["fixed", "paper", "released"] = "fixed"
    input: Literal["features", "images"] = "features"  # what teacher and student read
    images: EMLCImageSettings = Field(default_factory=EMLCImageSettings)  # all settings of input: images
    k: int = Field(ge=1, le=20)  # student steps for one of the teacher; paper: 5 on CIFAR, 1 on Clothing1M
    hidden: int = Field(default=0, ge=0)  # width of a hidden layer before both heads; 0: linear
    mix: bool = False  # half of each trusted batch trains the student; released code, on Clothing1M
    batch_size: int = Field(default=128, ge=1)  # noisy rows; paper, CIFAR
    trusted_batch_size: int = Field(default=128, ge=2)  # paper, CIFAR
    student_lr: float = Field(default=0.02, gt=0)  # SGD; paper, CIFAR
    momentum: float = Field(default=0.9, ge=0, lt=1)  # of the student; paper, CIFAR
    teacher_lr: float = Field(default=0.02, gt=0)  # SGD without momentum; paper, CIFAR
    gate_decay: float = Field(default=0.001, ge=0)  # weight decay of gate and embedding, enough to keep them finite
    sample_rows: int = Field(default=100_000, ge=10)  # noisy rows learnt from, a uniform sample
    epochs: int = Field(ge=1)
    min_steps: int = Field(ge=0)  # epochs are repeated until so many steps are taken: few rows, few batches
    cosine: bool  # learning rates fall to 0; else constant
    weight_decay: float = Field(ge=0)  # of the student; paper, CIFAR: 5e-4
    classifier_decay: float = Field(ge=0)  # weight decay of the teacher's classifier
    meta_weight: float = Field(ge=0)  # of L_META beside L_CE and L_BCE
    undo_lr: bool  # L_META's gradient without its factor eta_w
    reads_student: bool  # the teacher reads what its student predicts
    folds: int = Field(ge=0, le=20)  # 0: nothing is held out
    posterior: Literal["best", "student", "teacher"]  # what becomes the purified label
    corruption: Literal["random", "adversarial", "observed"]  # wrong labels that the gate learns from
    gate_supervision: bool  # L_BCE; off in the released code's CIFAR runs
    jvp_joined: Literal["matched", "reversed"]  # k > 1: the released code joins the products in reverse
    trusted_in_noisy: bool  # the released code's noisy rows include most trusted ones

    @model_validator(mode="before")
    @classmethod
    def _fill_for_hidden_layer(cls, values: Any) -> Any:  # runs before the mode fills what is left out
        if not isinstance(values, dict) or values.get("mode", "fixed") != "fixed" or not values.get("hidden"):
            return values
        return {**HIDDEN_LAYER, **values}

    @model_validator(mode="after")
    def _check_folds(self) -> EMLCConfig:
        if self.folds == 1:
            raise ValueError("folds must be 0 (nothing held out) or at least 2")
        return self


@PURIFIERS.register(
    "emlc",
    config=EMLCConfig,
    summary="enhanced meta label correction: a gated teacher, taught through its student (needs trusted rows)",
    source="Keren Taraday and Baskin, ICCV 2023",
    needs_trusted=True,
)
def emlc(task: PurifyTask, config: EMLCConfig, generator: np.random.Generator) -> Purification:
    """Purify the observed labels of `task`.

    Raises:
        ConfigError: no trusted rows, or settings that need images.
        ContractError: NaN, infinite or all-constant features.
    """
    if config.input == "images":
        return purify_images(task, config.images, generator)

    def build(rows: int, features: int, classes: int) -> Heads:  # noqa: ARG001
        return feature_heads(config, features, classes)

    return purify_on_features(task, feature_settings(config), build, generator)


def schedule_of(config: EMLCConfig) -> MetaSchedule:
    """The settings of the training loop."""
    return MetaSchedule(
        epochs=config.epochs,
        batch_size=config.batch_size,
        trusted_batch_size=config.trusted_batch_size,
        steps=config.k,
        student_lr=config.student_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        cosine=config.cosine,
        mix=config.mix,
        meta_weight=config.meta_weight,
        undo_lr=config.undo_lr,
        method="fpmg",
        joined=config.jvp_joined,
    )


def feature_settings(config: EMLCConfig) -> FeatureSettings:
    """The settings of the feature mode."""
    return FeatureSettings(
        name="emlc",
        schedule=schedule_of(config),
        min_steps=config.min_steps,
        sample_rows=config.sample_rows,
        folds=config.folds,
        posterior=config.posterior,
        trusted_in_noisy=config.trusted_in_noisy,
    )


def feature_heads(config: EMLCConfig, features: int, classes: int) -> Heads:
    """A student and a teacher on cached features, drawn from torch's generator as it is."""
    student = Student(*feature_backbone(features, config.hidden), classes)
    kind = ReadingTeacher if config.reads_student else Teacher
    teacher = kind(*feature_backbone(features, config.hidden), classes)
    corrector = EMLCCorrector(teacher, config.corruption, gate_supervision=config.gate_supervision)
    return Heads(student=student, corrector=corrector, optimizer=teacher_optimizer(config, teacher))


def teacher_optimizer(config: EMLCConfig, teacher: Teacher) -> torch.optim.Optimizer:
    """SGD with decays of their own for the classifier, for the weights of what it reads (none), and for all else."""
    decays = {"classifier": config.classifier_decay, "student_weight": 0.0, "odds_weight": 0.0}
    groups = [
        {"params": [value], "weight_decay": decays.get(name.split(".")[0], config.gate_decay)}
        for name, value in teacher.named_parameters()
    ]
    return torch.optim.SGD(groups, lr=config.teacher_lr)
