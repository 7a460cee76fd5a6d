"""What the tests let run on workers: it must be importable there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor

from lnl_core.contracts import ContractError


def node_of(shard: str) -> tuple[str, str]:
    """(shard, the node that it was done on)."""
    time.sleep(0.3)
    return shard, node()


def touch(path: Path) -> Path:
    """Leave a trace of having been called."""
    path.touch()
    return path


def broken(shard: str) -> str:
    """The second of the shards cannot be read."""
    if shard == "b":
        raise ContractError("b.parquet: not a readable image shard; run the stage prepare again")
    return shard


def end_worker(shard: str) -> str:
    """As the system's out-of-memory killer does."""
    del shard
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def node() -> str:
    import ray  # here, because the extra may be missing

    return str(ray.get_runtime_context().get_node_id())


class SlowEncoder:
    """Mean and deviation of each channel; leaves the name of its node beside `weights` at each batch."""

    fingerprint = "slow"

    def __init__(self, weights: Path) -> None:
        self.traces = weights.parent

    def __call__(self, images: Tensor) -> Tensor:
        if "RAY_JOB_ID" in os.environ:
            (self.traces / node()).touch()
            time.sleep(0.2)
        return torch.cat([images.mean(dim=(2, 3)), images.flatten(1), images.std(dim=(2, 3))], dim=1)
