"""The whole of it on real servers: S3 (SeaweedFS), Prefect, a git server's bare repository, a worker for each pool.

Two runs with the same settings: by the deployment `pools`, which does the work, and by `local`, which finds it done
while the Prefect server is killed and started again. A third one loses a stage's process and is then cancelled.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dev.checkout import copy_of_checkout, git
from dev.prefect_server import PrefectServer
from dev.seaweed import Seaweed
from lnl_core.layout import STAGE_NAMES
from tests.run_dvc import run_dvc

pytestmark = [pytest.mark.slow(minutes=4), pytest.mark.server]
REPOSITORY = Path(__file__).parents[2]
QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))
GPU_STAGES = {"pretrain", "features", "train"}
RUN_SECONDS = 900.0  # a bound; a run takes two minutes on two idle cores


@dataclass(frozen=True, kw_only=True)
class Platform:
    """All servers, and what runs on them."""

    server: PrefectServer
    seaweed: Seaweed
    bucket: str
    origin: Path  # the bare git repository
    s3: Mapping[str, str]  # variables of the S3 server

    def run(self, deployment: str, *overrides: str) -> str:
        """Start a run of `purify-and-train`; its id."""
        [found] = self.server.post("deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        body = {
            "parameters": {**found["parameters"], "overrides": [*QUICK, *overrides]},
            "state": {"type": "SCHEDULED"},
        }
        return str(self.server.post(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def flow_run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.get(f"flow_runs/{run}")
        return found

    def children(self, run: str) -> list[dict[str, Any]]:
        """The flow runs of stages that `run` has called, in order."""
        every = self.server.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", "limit": 200})
        return [found for found in every if (found["idempotency_key"] or "").startswith(f"{run}:")]

    def wait(self, what: Callable[[], Any], seconds: float = RUN_SECONDS, message: str = "") -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # a busy server replies late
                if found := what():
                    return found
            time.sleep(1)
        raise AssertionError(f"{message}\n{self.newest_log()}")

    def completed(self, run: str) -> dict[str, Any]:
        self.wait(lambda: is_final(self.flow_run(run)), message=f"run {run} does not end")
        found = self.flow_run(run)
        assert found["state_type"] == "COMPLETED", f"{found['state']}\n{self.newest_log()}"
        return found

    def artifact(self, run: str, key: str) -> Any:
        found = self.server.post(
            "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
        )
        assert found, f"run {run} shows no {key}"
        return found[0]["data"]

    def task_runs(self, run: str) -> set[str]:
        """Names of the tasks of a run that have started."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
        return {found["name"] for found in self.server.post("task_runs/filter", body)}

    def log_of(self, run: str, stage: str) -> str:
        """The log of the flow run that did `stage` for `run`."""
        [child] = [found for found in self.children(run) if found["parameters"]["job"]["stage"] == stage]
        body = {"logs": {"flow_run_id": {"any_": [child["id"]]}}, "limit": 200}
        return "\n".join(line["message"] for line in self.server.post("logs/filter", body))

    def newest_log(self) -> str:
        """The newest lines of all runs' logs."""
        lines = self.server.post("logs/filter", {"sort": "TIMESTAMP_DESC", "limit": 60})
        return "\n".join(f"{line['timestamp']} {line['message']}" for line in reversed(lines))


