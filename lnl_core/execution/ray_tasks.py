"""Shards as Ray tasks: a task a shard, a bounded number in flight, lost workers' shards done again elsewhere.

A task gets a shard's name and gives back where its result lies, or a small result: images and features stay on the file
system that all nodes share. Plain tasks rather than Ray Data or an actor pool: a shard is the unit of work already, Ray
starts a lost task anew by itself, and a worker process that is used again keeps what it has loaded.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lnl_core.config import ConfigError, RaySettings, RunSettings
from lnl_core.runtime import use_threads

Shard = TypeVar("Shard")
Result = TypeVar("Result")
RETRIES = 3  # of a shard whose worker or node is lost; an exception is not tried again, it would come again
_STORE_BYTES = 200 * 2**20  # of a Ray that is started here: sums of some MB pass through it, images never


# Ray binds to every interface, even with a loopback address, unless it need not look for one that others reach. The
# variable that says so is named for the systems where it always does.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class ShardLost(RuntimeError):
    """A shard's worker process was lost more often than is tried."""


class RayTasks:
    """An `Execution` on the Ray cluster that this process is connected to."""

    def __init__(self, run: RunSettings) -> None:
        self._run = run

    def map(
        self,
        function: Callable[[Shard], Result],
        shards: Sequence[Shard],
        *,
        name: Callable[[Shard], str] = str,
        gpus: float = 0.0,
    ) -> Iterator[Result]:
        """As `Execution.map`. Results wait for their turn: at most two a slot are running or done ahead."""
        ray, settings = _ray(), self._run.ray
        carried = ray.put(function)  # once, however many shards there are
        threads = self._run.threads or max(int(settings.cpus_per_task), 1)
        # Else a worker process with a GPU would end after each task (max_calls), and load the encoder for every shard.
        task = ray.remote(num_cpus=settings.cpus_per_task, num_gpus=gpus, max_calls=0, max_retries=RETRIES)(_work)
        running: dict[int, Any] = {}  # by number of the shard; done ones too, until it is their turn
        submitted = 0
        try:
            for turn in range(len(shards)):
                while True:
                    done = _done(running.values())
                    slots = settings.workers or _slots(settings, gpus)
                    while submitted < min(len(shards), turn + 2 * slots) and len(running) - len(done) < slots:
                        running[submitted] = task.remote(carried, shards[submitted], threads)
                        submitted += 1
                    if running[turn] in done:
                        break
                    ray.wait([one for one in running.values() if one not in done], num_returns=1)
                yield _result(running.pop(turn), name(shards[turn]))
        finally:
            for left in running.values():
                ray.cancel(left)


def _work(function: Callable[[Shard], Result], shard: Shard, threads: int) -> Result:
    """What runs in the worker process."""
    use_threads(threads)
    return function(shard)


def _done(tasks: Any) -> set[Any]:
    """Those of the tasks that have ended, well or not."""
    tasks = list(tasks)
    return set(_ray().wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)[0]) if tasks else set()


def _slots(settings: RaySettings, gpus: float) -> int:
    """Tasks that the cluster has room for now; nodes may come and go."""
    have = _ray().cluster_resources()
    rooms = [have.get("CPU", 0.0) / settings.cpus_per_task, *([have.get("GPU", 0.0) / gpus] if gpus else [])]
    if min(rooms) < 1:
        raise ConfigError(
            f"run.ray: a task wants {settings.cpus_per_task:g} CPUs and {gpus:g} GPUs, the cluster has "
            f"{have.get('CPU', 0):g} and {have.get('GPU', 0):g}; lower run.ray.cpus_per_task or gpus_per_task, or set "
            "run.ray.workers where the cluster grows by itself"
        )
    return int(min(rooms))


def _result(task: Any, shard: str) -> Any:
    ray = _ray()
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        cause.add_note(f"{shard}, on a Ray worker:\n{error}")
        raise cause from None
    except ray.exceptions.RayError as error:
        raise ShardLost(
            f"{shard}: its worker was lost {RETRIES + 1} times, last: {type(error).__name__}: {error}; look for an "
            "out-of-memory kill in the node's log, give a task more with run.ray.cpus_per_task, or lower "
            "features.batch_size"
        ) from error


@contextlib.contextmanager
def connected(settings: RaySettings) -> Iterator[None]:
    """Connect to the cluster, or start Ray on this machine and stop it again; a connection that is there is used.

    Raises:
        ConfigError: Ray is not installed, or no cluster replies.
    """
    with contextlib.ExitStack() as stack:
        where = _cluster(settings.address) if settings.address else _own(stack)
        ray = _ray()
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            ray.init(log_to_driver=False, logging_level="ERROR", **where)
        yield


def _cluster(address: str) -> dict[str, Any]:
    """Where a cluster is. A connection is tried first, for Ray itself tries on for minutes."""
    host, colon, port = address.rpartition(":")
    try:
        if colon:
            socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"run.ray.address = {address!r}: no Ray cluster replies ({error}); start one with `ray start --head`, "
            "write the address as host:port, or leave it empty and Ray is started here"
        ) from error
    return {"address": address}


def _own(stack: contextlib.ExitStack) -> dict[str, Any]:
    """A Ray on this machine alone: on loopback, without a dashboard, and nothing of it stays."""
    if "ray" not in sys.modules:  # it reads this when it is imported
        os.environ[_LOOPBACK] = "0"
        stack.callback(os.environ.pop, _LOOPBACK, None)
    return {
        "address": "local",  # not the one that RAY_ADDRESS names
        "num_cpus": len(os.sched_getaffinity(0)),
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": stack.enter_context(tempfile.TemporaryDirectory(prefix="lnl-ray-", ignore_cleanup_errors=True)),
    }


def _ray() -> Any:
    """The module, imported here because it is an optional extra and takes a second."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "run.execution = 'ray': Ray is not installed; pip install 'lnl-pipeline[ray]', or set run.execution: local"
        ) from error
    return ray
