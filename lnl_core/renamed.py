"""What had another name up to version 0.1.0: old settings are refused with the new name, old files are still read.

CHANGELOG.md lists all of it under "Renamed"; tests/test_renamed.py holds the two together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Fields of `purify.dmlp` that belong to `ipc_ensemble`, which was its default mode.
_ENSEMBLE = (
    "transforms",
    "max_steps",
    "folds",
    "held_out_rows",
    "search_rows",
    "eac_rows",
    "eac_steps",
    "eac_hidden",
    "eac_network_steps",
    "vote_work",
)
SETTINGS: Mapping[str, str] = {  # old setting -> new one
    **{f"purify.dmlp.{name}": f"purify.ipc_ensemble.{name}" for name in _ENSEMBLE},
    **{f"purify.{name}.answer": f"purify.{name}.posterior" for name in ("emlc", "mlc", "mslc")},
    "purify.dmlp.published": "purify.dmlp",  # its fields stand in the section itself
    "inject.instance.spread": "inject.instance.rate_std",
}
VALUES: Mapping[tuple[str, str], str] = {  # (field, old value) -> what to write
    ("mode", "reference"): "released",
    ("purify.dmlp.mode", "fixed"): "purify.method: ipc_ensemble",
}
METRICS: Mapping[str, str] = {  # key in metrics.json and in a protocol card; stem of a plot's CSV
    "voices": "members",
    "voice": "member",
    "answer": "posterior",
    "belief": "predicted",
    "told_error": "noise_estimate_error",
    "rate_asked": "nominal_rate",
}
COLUMNS: Mapping[str, str] = {"belief": "predicted"}  # of a training trace
_KEYED_BY_NAMES = re.compile("._(per|by)_")  # of classes, sources, shards
VERSION_FIELDS: Mapping[str, str] = {"verdict": "gate_decision"}  # of a version store's JSON files


def new_setting(key: str) -> str:
    """The present name of the setting `section.method.field`, whose section may be left out; empty: it has none."""
    wanted = key.split(".")
    for old, new in SETTINGS.items():
        parts = old.split(".")
        if parts == wanted or parts[1:] == wanted:
            return new
    return ""


def new_value(key: str, value: object) -> str:
    """What is written now in place of `value` in setting `key`, whose section may be left out; empty: nothing else."""
    for (field, old), new in VALUES.items():
        if old == value and (f".{key}".endswith(f".{field}") or key == field.partition(".")[2]):
            return new
    return ""


def with_new_keys(metrics: Any) -> Any:
    """A JSON value with the present names of all keys, at any depth; below `*_per_*` and `*_by_*` stand a user's."""
    if isinstance(metrics, dict):
        return {
            METRICS.get(key, key): value if _KEYED_BY_NAMES.search(key) else with_new_keys(value)
            for key, value in metrics.items()
        }
    if isinstance(metrics, list):
        return [with_new_keys(value) for value in metrics]
    return metrics
