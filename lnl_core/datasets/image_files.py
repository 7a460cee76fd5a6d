"""One image file's bytes, or the reason why they cannot be had."""

from __future__ import annotations

from pathlib import Path

from lnl_core.contracts import QuarantineRow

MAX_BYTES = 256 * 2**20  # a file above this is a film or an archive; reading it would only fill the memory


def read_image_file(path: Path, name: str) -> bytes | QuarantineRow:
    """The bytes of `path`, or a quarantine row for id `name`."""
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            return path.read_bytes()
    except FileNotFoundError:
        return _set_aside("missing-file", "no such file; restore it or drop the row", path, name)
    except OSError as error:
        return _set_aside("unreadable-file", f"{error.strerror or error}; make it readable", path, name)
    return _set_aside("too-large", f"{size} bytes, at most {MAX_BYTES}; scale the image down", path, name)


def _set_aside(reason: str, detail: str, path: Path, name: str) -> QuarantineRow:
    return QuarantineRow(stage="prepare", reason=reason, detail=detail, id=name, path=str(path))
