"""Runs one stage of one run through git and DVC, on any machine, so that no machine does it again.

    bare clone -> worktree -> lock entries of the stages before -> dvc repro --pull -> dvc push -> its lock entry

The commands and the order are those that keep each of them restartable: a kill at any point leaves either nothing or
something that the next attempt finds and finishes.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from lnl_core.config import ConfigError
from lnl_core.files import read_json
from lnl_core.layout import Layout
from tasks.disk_space import reported_as_failure
from tasks.dvc_command import Dvc, progress_file, stage_log
from tasks.dvc_lock import check_travels, parse_lock
from tasks.job import Lock, LogLine, OnProgress, Progress, StageCancelled, StageDone, StageFailed, StageJob
from tasks.machine import Machine
from tasks.run_branch import close_run, lock_of, open_run
from tasks.worktree import DATA, attempt_at, check_out_inputs, lay_previous, remove_stale, write_lock

__all__ = [
    "Lock",
    "LogLine",
    "Machine",
    "OnProgress",
    "Progress",
    "StageCancelled",
    "StageDone",
    "StageFailed",
    "StageJob",
    "close_run",
    "fetch_outputs",
    "lock_of",
    "open_run",
    "run_stage_job",
]


def run_stage_job(
    job: StageJob, machine: Machine, *, on_progress: OnProgress, cancel: threading.Event | None = None
) -> StageDone:
    """Run, or restore, one stage; blocks. Push what it made, where there is a remote.

    Call it on a thread of its own. Once `cancel` is set it stops its processes within a second.

    Raises:
        ConfigError, ContractError: the stage's settings or tables are wrong; a retry cannot help.
        StageFailed: anything else, a full disk, a remote that stays away or a killed process among them.
        StageCancelled: `cancel` was set.
    """
    with reported_as_failure(machine.home):
        return _run_stage_job(job, machine, on_progress, cancel)


def fetch_outputs(repository: str, commit: str, machine: Machine, paths: Sequence[str], target: Path) -> Layout:
    """Files of a version, for reading: `paths` are names of Layout ("report", "plots", "purified", "model", ...).

    "metrics" stands for the metrics.json of all stages. They lie in `target` as they lie in data/. A stage of which
    the version's dvc.lock has no entry is left out.

    Raises:
        ConfigError: Layout has no such name.
        StageFailed: the files are neither in the machine's cache nor in the remote.
    """
    outs = [
        Path(out["path"]) for entry in lock_of(repository, commit, machine).values() for out in entry.get("outs", [])
    ]
    wanted = [out for out in outs if any(_is_named(out, name) for name in paths)]
    layout = Layout(target)
    if not wanted:
        return layout
    with attempt_at(machine, repository, commit, f"fetch-{commit}", "outputs") as worktree:
        dvc = Dvc(worktree=worktree, machine=machine, on_progress=lambda _: None)
        dvc.run("pull" if dvc.has_remote else "checkout", *map(str, wanted))
        for out in wanted:
            _move(worktree / out, target / out.relative_to(DATA))
    return layout


def progress_reporter(file: Path, on_progress: OnProgress) -> Callable[[], None]:
    """A function that looks at `file` when it is called and reports what is new there; see lnl_core/progress.py."""
    last: list[Progress] = []

    def tick() -> None:
        try:
            found = Progress(**read_json(file))
        except FileNotFoundError:
            return
        if [found] != last:
            last[:] = [found]
            on_progress(found)

    return tick


def _run_stage_job(
    job: StageJob, machine: Machine, on_progress: OnProgress, cancel: threading.Event | None
) -> StageDone:
    started = time.perf_counter()
    remove_stale(machine, job.repository, on_progress)
    with attempt_at(machine, job.repository, job.revision, job.run, job.stage, cancel) as worktree:
        tick = progress_reporter(progress_file(worktree), on_progress)
        dvc = Dvc(worktree=worktree, machine=machine, on_progress=on_progress, cancel=cancel, tick=tick)
        entry = _reproduce(job, dvc)
        if dvc.has_remote:
            dvc.run("push", "--run-cache", job.stage)
        return StageDone(
            stage=job.stage,
            lock=entry,
            metrics=_metrics(worktree, job.stage),
            how=_how(job, worktree, entry),
            seconds=round(time.perf_counter() - started, 3),
            machine=machine.name,
        )


def _reproduce(job: StageJob, dvc: Dvc) -> dict[str, Any]:
    """Let DVC make the stage's outputs, or find them made; its entry of dvc.lock."""
    lock = dict(job.lock)
    before = job.previous.get(job.stage)
    # DVC finds an unchanged stage by its entry, but takes an input that is not there for unchanged, too.
    if before and lay_previous(dvc, job.stage, before) and not _other_inputs(job, before):
        lock[job.stage] = before
    write_lock(dvc.worktree, lock)
    if not dvc.has_remote:  # `repro --pull` wants one even where the cache has everything
        check_out_inputs(dvc, job.stage, job.lock)
    pull = ("--pull",) if dvc.has_remote else ()
    dvc.run("repro", *pull, "--allow-missing", "--single-item", job.stage)
    file = dvc.worktree / "dvc.lock"
    entry: dict[str, Any] = parse_lock(file.read_text(encoding="utf-8"), str(file))[job.stage]
    check_travels(job.stage, entry)
    _check_inputs(job, entry)
    return entry


def _check_inputs(job: StageJob, entry: dict[str, Any]) -> None:
    """What the stage has read must be what the stages before it made: half a folder would be another result.

    Raises:
        StageFailed: it was not; a retry pulls the inputs anew.
    """
    for path in _other_inputs(job, entry):
        raise StageFailed(f"stage {job.stage}: {path} is not what the stage before it made; it is pulled anew")


def _other_inputs(job: StageJob, entry: dict[str, Any]) -> list[str]:
    """The inputs of an entry of dvc.lock that are not what the stages before it made."""
    made = {out["path"]: out["md5"] for upstream in job.lock.values() for out in upstream.get("outs", [])}
    return [dep["path"] for dep in entry.get("deps", []) if made.get(dep["path"], dep.get("md5")) != dep.get("md5")]


def _how(job: StageJob, worktree: Path, entry: dict[str, Any]) -> Literal["run", "restored", "unchanged"]:
    """By what really happened, in this attempt or in an earlier one that left this worktree behind."""
    if stage_log(worktree).exists():
        return "run"
    return "unchanged" if job.previous.get(job.stage) == entry else "restored"


def _metrics(worktree: Path, stage: str) -> dict[str, Any]:
    """Of the stage's outputs; DVC does not check them out where they are those of the previous version."""
    layout = Layout(worktree / DATA)
    return dict(layout.read_metrics(stage) or layout.previous.read_metrics(stage))


def _is_named(out: Path, name: str) -> bool:
    if name == "metrics":
        return out.name == "metrics.json"
    known = [prop for prop, value in vars(Layout).items() if isinstance(value, property)]
    if name not in known:
        raise ConfigError(f"{name!r}: no such file of a version; there are metrics, {', '.join(known)}")
    return bool(out == getattr(Layout(DATA), name))


def _move(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
