"""What a stage needs of the machine: device, autocast, threads, and generators derived from one seed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import threadpoolctl
import torch

from lnl_core.config import ConfigError, RunSettings


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Section `run`, resolved on this machine."""

    device: torch.device
    precision: str
    seed: int
    image_memory_mb: int
    image_disk_mb: int = 131072

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Mixed precision as set; a null context in float32."""
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.precision))

    def generator(self, *purpose: object) -> torch.Generator:
        """A CPU generator of its own for each purpose, so that one stage's draws never shift another's."""
        return torch.Generator().manual_seed(seed_for(self.seed, *purpose))

    def numpy_generator(self, *purpose: object) -> np.random.Generator:
        """The same for numpy."""
        return np.random.default_rng(seed_for(self.seed, *purpose))


def resolve(run: RunSettings) -> Runtime:
    """Resolve `auto`, check that the device exists, and set the number of threads.

    Raises:
        ConfigError: a CUDA device is set and there is none.
    """
    name = run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # of torch's launcher: a GPU a process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device = {run.device!r}: this machine has no CUDA device; use 'auto' or 'cpu'")
    if run.precision == "float16" and name == "cpu":
        raise ConfigError("run.precision = 'float16': only on CUDA; use 'bfloat16' or 'float32' on a CPU")
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of torch's launcher on this machine
    use_threads(run.threads or max(len(os.sched_getaffinity(0)) // beside, 1))
    return Runtime(
        device=torch.device(name),
        precision=run.precision,
        seed=run.seed,
        image_memory_mb=run.image_memory_mb,
        image_disk_mb=run.image_disk_mb,
    )


def use_threads(threads: int) -> None:
    """So many threads for torch and for numpy's and scipy's linear algebra, which torch's setting leaves alone."""
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Inside, torch draws initial weights from `seed`; its global generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reseed CUDA as well
        yield


def seed_for(seed: int, *purpose: object) -> int:
    """A 63-bit seed from the run's seed and what it is for; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
