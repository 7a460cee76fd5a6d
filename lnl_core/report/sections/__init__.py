"""Sections of the report that stand in a file each and are found by its presence."""

from __future__ import annotations

import importlib
import pkgutil

from lnl_core.report.section import Section


def sections() -> list[Section]:
    """The `SECTION` of every module here, in order of file names."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}").SECTION for name in found]
