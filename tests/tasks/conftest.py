"""A repository of two stages that take as long as a test asks, and machines that run them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tasks.executor import Lock, LogLine, Machine, Progress, StageDone, StageJob, open_run, run_stage_job

DVC_YAML = """
stages:
  one:
    cmd: python stage.py one
    deps: [stage.py]
    params: [one]
    outs: [data/one/parts]
    metrics: [data/one/metrics.json]
  two:
    cmd: python stage.py two
    deps: [stage.py, data/one/parts]
    params: [two]
    outs: [data/two/all.txt]
    metrics: [data/two/metrics.json]
"""
# A step takes 0.1 s and is a checkpoint; the bytes depend on the number of steps alone.
STAGE = """
import json, os, pathlib, sys, time
import yaml
name = sys.argv[1]
settings = yaml.safe_load(open("params.yaml"))[name]
data = pathlib.Path("data")
out, resume = data / name, data / ".lnl" / name
for folder in (out, resume):
    folder.mkdir(parents=True, exist_ok=True)
checkpoint = resume / "step"
first = int(checkpoint.read_text()) if checkpoint.exists() else 0
print(f"{name}: from step {first}", file=sys.stderr, flush=True)
for step in range(first, settings["steps"]):
    time.sleep(0.1)
    (resume / ".step.tmp").write_text(str(step + 1))
    os.replace(resume / ".step.tmp", checkpoint)
previous = sorted(str(p.relative_to(data)) for p in (data / ".lnl" / "previous").rglob("*") if p.is_file())
print(f"{name}: previous {previous}", file=sys.stderr, flush=True)
if name == "one":
    (out / "parts").mkdir(exist_ok=True)
    for part in range(3):
        (out / "parts" / f"{part}.txt").write_text(f"{part} of {settings['steps']} " + "x" * settings.get("bytes", 0))
else:
    parts = sorted((data / "one" / "parts").iterdir())
    (out / "all.txt").write_text("".join(part.read_text() for part in parts) * settings["steps"])
checkpoint.unlink(missing_ok=True)
(out / "metrics.json").write_text(json.dumps({name: {"steps": settings["steps"]}}))
"""


@dataclass
class Events:
    """What an attempt said."""

    seen: list[LogLine | Progress] = field(default_factory=list)

    def __call__(self, event: LogLine | Progress) -> None:
        self.seen.append(event)

    @property
    def text(self) -> str:
        return "\n".join(event.text for event in self.seen if isinstance(event, LogLine))


@dataclass(frozen=True)
class Tiny:
    """The repository, and short ways to run it."""

    path: Path

    def open(self, machine: Machine, run: str, *, one: str = "steps: 1", two: str = "steps: 1") -> str:
        params = f"one: {{{one}}}\ntwo: {{{two}, rate: 1.0e-05}}\n"
        return open_run(str(self.path), "main", run, params=params, files={}, machine=machine)

    def job(self, revision: str, run: str, stage: str, lock: Lock, previous: Lock | None = None) -> StageJob:
        return StageJob(
            repository=str(self.path), revision=revision, run=run, stage=stage, lock=lock, previous=previous or {}
        )

    def run(self, machine: Machine, run: str, *, previous: Lock | None = None, **params: str) -> dict[str, StageDone]:
        """Both stages of a new run."""
        revision = self.open(machine, run, **params)
        done: dict[str, StageDone] = {}
        for stage in ("one", "two"):
            lock = {name: one.lock for name, one in done.items()}
            done[stage] = run_stage_job(self.job(revision, run, stage, lock, previous), machine, on_progress=Events())
        return done


def git(*arguments: str, cwd: Path) -> str:
    signed = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(command, cwd=cwd, env=os.environ | signed, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make_tiny(path: Path) -> Tiny:
    """A git and DVC repository without a remote."""
    (path / "data").mkdir(parents=True)
    (path / ".dvc").mkdir()
    (path / ".dvc" / "config").touch()
    (path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (path / "stage.py").write_text(STAGE, encoding="utf-8")
    (path / "params.yaml").write_text("one: {steps: 1}\ntwo: {steps: 1}\n", encoding="utf-8")
    (path / "data" / ".gitignore").write_text("*\n!.gitignore\n", encoding="utf-8")
    git("init", "--quiet", cwd=path)
    git("add", "--all", cwd=path)
    git("commit", "--quiet", "--message", "two stages", cwd=path)
    return Tiny(path)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A repository of the test's own."""
    return make_tiny(tmp_path / "tiny")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that shares nothing with others."""
    return Machine(tmp_path / "machine", remote="")


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    """Fails where `condition` does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Living processes that work below `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found
