"""The plainest caller of the stage executor: a loop, for the chaos test without Prefect.

    python -m dev.chaos_driver JOB.json                what to run; its results are written beside it

A supervisor starts it again when it was killed; what it had finished it finds in lock.json, as a flow finds its tasks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lnl_core.files import read_json, write_json
from tasks.executor import Lock, LogLine, Machine, Progress, StageFailed, StageJob, close_run, run_stage_job
from tasks.stage import STAGE_RETRIES

RETRY_SECONDS = 2.0


def drive(job_file: Path) -> None:
    """All stages in graph order, each as often as its retries say, and the commit that is the version."""
    job = read_json(job_file)
    machine, folder = Machine(Path(job["home"]), remote=job["remote"]), job_file.parent
    lock: Lock = read_json(folder / "lock.json") if (folder / "lock.json").exists() else {}
    for stage, after in job["stages"]:
        if stage not in lock:
            upstream = {name: lock[name] for name in after}
            where = {"repository": job["repository"], "revision": job["revision"], "run": job["run"]}
            lock[stage] = _with_retries(StageJob(**where, stage=stage, lock=upstream), machine, folder)
            write_json(folder / "lock.json", lock)
    close_run(job["repository"], job["revision"], job["run"], lock, "after chaos", machine)
    write_json(folder / "state.json", "COMPLETED")


def _with_retries(job: StageJob, machine: Machine, folder: Path) -> dict[str, Any]:
    for retries_left in reversed(range(STAGE_RETRIES + 1)):
        with (folder / "attempts.log").open("a", encoding="utf-8") as file:
            file.write(f"{job.stage}\n")
        try:
            return run_stage_job(job, machine, on_progress=_say).lock
        except StageFailed as error:
            print(f"FAILED {job.stage}: {error}", flush=True)
            if not retries_left:
                write_json(folder / "state.json", "FAILED")
                raise
            time.sleep(RETRY_SECONDS)
    raise AssertionError("the loop returns or raises")


def _say(event: LogLine | Progress) -> None:
    if isinstance(event, LogLine):
        print(event.text, flush=True)


@dataclass
class Driver:
    """The running loop; the chaos test treats it as a Prefect worker."""

    job_file: Path
    variables: Mapping[str, str]
    pool: str = "driver"
    name: str = "driver"
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with (self.job_file.parent / "driver.log").open("ab") as log:
            command = [sys.executable, "-m", "dev.chaos_driver", str(self.job_file)]
            self.process = subprocess.Popen(command, env=dict(self.variables), stdout=log, stderr=log)

    def processes(self) -> list[psutil.Process]:
        """The loop and everything below it."""
        if self.process.poll() is not None:
            return []
        driver = psutil.Process(self.process.pid)
        return [driver, *driver.children(recursive=True)]

    def kill(self) -> None:
        """kill -9 of the loop alone: what it has started must end by itself."""
        self.process.kill()
        self.process.wait()


@dataclass
class Supervisor:
    """Starts the loop; has what the chaos test uses of a PrefectServer."""

    job_file: Path
    variables: Mapping[str, str]
    workers: list[Driver] = field(default_factory=list)

    def worker(self, pool: str, *, environment: Mapping[str, str] | None = None) -> Driver:
        """The loop, unless it has come to its end."""
        driver = Driver(self.job_file, {**self.variables, **(environment or {})}, pool)
        self.workers.append(driver)
        return driver

    def state(self) -> str:
        """COMPLETED, FAILED or nothing yet; a loop that ended by itself before that is started again."""
        file = self.job_file.with_name("state.json")
        if file.exists():
            return str(read_json(file))
        if self.workers and self.workers[-1].process.poll() is not None:
            self.workers.clear()
            self.worker("driver")
        return ""

    def attempts(self) -> dict[str, int]:
        """How often each stage was tried."""
        stages = self.job_file.with_name("attempts.log").read_text(encoding="utf-8").split()
        return {stage: stages.count(stage) for stage in dict.fromkeys(stages)}


def write_job(file: Path, job: Mapping[str, Any]) -> None:
    """What `drive` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(job), encoding="utf-8")


if __name__ == "__main__":
    drive(Path(sys.argv[1]))
