"""What MLC and MSLC share as baselines on cached features: the settings of training and the way to a posterior."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator

from lnl_core.config import Settings
from lnl_core.purify.meta.folds import FeatureCorrector, FeatureSettings, Heads
from lnl_core.purify.meta.teacher import Student, feature_backbone
from lnl_core.purify.meta.training import MetaSchedule


class MetaBaselineConfig(Settings):
    """The student trains as EMLC's does in its mode `fixed`, but longer: its teacher has the meta loss alone."""

    epochs: int = Field(default=12, ge=1)
    min_steps: int = Field(default=200, ge=0)  # epochs are repeated until so many steps are taken
    batch_size: int = Field(default=128, ge=1)  # noisy rows
    trusted_batch_size: int = Field(default=128, ge=2)
    hidden: int = Field(default=0, ge=0)  # width of a hidden layer of the student; 0: linear
    student_lr: float = Field(default=0.02, gt=0)  # SGD, cosine to 0
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    sample_rows: int = Field(default=100_000, ge=10)  # noisy rows learnt from, a uniform sample
    folds: int = Field(default=4, ge=0, le=20)  # 0: nothing is held out
    posterior: Literal["best", "student", "teacher"] = "best"  # what becomes the purified label
    teacher_lr: float = Field(default=1e-3, gt=0)  # Adam: the scale of the meta-gradient does not matter to it

    @model_validator(mode="after")
    def _check_folds(self) -> MetaBaselineConfig:
        if self.folds == 1:
            raise ValueError("folds must be 0 (nothing held out) or at least 2")
        return self


def baseline_settings(
    name: str, config: MetaBaselineConfig, method: Literal["fpmg", "finite_difference"]
) -> FeatureSettings:
    """The settings of the feature mode; one step of the teacher for one of the student."""
    schedule = MetaSchedule(
        epochs=config.epochs,
        batch_size=config.batch_size,
        trusted_batch_size=config.trusted_batch_size,
        steps=1,
        student_lr=config.student_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        cosine=True,
        mix=False,
        meta_weight=1.0,
        undo_lr=True,
        method=method,
    )
    return FeatureSettings(
        name=name,
        schedule=schedule,
        min_steps=config.min_steps,
        sample_rows=config.sample_rows,
        folds=config.folds,
        posterior=config.posterior,
    )


def new_student(config: MetaBaselineConfig, features: int, classes: int) -> Student:
    """The student's head, drawn from torch's generator as it is."""
    return Student(*feature_backbone(features, config.hidden), classes)


def with_adam(student: Student, corrector: FeatureCorrector, config: MetaBaselineConfig) -> Heads:
    """The networks of a fold, the corrector descending by Adam."""
    optimizer = torch.optim.Adam(corrector.parameters(), lr=config.teacher_lr)
    return Heads(student=student, corrector=corrector, optimizer=optimizer)
