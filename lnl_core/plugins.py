"""Code of others: an object named as `module:name`, and the entry points that installed packages offer."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from lnl_core.config import ConfigError


def load_object(reference: str, where: str) -> Any:
    """What `package.module:name` names; a module may also lie in the folder in which the command was started.

    Args:
        where: the setting and its value, for messages.

    Raises:
        ConfigError: no such module or name, or the module cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(_imported(module), name)
    except Exception as error:
        if isinstance(error, ConfigError):
            raise
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{where}: {problem}; the module must be installed, on PYTHONPATH or in this folder"
        ) from error


def source_of(made: Any) -> str:
    """The text of the module that made it."""
    return inspect.getsource(sys.modules[made.__module__])


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] or os.getcwd() in sys.path:
            raise
        sys.path.append(os.getcwd())  # a console script has not got it there
        return importlib.import_module(module)


@functools.cache
def entry_points_of(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of a group such as `lnl.purifiers`; nothing is imported."""
    return {point.name: point for point in entry_points(group=group)}
