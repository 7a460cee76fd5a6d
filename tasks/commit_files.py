"""Files of a commit, as bytes, out of a machine's bare clone."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.git_command import find_commit, git, git_environment


def file_of(clone: Path, commit: str, path: str) -> bytes | None:
    """The content of `path` in `commit`; None where the commit has no such file."""
    command = ["git", "cat-file", "blob", f"{commit}:{path}"]
    done = subprocess.run(command, cwd=clone, env=git_environment(), capture_output=True, check=False)
    return None if done.returncode else done.stdout


def trees_differ(clone: Path, commit: str, other: str, *paths: str) -> bool:
    """Whether `paths` (files or folders) are not the same in two commits."""
    return bool(git("diff", "--name-only", commit, other, "--", *paths, cwd=clone))


def ancestor(clone: Path, commit: str, steps: int) -> str | None:
    """The commit `steps` before `commit`; None where history is shorter."""
    return find_commit(clone, f"{commit}~{steps}")
