"""Reading the listed shards of a crawl: ids and texts of all rows at once, images as a stream.

What is written in a shard is handed on as it stands: labels are texts here, so that parts made from a shard do not
change when a class is added.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Ids, QuarantineRow, string_ids
from lnl_core.crawl.listing import Shard, read_listing
from lnl_core.crawl.place import CrawlPlace
from lnl_core.crawl.settings import CrawlSettings
from lnl_core.images.image_files import read_image_files
from lnl_core.labels.class_labels import label_text
from lnl_core.labels.label_file import check_hash, read_label_file, read_user_table
from lnl_core.s3 import ObjectChanged, Place, locate

log = logging.getLogger("lnl")
FORMAT = 1  # of what is made of a shard; raised when the same shard would give other rows or images
TEXTS = ("id", "label", "true_label", "split", "source")
_BATCH = 128  # images of a Parquet shard read at a time
Image = bytes | QuarantineRow


class UnusableShard(ValueError):
    """A shard that will never be read with these settings: a column is missing, it is no label table, it is damaged."""


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The rows of a shard in its own order."""

    texts: pa.Table  # columns `TEXTS`, strings, null where nothing is written
    images: Iterator[Image]  # once


class CrawlReader:
    """What the stage prepare reads of a crawl. Opens nothing before a method is called."""

    def __init__(self, config: Any) -> None:
        self.config: CrawlSettings = config

    def shards(self) -> tuple[Shard, ...]:
        """All listed shards in order of ingest.

        Raises:
            ConfigError: no class names.
            ContractError: no listing, a broken one, or another than `listing_sha256`.
        """
        if not self.config.class_names:
            raise ConfigError(
                "prepare.crawl.class_names is not set; name the classes in order: labels of later shards must not "
                "change what the numbers of the first mean"
            )
        path = Path(self.config.listing)
        if not path.exists():
            raise ContractError(f"{path}: no such file; `lnl crawl update` makes it")
        listing = read_listing(path)
        if self.config.listing_sha256 not in ("", listing.sha256):
            raise ContractError(
                f"{path}: its sha256 is {listing.sha256}, prepare.crawl.listing_sha256 says "
                f"{self.config.listing_sha256}; set the one of the listing, or bring the listing that was meant"
            )
        return listing.shards

    def key(self) -> str:
        """The settings that decide what is read of a shard."""
        names = ("id", "label", "image", "path", "source", "split", "true_label")
        return json.dumps([FORMAT, *(getattr(self.config, f"{name}_column") for name in names)])

    def open(self, shard: Shard) -> ShardRows:
        """The rows of a shard.

        Raises:
            ContractError: the shard is gone, or is no longer what was listed.
            UnusableShard: it cannot be read with these settings.
        """
        place = CrawlPlace(self.config.path)
        _check_same(place, shard, self.config.path)
        return self._parquet(place, shard) if shard.form == "parquet" else self._folder(place, shard)

    def source_files(self) -> Sequence[str]:
        """Files by whose size and time `lnl run` sees that something has changed: the listing, not the shards."""
        return [name for name in (self.config.listing, self.config.test_file) if name]

    def test_labels(self) -> tuple[Ids, list[object]]:
        """(ids, labels as they stand there) of `test_file`; none where there is no such file.

        Raises:
            ConfigError: no such file, or not the one of `test_sha256`.
        """
        if not self.config.test_file:
            return string_ids([]), []
        place = locate(self.config.test_file)
        check_hash(place, self.config.test_sha256, "prepare.crawl.test_sha256")
        return read_label_file(place, self.config.id_column, self.config.label_column)

    def _parquet(self, place: CrawlPlace, shard: Shard) -> ShardRows:
        reader = place.open_parquet(shard.name)
        names = reader.schema_arrow.names
        _need(names, [self.config.id_column, self.config.image_column], shard.name)
        with _damaged_is_unusable(shard.name):
            table = reader.read(columns=[name for name in self._columns() if name in names])
        texts = self._texts(table, shard.name, list(table[self.config.id_column].to_pylist()))
        return ShardRows(texts=texts, images=_parquet_images(reader, self.config.image_column, shard.name))

    def _folder(self, place: CrawlPlace, shard: Shard) -> ShardRows:
        table = _read_table(place, shard.key_file)
        id_column, path_column = self.config.id_column, self.config.path_column
        if not {id_column, path_column} & set(table.column_names):
            raise UnusableShard(f"{shard.key_file}: has neither {id_column!r} nor {path_column!r}")
        ids = table[id_column].to_pylist() if id_column in table.column_names else None
        paths = table[path_column].to_pylist() if path_column in table.column_names else ids
        assert paths is not None
        ids = [f"{shard.name}/{path}" if path else None for path in paths] if ids is None else ids
        texts = self._texts(table, shard.key_file, ids)
        return ShardRows(texts=texts, images=_folder_images(place.root / shard.name, paths))

    def _columns(self) -> list[str]:
        config = self.config
        names = (config.id_column, config.label_column, config.true_label_column, config.split_column)
        return [name for name in (*names, config.source_column) if name]

    def _texts(self, table: pa.Table, where: str, ids: list[object]) -> pa.Table:
        config, there = self.config, table.column_names
        wanted = [name for name in (config.label_column, config.true_label_column, config.split_column) if name]
        _need(there, wanted, where)
        columns = {"label": config.label_column, "true_label": config.true_label_column, "split": config.split_column}
        columns["source"] = config.source_column if config.source_column in there else ""
        texts = {"id": _as_text(ids)}
        for name, column in columns.items():
            texts[name] = _as_text(table[column].to_pylist()) if column else pa.nulls(len(table), pa.string())
        return pa.table(texts)


