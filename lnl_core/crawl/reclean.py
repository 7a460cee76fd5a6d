"""`lnl reclean`: the next version of a growing crawl in a folder, without git, DVC or Prefect.

    look        the crawl is held against ROOT/crawl/listing.json; what is new goes to its end
    place       files of the last version that the stages build on get second names below ROOT/.lnl/previous
    run         the chain of stages, with the hashes of all that is new in the settings
    commit      changed labels are appended to the label ledger

`ROOT/.lnl/reclean.json` says which version is being made, out of what, and how far it is. A killed run goes on where it
was: the files of the last version are placed before a stage may replace them, in one rename, once a version.
Where nothing is new (shards, trusted labels, test rows, settings), nothing is done. Second names are hard links, so a
version costs the disk what is new in it.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from lnl_core.config import ConfigError, Params
from lnl_core.contracts import ContractError
from lnl_core.crawl.listing import (
    MIN_AGE,
    CrawlState,
    Listing,
    Shard,
    look_at,
    read_listing,
    update_listing,
    write_listing,
)
from lnl_core.files import atomic_path, file_md5, file_sha256, link_or_copy, read_json, write_json
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.ledger.change import Appended, commit_purified
from lnl_core.ledger.store import Ledger
from lnl_core.s3 import locate, read_bytes

BUILT_ON = ("prepare", "features", "purify")  # stages that take files from the version before


@runtime_checkable
class RunStages(Protocol):
    """Runs the stages in order up to `last` and returns the names of those that really ran."""

    def __call__(self, params: Params, paths: Layout, *, last: str) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Hashes of all that a version is made of."""

    listing: str
    trusted: str  # of the file of verified labels; empty: there is none
    test: str  # of the file of test rows; empty: there is none
    settings: str  # of the params file as the user wrote it


@dataclass(frozen=True, kw_only=True)
class State:
    """ROOT/.lnl/reclean.json."""

    version: int
    previous_md5: str  # of the purified.parquet whose decisions stand; empty: the first version
    inputs: Inputs
    done: str = ""  # the last stage of the finished version; empty: it is being made


@dataclass(frozen=True, kw_only=True)
class Recleaned:
    """What a call has done."""

    version: int
    new_shards: tuple[Shard, ...]
    ran: tuple[str, ...]  # stages; empty with `nothing_new`
    nothing_new: bool = False
    reasons: tuple[str, ...] = ()  # what is new, for a person
    committed: Appended | None = None


@dataclass(frozen=True, kw_only=True)
class Crawl:
    """What there is to clean: settings with all hashes filled in, and the listing to come."""

    params: Params
    inputs: Inputs
    listing: Listing
    new: tuple[Shard, ...]


def reclean(
    params: Params,
    root: Path,
    ledger: Path,
    run: RunStages,
    *,
    last: str = STAGE_NAMES[-1],
    min_age: float = MIN_AGE,
) -> Recleaned:
    """Make the next version in `root`, or go on with the one that was cut short.

    Args:
        params: checked settings with `prepare.dataset: crawl`; hashes, listing and previous version are filled in here.
        run: `lnl_core.stages.chain.run_chain`; given, because the stages stand above the crawl that one of them reads.
        last: the last stage to run, `purify` or a later one.
        min_age: seconds; shards with a younger file wait for the next time.
    Raises:
        ConfigError: settings for another dataset, or a second call while one runs.
        ContractError: a listed shard has changed; or a stage finds data that break a contract.
    """
    _check(params, last)
    paths = Layout(root)
    with _alone(paths):
        crawl = _look(params, paths, min_age)
        before = read_state(paths)
        if before is not None and _is_done(before, crawl.inputs, last):
            return Recleaned(version=before.version, new_shards=(), ran=(), nothing_new=True)
        state = _planned(before, crawl.inputs, paths)
        write_json(_state_file(paths), asdict(state))
        filled = _write_plan(crawl, state, paths)
        ran = run(filled, paths, last=last)
        committed = commit_purified(Ledger(ledger), paths.purified, datetime.now(UTC))
        write_json(_state_file(paths), asdict(replace(state, done=last)))
    return Recleaned(
        version=state.version,
        new_shards=crawl.new,
        ran=tuple(ran),
        reasons=tuple(_reasons(before, crawl)),
        committed=committed,
    )


def preview(params: Params, root: Path, *, min_age: float = MIN_AGE) -> tuple[CrawlState, list[str]]:
    """What `reclean` would find: the crawl's state, and what is new in words. Writes nothing."""
    _check(params, STAGE_NAMES[-1])
    paths = Layout(root)
    listing = read_listing(paths.root / "crawl" / "listing.json")
    state = look_at(str(params["prepare"]["crawl"].get("path", "")), listing, min_age=min_age)
    shards = [f"{len(state.new)} new shards"] if state.new else []
    before, inputs = read_state(paths), _inputs(params, listing.sha256)
    if before is None:
        return state, [*shards, "the first version"]
    return state, shards + _changed(before.inputs, inputs) + ([] if before.done else ["an unfinished version"])


