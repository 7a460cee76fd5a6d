"""git as a command, and a machine's bare clone of a repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.child_process import TIED, hide_secrets
from tasks.disk_space import disk_full, says_full
from tasks.file_lock import locked
from tasks.job import StageFailed
from tasks.machine import Machine, repository_url

FETCHED = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
REMOTE_RETRY_SECONDS = (2.0, 8.0, 30.0)  # a git server that restarts
REFUSED = (  # the other side has replied; it will say the same again
    "[rejected]",
    "stale info",
    "not a git repository",
    "does not appear to be a git repository",
    "not found",
    "Authentication failed",
    "could not read Username",
    "Permission denied",
)


def git(*arguments: str, cwd: Path, text: str | bytes = b"", env: Mapping[str, str] | None = None) -> str:
    """Run git with `text` on its stdin and return its stdout, stripped.

    Raises:
        StageFailed: with git's own message.
    """
    done = subprocess.run(
        [*TIED, str(os.getpid()), "git", *arguments],
        cwd=cwd,
        input=text.encode() if isinstance(text, str) else text,
        capture_output=True,
        env={**git_environment(), **(env or {})},
        check=False,
    )
    if done.returncode:
        said = hide_secrets(done.stderr.decode(errors="replace").strip())
        if says_full(said):
            raise disk_full(said, cwd)
        raise StageFailed(hide_secrets(f"git {' '.join(arguments)} in {cwd} failed ({done.returncode}): {said}"))
    return done.stdout.decode().strip()


def git_environment() -> dict[str, str]:
    """The environment without what a surrounding git (a hook, say) left in it; asks for nothing; signs as lnl."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    author = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _SIGNATURE.items()}
    kept = {key: value for key, value in os.environ.items() if key.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_"))}
    return {**env, **author, **kept, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


_SIGNATURE = {"NAME": "lnl", "EMAIL": "lnl@localhost"}


def git_with_remote(*arguments: str, cwd: Path) -> str:
    """`git`, again after a while where the other side may have been away."""
    for seconds in REMOTE_RETRY_SECONDS:
        try:
            return git(*arguments, cwd=cwd)
        except StageFailed as error:
            if any(words in str(error) for words in REFUSED):
                raise
            time.sleep(seconds)
    return git(*arguments, cwd=cwd)


def bare_clone(machine: Machine, repository: str) -> Path:
    """The machine's bare clone, made where it is missing; fetch before you trust its branches."""
    clone = machine.clone(repository)
    with locked(machine.clone_lock(repository)):
        if not clone.exists():
            making = clone.with_name(f".{clone.name}.new")
            shutil.rmtree(making, ignore_errors=True)  # of a process that was killed
            making.mkdir(parents=True)
            git("init", "--quiet", "--bare", cwd=making)
            git("remote", "add", "origin", repository_url(repository), cwd=making)
            os.replace(making, clone)
    return clone


def fetched(machine: Machine, repository: str) -> Path:
    """The bare clone with all that `repository` has now."""
    clone = bare_clone(machine, repository)
    with locked(machine.clone_lock(repository)):
        remove_dead_locks(clone)
        git_with_remote("fetch", "--quiet", "--prune", "origin", *FETCHED, cwd=clone)
    return clone


def holding(machine: Machine, repository: str, commit: str) -> Path:
    """The bare clone, which has `commit`; fetched where it had not.

    Raises:
        StageFailed: the repository has no such commit.
    """
    clone = bare_clone(machine, repository)
    if not has_commit(clone, commit):
        fetched(machine, repository)
        if not has_commit(clone, commit):
            raise StageFailed(f"{hide_secrets(repository)} has no commit {commit}; was its branch deleted?")
    return clone


def has_commit(clone: Path, commit: str) -> bool:
    """Whether `clone` has this very commit."""
    return find_commit(clone, commit) is not None


def find_commit(clone: Path, revision: str) -> str | None:
    """The full id of a commit, branch of origin or tag; None where there is none."""
    for name in (f"refs/remotes/origin/{revision}", revision):
        try:
            return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", cwd=clone)
        except StageFailed:
            continue
    return None


def remove_dead_locks(clone: Path) -> None:
    """Lock files of a git that was killed. Call it under the clone's lock: then no living git holds one."""
    for lock in [*clone.glob("*.lock"), *(clone / "refs").rglob("*.lock")]:
        lock.unlink(missing_ok=True)
