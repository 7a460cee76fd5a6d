"""Locks between the processes of one machine. The kernel lets go of them when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tasks.job import StageCancelled

POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, cancel: threading.Event | None = None) -> Iterator[None]:
    """Hold the lock file `path`; wait for as long as another holds it. The holder may remove the file.

    Raises:
        StageCancelled: `cancel` was set while we waited.
    """
    while (file := _taken(path, shared)) is None:
        if cancel is not None and cancel.is_set():
            raise StageCancelled(f"cancelled while waiting for {path}")
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` where nobody else does; says whether."""
    file = _taken(path, shared=False)
    try:
        yield file is not None
    finally:
        if file is not None:
            os.close(file)


def _taken(path: Path, shared: bool) -> int | None:
    """The lock file's descriptor, locked; None where another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.stat(path)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(file)  # held by another, or removed by its last holder after we had opened it
    return None
