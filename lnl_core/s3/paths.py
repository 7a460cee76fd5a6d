"""s3://bucket/key as a value that is joined like a pathlib.Path."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

from lnl_core.config import ConfigError

SCHEME = "s3://"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


@dataclass(frozen=True, order=True, slots=True)
class S3Path:
    """A bucket and a key without a slash at its ends; an empty key is the bucket itself."""

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}" if self.key else SCHEME + self.bucket

    def __truediv__(self, name: str) -> S3Path:
        """The object or prefix `name` below this one; . and .. mean what they mean in a folder."""
        if {".", ".."} & set(name.split("/")):
            key = posixpath.normpath(posixpath.join("/", self.key, name)).strip("/")
            return S3Path(self.bucket, key)
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        return posixpath.basename(self.key)

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.key)[1]

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, posixpath.dirname(self.key))

    @property
    def prefix(self) -> str:
        """What the keys below this one begin with."""
        return f"{self.key}/" if self.key else ""


def is_s3(path: str | Path | S3Path) -> bool:
    """Is it s3://...? A pathlib.Path never is: it would have lost a slash."""
    return isinstance(path, S3Path) or (isinstance(path, str) and path.startswith(SCHEME))


def parse_s3(path: str | S3Path) -> S3Path:
    """The bucket and key of s3://bucket/key.

    Raises:
        ConfigError: no such path, or one that holds credentials or a query; these are not repeated in the message.
    """
    if isinstance(path, S3Path):
        return path
    bucket, _, key = path.removeprefix(SCHEME).partition("/")
    if ":" in bucket or "@" in bucket:
        raise ConfigError(
            "s3://...@...: a path holds no credentials; write s3://bucket/key and give the keys through the "
            "environment or a profile (docs/s3.md)"
        )
    if "?" in path:
        raise ConfigError(f"{path.partition('?')[0]}?...: a path holds no query; write s3://bucket/key (docs/s3.md)")
    if not is_s3(path) or not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"{path!r}: not a path on S3; write s3://bucket/key")
    return S3Path(bucket, key.strip("/"))