def read_state(paths: Layout) -> State | None:
    """What is known of the version in the folder; None before the first.

    Raises:
        ContractError: a file that is not of this package's making.
    """
    file = _state_file(paths)
    if not file.exists():
        return None
    try:
        raw: dict[str, Any] = read_json(file)
        return State(**{**raw, "inputs": Inputs(**raw["inputs"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ContractError(
            f"{file}: not the state of `lnl reclean` ({error}); delete it, and the next call makes a version anew"
        ) from error


def with_hashes(params: Params, *, listing: str, trusted: str, test: str, previous_md5: str) -> Params:
    """The settings of one version: those of the user with the hashes of what it is made of."""
    filled = copy.deepcopy(dict(params))
    prepare = filled["prepare"]
    prepare["crawl"]["listing_sha256"] = listing
    if trusted:
        prepare["trusted"]["sha256"] = trusted
    if test:
        prepare["crawl"]["test_sha256"] = test
    purify = dict(filled.get("purify") or {})
    filled["purify"] = {**purify, "update": {**(purify.get("update") or {}), "previous_md5": previous_md5}}
    return filled


def _check(params: Params, last: str) -> None:
    prepare = params.get("prepare") or {}
    if prepare.get("dataset") != "crawl" or not isinstance(prepare.get("crawl"), dict):
        raise ConfigError(
            f"prepare.dataset is {prepare.get('dataset')!r}: a crawl is cleaned again, so set it to crawl and say in "
            "prepare.crawl where it lies; `lnl run` cleans other datasets"
        )
    if last not in STAGE_NAMES[STAGE_NAMES.index("purify") :]:
        raise ConfigError(f"--until {last}: must be purify or a stage after it")


@contextlib.contextmanager
def _alone(paths: Layout) -> Iterator[None]:
    """One call at a time in a folder; the lock goes with the process that holds it."""
    file = paths.root / ".lnl" / "reclean.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{paths.root}: another `lnl reclean` is at work there; wait until it is done") from error
        yield


def _look(params: Params, paths: Layout, min_age: float) -> Crawl:
    file = paths.root / "crawl" / "listing.json"
    own = copy.deepcopy(dict(params))
    crawl = own["prepare"]["crawl"]
    listing, new = update_listing(str(crawl.get("path", "")), read_listing(file), min_age=min_age)
    if not listing.shards:
        raise ConfigError(f"prepare.crawl.path = {crawl.get('path')!r}: no shard is ready there yet (docs/reclean.md)")
    crawl["listing"] = str(file)
    return Crawl(params=own, inputs=_inputs(params, listing.sha256), listing=listing, new=tuple(new))


def _inputs(params: Params, listing: str) -> Inputs:
    prepare = params["prepare"]
    trusted = prepare.get("trusted") or {}
    settings = json.dumps(params, sort_keys=True, default=str)
    return Inputs(
        listing=listing,
        trusted=_hash(str(trusted.get("file") or "")) if trusted.get("source") == "file" else "",
        test=_hash(str(prepare["crawl"].get("test_file") or "")),
        settings=hashlib.sha256(settings.encode()).hexdigest(),
    )


def _hash(name: str) -> str:
    """sha256 of a file's bytes; empty where none is named. The stage prepare reports a file that is not there."""
    if not name:
        return ""
    place = locate(name)
    if isinstance(place, Path):
        return file_sha256(place) if place.is_file() else ""
    return hashlib.sha256(read_bytes(place)).hexdigest()


def _is_done(state: State, inputs: Inputs, last: str) -> bool:
    reached = STAGE_NAMES.index(state.done) if state.done else -1
    return state.inputs == inputs and reached >= STAGE_NAMES.index(last)


def _planned(before: State | None, inputs: Inputs, paths: Layout) -> State:
    """The version to make. One that was cut short, or is to go further, keeps its past."""
    if before is not None and (not before.done or before.inputs == inputs):
        return replace(before, inputs=inputs, done="")
    previous_md5 = file_md5(paths.purified) if paths.purified.exists() else ""
    _place_previous(paths)
    return State(version=before.version + 1 if before else 1, previous_md5=previous_md5, inputs=inputs)


def _place_previous(paths: Layout) -> None:
    """Second names of the present files below `.lnl/previous`. Cut short, it is done again: nothing has changed yet."""
    folder = paths.previous.root
    fresh, old = folder.with_name("previous.new"), folder.with_name("previous.old")
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir(parents=True)
    for stage in BUILT_ON:
        _link_tree(paths.outputs(stage), Layout(fresh).outputs(stage))
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _link_tree(source: Path, target: Path) -> None:
    """All files of a folder; nothing where it is not there."""
    for file in source.rglob("*"):
        if file.is_file():
            link_or_copy(file, target / file.relative_to(source))


def _write_plan(crawl: Crawl, state: State, paths: Layout) -> Params:
    """The listing and the version's settings, ROOT/params.yaml; the latter are returned."""
    file = paths.root / "crawl" / "listing.json"
    if not file.exists() or read_listing(file) != crawl.listing:  # a stage sees by its time whether it was written
        write_listing(file, crawl.listing)
    hashes = {"listing": crawl.inputs.listing, "trusted": crawl.inputs.trusted, "test": crawl.inputs.test}
    filled = with_hashes(crawl.params, **hashes, previous_md5=state.previous_md5)
    with atomic_path(paths.root / "params.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(dict(filled), sort_keys=False), encoding="utf-8")
    return filled


def _reasons(before: State | None, crawl: Crawl) -> list[str]:
    if before is None:
        return ["the first version"]
    found = _changed(before.inputs, crawl.inputs)
    return found + ([] if before.done else ["an unfinished version"])


def _changed(before: Inputs, now: Inputs) -> list[str]:
    names = {"listing": "new shards", "trusted": "trusted labels", "test": "test rows", "settings": "settings"}
    return [what for name, what in names.items() if getattr(before, name) != getattr(now, name)]


def _state_file(paths: Layout) -> Path:
    return paths.root / ".lnl" / "reclean.json"
