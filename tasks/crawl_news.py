"""What a re-cleaning starts from: the versions before, and what has come since the last of them.

The run's first commit takes all of it along: params with the hashes, `data/crawl/` with the listing, copies of the
tables of trusted and test labels, and `before.json` (the two versions). So every machine sees the same, and a run that
is taken up again goes on with what it began with, whatever has come meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from prefect.logging import get_run_logger

from lnl_core.config import ConfigError, Params, parse_params
from lnl_core.crawl.listing import Listing, Shard, read_listing, update_listing, write_listing
from lnl_core.crawl.reclean import with_hashes
from lnl_core.s3 import is_s3, locate, read_bytes
from lnl_core.versions.promote import promoted_manifest
from lnl_core.versions.store import VersionStore
from tasks.base_commit import BaseCommit
from tasks.commit_files import ancestor, file_of, trees_differ
from tasks.git_command import holding
from tasks.job import Lock
from tasks.machine import Machine
from tasks.patient_task import patient_task
from tasks.prefect_log import send_logs_to_prefect
from tasks.run_branch import lock_of

CRAWL = "data/crawl"
LISTING, BEFORE = f"{CRAWL}/listing.json", f"{CRAWL}/before.json"
CODE = ("lnl_core", "dvc.yaml")
COMMITS_OF_A_RUN = 2  # its params, its dvc.lock; before them the commit that it was started from


@dataclass(frozen=True, kw_only=True)
class Before:
    """Commits of the versions that a re-cleaning builds on; empty where there is none.

    Images and features are taken from the latest, whatever the gate said of it: they are keyed by content. Decisions
    are taken from the promoted one, for those are the labels in use.
    """

    latest: str = ""
    promoted: str = ""


@dataclass(frozen=True, kw_only=True)
class News:
    """`reasons` says what is new, for a person; empty: nothing is. `params` and `files` are for the run's commit."""

    reasons: tuple[str, ...]
    new: tuple[Shard, ...]
    params: Params
    files: Mapping[str, str | bytes] = field(default_factory=dict)


def default_store() -> str:
    """LNL_VERSIONS, else the folder `versions`."""
    return os.environ.get("LNL_VERSIONS") or "versions"


def registered(store: str, run: str) -> int | None:
    """The version that a run is already: one that is taken up again may have come as far as that."""
    found = VersionStore.open(store).of_run(run)
    return found.number if found else None


@patient_task("look for news")
async def look_for_news(base: BaseCommit, store: str, min_age: float) -> News:
    """Hold the crawl, the tables of labels, settings and code against those of the latest version.

    Args:
        store: the versions.
        min_age: seconds; shards with a younger file wait for the next time.

    Raises:
        ConfigError: the settings are of another dataset.
        ContractError: a listed shard has changed.
    """
    send_logs_to_prefect()
    before = await asyncio.to_thread(versions_before, VersionStore.open(store))
    news = await asyncio.to_thread(read_news, base, Machine(), before, min_age)
    get_run_logger().info("new: %s", ", ".join(news.reasons) or "nothing")
    return news


def versions_before(store: VersionStore) -> Before:
    """The latest and the promoted version that have a commit; the latest stands in where none is promoted yet."""
    commits = [manifest.commit for manifest in store.versions() if manifest.commit]
    promoted = promoted_manifest(store)
    latest = commits[-1] if commits else ""
    return Before(latest=latest, promoted=(promoted.commit if promoted else None) or latest)


def read_news(base: BaseCommit, machine: Machine, before: Before, min_age: float) -> News:
    """As `look_for_news`."""
    path = crawl_path(base.params)
    clone = holding(machine, base.repository, before.latest or base.commit)
    listing, new = update_listing(path, _listed(clone, before.latest), min_age=min_age)
    if not listing.shards:
        return News(reasons=(), new=(), params=base.params)
    holding(machine, base.repository, base.commit)
    tables = _tables(base, clone)
    params = _params(base, listing, tables, _decided(base.repository, before.promoted, machine))
    files: dict[str, str | bytes] = {LISTING: _listing_text(listing), **tables.files}
    files[BEFORE] = json.dumps({"latest": before.latest, "promoted": before.promoted}, indent=2) + "\n"
    reasons = _reasons(clone, base.commit, before.latest, params, len(new))
    return News(reasons=reasons, new=tuple(new), params=params, files=files)


def previous_of(repository: str, revision: str, machine: Machine) -> Lock:
    """The dvc.lock entries that a run builds on, by the versions that its first commit names."""
    clone = holding(machine, repository, revision)
    before = Before(**json.loads(file_of(clone, revision, BEFORE) or b"{}"))
    sources = {"prepare": before.latest, "features": before.latest, "purify": before.promoted}
    locks = {commit: lock_of(repository, commit, machine) for commit in set(sources.values()) if commit}
    return {stage: locks[commit][stage] for stage, commit in sources.items() if commit and stage in locks[commit]}


