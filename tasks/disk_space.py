"""A full disk is reported with its file system and what is free on it: people must know where to free some."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.job import StageFailed

_FULL = ("No space left on device", "Disk quota exceeded")


def says_full(text: str) -> bool:
    """Whether a program complains of a full disk."""
    return any(words in text for words in _FULL)


def free_space(*folders: Path) -> str:
    """For people: the file systems of `folders` and of temporary files, and what is free on each."""
    mounts = sorted({_mount(folder) for folder in (*folders, Path(tempfile.gettempdir()))})
    return ", ".join(f"{mount}: {shutil.disk_usage(mount).free / 1e6:,.1f} MB free" for mount in mounts)


@contextlib.contextmanager
def reported_as_failure(*folders: Path) -> Iterator[None]:
    """A write of our own to a full disk becomes a StageFailed that says how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(str(error), *folders) from error


def disk_full(said: str, *folders: Path) -> StageFailed:
    """The one error for it."""
    return StageFailed(f"the disk is full ({free_space(*folders)}); free some and retry:\n{said}")


def _mount(folder: Path) -> Path:
    path = Path(os.path.realpath(folder))
    while not path.exists() or not path.is_mount():
        path = path.parent
    return path
