"""Decisions with a memory: a label that an earlier version decided flips only when the evidence beats a margin.

    flip  <=>  log p(new) - log p(decided before) > margin        natural logarithm, present posterior p

New shards, new trusted rows and a new fit move every posterior a little. Without a margin the rows near a tie change
their label back and forth with each version, and with them the ledger, the reviews and what a model learns. A row
that is held keeps the decision of before, with its present posterior as confidence. Rows without a past take the mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, BoolArray, FloatArray, Ids, IntArray, Purified, read_purified
from lnl_core.files import file_md5


class UpdateSettings(Settings):
    """Which version's decisions stand, and what it takes to change one of them."""

    previous_md5: str = Field(default="", pattern="^([0-9a-f]{32})?$")  # of its purified.parquet; empty: no past
    flip_margin: float = Field(default=0.7, ge=0)  # ln 2: the new label must be about twice as probable; 0: no memory


@dataclass(frozen=True, kw_only=True)
class Past:
    """What was decided before about the rows of a task."""

    label: IntArray  # [n] the decision; `NO_LABEL` where there is none
    settings: UpdateSettings


def with_margin(posterior: FloatArray, past: Past | None) -> IntArray:
    """The label of each row [n] from its posterior [n, K] and what was decided before."""
    mode: IntArray = posterior.argmax(axis=1).astype(np.int32)
    if past is None or past.settings.flip_margin == 0:
        return mode
    return np.where(_held(posterior, mode, past), past.label, mode).astype(np.int32)


def _held(posterior: FloatArray, mode: IntArray, past: Past) -> BoolArray:
    """[n] p(mode) <= e^margin p(before): the same without the logarithm of a zero."""
    rows = np.arange(len(mode))
    before = posterior[rows, past.label].astype(np.float64)  # of NO_LABEL: the last class, and not used
    held = posterior[rows, mode] <= np.exp(past.settings.flip_margin) * before
    return np.asarray((past.label != NO_LABEL) & held)


def previous_version(path: Path, settings: UpdateSettings) -> Purified | None:
    """The purified table of the version before; None where the settings name none.

    Raises:
        ConfigError: no such file, or another one than the settings name.
    """
    if not settings.previous_md5:
        return None
    mend = (
        "lay the purified.parquet of that version there (`lnl reclean` does, and the flow `reclean`), or set "
        "purify.update.previous_md5 to '' to decide every row anew"
    )
    if not path.exists():
        raise ConfigError(f"{path}: no such file, and purify.update.previous_md5 is {settings.previous_md5}; {mend}")
    found = file_md5(path)
    if found != settings.previous_md5:
        raise ConfigError(
            f"{path}: its md5 is {found}, but purify.update.previous_md5 is {settings.previous_md5}; {mend}"
        )
    return read_purified(path)


def decided_before(previous: Purified, ids: Ids, observed: IntArray, class_names: tuple[str, ...]) -> IntArray:
    """[n] the previous version's decision on each row of the present one, in present class numbers.

    `NO_LABEL` for a row that is new, whose observed label (by name) is another now, or whose decided class is gone.
    """
    number = {name: place for place, name in enumerate(class_names)}
    now = np.array([number.get(name, NO_LABEL) for name in previous.class_names], dtype=np.int32)
    place = {name: row for row, name in enumerate(previous.ids)}
    rows = np.array([place.get(name, -1) for name in ids], dtype=np.intp)
    decision, seen = now[previous.purified_label], now[previous.label]
    found = np.full(len(ids), NO_LABEL, dtype=np.int32)
    same = np.flatnonzero(rows >= 0)
    same = same[seen[rows[same]] == observed[same]]
    found[same] = decision[rows[same]]
    return found