def new_shards(base: BaseCommit, machine: Machine, before: Before, min_age: float) -> list[Shard]:
    """Shards that are ready and that the latest version has not seen."""
    clone = holding(machine, base.repository, before.latest or base.commit)
    return update_listing(crawl_path(base.params), _listed(clone, before.latest), min_age=min_age)[1]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The tables of trusted and test labels: paths in the run's commit, contents; empty where none is named."""

    trusted: str = ""
    test: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest() if path else ""


def crawl_path(params: Params) -> str:
    """Where the crawl lies.

    Raises:
        ConfigError: the settings are of another dataset, or the path is relative.
    """
    prepare = params.get("prepare") or {}
    if prepare.get("dataset") != "crawl":
        raise ConfigError(
            f"prepare.dataset is {prepare.get('dataset')!r}: the flow reclean is for a crawl; purify-and-train runs all"
        )
    path = str((prepare.get("crawl") or {}).get("path", ""))
    if not is_s3(path) and not Path(path).is_absolute():
        raise ConfigError(
            f"prepare.crawl.path = {path!r}: stages run in folders of their own, so name an absolute path or s3://..."
        )
    return path


def _listed(clone: Path, latest: str) -> Listing:
    content = file_of(clone, latest, LISTING) if latest else None
    if content is None:
        return Listing()
    with tempfile.TemporaryDirectory(prefix="lnl-listing-") as folder:
        path = Path(folder) / "listing.json"
        path.write_bytes(content)
        return read_listing(path)


def _listing_text(listing: Listing) -> bytes:
    with tempfile.TemporaryDirectory(prefix="lnl-listing-") as folder:
        path = Path(folder) / "listing.json"
        write_listing(path, listing)
        return path.read_bytes()


def _tables(base: BaseCommit, clone: Path) -> _Tables:
    prepare = base.params["prepare"]
    trusted = prepare.get("trusted") or {}
    named = {
        "trusted": str(trusted.get("file") or "") if trusted.get("source") == "file" else "",
        "test": str((prepare.get("crawl") or {}).get("test_file") or ""),
    }
    paths = {what: f"{CRAWL}/{what}{PurePosixPath(name).suffix}" for what, name in named.items() if name}
    files = {path: _table(named[what], clone, base.commit) for what, path in paths.items()}
    return _Tables(trusted=paths.get("trusted", ""), test=paths.get("test", ""), files=files)


def _table(name: str, clone: Path, commit: str) -> bytes:
    """A table of labels as it is now: s3://, an absolute path, or a path in the repository."""
    place = locate(name)
    if not isinstance(place, Path):
        return read_bytes(place)
    content = place.read_bytes() if place.is_absolute() and place.is_file() else None
    content = content if content is not None else file_of(clone, commit, name)
    if content is None:
        raise ConfigError(
            f"{name!r}: no such file on this machine or in commit {commit}; commit it, or put it on S3 (s3://...)"
        )
    return content


def _decided(repository: str, promoted: str, machine: Machine) -> str:
    """md5 of the purified table whose decisions stand; empty before the first version."""
    entry = lock_of(repository, promoted, machine).get("purify", {}) if promoted else {}
    outs = {out["path"]: str(out["md5"]) for out in entry.get("outs", [])}
    return outs.get("data/purify/purified.parquet", "")


def _params(base: BaseCommit, listing: Listing, tables: _Tables, previous_md5: str) -> Params:
    """The settings of the version: tables and listing where the run's commit has them, and the hashes of all."""
    params = with_hashes(
        base.params,
        listing=listing.sha256,
        trusted=tables.sha256(tables.trusted),
        test=tables.sha256(tables.test),
        previous_md5=previous_md5,
    )
    prepare = params["prepare"]
    prepare["crawl"]["listing"] = LISTING
    if tables.trusted:
        prepare["trusted"]["file"] = tables.trusted
    if tables.test:
        prepare["crawl"]["test_file"] = tables.test
    return params


def _reasons(clone: Path, commit: str, latest: str, params: Params, shards: int) -> tuple[str, ...]:
    if not latest:
        return ("the first version",)
    text = (file_of(clone, latest, "params.yaml") or b"").decode()
    old = _comparable(parse_params(text, f"params.yaml of {latest}"))
    now = _comparable(params)
    found = [f"{shards} new shards"] if shards else []
    found += [what for what in ("trusted labels", "test rows") if old.pop(what) != now.pop(what)]
    found += ["settings"] if old != now else []
    base = ancestor(clone, latest, COMMITS_OF_A_RUN)
    return (*found, *(["code"] if base is None or trees_differ(clone, base, commit, *CODE) else []))


def _comparable(params: Params) -> dict[str, Any]:
    """Settings without what changes by itself; hashes of the tables under names for people."""
    own: dict[str, Any] = json.loads(json.dumps(params, default=str))
    prepare, purify = own["prepare"], own.get("purify") or {}
    prepare["crawl"].pop("listing_sha256", None)
    (purify.get("update") or {}).pop("previous_md5", None)
    trusted = (prepare.get("trusted") or {}).pop("sha256", "")
    return {"trusted labels": trusted, "test rows": prepare["crawl"].pop("test_sha256", ""), "settings": own}
