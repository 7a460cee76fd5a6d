"""dvc.lock as values. Read and written as YAML 1.2, as DVC does: PyYAML would take 1e-05 for a text."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from lnl_core.config import ConfigError
from tasks.job import Lock, StageFailed


def lock_text(lock: Lock) -> str:
    """The text of a dvc.lock with these stages, in the order of their names."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump({"schema": "2.0", "stages": dict(sorted(lock.items()))}, text)
    return text.getvalue()


def parse_lock(text: str, source: str) -> Lock:
    """The stages of a dvc.lock.

    Raises:
        StageFailed: it is not one; the message names `source`.
    """
    found = YAML(typ="safe", pure=True).load(text)
    if not isinstance(found, Mapping) or not isinstance(found.get("stages"), Mapping):
        raise StageFailed(f"{source}: no dvc.lock with a section 'stages'")
    return {str(name): dict(entry) for name, entry in found["stages"].items()}


def check_travels(stage: str, entry: dict[str, Any]) -> None:
    """Entries travel between machines as JSON.

    Raises:
        ConfigError: a setting would not come back as it was, a mapping whose keys are numbers, say.
    """
    if json.loads(json.dumps(entry)) != entry:
        raise ConfigError(f"stage {stage}: its params hold keys that are no text (or dates); put them in quotes")
