"""published.yaml: which published number may stand beside ours."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

from lnl_core.bench.records import Record, noise_settings
from lnl_core.config import ConfigError, load_preset

NO_INJECTION = {"type": "none"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number. `by`: authors, others (runs of their own), or quoted (one paper's number, read in another)."""

    accuracy: float  # %
    which: str  # best | last
    source: str  # key of `sources`
    by: str


def published_for(record: Record, preset: str = "") -> list[Published]:
    """The published numbers of the record's method on the same data set under the same noise settings.

    Args:
        preset: the data set, where the record's own preset has another name (a subset of CIFAR-10 as a table, say).
    """
    cell = record["cell"]
    preset = preset or cell["preset"].split("+")[0]
    found = []
    for entry in _read()["results"]:
        if (entry["preset"], entry["method"]) != (preset, cell["method"]):
            continue
        for which in ("best", "last"):
            accuracy = entry.get(which, {}).get(cell["noise"])
            if accuracy is not None and record["inject"] == published_noise(preset, cell["noise"]):
                by = _read()["sources"][entry["source"]]["by"]
                found.append(Published(accuracy=accuracy, which=which, source=entry["source"], by=by))
    return found


def published_noise(preset: str, noise: str) -> dict[str, Any]:
    """The noise settings that a column of published numbers was made with."""
    try:
        return noise_settings(load_preset(f"{preset}+{noise}" if noise else preset).get("inject") or {})
    except ConfigError:
        return NO_INJECTION | {"unknown": noise}  # equal to no record's


def source_text(source: str) -> str:
    """What stands below the table."""
    about: Mapping[str, str] = _read()["sources"][source]
    says = {"authors": "the method's authors", "others": "run by others", "quoted": "quoted"}
    return f"{about['text']} ({says[about['by']]})"


@functools.cache
def _read() -> dict[str, Any]:
    text = resources.files("lnl_core").joinpath("bench", "published.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