def is_final(flow_run: Mapping[str, Any]) -> bool:
    return flow_run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Servers, deployments and one worker a pool; the one of `gpu` has a home of its own, as if on another machine."""
    folder = tmp_path_factory.mktemp("platform")
    checkout, origin = copy_of_checkout(folder / "checkout"), folder / "origin.git"
    git(folder, "clone", "--quiet", "--bare", str(checkout), str(origin))
    with Seaweed(folder / "s3") as seaweed:
        bucket = seaweed.make_bucket("lnl")
        settings = {
            "LNL_HOME": str(folder / "home"),
            "LNL_DVC_REMOTE": f"{bucket}/dvc",
            "LNL_REPOSITORY": str(origin),
            "LNL_PUBLISH": f"{bucket}/reports",
            "PYTHONPATH": str(checkout),
        }
        environment = seaweed.environment | settings
        postgres = shutil.which("initdb") is not None  # SQLite does, but is slow with three workers
        with PrefectServer(folder / "prefect", checkout=checkout, environment=environment, postgres=postgres) as server:
            server.python("-m", "tasks.setup")
            server.python("-m", "tasks.setup")  # a second time changes nothing
            server.prefect("deploy", "--all")
            server.worker("cpu")
            server.worker("gpu", environment={"LNL_HOME": str(folder / "home-gpu")})
            server.worker("local", environment={"LNL_HOME": str(folder / "home-local")})
            yield Platform(server=server, seaweed=seaweed, bucket=bucket, origin=origin, s3=seaweed.environment)


@pytest.fixture(scope="module")
def pools_run(platform: Platform) -> str:
    """The id of a finished run by the deployment `pools`."""
    run = platform.run("pools")
    platform.completed(run)
    return run


def test_each_stage_ran_in_its_pool(platform: Platform, pools_run: str) -> None:
    children = platform.children(pools_run)
    placed = {child["parameters"]["job"]["stage"]: child["work_pool_name"] for child in children}
    assert sorted(placed) == sorted(STAGE_NAMES)
    assert len(children) == len(STAGE_NAMES), "a stage was called twice"
    assert {stage for stage, pool in placed.items() if pool == "gpu"} == GPU_STAGES
    assert set(placed.values()) == {"cpu", "gpu"}


def test_the_run_shows_what_it_did(platform: Platform, pools_run: str) -> None:
    assert json.loads(platform.artifact(pools_run, "summary"))[0]["what"] == "labels right before"
    assert "data:image/svg+xml" in platform.artifact(pools_run, "plots")
    assert f"{platform.bucket}/reports/{pools_run}.html" in platform.artifact(pools_run, "report")
    assert all(platform.artifact(pools_run, f"metrics-{stage}") for stage in STAGE_NAMES)
    published = platform.seaweed.client().get_object(Bucket="lnl", Key=f"reports/{pools_run}.html")
    assert published["Body"].read().startswith(b"<!")
    assert "lnl stage train" in platform.log_of(pools_run, "train")


def test_the_version_is_a_commit(platform: Platform, pools_run: str) -> None:
    lock = yaml.safe_load(git(platform.origin, "show", f"runs/{pools_run}:dvc.lock"))
    assert set(lock["stages"]) == set(STAGE_NAMES)
    commit = git(platform.origin, "rev-parse", f"runs/{pools_run}")
    assert commit in platform.artifact(pools_run, "version")


def test_a_second_clone_with_an_empty_cache_executes_no_stage(
    platform: Platform, pools_run: str, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--branch", f"runs/{pools_run}", str(platform.origin), str(clone))
    dvc(platform, clone, "remote", "add", "--local", "--default", "s3", f"{platform.bucket}/dvc")
    dvc(platform, clone, "pull")
    assert (clone / "data" / "purify" / "purified.parquet").exists()
    assert re.findall(r"Running stage '(\w+)'", dvc(platform, clone, "repro")) == []
    assert git(clone, "status", "--porcelain") == ""


def dvc(platform: Platform, folder: Path, *arguments: str) -> str:
    return run_dvc(folder, platform.server.environment | {"PYTHONPATH": str(folder)}, *arguments)


def test_another_machine_finds_it_done_through_a_crash_and_a_restarted_server(
    platform: Platform, pools_run: str
) -> None:
    """The automation of tasks.setup has the crashed run taken up again, by a new process under the same id."""
    run = platform.run("local")
    platform.wait(lambda: "inject" in platform.task_runs(run), message="stage inject does not start")
    kill_flow_run(run)
    platform.wait(lambda: "features" in platform.task_runs(run), message="nobody takes the run up again")
    platform.server.restart(down_seconds=3)
    platform.wait(lambda: platform.flow_run(run)["state_type"] == "COMPLETED", message="the run does not end well")
    assert platform.flow_run(run)["run_count"] == 2
    table = platform.artifact(run, "version")
    assert re.findall(r"\| (\w+) \| (\w+) \|", table)[1:] == [(stage, "restored") for stage in STAGE_NAMES]
    ours, theirs = (git(platform.origin, "show", f"runs/{each}:dvc.lock") for each in (run, pools_run))
    assert ours == theirs


def test_a_lost_process_is_replaced_and_cancelling_reaches_it(platform: Platform) -> None:
    run = platform.run("pools", "run.seed=7")
    first = platform.wait(lambda: running(platform.children(run)), message="no stage starts")
    kill_flow_run(first["id"])
    second = platform.wait(lambda: running(platform.children(run)[1:]), message="nobody replaces it")
    assert second["parameters"] == first["parameters"]
    assert platform.flow_run(first["id"])["state_type"] == "CRASHED"
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": False}
    platform.server.post(f"flow_runs/{run}/set_state", cancelling)
    platform.wait(lambda: is_final(platform.flow_run(second["id"])), 90, "the stage runs on")
    platform.wait(lambda: is_final(platform.flow_run(run)), 90, "the run runs on")
    assert platform.flow_run(second["id"])["state_type"] == "CANCELLED"
    assert platform.flow_run(run)["state_type"] == "CANCELLED"


def running(flow_runs: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((found for found in flow_runs if found["state_type"] == "RUNNING"), None)


def kill_flow_run(run: str) -> None:
    """kill -9 of the process of a flow run, as the kernel does it to whom memory runs out."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run and "prefect" in " ".join(process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def test_the_schedule_makes_runs(platform: Platform) -> None:
    """With an SQLAlchemy outside pyproject's range the server starts, but its scheduler makes no run."""
    wanted = {
        "deployments": {"name": {"any_": ["scheduled"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    found = platform.wait(lambda: platform.server.post("flow_runs/filter", wanted), 90, "the scheduler made no run")
    assert all(run["auto_scheduled"] for run in found)
