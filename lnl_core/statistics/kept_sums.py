"""Sums over the parts of a growing collection, kept from one version to the next.

    S_k = S_(k-1) + P_k,  S_0 = 0;  P_k the moments of part k alone, in float64

Parts are added in their order, so a run that starts at a kept S_k does the very additions that a run from the beginning
does after its first k: the same bits. Each part has a key that decides P_k. Kept sums are used where the keys of their
parts are the first keys of the present chain, and else thrown away.

On disk: a safetensors file with total [d], gram [d, d], cross [d, K], counts [K] in float64 and, in its metadata, the
format, the rows and the chain of keys; 8 d (d + K) bytes and 68 a part. Without a part, its arrays are empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lnl_core.contracts import ContractError
from lnl_core.files import atomic_path
from lnl_core.statistics.moments import Moments, no_rows

FORMAT = 1  # raise it where the way of summing changes: sums of another format are not continued
ARRAYS = ("total", "gram", "cross", "counts")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the collection."""

    key: str  # of all that decides its moments
    moments: Callable[[], Moments]  # computed when called
    name: str = ""  # what it is called in messages


@dataclass(frozen=True, kw_only=True)
class KeptSums:
    """The sums over the parts of a chain."""

    keys: tuple[str, ...]
    moments: Moments

    def begins(self, chain: Sequence[Part]) -> bool:
        """Are these the first parts of `chain`?"""
        return self.keys == tuple(part.key for part in chain[: len(self.keys)])


def nothing_kept(width: int = 0, classes: int = 0) -> KeptSums:
    """The sums over no part."""
    return KeptSums(keys=(), moments=no_rows(width, classes))


def moments_of(part: Part) -> Moments:
    """Those of one part, computed."""
    return part.moments()


def in_turn(chain: Sequence[Part]) -> Iterable[Moments]:
    """The moments of each part, one after the other."""
    return map(moments_of, chain)


def extended(
    kept: KeptSums | None,
    chain: Sequence[Part],
    width: int,
    classes: int,
    moments_in_order: Callable[[Sequence[Part]], Iterable[Moments]] = in_turn,
) -> tuple[KeptSums, int]:
    """The sums over all parts of `chain`, and how many of them came from `kept`.

    Args:
        kept: sums of an earlier version; None where there are none.
        moments_in_order: computes those of some parts wherever it likes; they are added up here, in order.
    """
    start = kept if kept is not None and kept.keys and kept.begins(chain) else nothing_kept(width, classes)
    moments = start.moments
    for found in moments_in_order(chain[len(start.keys) :]):
        moments = moments.plus(found)
    return KeptSums(keys=tuple(part.key for part in chain), moments=moments), len(start.keys)


def write_sums(path: Path, sums: KeptSums) -> None:
    """Write the sums, whole or not at all; the same sums give the same bytes."""
    about = {"format": FORMAT, "rows": sums.moments.rows, "parts": list(sums.keys)}
    with atomic_path(path) as temporary:
        arrays = {name: np.ascontiguousarray(getattr(sums.moments, name)) for name in ARRAYS}
        save_file(arrays, temporary, metadata={"lnl": json.dumps(about, sort_keys=True)})  # one key: no order to vary


def read_sums(path: Path) -> KeptSums | None:
    """The sums in a file; None where there is none, or one of another format.

    Raises:
        ContractError: not a file of sums.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["lnl"])
            if about["format"] != FORMAT:
                return None
            arrays = {name: file.get_tensor(name) for name in ARRAYS}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ContractError(f"{path}: not a file of kept sums ({error!r}); delete it, they are summed anew") from error
    return KeptSums(keys=tuple(about["parts"]), moments=Moments(rows=about["rows"], **arrays))
