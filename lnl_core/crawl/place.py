"""The files of a crawl, below a folder or an `s3://` prefix: what there is, and hashes of its contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from lnl_core.config import ConfigError
from lnl_core.files import file_sha256
from lnl_core.s3 import NoSuchObject, Place, S3Object, S3Path, list_objects, locate, look_up, open_s3

_STREAM_BYTES = 4 * 2**20  # of the image column, read from S3 at a time


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file below the crawl."""

    path: str  # relative, with slashes
    size: int  # bytes
    stamp: str  # changes when the file is written anew: its time on disk, its ETag on S3
    modified: float  # seconds since 1970


class CrawlPlace:
    """The folder or prefix `path`.

    Raises:
        ConfigError: not set, or no such folder.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise ConfigError("prepare.crawl.path is not set; set it to the folder or s3:// prefix that crawlers fill")
        self.root: Place = locate(path)
        if isinstance(self.root, Path) and not self.root.is_dir():
            raise ConfigError(f"prepare.crawl.path = {path!r}: no such folder; correct the path")

    def entries(self, below: str = "") -> list[Entry]:
        """All files that are not hidden, sorted by path; of one shard where `below` names a file or folder.

        Names that begin with `.` or `_` (`.part`, `_SUCCESS`, `_temporary`) are hidden. On S3 a request lists 1,000.
        """
        found = self._on_s3(self.root, below) if isinstance(self.root, S3Path) else self._on_disk(self.root, below)
        return sorted(found, key=lambda entry: entry.path)

    def content(self, entries: Sequence[Entry]) -> str:
        """Differs where contents differ: a hash of the only file, or over (path, hash) of all; on S3 ETags."""
        kind = "etag" if isinstance(self.root, S3Path) else "sha256"
        hashes = [(entry.path, self._hash(entry)) for entry in entries]
        if len(hashes) == 1:
            return f"{kind}:{hashes[0][1]}"
        start = os.path.commonpath([os.path.dirname(path) for path, _ in hashes])  # a copied folder has the same
        lines = [f"{os.path.relpath(path, start)}\0{value}\n" for path, value in sorted(hashes)]
        return f"{kind}:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"

    def open_parquet(self, path: str) -> pq.ParquetFile:
        """Raises ArrowInvalid or OSError where it is no whole Parquet file."""
        place = self.root / path
        if isinstance(place, S3Path):
            return pq.ParquetFile(open_s3(place), buffer_size=_STREAM_BYTES, pre_buffer=False)
        return pq.ParquetFile(place)

    def _on_disk(self, root: Path, below: str) -> Iterator[Entry]:
        start = root / below
        if start.is_file():
            yield _of_file(start, root)
        for folder, folders, files in os.walk(start, followlinks=True):
            folders[:] = [name for name in folders if not _is_hidden(name)]
            yield from (_of_file(Path(folder, name), root) for name in files if not _is_hidden(name))

    def _on_s3(self, root: S3Path, below: str) -> Iterator[Entry]:
        found: list[S3Object] = list(list_objects(root / below if below else root))
        if below and not found:
            try:
                found = [look_up(root / below)]
            except NoSuchObject:
                return
        for one in found:
            path = one.path.key.removeprefix(root.prefix)
            if not any(_is_hidden(name) for name in path.split("/")):
                yield Entry(path=path, size=one.size, stamp=one.etag, modified=one.modified.timestamp())

    def _hash(self, entry: Entry) -> str:
        return file_sha256(self.root / entry.path) if isinstance(self.root, Path) else entry.stamp


def _of_file(file: Path, root: Path) -> Entry:
    status = file.stat()
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    path = file.relative_to(root).as_posix()
    return Entry(path=path, size=status.st_size, stamp=stamp, modified=status.st_mtime)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))
