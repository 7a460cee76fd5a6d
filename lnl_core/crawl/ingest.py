"""The listed shards of a crawl to image parts: each shard is read once in its life, each image is kept once.

Every shard leaves its parts `images/part-PLACE-NUMBER.parquet`, a table of the rows in them, `ingest/PLACE.parquet`,
and a table of what was set aside, `ingest/PLACE-quarantine.parquet`. They depend on the shard, on the shards before it
in the listing and on the settings of the reader alone: the key in the table's metadata. Where an earlier run, or one
that was killed, has left files with that key, they are linked instead of made again.

An id or a picture that is there already is not taken twice: the same id with the same bytes is passed over and counted;
the same id with other bytes is set aside (`id-taken`), and so are the same bytes under another id (`duplicate-image`).
Whatever came first stays. Held: id, hash and texts of all rows; the encoded images of one part (`rows_per_shard`) where
a shard is not sorted by id, else those of a row group.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lnl_core.contracts import (
    IMAGES,
    ContractError,
    QuarantineRow,
    metadata_of,
    read_quarantine,
    write_quarantine,
    write_table,
)
from lnl_core.crawl.listing import Shard
from lnl_core.crawl.reader import CrawlReader, Image, ShardRows, UnusableShard
from lnl_core.files import atomic_path, link_or_copy
from lnl_core.images.decode import BrokenImage, decode_image, map_images
from lnl_core.images.phash import phash
from lnl_core.images.shards import ROW_GROUP, shard_writer
from lnl_core.progress import progress_bar

log = logging.getLogger("lnl")
MAX_PLACES, MAX_PARTS = 100_000, 1_000  # the names of parts sort by place up to here
ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("phash", pa.uint64()),  # null where the picture is too plain
        pa.field("label", pa.string()),  # as the crawler wrote it
        pa.field("true_label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source", pa.string()),
    ]
)
TEXTS = ("label", "true_label", "split", "source")


@dataclass(frozen=True, kw_only=True)
class IngestedShard:
    """What a shard has given."""

    place: int  # in the listing
    shard: Shard
    rows: pa.Table  # `ROWS`, in the order of its image parts
    quarantined: list[QuarantineRow]
    skipped: int  # rows that stand in an earlier shard with the same bytes
    new: bool  # read now, not taken from an earlier run


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """Where parts and tables lie."""

    images: Path
    ingest: Path

    def rows(self, place: int) -> Path:
        return self.ingest / f"{place:05d}.parquet"

    def quarantine(self, place: int) -> Path:
        return self.ingest / f"{place:05d}-quarantine.parquet"


def ingest(
    crawl: CrawlReader, work: Path, earlier: Sequence[tuple[Path, Path]], rows_per_part: int
) -> list[IngestedShard]:
    """Bring `work/images` and `work/ingest` up to date with the listing; shards that repeat another are left out.

    Args:
        earlier: folders (images, ingest) of runs from which shards may be taken.

    Raises:
        ContractError: a shard that has to be read is gone or has changed.
    """
    target = _Folders(images=work / "images", ingest=work / "ingest")
    folders = [target, *(_Folders(images=images, ingest=notes) for images, notes in earlier)]
    key = hashlib.sha256(f"{crawl.key()} {rows_per_part}".encode()).hexdigest()
    done: list[IngestedShard] = []
    shards = crawl.shards()
    with progress_bar("prepare", len(shards), "shards") as advance:
        for place, shard in enumerate(shards):
            if not shard.duplicate_of:
                key = hashlib.sha256(f"{key} {place} {shard.name} {shard.content}".encode()).hexdigest()
                there = _taken(place, shard, key, folders)
                done.append(there or _read(crawl, place, shard, key, target, done, rows_per_part))
            advance()
    _drop_stale(target, {shard.place for shard in done})
    return done


def _taken(place: int, shard: Shard, key: str, folders: Sequence[_Folders]) -> IngestedShard | None:
    """The shard from the first folder that has it whole, linked into the first of all."""
    target = folders[0]
    for folder in folders:
        if (about := _about(folder.rows(place))).get("key") != key or not _is_whole(folder, about["parts"]):
            continue
        if folder is not target:
            for name in about["parts"]:
                link_or_copy(folder.images / name, target.images / name)
            link_or_copy(folder.quarantine(place), target.quarantine(place))
            link_or_copy(folder.rows(place), target.rows(place))
        return IngestedShard(
            place=place,
            shard=shard,
            rows=pq.read_table(target.rows(place)),
            quarantined=read_quarantine(target.quarantine(place)),
            skipped=about["skipped"],
            new=folder is target,
        )
    return None


def _about(table: Path) -> dict[str, Any]:
    try:
        return metadata_of(pq.read_schema(table))
    except (pa.ArrowInvalid, OSError):
        return {}


def _is_whole(folder: _Folders, parts: dict[str, int]) -> bool:
    files = [folder.images / name for name in parts]
    return all(file.exists() and file.stat().st_size == size for file, size in zip(files, parts.values(), strict=True))


def _read(
    crawl: CrawlReader,
    place: int,
    shard: Shard,
    key: str,
    target: _Folders,
    before: Sequence[IngestedShard],
    rows_per_part: int,
) -> IngestedShard:
    """Read a shard, write its parts, and last its table: a shard that has one is done."""
    if place >= MAX_PLACES:
        raise ContractError(
            f"shard {shard.name} has place {place}, at most {MAX_PLACES} have names that sort; merge some"
        )
    sieve = _Sieve(shard, before)
    parts: dict[str, int] = {}
    tables = []
    try:
        rows = crawl.open(shard)
        sieve.look_up(rows.texts["id"])
        for start in range(0, len(rows.texts), rows_per_part):
            name = f"part-{place:05d}-{start // rows_per_part:03d}.parquet"
            tables.append(_write_part(target.images / name, _sorted(rows, start, rows_per_part), sieve))
            if len(tables[-1]):
                parts[name] = (target.images / name).stat().st_size
    except UnusableShard as error:
        log.warning("prepare: shard %s cannot be used: %s", shard.name, error)
        sieve.aside.append(_unusable(shard, error))
    table = pa.concat_tables([ROWS.empty_table(), *tables])
    write_quarantine(target.quarantine(place), sieve.aside)
    write_table(target.rows(place), table, {"key": key, "parts": parts, "skipped": sieve.skipped})
    return IngestedShard(place=place, shard=shard, rows=table, quarantined=sieve.aside, skipped=sieve.skipped, new=True)


def _unusable(shard: Shard, error: UnusableShard) -> QuarantineRow:
    detail = f"{error}; write the shard again under another name, or name the columns right in prepare.crawl"
    return QuarantineRow(stage="prepare", reason="unusable-shard", detail=detail, path=shard.name)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row on its way from the shard to a part."""

    number: int  # in the shard
    name: str  # empty where the shard gives no id
    texts: tuple[str | None, ...]  # `TEXTS`
    image: Image
    digest: bytes


