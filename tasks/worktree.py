"""A git worktree for one stage of one run: made for the first attempt, found again by the next, removed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tasks.dvc_command import Dvc, progress_file
from tasks.dvc_lock import lock_text
from tasks.file_lock import locked, locked_if_free
from tasks.git_command import git, holding, remove_dead_locks
from tasks.job import Lock, LogLine, OnProgress, StageFailed
from tasks.machine import Machine, attempt_lock, turn_lock

DATA = Path("data")  # below the worktree; dvc.yaml names the same folder
KEPT = ".lnl"  # of it: checkpoints and the previous version's files, see Layout
DAY = 86400.0


@contextlib.contextmanager
def attempt_at(
    machine: Machine, repository: str, commit: str, run: str, stage: str, cancel: threading.Event | None = None
) -> Iterator[Path]:
    """The worktree of (run, stage) at `commit`, for this attempt alone; it is removed if the block ends well.

    Otherwise it stays, so that the next attempt on this machine finds the stage's checkpoints. Another attempt at the
    same stage of the same run on this machine is waited for.
    """
    clone = holding(machine, repository, commit)
    path = machine.worktree(repository, run, stage)
    with locked(attempt_lock(path), cancel=cancel):
        sweep_cache(machine)
        with locked(machine.cache_lock, shared=True, cancel=cancel):
            _mark_used(machine, path)
            if not _is_ready(path, commit):
                _make(machine, repository, clone, path, commit)
            _clear(path)
            yield path
            remove_worktree(machine, repository, path)


def remove_worktree(machine: Machine, repository: str, path: Path) -> None:
    """Remove the worktree and what git and we remember of it. Its attempt's lock must be held."""
    with locked(machine.clone_lock(repository)):
        _remove(machine.clone(repository), path)
    _unfinished(machine, path).unlink(missing_ok=True)
    turn_lock(path).unlink(missing_ok=True)
    attempt_lock(path).unlink(missing_ok=True)


def remove_stale(machine: Machine, repository: str, on_progress: OnProgress, run: str = "") -> None:
    """Remove worktrees that no attempt has used for `machine.keep_days`; of `run`, which is over, at once."""
    for path in sorted(machine.worktrees(repository).glob("[!.]*")):
        age = (time.time() - path.stat().st_mtime) / DAY
        if age < machine.keep_days and not (run and path.name.startswith(f"{run}.")):
            continue
        with locked_if_free(attempt_lock(path)) as free:
            if free:
                on_progress(LogLine(f"removing the worktree {path.name}, left {age:.1f} days ago"))
                remove_worktree(machine, repository, path)


def lay_previous(dvc: Dvc, stage: str, entry: dict[str, object]) -> bool:
    """The files that `stage` made in an earlier version, in data/.lnl/previous/STAGE; the stage may look at them.

    Where they are gone from cache and remote, the stage does without, for its result must not depend on them; says
    whether they are there.
    """
    target = dvc.worktree / DATA / KEPT / "previous" / stage
    if not target.exists():  # no earlier attempt has placed them
        write_lock(dvc.worktree, {stage: entry})
        try:
            dvc.run("pull" if dvc.has_remote else "checkout", stage)
        except StageFailed as error:
            dvc.on_progress(LogLine(f"going on without the previous version's files of {stage}: {error}"))
            shutil.rmtree(dvc.worktree / DATA / stage, ignore_errors=True)
        source = dvc.worktree / DATA / stage
        target.parent.mkdir(parents=True, exist_ok=True)
        source.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    return any(target.iterdir())


def check_out_inputs(dvc: Dvc, stage: str, lock: Lock) -> None:
    """What the stages before have made and `stage` reads, from the machine's cache."""
    made = [out["path"] for entry in lock.values() for out in entry.get("outs", [])]
    graph = yaml.safe_load((dvc.worktree / "dvc.yaml").read_text(encoding="utf-8"))
    deps = graph["stages"][stage].get("deps", [])
    if wanted := [dep for dep in deps if any(Path(dep).is_relative_to(path) for path in made)]:
        dvc.run("checkout", *wanted)


def write_lock(worktree: Path, lock: Lock) -> None:
    """dvc.lock of the worktree; no file for an empty one, which DVC would refuse."""
    path = worktree / "dvc.lock"
    if lock:
        path.write_text(lock_text(lock), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def sweep_cache(machine: Machine) -> None:
    """Remove what killed attempts left half-written in the cache, if nobody else is writing to it now.

    DVC writes to `*.tmp` beside the final name and renames: what is half-written is never used, only dead weight.
    """
    unfinished = machine.home.absolute() / "unfinished"
    if not unfinished.exists() or not any(unfinished.iterdir()):
        return
    with locked_if_free(machine.cache_lock) as free:
        if free:
            for file in machine.cache.rglob("*.tmp"):
                file.unlink(missing_ok=True)
            for mark in unfinished.iterdir():
                mark.unlink()


def _unfinished(machine: Machine, path: Path) -> Path:
    """Marks an attempt that has begun and not ended; what is found of a dead one starts a sweep."""
    return machine.home.absolute() / "unfinished" / f"{path.parent.name}.{path.name}"


def _mark_used(machine: Machine, path: Path) -> None:
    mark = _unfinished(machine, path)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    if path.exists():
        os.utime(path)


def _is_ready(path: Path, commit: str) -> bool:
    """Whether the worktree is whole (its config is written last) and of this commit."""
    if not _config(path).exists():
        return False
    try:
        return git("rev-parse", "HEAD", cwd=path) == commit
    except StageFailed:
        return False


def _make(machine: Machine, repository: str, clone: Path, path: Path, commit: str) -> None:
    with locked(machine.clone_lock(repository)):
        remove_dead_locks(clone)
        _remove(clone, path)  # of an attempt that was killed while it made it
        path.parent.mkdir(parents=True, exist_ok=True)
        # Forced twice: a git that was killed while it made this worktree has left it "missing but locked".
        git("worktree", "add", "--force", "--force", "--quiet", "--detach", str(path), commit, cwd=clone)
    _write_config(machine, path)


def _remove(clone: Path, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    git("worktree", "prune", cwd=clone)


def _config(path: Path) -> Path:
    return path / ".dvc" / "config.local"


def _write_config(machine: Machine, path: Path) -> None:
    """One cache for all worktrees of the machine. Never hard links: as root, a write in place would go through them."""
    lines = ["[cache]", f"dir = {machine.cache}", "type = reflink,copy"]
    lines += ["[core]", "analytics = false", "check_update = false"]
    if machine.remote:
        lines += ["remote = lnl", "['remote \"lnl\"']", f"url = {machine.remote}"]
    temporary = _config(path).with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, _config(path))


def _clear(path: Path) -> None:
    """Remove what a killed attempt may have left half-done: DVC takes half a folder of inputs for a changed one.

    Checkpoints stay. So does nothing else of data/: what was finished is in the cache and comes back from there.
    """
    for name in ("rwlock", "rwlock.lock", "lock"):
        (path / ".dvc" / "tmp" / name).unlink(missing_ok=True)
    progress_file(path).unlink(missing_ok=True)
    progress_file(path).parent.mkdir(parents=True, exist_ok=True)
    for child in (path / DATA).iterdir() if (path / DATA).exists() else ():
        if child.is_dir() and child.name not in (KEPT, "crawl"):
            shutil.rmtree(child)
    _remove_temporaries(path / DATA / KEPT)


def _remove_temporaries(folder: Path) -> None:
    """Half-written checkpoints, see lnl_core/files.py."""
    for found in sorted(folder.rglob(".*.tmp")):
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
