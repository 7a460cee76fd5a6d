"""Robust training: one file a method; each owns its loop."""

from lnl_core import torchvision_cpu as _torchvision_cpu  # noqa: F401  before anything imports torchvision
from lnl_core.registry import TRAINER, Registry
from lnl_core.train.task import Trainer

TRAINERS: Registry[Trainer] = Registry(TRAINER)