def _sorted(rows: ShardRows, start: int, most: int) -> Iterator[_Row]:
    """The next rows of the shard, sorted by id; nothing is held where they are."""
    texts = rows.texts.slice(start, most)
    names = texts["id"].fill_null("").to_pylist()
    columns = zip(*(texts[name].to_pylist() for name in TEXTS), strict=True)
    found = (
        _Row(number=start + row, name=name, texts=values, image=image, digest=_digest(image))
        for row, (name, values, image) in enumerate(
            zip(names, columns, itertools.islice(rows.images, len(texts)), strict=True)
        )
    )
    yield from found if names == sorted(names) else sorted(found, key=lambda row: row.name)


def _digest(image: Image) -> bytes:
    return hashlib.sha256(image).digest() if isinstance(image, bytes) else b""


def _write_part(path: Path, rows: Iterator[_Row], sieve: _Sieve) -> pa.Table:
    """Write what passes the sieve as one image part, none where nothing does; returns its rows."""
    kept: list[dict[str, Any]] = []
    with atomic_path(path) as temporary, shard_writer(temporary) as writer:
        while chunk := list(itertools.islice(rows, ROW_GROUP)):
            images, records = sieve.pass_on(chunk)
            kept += records
            if images:
                writer.write_table(pa.Table.from_pylist(images, schema=IMAGES), row_group_size=ROW_GROUP)
    if not kept:
        path.unlink()
    return pa.Table.from_pylist(kept, schema=ROWS)


