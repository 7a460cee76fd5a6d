"""A Ray cluster of two nodes on loopback, one CPU each, in the processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lnl_core.config import RunSettings
from lnl_core.execution.shards import execution

STORE_BYTES = 100 * 2**20


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Stopped at the end, when nothing of it may be left."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else it binds to every interface
        cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra `ray` is not installed")
        started = cluster_utils.Cluster()
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=STORE_BYTES, node_ip_address="127.0.0.1")
        processes = {pid for node in started.list_all_nodes() for pid in pids(node)}
        assert processes
        yield started
        started.shutdown()
        left = {pid for pid in processes if alive(pid)}
        assert not left, f"processes of the cluster are left: {left}"
        assert not [pid for pid in all_processes() if "ray::" in command(pid) and parent(pid) in processes]


@pytest.fixture(scope="session")
def on_cluster(cluster: Any) -> Iterator[dict[str, Any]]:
    """Section `run` for the two nodes. Connected once: each connection has worker processes of its own to start."""
    run = {"device": "cpu", "threads": 1, "execution": "ray", "ray": {"address": cluster.address}}
    with execution(RunSettings(**run)):
        yield run


def pids(node: Any) -> set[int]:
    """Of the processes that a node consists of, its workers not among them."""
    return {process.pid for _, process in node.live_processes()}


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command(pid: int) -> str:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
