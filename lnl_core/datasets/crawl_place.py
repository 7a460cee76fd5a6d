"""Where a crawl lies: a folder or an `s3://` prefix, as a flat list of files that can be read and told apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow.parquet as pq

from lnl_core.config import ConfigError
from lnl_core.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file below the crawl."""

    path: str  # relative, with slashes
    size: int  # bytes
    stamp: str  # changes when the file is written anew: its time on disk, its ETag on S3
    modified: float  # seconds since 1970


@runtime_checkable
class Place(Protocol):
    """A folder or a prefix."""

    def entries(self) -> list[Entry]:
        """All files that are not hidden, sorted by path. Names that begin with `.` or `_` are hidden."""
        ...

    def content(self, entries: Sequence[Entry]) -> str:
        """What tells the files' contents apart: a hash over them on disk, over their ETags on S3."""
        ...

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError, OSError."""
        ...

    def parquet(self, path: str) -> Any:
        """An open `pyarrow.parquet.ParquetFile`. Raises ArrowInvalid, OSError."""
        ...


def open_place(path: str) -> Place:
    """The folder or prefix `path`.

    Raises:
        ConfigError: not set, or no such folder.
    """
    if not path:
        raise ConfigError("prepare.crawl.path is not set; set it to the folder or s3:// prefix that the crawlers fill")
    if path.startswith("s3://"):
        raise ConfigError(f"prepare.crawl.path = {path!r}: not yet")
    if not Path(path).is_dir():
        raise ConfigError(f"prepare.crawl.path = {path!r}: no such folder; correct the path")
    return _Folder(Path(path))


class _Folder:
    """A folder on disk; times are only a hint, contents are told by SHA-256."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self) -> list[Entry]:
        found = []
        for folder, folders, files in os.walk(self._root, followlinks=True):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for name in files:
                if not is_hidden(name):
                    found.append(self._entry(Path(folder, name)))
        return sorted(found, key=lambda entry: entry.path)

    def content(self, entries: Sequence[Entry]) -> str:
        return joined_content("sha256", [(entry.path, file_sha256(self._root / entry.path)) for entry in entries])

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def parquet(self, path: str) -> Any:
        return pq.ParquetFile(self._root / path, memory_map=False)

    def _entry(self, file: Path) -> Entry:
        status = file.stat()
        return Entry(
            path=file.relative_to(self._root).as_posix(),
            size=status.st_size,
            stamp=f"{status.st_size}-{status.st_mtime_ns}",
            modified=status.st_mtime,
        )


def is_hidden(name: str) -> bool:
    """`.part`, `_SUCCESS`, `_temporary`: not the crawl's."""
    return name.startswith((".", "_"))


def joined_content(kind: str, hashes: Sequence[tuple[str, str]]) -> str:
    """One hash of (path, hash) of each file of a shard; that of its only file where there is one."""
    if len(hashes) == 1:
        return f"{kind}:{hashes[0][1]}"
    start = os.path.commonpath([os.path.dirname(path) for path, _ in hashes])  # a copied folder has the same contents
    lines = [f"{os.path.relpath(path, start)}\0{value}\n" for path, value in sorted(hashes)]
    return f"{kind}:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
