"""Shards on a Ray cluster of two nodes: order, bounds, failures, and what is left afterwards."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lnl_core.config import ConfigError, RunSettings
from lnl_core.contracts import ContractError
from lnl_core.execution import ray_tasks
from lnl_core.execution.ray_tasks import ShardLost
from lnl_core.execution.shards import IN_PROCESS, execution
from tests.execution.worker_functions import broken, end_worker, node_of, touch


def test_results_come_in_the_order_of_the_shards_from_both_nodes(on_cluster: dict[str, Any]) -> None:
    shards = [f"shard {number}" for number in range(10)]
    with execution(RunSettings(**on_cluster)) as ray:
        found = list(ray.map(node_of, shards))
    assert [shard for shard, _ in found] == shards
    assert len({node for _, node in found}) == 2


def test_a_slow_reader_is_not_buried_in_results(on_cluster: dict[str, Any], tmp_path: Path) -> None:
    shards = [tmp_path / f"{number:02d}" for number in range(40)]
    with execution(RunSettings(**on_cluster)) as ray:
        results = ray.map(touch, shards)
        assert next(results) == shards[0]
        time.sleep(1.0)
        assert len(list(tmp_path.iterdir())) <= 1 + 2 * 2  # two slots
        assert list(results) == shards[1:]


def test_an_exception_of_a_shard_arrives_as_what_it_is(on_cluster: dict[str, Any]) -> None:
    with (
        execution(RunSettings(**on_cluster)) as ray,
        pytest.raises(ContractError, match="not a readable image shard") as raised,
    ):
        list(ray.map(broken, ["a", "b", "c"], name="shard {}".format))
    assert "shard b, on a Ray worker" in raised.value.__notes__[0]
    assert "worker_functions.py" in raised.value.__notes__[0]  # where it happened there


def test_a_shard_that_always_costs_its_worker_is_named(
    on_cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tasks, "RETRIES", 1)
    with (
        execution(RunSettings(**on_cluster)) as ray,
        pytest.raises(ShardLost, match=r"part-00007: its worker was lost 2 times.*out-of-memory"),
    ):
        list(ray.map(end_worker, ["part-00007"]))


def test_a_task_that_no_node_can_hold_is_an_error_and_no_endless_wait(on_cluster: dict[str, Any]) -> None:
    with (
        execution(RunSettings(**on_cluster)) as ray,
        pytest.raises(ConfigError, match="a task wants 1 CPUs and 1 GPUs, the cluster has 2 and 0"),
    ):
        list(ray.map(touch, [Path("a")], gpus=1.0))


def test_no_cluster_at_the_address() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    run = RunSettings(execution="ray", ray={"address": "127.0.0.1:1"})
    with (
        pytest.raises(ConfigError, match=r"run\.ray\.address = '127\.0\.0\.1:1': no Ray cluster replies"),
        execution(run),
    ):
        pass


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'lnl-pipeline\[ray\]'"),
        execution(RunSettings(execution="ray")),
    ):
        pass


def test_local_shards_are_done_here_one_after_the_other() -> None:
    with execution(RunSettings()) as where:
        assert where is IN_PROCESS
        results = where.map(lambda shard: (shard, os.getpid()), ["a", "b"])
        assert next(results) == ("a", os.getpid())


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"cpus_per_task": 0}, {"workers": -1}, {"gpus_per_task": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RunSettings(ray=wrong)
