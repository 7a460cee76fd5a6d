"""Features from two Ray nodes are those of one process, byte for byte, also where a node dies in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lnl_core.config import ModelSettings
from lnl_core.contracts import ContractError
from lnl_core.layout import Layout
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import save_encoder
from lnl_core.stages.stage import run_stage
from tests.execution.conftest import STORE_BYTES, pids

LOCAL: dict[str, Any] = {
    "run": {"device": "cpu", "threads": 1},
    "images": {"size": 8, "channels": 1, "flip": False},
    "prepare": {"dataset": "digits", "rows_per_shard": 150},  # 12 shards
    "features": {"batch_size": 60},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = Layout(tmp_path_factory.mktemp("digits"))
    run_stage("prepare", LOCAL, paths)
    save_encoder(paths.encoder, build_encoder(ModelSettings(arch="small_cnn", width=8), 1, seed=0), {})
    return paths.root


@pytest.fixture
def paths(prepared: Path, tmp_path: Path) -> Layout:
    shutil.copytree(prepared, tmp_path / "data")
    return Layout(tmp_path / "data")


def features(paths: Layout) -> dict[str, bytes]:
    return {shard.name: shard.read_bytes() for shard in sorted(paths.features.iterdir())}


def test_the_same_bytes_and_only_what_is_missing(paths: Layout, on_cluster: dict[str, Any]) -> None:
    run_stage("features", LOCAL, paths)
    local = features(paths)
    for name in list(local)[2:]:
        (paths.features / name).unlink()
    metrics = run_stage("features", {**LOCAL, "run": on_cluster}, paths)
    assert (metrics["shards_written"], metrics["shards_reused"]) == (10, 2)
    assert features(paths) == local
    assert not list(paths.root.rglob("*.tmp"))


def test_a_broken_shard_is_named(paths: Layout, on_cluster: dict[str, Any]) -> None:
    shard = sorted(paths.images.iterdir())[3]
    content = bytearray(shard.read_bytes())
    content[100:2000] = bytes(1900)
    shard.write_bytes(content)
    with pytest.raises(ContractError, match=rf"{shard.name}: .*prepare again"):
        run_stage("features", {**LOCAL, "run": on_cluster}, paths)


def test_a_node_killed_in_the_middle_changes_nothing(paths: Layout, on_cluster: dict[str, Any], cluster: Any) -> None:
    traces = paths.root / "traces"
    traces.mkdir()
    weights = traces / "weights.pth"
    weights.touch()
    encoder = {"encoder": "tests.execution.worker_functions:SlowEncoder", "weights": str(weights)}
    params = {**LOCAL, "features": {**LOCAL["features"], **encoder}}
    run_stage("features", params, paths)
    local = features(paths)
    shutil.rmtree(paths.features)
    doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, node_ip_address="127.0.0.1")
    (raylet,) = [process for name, process in doomed.live_processes() if name == "raylet"]
    killed = threading.Event()

    def kill_when_at_work() -> None:
        deadline = time.monotonic() + 120  # a busy machine starts a worker in half a minute
        while not (traces / doomed.node_id).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if (traces / doomed.node_id).exists():
            os.kill(raylet.pid, signal.SIGKILL)
            killed.set()

    killer = threading.Thread(target=kill_when_at_work)
    killer.start()
    metrics = run_stage("features", {**params, "run": on_cluster}, paths)
    killer.join()
    cluster.remove_node(doomed)
    assert killed.is_set(), "the third node never got a shard"
    assert not pids(doomed)
    # A worker may outlive its node for as long as it takes to end its shard, which is then found when it is done again.
    assert metrics["shards_written"] + metrics["shards_reused"] == len(local) == 12
    assert metrics["shards_reused"] <= 1
    assert features(paths) == local
    assert not list(paths.root.rglob("*.tmp"))
