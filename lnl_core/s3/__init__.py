"""Access to any S3 endpoint: paths, listing, reading, resumable download, conditional and multipart writing.

Endpoint and credentials come from the usual AWS chain (environment, profiles, instance roles) and from nowhere else; no
message or log line holds them. Everything waits out an outage (`attempts.py`). boto3 is loaded with the first request.
"""

from lnl_core.s3.anywhere import Place, below, files_in, locate, open_parquet, open_place, states
from lnl_core.s3.errors import NoSuchObject, ObjectChanged, TooLarge, Unreachable
from lnl_core.s3.in_order import in_order
from lnl_core.s3.objects import (
    S3Object,
    delete,
    exists,
    list_objects,
    look_up,
    put_new,
    read_bytes,
    read_range,
    write_bytes,
)
from lnl_core.s3.paths import S3Path, is_s3, parse_s3
from lnl_core.s3.publish import publish_folder
from lnl_core.s3.seekable import open_s3
from lnl_core.s3.transfer import download, upload

__all__ = [
    "NoSuchObject",
    "ObjectChanged",
    "Place",
    "S3Object",
    "S3Path",
    "TooLarge",
    "Unreachable",
    "below",
    "delete",
    "download",
    "exists",
    "files_in",
    "in_order",
    "is_s3",
    "list_objects",
    "locate",
    "look_up",
    "open_parquet",
    "open_place",
    "open_s3",
    "parse_s3",
    "publish_folder",
    "put_new",
    "read_bytes",
    "read_range",
    "states",
    "upload",
    "write_bytes",
]
