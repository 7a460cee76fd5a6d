"""Checkpoints of an unfinished run: written atomically, loaded without pickle's powers, bound to their settings."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from lnl_core.files import atomic_path

log = logging.getLogger("lnl")


def save_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings and containers of them)."""
    with atomic_path(path) as temporary:
        torch.save({"fingerprint": fingerprint, "state": state}, temporary)


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state saved under `fingerprint`; None where there is none, or where it belongs to other settings or data.

    A checkpoint is a convenience: one that cannot be read is reported and the work starts anew.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        log.warning("%s: unreadable checkpoint (%s); starting anew", path, error)
        return None
    if saved["fingerprint"] != fingerprint:
        log.info("%s: checkpoint of other settings or data; starting anew", path)
        return None
    state: dict[str, Any] = saved["state"]
    return state
