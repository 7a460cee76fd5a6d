"""Is a file or folder of a published release there, on disk or on S3?"""

from __future__ import annotations

from lnl_core.s3 import Place, S3Path, exists, list_objects


def is_file(place: Place) -> bool:
    """A file, or an object of this very name."""
    return exists(place) if isinstance(place, S3Path) else place.is_file()


def is_folder(place: Place) -> bool:
    """A folder, or a prefix below which an object lies."""
    return next(list_objects(place), None) is not None if isinstance(place, S3Path) else place.is_dir()
