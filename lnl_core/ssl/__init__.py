"""Self-supervised pretraining; the only package that imports lightly."""

from lnl_core import torchvision_cpu as _torchvision_cpu  # noqa: F401  before anything imports torchvision
