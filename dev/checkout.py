"""A copy of this checkout as it is now, in a git repository of its own, for tests and the chaos test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def copy_of_checkout(folder: Path) -> Path:
    """The tracked files, changes that are not committed included, in one commit on `main`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "checkout")
    return folder


def commit(folder: Path, message: str) -> None:
    """Commit all that has changed."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def git(folder: Path, *arguments: str) -> str:
    """What a git command prints."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
