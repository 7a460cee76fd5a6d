"""Objects: list, look up, read, write, delete. Each call waits out an outage and raises what `errors.py` says."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from lnl_core.s3.attempts import persist
from lnl_core.s3.errors import NoSuchObject, TooLarge, status
from lnl_core.s3.paths import S3Path, parse_s3

PAGE = 1000  # objects a request of a listing: the most that S3 gives


@dataclass(frozen=True, order=True, slots=True)
class S3Object:
    """What a listing says of an object; sorts by path."""

    path: S3Path
    size: int
    etag: str  # without quotes; another one whenever the bytes are others
    modified: datetime.datetime


def list_objects(prefix: str | S3Path, *, recursive: bool = True) -> Iterator[S3Object]:
    """The objects below a prefix, which is a folder: s3://b/a gives a/x and not ab. Nothing there: nothing given.

    Streams a thousand at a time, in the order of the server: AWS sorts by key, some clones folder by folder; `sorted()`
    gives one order everywhere. Names that end in a slash are folder marks of other tools and are passed over.

    Args:
        recursive: False leaves out what lies in folders below.
    """
    place = parse_s3(prefix)
    what: dict[str, Any] = {"Bucket": place.bucket, "Prefix": place.prefix, "MaxKeys": PAGE}
    what |= {} if recursive else {"Delimiter": "/"}
    while True:
        page = persist(place, lambda s3, what=dict(what): s3.list_objects_v2(**what))  # type: ignore[misc]
        for found in page.get("Contents", []):
            if not found["Key"].endswith("/"):
                yield _described(S3Path(place.bucket, found["Key"]), found, found["Size"])
        if not page.get("IsTruncated"):
            return
        what["ContinuationToken"] = page["NextContinuationToken"]


def look_up(path: str | S3Path) -> S3Object:
    """Size, ETag and time of one object.

    Raises:
        NoSuchObject: there is none.
    """
    place = parse_s3(path)
    found = persist(place, lambda s3: s3.head_object(Bucket=place.bucket, Key=place.key))
    return _described(place, found, found["ContentLength"])


def exists(path: str | S3Path) -> bool:
    """Is there an object of this very name?"""
    try:
        look_up(path)
    except NoSuchObject:
        return False
    return True


def read_bytes(path: str | S3Path, *, at_most: int | None = None) -> bytes:
    """The whole object.

    Raises:
        NoSuchObject: there is none.
        TooLarge: it has more than `at_most` bytes.
    """
    place = parse_s3(path)

    def get(s3: Any) -> bytes:
        response = s3.get_object(Bucket=place.bucket, Key=place.key)
        if at_most is not None and response["ContentLength"] > at_most:
            response["Body"].close()
            raise TooLarge(place, response["ContentLength"], at_most)
        return bytes(response["Body"].read())

    return persist(place, get)


def read_range(path: str | S3Path, start: int, length: int, *, etag: str = "") -> bytes:
    """`length` bytes from `start` on, which must lie inside the object.

    Raises:
        ObjectChanged: `etag` is given and the object has another one by now.
    """
    place = parse_s3(path)
    if not length:
        return b""
    what = {"Bucket": place.bucket, "Key": place.key, "Range": f"bytes={start}-{start + length - 1}"}
    what |= {"IfMatch": etag} if etag else {}
    return persist(place, lambda s3: bytes(s3.get_object(**what)["Body"].read()))


def write_bytes(path: str | S3Path, data: bytes, *, content_type: str = "application/octet-stream") -> None:
    """Write or overwrite; a reader sees the old object or the new one."""
    place = parse_s3(path)
    what = {"Bucket": place.bucket, "Key": place.key, "Body": data, "ContentType": content_type}
    persist(place, lambda s3: s3.put_object(**what))


def put_new(path: str | S3Path, data: bytes, *, content_type: str = "application/octet-stream") -> bool:
    """Write where there is no object of this name; False, and nothing written, where there is one.

    Of several that try at once, one gets True (If-None-Match; the server must know it, see docs/s3.md). Where a
    response got lost on the way, the object is read to see whether it is ours: same bytes count as ours.
    """
    place = parse_s3(path)
    what = {"Bucket": place.bucket, "Key": place.key, "Body": data, "ContentType": content_type, "IfNoneMatch": "*"}
    attempts = 0

    def put(s3: Any) -> bool | None:
        nonlocal attempts
        attempts += 1
        try:
            s3.put_object(**what)
        except ClientError as error:
            if status(error) != 412:
                raise
            attempts += error.response["ResponseMetadata"].get("RetryAttempts", 0)
            return False if attempts == 1 else None
        return True

    written = persist(place, put)
    return read_bytes(place) == data if written is None else written


def delete(path: str | S3Path) -> None:
    """Delete the object; one that is not there is no error."""
    place = parse_s3(path)
    persist(place, lambda s3: s3.delete_object(Bucket=place.bucket, Key=place.key))


def _described(path: S3Path, found: dict[str, Any], size: int) -> S3Object:
    return S3Object(path=path, size=size, etag=found["ETag"].strip('"'), modified=found["LastModified"])
