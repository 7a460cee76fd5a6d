"""The seam: map a pure function over shards. In this process they run one after the other, on `run.threads` threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from lnl_core.config import RunSettings
from lnl_core.execution.ray_tasks import RayTasks, connected

Shard = TypeVar("Shard")
Result = TypeVar("Result")


@runtime_checkable
class Execution(Protocol):
    """Somewhere to map a function over shards."""

    def map(
        self,
        function: Callable[[Shard], Result],
        shards: Sequence[Shard],
        *,
        name: Callable[[Shard], str] = str,
        gpus: float = 0.0,
    ) -> Iterator[Result]:
        """`function(shard)` for each shard, in their order; what is computed ahead is bounded.

        Args:
            function: depends on its argument alone, may be called twice for one shard, and can be pickled.
            name: what a shard is called in messages.
            gpus: that a call needs to itself; may be a part of one.
        Raises:
            What the function raised; ShardLost where a shard's worker was lost again and again.
        """
        ...


class InProcess:
    """One shard after the other, here; nothing is pickled."""

    def map(
        self,
        function: Callable[[Shard], Result],
        shards: Sequence[Shard],
        *,
        name: Callable[[Shard], str] = str,
        gpus: float = 0.0,
    ) -> Iterator[Result]:
        """As `Execution.map`."""
        del name, gpus
        return map(function, shards)


IN_PROCESS = InProcess()


@contextlib.contextmanager
def execution(run: RunSettings) -> Iterator[Execution]:
    """What `run.execution` asks for, for as long as the context lasts.

    Raises:
        ConfigError: Ray is not installed, no cluster replies at `run.ray.address`, or it cannot run a single task.
    """
    if run.execution == "local":
        yield IN_PROCESS
    else:
        with connected(run.ray):
            yield RayTasks(run)
