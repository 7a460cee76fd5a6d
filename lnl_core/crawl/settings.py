"""The settings of a crawl."""

from __future__ import annotations

from pydantic import Field

from lnl_core.config import Settings


class NearDuplicates(Settings):
    """Which perceptual hashes count as the same picture."""

    enabled: bool = True  # false for images that have no room for 64 bits, such as digits of 8 x 8 pixels
    distance: int = Field(default=4, ge=0, le=12)  # bits of 64; recompression flips up to 2 (docs/reclean.md)


class CrawlSettings(Settings):
    """Where the crawl lies, what is listed of it, and what its columns are called."""

    path: str = ""  # folder or s3://bucket/prefix that the crawlers fill
    listing: str = "data/crawl/listing.json"  # written by `lnl crawl update`
    listing_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")  # checked; DVC sees a change by it
    class_names: tuple[str, ...] = ()  # required, in the order of their numbers: not those that happened to come first
    id_column: str = "id"  # a label file without it: the id is SHARD/PATH
    label_column: str = "label"
    image_column: str = "image"  # Parquet shards: encoded bytes
    path_column: str = "path"  # label files: relative to the folder; without it the id is the path
    source_column: str = "source"  # site or domain, for churn by source; a shard need not have it
    split_column: str = ""  # train, val or test; empty: all rows are train rows, save those of test_file
    true_label_column: str = ""  # benchmark data alone
    test_file: str = ""  # CSV or Parquet of ids and labels (same column names): these rows are the test split
    test_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")  # of that file: checked where set
    near_duplicates: NearDuplicates = Field(default_factory=NearDuplicates)
