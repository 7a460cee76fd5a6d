"""Networks: encoders with a named width, the classifier on top, and their pickle-free files."""

from lnl_core import torchvision_cpu as _torchvision_cpu  # noqa: F401  before anything imports torchvision
