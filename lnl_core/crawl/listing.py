"""The listing of a crawl: an ordered list of shards to which new ones are only ever appended.

A shard is a Parquet file, or a folder that has a label file (`labels.csv`, `.tsv` or `.parquet`) and images. The
stage prepare reads what is listed, in this order; so a growing crawl changes nothing about what was there before.
`listing.json` has no times, and its hash leaves out what changes when a file is copied: the same shards, the same hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import posixpath
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lnl_core.contracts import ContractError
from lnl_core.crawl.place import CrawlPlace, Entry
from lnl_core.files import read_json, write_json

log = logging.getLogger("lnl")
FORMAT = 1
LABEL_FILES = ("labels.csv", "labels.tsv", "labels.parquet")
MIN_AGE = 60.0  # seconds; a younger file may still be growing
Form = Literal["parquet", "folder"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One entry of the listing; its number in the listing is its place for good."""

    name: str  # path below the crawl, of the file or the folder
    form: Form
    size: int  # bytes
    files: int
    content: str  # hash of all that is in it
    table: str = ""  # name of a folder's label file
    duplicate_of: str = ""  # the earlier shard with the same content; such a shard is not read
    overwritten: bool = False  # another file has its name now; its rows can be taken from earlier runs alone
    stamp: str = ""  # of its file or label file: a cheap look whether it may have changed; not part of the hash

    @property
    def key_file(self) -> str:
        """The file whose change means that the shard has changed."""
        return f"{self.name}/{self.table}" if self.table else self.name


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The shards in order of ingest."""

    shards: tuple[Shard, ...] = ()

    @property
    def sha256(self) -> str:
        """What goes into `prepare.crawl.listing_sha256`."""
        about = [
            {key: value for key, value in dataclasses.asdict(shard).items() if key != "stamp"} for shard in self.shards
        ]
        return hashlib.sha256(json.dumps([FORMAT, about], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class CrawlState:
    """What lies below the crawl, held against the listing."""

    new: tuple[Shard, ...] = ()  # ready, not in the listing yet; sorted by name
    waiting: tuple[tuple[str, str], ...] = ()  # (name, why) of what is not whole yet
    changed: tuple[Shard, ...] = ()  # listed, but with other contents; as they are now
    restamped: tuple[Shard, ...] = ()  # written anew with the same contents
    vanished: tuple[str, ...] = ()  # listed and gone


def read_listing(path: Path) -> Listing:
    """The listing; an empty one where there is no file yet.

    Raises:
        ContractError: not a listing, of another format, or edited by hand.
    """
    if not path.exists():
        return Listing()
    try:
        raw: dict[str, Any] = read_json(path)
        listing = Listing(shards=tuple(Shard(**shard) for shard in raw["shards"]))
        known, stated = raw["format"] == FORMAT, raw["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{path}: not a listing of a crawl ({error!r}); restore it from git") from error
    if not known or stated != listing.sha256:
        raise ContractError(
            f"{path}: its sha256 does not fit its shards, so it was edited or merged by hand; restore it from git and "
            "run `lnl crawl update`"
        )
    return listing


def write_listing(path: Path, listing: Listing) -> None:
    """Write it atomically."""
    shards = [dataclasses.asdict(shard) for shard in listing.shards]
    write_json(path, {"format": FORMAT, "sha256": listing.sha256, "shards": shards})


def update_listing(
    path: str, listing: Listing, *, min_age: float = MIN_AGE, accept_changed: bool = False
) -> tuple[Listing, list[Shard]]:
    """Append what is new below `path`; returns the listing and the new shards (duplicates of others among them).

    Args:
        min_age: seconds; shards with a younger file are left for the next time.
        accept_changed: list a shard that was overwritten as a new one; what was read from the old one stays.

    Raises:
        ConfigError: no such folder or prefix.
        ContractError: a listed shard has other contents now.
    """
    state = look_at(path, listing, min_age=min_age)
    for name, why in state.waiting:
        log.info("crawl: %s is left for the next time: %s", name, why)
    if state.vanished:
        log.warning(
            "crawl: %d listed shards are gone from %s (first: %s); what was read from them stays, but can only be "
            "taken from the files of an earlier run",
            len(state.vanished),
            path,
            state.vanished[0],
        )
    if state.changed and not accept_changed:
        raise ContractError(_says_changed(path, listing, state.changed))
    shards = _overwritten(listing.shards, state.changed)
    fresh = {shard.name: shard.stamp for shard in state.restamped}
    shards = [dataclasses.replace(shard, stamp=fresh.get(shard.name, shard.stamp)) for shard in shards]
    new = _named_duplicates(shards, sorted([*state.new, *state.changed], key=lambda shard: shard.name))
    return Listing(shards=(*shards, *new)), new


def look_at(path: str, listing: Listing, *, min_age: float = MIN_AGE) -> CrawlState:
    """Hold what lies below `path` against the listing. Hashes new shards and those whose stamp has changed.

    Raises:
        ConfigError: no such folder or prefix.
    """
    place = CrawlPlace(path)
    found, loose = _group(place.entries())
    listed = {shard.name: shard for shard in listing.shards}  # the last of a name
    waiting = [(name, "has no label file yet") for name in loose]
    new: list[Shard] = []
    changed: list[Shard] = []
    restamped: list[Shard] = []
    for name, (entries, table) in sorted(found.items()):
        old = listed.get(name)
        key = next(entry for entry in entries if not table or entry.path == f"{name}/{table}")
        if old is not None and old.stamp == key.stamp:
            continue
        if why := _not_ready(place, name, entries, table, min_age):
            waiting.append((name, why))
            continue
        shard = _shard(place, name, entries, table, key.stamp)
        if old is None:
            new.append(shard)
        else:
            (restamped if old.content == shard.content else changed).append(shard)
    there = {*found, *loose}
    return CrawlState(
        new=tuple(new),
        waiting=tuple(waiting),
        changed=tuple(changed),
        restamped=tuple(restamped),
        vanished=tuple(shard.name for shard in listed.values() if shard.name not in there),
    )


def _group(entries: Sequence[Entry]) -> tuple[dict[str, tuple[list[Entry], str]], list[str]]:
    """(shard -> its files and the name of its label file, folders with files but without a label file)."""
    tables: dict[str, str] = {}
    for entry in entries:
        folder, name = posixpath.split(entry.path)
        if folder and name in LABEL_FILES:
            tables.setdefault(folder, name)
    shards: dict[str, tuple[list[Entry], str]] = {}
    loose: set[str] = set()
    for entry in entries:
        folder = _owner(entry.path, tables)
        if folder:
            shards.setdefault(folder, ([], tables[folder]))[0].append(entry)
        elif entry.path.endswith(".parquet"):
            shards[entry.path] = ([entry], "")
        else:
            loose.add(entry.path.split("/")[0])
    return shards, sorted(loose)


def _owner(path: str, tables: dict[str, str]) -> str:
    """The outermost folder with a label file above `path`; empty where there is none."""
    parts = path.split("/")[:-1]
    above = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next((folder for folder in above if folder in tables), "")


def _not_ready(place: CrawlPlace, name: str, entries: Sequence[Entry], table: str, min_age: float) -> str:
    """Why a shard is left for the next time; empty where it is whole."""
    age = time.time() - max(entry.modified for entry in entries)
    if age < min_age:
        return f"written {max(age, 0):.0f} s ago, at least {min_age:.0f} s are wanted"
    parquet = name if not table else f"{name}/{table}" if table.endswith(".parquet") else ""
    if parquet:
        try:
            place.open_parquet(parquet).close()
        except (pa.ArrowInvalid, OSError) as error:
            return f"{parquet} is no whole Parquet file yet ({error})"
    return ""


def _shard(place: CrawlPlace, name: str, entries: Sequence[Entry], table: str, stamp: str) -> Shard:
    return Shard(
        name=name,
        form="folder" if table else "parquet",
        size=sum(entry.size for entry in entries),
        files=len(entries),
        content=place.content(entries),
        table=table,
        stamp=stamp,
    )


def _named_duplicates(listed: Sequence[Shard], new: Sequence[Shard]) -> list[Shard]:
    first: dict[tuple[str, int], str] = {}
    for shard in listed:
        if not shard.overwritten:
            first.setdefault((shard.content, shard.size), shard.duplicate_of or shard.name)
    result = []
    for shard in new:
        known = first.setdefault((shard.content, shard.size), shard.name)
        result.append(shard if known == shard.name else dataclasses.replace(shard, duplicate_of=known))
    return result


def _overwritten(listed: Sequence[Shard], changed: Sequence[Shard]) -> list[Shard]:
    names = {shard.name for shard in changed}
    return [dataclasses.replace(shard, overwritten=shard.overwritten or shard.name in names) for shard in listed]


def _says_changed(path: str, listing: Listing, changed: Sequence[Shard]) -> str:
    now = changed[0]
    old = next(shard for shard in reversed(listing.shards) if shard.name == now.name)
    return (
        f"{path}: shard {now.name} has changed since it was listed ({old.size} bytes {old.content[:15]}, now "
        f"{now.size} bytes {now.content[:15]}; {len(changed)} such shards). Shards are not written twice: put the old "
        "one back and give the new one a name of its own; or list it as a new shard with "
        "`lnl crawl update --accept-changed`: the rows read from the old one stay"
    )
