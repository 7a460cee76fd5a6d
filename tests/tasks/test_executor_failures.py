"""Killed, cut off, out of disk: nothing harmful is left behind, and the next attempt ends with the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from dev.seaweed import Seaweed
from tasks.child_process import Ended
from tasks.dvc_command import remote_is_away, stage_log
from tasks.executor import Machine, StageCancelled, StageDone, StageFailed, StageJob, run_stage_job
from tasks.machine import attempt_lock
from tasks.worktree import remove_stale
from tests.tasks.conftest import Events, Tiny, make_tiny, processes_in, wait_for

pytestmark = pytest.mark.slow(minutes=1)

LONG = "steps: 30"  # 3 s
BIG = "steps: 1, bytes: 1000000"  # three parts of a megabyte


class Attempt:
    """Stage `one` of a run, running on a thread of its own."""

    def __init__(self, job: StageJob, machine: Machine) -> None:
        self.worktree = machine.worktree(job.repository, job.run, job.stage)
        self.cancel, self.events = threading.Event(), Events()
        self._pool = ThreadPoolExecutor(1)
        self.done: Future[StageDone] = self._pool.submit(
            run_stage_job, job, machine, on_progress=self.events, cancel=self.cancel
        )

    @property
    def step(self) -> int:
        if self.done.done():
            self.done.result()
        try:
            return int((self.worktree / "data/.lnl/one/step").read_text() or 0)
        except FileNotFoundError:
            return 0

    def stage_process(self) -> psutil.Process:
        (found,) = [one for one in processes_in(self.worktree) if one.cmdline()[1:2] == ["stage.py"]]
        return found

    def dvc_process(self) -> psutil.Process:
        parent = self.stage_process().parent()
        assert parent is not None
        assert "dvc" in " ".join(parent.cmdline())
        return parent


def check_resumes(job: StageJob, machine: Machine, undisturbed: dict[str, object]) -> None:
    """Nothing works in the worktree; the next attempt goes on from the checkpoint and makes the same bytes."""
    worktree = machine.worktree(job.repository, job.run, job.stage)
    wait_for(lambda: not processes_in(worktree), seconds=10)
    step, events = int((worktree / "data/.lnl/one/step").read_text()), Events()
    assert step >= 3
    done = run_stage_job(job, machine, on_progress=events)
    assert f"one: from step {step}" in events.text
    assert (done.how, done.lock) == ("run", undisturbed)
    assert not worktree.exists()


@pytest.fixture
def job(tiny: Tiny, machine: Machine) -> StageJob:
    return tiny.job(tiny.open(machine, "run-1", one=LONG), "run-1", "one", {})


def lock_of_one(folder: Path, params: str) -> dict[str, object]:
    """What an undisturbed run of stage one has in dvc.lock."""
    tiny, machine = make_tiny(folder / "tiny"), Machine(folder / "machine", remote="")
    return run_stage_job(
        tiny.job(tiny.open(machine, "run", one=params), "run", "one", {}), machine, on_progress=Events()
    ).lock


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return lock_of_one(tmp_path_factory.mktemp("undisturbed"), LONG)


@pytest.fixture(scope="module")
def undisturbed_big(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return lock_of_one(tmp_path_factory.mktemp("undisturbed"), BIG)


@pytest.mark.parametrize("whom", ["stage", "dvc"])
def test_killed(job: StageJob, machine: Machine, undisturbed: dict[str, object], whom: str) -> None:
    attempt = Attempt(job, machine)
    wait_for(lambda: attempt.step >= 3)
    victim = attempt.stage_process() if whom == "stage" else attempt.dvc_process()
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(StageFailed, match="exited with -9" if whom == "stage" else "killed by signal 9"):
        attempt.done.result(10)
    check_resumes(job, machine, undisturbed)


def test_cancelled(job: StageJob, machine: Machine, undisturbed: dict[str, object]) -> None:
    attempt = Attempt(job, machine)
    wait_for(lambda: attempt.step >= 3)
    attempt.cancel.set()
    with pytest.raises(StageCancelled):
        attempt.done.result(10)
    assert not processes_in(attempt.worktree)
    check_resumes(job, machine, undisturbed)


def test_the_caller_is_killed(job: StageJob, machine: Machine, undisturbed: dict[str, object]) -> None:
    code = "import sys; from pathlib import Path; from tasks.executor import *\n"
    code += f"run_stage_job(StageJob(**{asdict(job)!r}), Machine(Path({str(machine.home)!r}), ''), on_progress=print)"
    worktree = machine.worktree(job.repository, job.run, job.stage)
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as caller:
        wait_for(lambda: stage_log(worktree).exists() and (worktree / "data/.lnl/one/step").exists())
        time.sleep(0.5)
        caller.kill()
    check_resumes(job, machine, undisturbed)
    assert list((machine.home / "unfinished").iterdir()) == []


def test_what_a_kill_left_half_done_is_not_taken_for_an_input(tiny: Tiny, machine: Machine) -> None:
    done = tiny.run(machine, "run-1")
    revision = tiny.open(machine, "run-2", two="steps: 30")
    job = tiny.job(revision, "run-2", "two", {"one": done["one"].lock})
    attempt = Attempt(job, machine)
    wait_for((attempt.worktree / "data/.lnl/two/step").exists)
    os.kill(attempt.dvc_process().pid, signal.SIGKILL)
    with pytest.raises(StageFailed):
        attempt.done.result(10)
    (attempt.worktree / "data/one/parts/1.txt").unlink()  # as a kill during a checkout would leave it
    (machine.cache / "files" / ".abc.tmp").write_text("half a file")
    again = run_stage_job(replace(job), machine, on_progress=Events())
    assert {dep["path"]: dep["md5"] for dep in again.lock["deps"]}["data/one/parts"] == done["one"].lock["outs"][1][
        "md5"
    ]
    assert list(machine.cache.rglob("*.tmp")) == []


@pytest.mark.parametrize(
    ("said", "away"),
    [
        ('ERROR: unexpected error - Could not connect to the endpoint URL: "http://localhost/b"', True),
        ("ERROR: failed to connect to s3 (b/p/files/md5) - Connect timeout on endpoint URL", True),
        ("ERROR: failed to transfer 'x' - Connection was closed before we received a valid response", True),
        ("ERROR: failed to transfer 'x' - An error occurred (SlowDown) when calling the PutObject operation", True),
        ("ERROR: unexpected error - Forbidden: An error occurred (403) when calling the HeadObject operation", False),
        ("ERROR: failed to reproduce 'one': failed to run: lnl stage one, exited with 1\ntimed out", False),
        ("ERROR: unexpected error - The specified bucket does not exist", False),
    ],
)
def test_only_an_absent_remote_is_waited_for(said: str, away: bool) -> None:
    assert remote_is_away(Ended(255, tuple(said.splitlines()))) == away


def test_worktrees_that_nobody_uses_go(tiny: Tiny, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", remote="", keep_days=7)
    revision = tiny.open(machine, "run-1", one=LONG)
    attempt = Attempt(tiny.job(revision, "run-1", "one", {}), machine)
    wait_for(lambda: attempt.step >= 1)
    old = time.time() - 8 * 86400
    os.utime(attempt.worktree, (old, old))
    remove_stale(machine, str(tiny.path), Events())
    assert attempt.worktree.exists()  # old, but in use
    attempt.cancel.set()
    with pytest.raises(StageCancelled):
        attempt.done.result(10)
    remove_stale(machine, str(tiny.path), Events())
    assert not attempt.worktree.exists()
    assert not attempt_lock(attempt.worktree).exists()


def test_s3_is_away_for_some_seconds(
    tiny: Tiny, tmp_path: Path, seaweed: Seaweed, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own patience would make this test longer
    (tmp_path / "aws").touch()
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))  # DVC takes no device for a file
    first, second = (Machine(tmp_path / name, remote=f"{s3}/dvc") for name in ("first", "second"))
    revision = tiny.open(first, "run-1", one="steps: 20")
    job = tiny.job(revision, "run-1", "one", {})
    attempt = Attempt(job, first)
    try:
        wait_for(lambda: attempt.step >= 1, seconds=60)
        seaweed.kill()
        wait_for(lambda: "dvc push again" in attempt.events.text, seconds=90)
        again = Attempt(replace(job, run="run-2"), second)  # begins while it is away
        wait_for(lambda: "dvc repro again" in again.events.text, seconds=60)
    finally:
        seaweed.start()
    made, found = attempt.done.result(120), again.done.result(120)
    assert made.lock == found.lock
    assert made.how == "run"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB; mounting one needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


WHERE = {"in our own write": 12, "in the stage's write": 10, "in the cache's copy": 7}  # MB that are taken


@pytest.mark.parametrize("ballast", WHERE.values(), ids=WHERE)
def test_disk_full(tiny: Tiny, small_disk: Path, undisturbed_big: dict[str, object], ballast: int) -> None:
    machine = Machine(small_disk / "machine", remote="")
    job = tiny.job(tiny.open(machine, "run-1", one=BIG), "run-1", "one", {})
    fill(small_disk, ballast)
    with pytest.raises(StageFailed, match=rf"disk is full \(.*{small_disk}: [\d.]+ MB free"):
        run_stage_job(job, machine, on_progress=Events())
    assert all(file.stat().st_size >= 1_000_000 for file in (machine.cache / "files").rglob("*") if _is_part(file))
    (small_disk / "ballast").unlink()
    assert run_stage_job(job, machine, on_progress=Events()).lock == undisturbed_big
    assert list(machine.cache.rglob("*.tmp")) == []


def fill(disk: Path, megabytes: int) -> None:
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        for _ in range(megabytes * 100):
            file.write(b"x" * 10_000)
        while megabytes >= 12:  # to the last byte
            file.write(b"x")


def _is_part(file: Path) -> bool:
    return file.is_file() and file.suffix == "" and "x" in file.read_text(errors="replace")[:40]
