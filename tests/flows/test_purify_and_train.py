"""The flow on digits with settings that take seconds: in process, and as the deployment that a worker serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.artifacts import Artifact

from flows.purify_and_train import purify_and_train
from lnl_core.config import ConfigError
from lnl_core.contracts import read_purified
from lnl_core.stages.layout import Layout

REPOSITORY = Path(__file__).parents[2]
QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_flow_runs_the_chain_and_shows_its_results(tmp_path: Path) -> None:
    asyncio.run(purify_and_train(str(REPOSITORY / "params.yaml"), str(tmp_path), QUICK))
    results = Layout(tmp_path)
    assert len(read_purified(results.purified)) > 1000
    assert results.report.read_text(encoding="utf-8").startswith("<!")
    artifacts = asyncio.run(latest_artifacts("summary", "noise-protocol", "report"))
    assert json.loads(artifacts["summary"])[0]["what"] == "labels right before"
    assert "symmetric" in artifacts["noise-protocol"]
    assert results.report.as_uri() in artifacts["report"]


async def latest_artifacts(*keys: str) -> dict[str, Any]:
    found = {key: await Artifact.aget(key) for key in keys}
    missing = [key for key, artifact in found.items() if artifact is None]
    assert not missing, f"no artifact {missing}"
    return {key: artifact.data for key, artifact in found.items() if artifact is not None}


@pytest.mark.usefixtures("prefect_server")
def test_a_typo_is_found_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sede.*did you mean 'seed'"):
        asyncio.run(purify_and_train(str(REPOSITORY / "params.yaml"), str(tmp_path), ["run.sede=1"]))
    assert not list(tmp_path.iterdir())


class Server:
    """A Prefect server and a worker of their own, below one temporary folder, started and stopped by the test."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = home / "log.txt"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")},
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "PWD": str(REPOSITORY),  # what a shell would say; prefect.yaml reads it
        }

    def prefect(self, *arguments: str, timeout: float = 60) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}\n{self.log.read_text(encoding='utf-8')}"
        return done.stdout

    @contextlib.contextmanager
    def background(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A prefect command in a process group of its own, interrupted at the end."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=REPOSITORY,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """What the server's REST API answers."""
        request = urllib.request.Request(
            f"{self.environment['PREFECT_API_URL']}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            found: list[dict[str, Any]] = json.load(reply)
        return found

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.environment['PREFECT_API_URL']}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def wait_until_healthy(self, process: subprocess.Popen[bytes], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert process.poll() is None, self.log.read_text(encoding="utf-8")
            if self.healthy():
                return
            time.sleep(0.3)
        raise AssertionError(f"no healthy server after {seconds} s:\n{self.log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the work pool and the deployment of prefect.yaml."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    with server.background("server", "start", "--host", "127.0.0.1", "--port", str(server.port)) as process:
        server.wait_until_healthy(process)
        server.prefect("work-pool", "create", "local", "--type", "process")
        assert "purify-and-train/local" in server.prefect("deploy", "--all")
        yield server


@pytest.mark.slow
def test_the_deployment_runs_on_a_process_worker(server: Server, tmp_path: Path) -> None:
    """The commands in prefect.yaml's head."""
    overrides = json.dumps(QUICK)
    with server.background("worker", "start", "--pool", "local", "--type", "process"):
        root = ("--param", f"root={tmp_path / 'data'}", "--param", f"overrides={overrides}")
        watch = ("--watch", "--watch-interval", "1", "--watch-timeout", "240")
        server.prefect("deployment", "run", "purify-and-train/local", *root, *watch, timeout=300)
    [run] = server.post("flow_runs/filter", {})
    assert run["state_type"] == "COMPLETED"
    assert Layout(tmp_path / "data").report.exists()
    logged = [log["message"] for log in server.post("logs/filter", {"limit": 200}) if log["name"] == "lnl"]
    assert any(message.startswith("stage report: done") for message in logged)
    assert {run["name"] for run in server.post("task_runs/filter", {})} >= {"prepare", "purify", "report"}


@pytest.mark.slow
def test_a_schedule_makes_runs(server: Server) -> None:
    """With an SQLAlchemy outside pyproject's range the server starts, but its scheduler makes no run."""
    scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert server.post("flow_runs/filter", scheduled) == []
    server.prefect("deployment", "schedule", "create", "purify-and-train/local", "--interval", "3600")
    deadline = time.monotonic() + 60
    while not server.post("flow_runs/filter", scheduled):
        assert time.monotonic() < deadline, "the scheduler made no run in a minute"
        time.sleep(0.5)
