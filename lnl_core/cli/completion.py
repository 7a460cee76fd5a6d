"""What the shell offers after Tab (`lnl --install-completion`): names alone, so nothing heavy is imported."""

from __future__ import annotations

from lnl_core.catalogue import listed
from lnl_core.config import load_overlays, preset_names
from lnl_core.layout import STAGE_NAMES
from lnl_core.registry import PURIFIER


def complete_purifier(incomplete: str) -> list[str]:
    """Purifiers."""
    return [one.name for one in listed(PURIFIER) if one.name.startswith(incomplete)]


def complete_stage(incomplete: str) -> list[str]:
    """Stages, in their order."""
    return [name for name in STAGE_NAMES if name.startswith(incomplete)]


def complete_preset(incomplete: str) -> list[str]:
    """Presets; after a `+` the overlays that are not there yet."""
    before, plus, last = incomplete.rpartition("+")
    known = sorted(load_overlays().keys() - set(before.split("+"))) if plus else preset_names()
    return [f"{before}{plus}{name}" for name in known if name.startswith(last)]
