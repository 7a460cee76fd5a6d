"""An object as a seekable binary file for pyarrow: range requests with read-ahead, nothing downloaded as a whole.

pyarrow's own S3 file system and s3fs would do that too, but give up within seconds where a server restarts, and do not
notice an object that is overwritten between two ranges.
"""

from __future__ import annotations

import io
import os
from typing import Any

from lnl_core.s3.objects import look_up, read_range
from lnl_core.s3.paths import S3Path

READ_AHEAD = 4 * 2**20  # bytes: 0.1 s of transfer for one latency, and the footers of most Parquet files at once


def open_s3(path: str | S3Path) -> io.BufferedReader:
    """Open for reading; every range must come from the object as it is now.

    Raises:
        NoSuchObject: there is none. (ObjectChanged comes from reading.)
    """
    return io.BufferedReader(_Ranges(path), READ_AHEAD)


class _Ranges(io.RawIOBase):
    """Each read is one range request."""

    def __init__(self, path: str | S3Path) -> None:
        self._object = look_up(path)
        self._position = 0

    @property
    def name(self) -> str:
        return str(self._object.path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._object.size}[whence]
        self._position = max(start + offset, 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._object.size - self._position), 0)
        data = read_range(self._object.path, self._position, length, etag=self._object.etag)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
