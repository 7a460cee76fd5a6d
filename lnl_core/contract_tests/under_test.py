"""Which methods are tested: all of a registry, or the one that `lnl check-plugin` names."""

from __future__ import annotations

import json
import os
from typing import Any

from lnl_core.config import ConfigError, Settings, apply_overrides, parse
from lnl_core.registry import Entry, Registry

REFERENCE, SETTINGS = "LNL_CHECK_PLUGIN", "LNL_CHECK_PLUGIN_SETTINGS"  # module:function; a JSON list of KEY=VALUE


def entries(registry: Registry[Any]) -> list[Entry[Any]]:
    """The entries under test."""
    reference = os.environ.get(REFERENCE)
    if not reference:
        return list(registry)
    try:
        return [registry.get(reference)]
    except ConfigError:  # of another kind
        return []


def names(registry: Registry[Any]) -> list[str]:
    """Their names."""
    return [entry.name for entry in entries(registry)]


def own_settings() -> dict[str, Any]:
    """What `-S` of the command sets."""
    given = [f"own.{one}" for one in json.loads(os.environ.get(SETTINGS, "[]"))]
    found: dict[str, Any] = apply_overrides({"own": {}}, given)["own"]
    return found


def settings_of(entry: Entry[Any], quick: dict[str, Any]) -> Settings:
    """Its settings: those of `-S`, else `quick`, else its defaults."""
    return parse(entry.config, {**quick, **own_settings()}, entry.name)
