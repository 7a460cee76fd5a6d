"""What must hold after the chaos test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dev.chaos_outcome import Outcome
from dev.seaweed import Seaweed
from tasks.stage import STAGE_RETRIES

LEAST_KILLS, LEAST_OUTAGES = 20, 3
MUST_BE_EQUAL = ("data/purify/purified.parquet", "data/features/parts", "data/pretrain/encoder", "data/train/model")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str


def check_all(outcome: Outcome, undisturbed: dict[str, Any], seaweed: Seaweed) -> list[Check]:
    """All of them; `undisturbed` is the dvc.lock of the run that nobody disturbed."""
    kills = [event for event in outcome.events if event.kind != "outage"]
    outages = len(outcome.events) - len(kills)
    return [
        Check("the run ended well", outcome.state == "COMPLETED", outcome.state or "not ended"),
        Check("kills", len(kills) >= LEAST_KILLS, f"{len(kills)}, at least {LEAST_KILLS} wanted"),
        Check("S3 outages", outages >= LEAST_OUTAGES, f"{outages}, at least {LEAST_OUTAGES} wanted"),
        *(_equal(path, outcome.lock, undisturbed) for path in MUST_BE_EQUAL),
        *_work_done(outcome),
        _nothing("half-written file in the homes", _half_written(list(outcome.homes.values()))),
        _nothing("file of a cache that is not what its name says", _wrong_files(list(outcome.homes.values()))),
        _nothing("object of the remote that is not what its name says", _wrong_objects(seaweed)),
        _nothing("upload to S3 that was begun and not ended", _open_uploads(seaweed)),
        _nothing("worktree left behind", _worktrees(list(outcome.homes.values()))),
        _nothing("process left behind", _processes(list(outcome.homes.values()))),
    ]


def _equal(path: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Check:
    found, wanted = _md5(path, ours), _md5(path, theirs)
    return Check(f"bytes of {path}", found is not None and found == wanted, f"{found}, undisturbed {wanted}")


def _md5(path: str, lock: dict[str, Any]) -> str | None:
    outs = {out["path"]: out["md5"] for stage in lock.values() for out in stage.get("outs", [])}
    return outs.get(path)


def _work_done(outcome: Outcome) -> Iterator[Check]:
    """A command starts at most once a flow run of its stage, a stage has one flow run and as many as its retries say.

    Killing the flow that calls the stages gives their tasks their retries back.
    """
    callers = 1 + sum(event.kind in ("flow run", "worker") for event in outcome.events)
    started = {stage: sum(name == stage for _, name in outcome.executions) for stage in outcome.attempts}
    often = {stage: times for stage, times in started.items() if times > outcome.attempts[stage]}
    yield Check("no stage's command started more often than it was attempted", not often, str(often or started))
    most = max(outcome.attempts.values(), default=0)
    allowed = (1 + STAGE_RETRIES) * callers
    yield Check("no stage retried more often than its retries say", most <= allowed, f"{most}, allowed {allowed}")
    hits = {stage: sum(event.stage == stage for event in outcome.events) for stage in outcome.attempts}
    unasked = {stage: times for stage, times in started.items() if times > 1 + hits[stage]}
    yield Check("no stage's command started without a kill as the reason", not unasked, str(unasked or hits))


def _nothing(what: str, found: list[str]) -> Check:
    return Check(f"no {what}", not found, f"{len(found)} " + ", ".join(found[:3]))


def _half_written(homes: list[Path]) -> list[str]:
    """Temporary names of DVC and of lnl_core/files.py, locks of git."""
    found = [file for home in homes for file in home.rglob("*.tmp")]
    found += [file for home in homes for file in home.glob("repositories/**/*.lock")]
    return [str(file) for file in found]


def _wrong_files(homes: list[Path]) -> list[str]:
    files = [file for home in homes for file in (home / "cache" / "files" / "md5").rglob("*") if file.is_file()]
    return [str(file) for file in files if not _is_named(f"{file.parent.name}{file.name}", file.read_bytes())]


def _wrong_objects(seaweed: Seaweed) -> list[str]:
    client, wrong = seaweed.client(), []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="lnl", Prefix="dvc/files/md5/"):
        for listed in page.get("Contents", []):
            key = listed["Key"]
            data = client.get_object(Bucket="lnl", Key=key)["Body"].read()
            if not _is_named("".join(key.split("/")[-2:]), data):
                wrong.append(key)
    return wrong


def _is_named(name: str, data: bytes) -> bool:
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == name.removesuffix(".dir")


def _open_uploads(seaweed: Seaweed) -> list[str]:
    return [upload["Key"] for upload in seaweed.client().list_multipart_uploads(Bucket="lnl").get("Uploads", [])]


def _worktrees(homes: list[Path]) -> list[str]:
    return [str(path) for home in homes for path in home.glob("worktrees/*/[!.]*")]


def _processes(homes: list[Path]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(Path(process.cwd()).is_relative_to(home / "worktrees") for home in homes):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found
