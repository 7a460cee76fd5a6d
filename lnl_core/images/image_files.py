"""Image files' bytes, or the reasons why they cannot be had; from a folder one by one, from S3 many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lnl_core.contracts import QuarantineRow
from lnl_core.s3 import NoSuchObject, Place, S3Path, TooLarge, in_order, read_bytes

MAX_BYTES = 256 * 2**20  # a file above this is a film or an archive; reading it would only fill the memory


def read_image_files(files: Iterable[tuple[Place, str]]) -> Iterator[bytes | QuarantineRow]:
    """For each (place, id), all local or all on S3, the bytes or a quarantine row; in order.

    Holds one image, from S3 at most 32 of them.

    Raises:
        ConfigError: S3 does not respond, or refuses access: that is no property of one image.
    """
    remaining = iter(files)
    for first in remaining:
        yield read_image_file(*first)
        if isinstance(first[0], S3Path):
            yield from in_order(lambda file: read_image_file(*file), remaining)


def read_image_file(place: Place, name: str) -> bytes | QuarantineRow:
    """The bytes of one image, or a quarantine row for id `name`."""
    return _read_object(place, name) if isinstance(place, S3Path) else _read_file(place, name)


def _read_file(path: Path, name: str) -> bytes | QuarantineRow:
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            return path.read_bytes()
    except FileNotFoundError:
        return _set_aside("missing-file", "no such file; restore it or drop the row", path, name)
    except OSError as error:
        return _set_aside("unreadable-file", f"{error.strerror or error}; make it readable", path, name)
    return _set_aside("too-large", f"{size} bytes, at most {MAX_BYTES}; scale the image down", path, name)


def _read_object(place: S3Path, name: str) -> bytes | QuarantineRow:
    try:
        return read_bytes(place, at_most=MAX_BYTES)
    except NoSuchObject:
        return _set_aside("missing-file", "no such object; restore it or drop the row", place, name)
    except TooLarge as error:
        return _set_aside("too-large", f"{error.size} bytes, at most {MAX_BYTES}; scale the image down", place, name)


def _set_aside(reason: str, detail: str, place: Place, name: str) -> QuarantineRow:
    return QuarantineRow(stage="prepare", reason=reason, detail=detail, id=name, path=str(place))
