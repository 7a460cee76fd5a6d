"""A cheap hash of what an image shard holds: caches and checkpoints are bound to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lnl_core.contracts import ContractError


def content_hash(shard: Path) -> str:
    """sha256 over the columns id and sha256: the same for the same images in the same order, without reading a pixel.

    Raises:
        ContractError: not a readable image shard.
    """
    try:
        table = pq.read_table(shard, columns=["id", "sha256"])
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{shard}: not a readable image shard ({error}); run the stage prepare again") from error
    digest = hashlib.sha256()
    for name, content in zip(table["id"].to_pylist(), table["sha256"].to_pylist(), strict=True):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
