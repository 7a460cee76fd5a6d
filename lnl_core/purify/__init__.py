"""Purifiers: one file a method. Features and observed labels in, purified labels with a confidence each out."""

from lnl_core.purify.task import Purifier
from lnl_core.registry import PURIFIER, Registry

PURIFIERS: Registry[Purifier] = Registry(PURIFIER)