class _Sieve:
    """Lets through what is new and can be decoded, notes the rest; one for each shard."""

    def __init__(self, shard: Shard, before: Sequence[IngestedShard]) -> None:
        self.aside: list[QuarantineRow] = []
        self.skipped = 0
        self._shard = shard
        self._before = before
        self._starts = np.cumsum([0, *(len(one.rows) for one in before)])
        self._digests = _Digests(_column(before, "sha256"))
        self._row_of_id: npt.NDArray[np.int64] = np.empty(0, np.int64)  # shard row -> earlier row with its id, or -1
        self._by_id: dict[str, bytes] = {}  # of this shard's kept rows
        self._by_digest: dict[bytes, _Row] = {}

    def look_up(self, ids: Any) -> None:
        """Find the ids of the shard [rows] among those of the shards before it."""
        found = pc.index_in(ids, value_set=_column(self._before, "id"), skip_nulls=True)
        self._row_of_id = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def pass_on(self, rows: Sequence[_Row]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """(records for the image part, records of `ROWS`) of the rows that are kept."""
        fresh = [row for row, known in zip(rows, self._digests.find(rows), strict=True) if self._is_fresh(row, known)]
        looks = map_images(_look, [row.image for row in fresh if isinstance(row.image, bytes)])
        images, records = [], []
        for row, look in zip(fresh, looks, strict=True):
            if not self._is_first(row):
                continue
            if isinstance(look, BrokenImage):
                self._set_aside(row, look.reason, look.detail)
                continue
            self._by_id[row.name] = row.digest
            self._by_digest[row.digest] = dataclasses.replace(row, image=b"")
            width, height, bits = look
            texts = dict(zip(TEXTS, row.texts, strict=True))
            images.append(
                {"id": row.name, "image": row.image, "width": width, "height": height, "sha256": row.digest.hex()}
            )
            records.append({"id": row.name, "sha256": row.digest, "phash": bits or None, **texts})
        return images, records

    def _is_fresh(self, row: _Row, same_bytes: int) -> bool:
        """Has it an id and an image, and is neither in an earlier shard?"""
        if isinstance(row.image, QuarantineRow):
            self._set_aside(row, row.image.reason, row.image.detail)
        elif not row.name:
            self._set_aside(row, "missing-id", f"row {row.number} has no id; the crawler must give each image one")
        elif (same_id := int(self._row_of_id[row.number])) >= 0:
            shard, place = self._earlier(same_id)
            self._same_id(row, shard.rows["sha256"][place].as_py(), f"shard {shard.shard.name}")
        elif same_bytes >= 0:
            shard, place = self._earlier(same_bytes)
            first = {name: shard.rows[name][place].as_py() for name in ("id", "label")}
            self._duplicate(row, first["id"], first["label"], f"shard {shard.shard.name}")
        else:
            return True
        return False

    def _is_first(self, row: _Row) -> bool:
        """Is neither its id nor its picture among the rows kept of this shard?"""
        if row.name in self._by_id:
            self._same_id(row, self._by_id[row.name], "this shard")
        elif row.digest in self._by_digest:
            first = self._by_digest[row.digest]
            self._duplicate(row, first.name, first.texts[0], "this shard")
        else:
            return True
        return False

    def _same_id(self, row: _Row, digest: bytes, where: str) -> None:
        if row.digest == digest:
            self.skipped += 1
        else:
            detail = f"{where} has this id with other bytes, and those stay; give the new image an id of its own"
            self._set_aside(row, "id-taken", detail)

    def _duplicate(self, row: _Row, first: str, label: str | None, where: str) -> None:
        detail = f"the same bytes as {first} of {where}, which stays"
        if label != row.texts[0]:
            detail += f"; labelled {label!r} there and {row.texts[0]!r} here"
        self._set_aside(row, "duplicate-image", detail)

    def _set_aside(self, row: _Row, reason: str, detail: str) -> None:
        self.aside.append(
            QuarantineRow(
                stage="prepare",
                reason=reason,
                detail=detail,
                id=row.name or None,
                path=f"{self._shard.name}:{row.number}",
            )
        )

    def _earlier(self, row: int) -> tuple[IngestedShard, int]:
        """The shard of a row counted over all shards before this one, and its row in it."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._before[number], row - int(self._starts[number])


class _Digests:
    """Looks up SHA-256 by their first 8 bytes; the rest is compared, so nothing is found by chance."""

    def __init__(self, digests: Any) -> None:
        data, start = digests.buffers()[1], 32 * digests.offset
        raw = data.to_pybytes()[start : start + 32 * len(digests)] if len(digests) else b""
        values = np.frombuffer(raw, dtype=">u8").reshape(-1, 4)
        self._order = np.argsort(values[:, 0], kind="stable")
        self._values = values[self._order]

    def find(self, rows: Sequence[_Row]) -> list[int]:
        """The row that has a row's bytes, or -1. (Of two that share 64 bits and no more, the second is not found.)"""
        if not len(self._values):
            return [-1] * len(rows)
        wanted = np.frombuffer(b"".join(row.digest or bytes(32) for row in rows), dtype=">u8").reshape(-1, 4)
        spots = np.minimum(np.searchsorted(self._values[:, 0], wanted[:, 0]), len(self._values) - 1)
        same = (self._values[spots] == wanted).all(axis=1)
        return [int(row) for row in np.where(same, self._order[spots], -1)]


def _column(shards: Sequence[IngestedShard], name: str) -> Any:
    chunks = [chunk for shard in shards for chunk in shard.rows[name].chunks]
    return pa.chunked_array(chunks, ROWS.field(name).type).combine_chunks()


def _look(image: bytes) -> tuple[int, int, int] | BrokenImage:
    try:
        decoded = decode_image(image)
    except BrokenImage as error:
        return error
    return (*decoded.size, phash(decoded))


def _drop_stale(target: _Folders, places: set[int]) -> None:
    """Remove what killed runs left of shards that are not listed, of other settings, or half written."""
    parts = {name for place in places for name in _about(target.rows(place))["parts"]}
    tables = {path.name for place in places for path in (target.rows(place), target.quarantine(place))}
    for folder, wanted in ((target.images, parts), (target.ingest, tables)):
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if file.name not in wanted:
                file.unlink()