def _as_text(values: Sequence[object]) -> pa.Array:
    """3, 3.0 and "3" are the same text; null where nothing is written."""
    return pa.array([(value if isinstance(value, str) else label_text(value)) or None for value in values], pa.string())


def _need(there: Sequence[str], names: Sequence[str], where: str) -> None:
    for name in names:
        if name not in there:
            raise UnusableShard(f"{where}: has no column {name!r} (it has: {', '.join(there)})")


def _check_same(place: CrawlPlace, shard: Shard, path: str) -> None:
    entries = place.entries(shard.name)
    mend = "put it back, or bring the files of the run that read it (they are then taken from there)"
    if not entries:
        raise ContractError(f"{path}: shard {shard.name} is listed and gone; {mend}")
    if shard.overwritten or place.content(entries) != shard.content:
        raise ContractError(f"{path}: shard {shard.name} has changed since it was listed; {mend}")


def _parquet_images(reader: Any, column: str, shard: str) -> Iterator[Image]:
    batches = reader.iter_batches(_BATCH, columns=[column])
    while True:
        with _damaged_is_unusable(shard):
            batch = next(batches, None)
        if batch is None:
            return
        for value in batch.column(0).to_pylist():
            data = value.get("bytes") if isinstance(value, dict) else value
            detail = f"column {column} has no bytes; the crawler must write the image there"
            yield data if isinstance(data, bytes) else _aside("missing-image", detail)


@contextlib.contextmanager
def _damaged_is_unusable(shard: str) -> Iterator[None]:
    """pyarrow's errors of a damaged file become `UnusableShard`; those of the system, which may pass, stay."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):
            raise
        raise UnusableShard(f"{shard}: a damaged Parquet file ({error})") from error


def _folder_images(root: Place, paths: Sequence[Any]) -> Iterator[Image]:
    """The images of a label file's rows; a path that is missing or leads out of the folder is none of them."""
    wrong = {row: problem for row, path in enumerate(paths) if (problem := _wrong_path(path))}
    images = read_image_files((root / path, "") for row, path in enumerate(paths) if row not in wrong)
    for row in range(len(paths)):
        yield wrong[row] if row in wrong else next(images)


def _wrong_path(path: object) -> QuarantineRow | None:
    if not isinstance(path, str) or not path:
        return _aside("missing-file", "the label file names no image; write its path")
    if path.startswith("/") or "://" in path or ".." in path.split("/"):
        return _aside("path-outside", f"{path!r} leads out of its folder; write a path below it")
    return None


def _aside(reason: str, detail: str) -> QuarantineRow:
    return QuarantineRow(stage="prepare", reason=reason, detail=detail)


def _read_table(place: CrawlPlace, name: str) -> pa.Table:
    try:
        return read_user_table(place.root / name)
    except ObjectChanged:  # while it was read; the next attempt says what is there now
        raise
    except (ContractError, UnicodeDecodeError) as error:
        raise UnusableShard(f"{name}: not a table of labels ({error})") from error
