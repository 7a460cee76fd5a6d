"""Paths that may be local or on S3: one way to write, join, open and compare them."""

from __future__ import annotations

import io
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from lnl_core.s3.errors import NoSuchObject
from lnl_core.s3.objects import S3Object, exists, list_objects, look_up
from lnl_core.s3.paths import S3Path, is_s3, parse_s3
from lnl_core.s3.seekable import open_s3

Place = Path | S3Path
STREAM_BYTES = 4 * 2**20  # of a column that is read from S3, at a time
_FEW = 3  # names of a folder: up to here one request each, above it the folder is listed


def locate(path: str | Place) -> Place:
    """The place that a setting names.

    Raises:
        ConfigError: s3:// and then no bucket, or credentials or a query in it.
    """
    return parse_s3(path) if isinstance(path, str | S3Path) and is_s3(path) else Path(str(path))


def below(root: Place, name: str) -> Place:
    """`name` below `root`, or where it says itself if it is absolute or on S3."""
    return locate(name) if is_s3(name) or os.path.isabs(name) else root / name


def open_place(place: Place) -> io.BufferedReader:
    """Open for reading, seekable."""
    return open_s3(place) if isinstance(place, S3Path) else place.open("rb")


def open_parquet(place: Place, *, memory_map: bool = False) -> pq.ParquetFile:
    """Open a Parquet file; from S3 its columns are streamed, so that even one huge row group is never in memory.

    Args:
        memory_map: of a local file, do not copy what is read.
    """
    if isinstance(place, S3Path):
        return pq.ParquetFile(open_s3(place), buffer_size=STREAM_BYTES, pre_buffer=False)
    return pq.ParquetFile(place, memory_map=memory_map)


def files_in(place: Place, suffixes: Container[str]) -> list[Place]:
    """The file itself, or what ends so directly in the folder, sorted; empty where nothing is there."""
    if isinstance(place, S3Path):
        found = sorted(one.path for one in list_objects(place, recursive=False) if one.path.suffix in suffixes)
        return [*found] or ([place] if place.key and exists(place) else [])
    if place.is_dir():
        return sorted(file for file in place.iterdir() if file.suffix in suffixes)
    return [place] if place.is_file() else []


def states(names: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """(name, size, time or ETag) of every file or object that is there, sorted by name; a folder is what it holds.

    Objects are looked up folder by folder: a request for a thousand of them.
    """
    found: list[tuple[str, int, str]] = []
    objects: set[S3Path] = set()
    for name in names:
        if is_s3(name):
            objects.add(parse_s3(name))
        else:
            found += _states_of_files(Path(name))
    found += [(str(one.path), one.size, one.etag) for one in _listed(objects)]
    yield from sorted(found)


def _states_of_files(path: Path) -> Iterator[tuple[str, int, str]]:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if os.path.isfile(file):  # False, too, where it may not be looked at
            status = file.stat()
            yield str(file), status.st_size, str(status.st_mtime_ns)


def _listed(wanted: Iterable[S3Path]) -> Iterator[S3Object]:
    folders: dict[S3Path, set[S3Path]] = {}
    for place in wanted:
        folders.setdefault(place.parent, set()).add(place)
    for folder, places in folders.items():
        if len(places) <= _FEW:
            yield from _looked_up(places)
        else:
            yield from (one for one in list_objects(folder, recursive=False) if one.path in places)


def _looked_up(places: Iterable[S3Path]) -> Iterator[S3Object]:
    for place in places:
        try:
            yield look_up(place)
        except NoSuchObject:
            continue
