"""Encoders and the feature cache."""

from lnl_core import torchvision_cpu as _torchvision_cpu  # noqa: F401  before anything imports torchvision
