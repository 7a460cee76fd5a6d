"""Whole files: a download that goes on where a killed one stopped, and an upload that readers see all at once."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from pathlib import Path
from typing import Any

from lnl_core.s3.attempts import persist
from lnl_core.s3.errors import ObjectChanged
from lnl_core.s3.objects import S3Object, look_up, read_range
from lnl_core.s3.paths import S3Path, parse_s3

CHUNK = 16 * 2**20  # bytes a request of a download: what an outage or a kill costs at most
CHANGES = 3  # how often an object may be overwritten under a download before it gives up


def download(path: str | S3Path, target: Path) -> S3Object:
    """Fetch an object to `target`; returns what was fetched. One process at a time for each target.

    What has come is kept in a hidden file beside `target` that is named by the ETag: a call after a kill goes on with
    it, and an object that has changed since starts anew.

    Raises:
        NoSuchObject: there is none.
        ObjectChanged: it was overwritten again and again.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(CHANGES):
        found = look_up(path)
        part = _part(target, found)
        _drop_others(target, part)
        try:
            _fetch(found, part)
        except ObjectChanged:
            part.unlink(missing_ok=True)
            if attempt + 1 == CHANGES:
                raise
            continue
        os.replace(part, target)
        return found
    raise AssertionError("the last attempt returns or raises")


def upload(source: Path, path: str | S3Path, *, content_type: str = "") -> None:
    """Send a file, above 16 MB in parts at once; readers see the old object until the new one is whole.

    A killed upload leaves its parts on the server, invisible, until a lifecycle rule removes them (docs/s3.md).
    """
    place = parse_s3(path)
    about = {"ContentType": content_type or mimetypes.guess_type(source.name)[0] or "application/octet-stream"}

    def send(s3: Any) -> None:
        with source.open("rb") as file:
            if os.fstat(file.fileno()).st_size <= CHUNK:
                s3.put_object(Bucket=place.bucket, Key=place.key, Body=file, **about)
            else:
                s3.upload_fileobj(file, place.bucket, place.key, ExtraArgs=about)

    persist(place, send)


def _fetch(found: S3Object, part: Path) -> None:
    with part.open("ab") as file:
        start = file.tell()
        while start < found.size:
            length = min(CHUNK, found.size - start)
            file.write(read_range(found.path, start, length, etag=found.etag))
            file.flush()  # to the kernel, which outlives a kill
            start += length


def _part(target: Path, found: S3Object) -> Path:
    version = hashlib.sha256(f"{found.path} {found.etag} {found.size}".encode()).hexdigest()[:16]
    return target.with_name(f".{target.name}.{version}.part")


def _drop_others(target: Path, part: Path) -> None:
    for file in target.parent.iterdir():
        if file != part and file.name.startswith(f".{target.name}.") and file.suffix == ".part":
            file.unlink()
