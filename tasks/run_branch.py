"""The two commits of a run on branch runs/RUN: the first has its params, the second its dvc.lock and is the version.

Both are made in the bare clone, without a worktree, and both can be made again: whoever retries finds them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tasks.dvc_lock import lock_text, parse_lock
from tasks.file_lock import locked
from tasks.git_command import fetched, find_commit, git, git_with_remote, holding
from tasks.job import Lock, StageFailed
from tasks.machine import Machine, safe_name
from tasks.worktree import remove_stale

STEP = "Lnl-Step"  # trailer of the two commits' messages; with the run, for a run may start from another's version
OPENED, CLOSED = "opened", "closed"


def open_run(
    repository: str,
    base_revision: str,
    run: str,
    *,
    params: str,
    files: Mapping[str, str | bytes],
    machine: Machine,
) -> str:
    """Commit params.yaml and `files` (path in the repository -> content) on branch runs/RUN and push it.

    Returns the commit's id. If the branch is there already, nothing is committed and its first commit is returned.
    """
    clone = fetched(machine, repository)
    if found := _step(clone, run, OPENED):
        return found
    base = find_commit(clone, base_revision)
    if base is None:
        raise StageFailed(f"{repository} has no commit, branch or tag {base_revision!r} to start run {run} from")
    message = f"Run {run}: its params\n\n{STEP}: {OPENED} {run}"
    commit = _commit(clone, base, {**files, "params.yaml": params}, message)
    return _publish(clone, repository, run, commit, expected="", step=OPENED, machine=machine)


def close_run(repository: str, revision: str, run: str, lock: Lock, message: str, machine: Machine) -> str:
    """Commit dvc.lock on top of `revision` on branch runs/RUN and push it; the commit's id is the version's.

    If that was done before, nothing is committed and the same id is returned.
    """
    remove_stale(machine, repository, lambda _: None, run)
    clone = fetched(machine, repository)
    if found := _step(clone, run, CLOSED):
        return found
    files = {"dvc.lock": lock_text(lock)}
    commit = _commit(clone, revision, files, f"{message.strip()}\n\n{STEP}: {CLOSED} {run}")
    return _publish(clone, repository, run, commit, expected=revision, step=CLOSED, machine=machine)


def lock_of(repository: str, commit: str, machine: Machine) -> Lock:
    """The stages of that commit's dvc.lock; empty where it has none."""
    clone = holding(machine, repository, commit)
    if not git("ls-tree", "--name-only", commit, "dvc.lock", cwd=clone):
        return {}
    return parse_lock(git("show", f"{commit}:dvc.lock", cwd=clone), f"dvc.lock of {commit}")


def _step(clone: Path, run: str, step: str) -> str | None:
    """The commit of branch runs/RUN that made `step`."""
    branch = f"refs/remotes/origin/runs/{safe_name(run)}"
    if find_commit(clone, branch) is None:
        return None
    form = f"--format=%H %(trailers:key={STEP},valueonly,separator=%x2C)"
    for line in git("log", "--max-count=2", form, branch, cwd=clone).splitlines():
        commit, _, made = line.partition(" ")
        if made == f"{step} {run}":
            return commit
    return None


def _commit(clone: Path, parent: str, files: Mapping[str, str | bytes], message: str) -> str:
    """A commit of `parent`'s tree with `files` in it. An index of its own, so that commits at once do not mix."""
    with tempfile.TemporaryDirectory(prefix="lnl-index-") as folder:
        env = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", parent, cwd=clone, env=env)
        for path, content in files.items():
            blob = git("hash-object", "-w", "--stdin", cwd=clone, text=content)
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", cwd=clone, env=env)
        tree = git("write-tree", cwd=clone, env=env)
    return git("commit-tree", tree, "-p", parent, cwd=clone, text=message)


def _publish(clone: Path, repository: str, run: str, commit: str, *, expected: str, step: str, machine: Machine) -> str:
    """Push `commit` as runs/RUN, if that still is at `expected`; where another was quicker, its commit counts."""
    branch = f"refs/heads/runs/{run}"
    try:
        with locked(machine.clone_lock(repository)):
            git_with_remote(
                "push", "--quiet", f"--force-with-lease={branch}:{expected}", "origin", f"{commit}:{branch}", cwd=clone
            )
    except StageFailed:
        fetched(machine, repository)
        if found := _step(clone, run, step):
            return found
        raise
    return commit
