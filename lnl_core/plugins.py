"""Code of others: an object named as `module:name`, and the entry points that installed packages offer."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lnl_core.config import ConfigError


def load_object(reference: str, where: str) -> Any:
    """What `package.module:name` names.

    Args:
        where: the setting and its value, for messages.

    Raises:
        ConfigError: no such module or name, or the module cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        if isinstance(error, ConfigError):
            raise
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}: {problem}; the module must be installed or on PYTHONPATH") from error


@functools.cache
def entry_points_of(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of a group such as `lnl.purifiers`; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}
