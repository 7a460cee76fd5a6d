"""A growing crawl: a folder or S3 prefix into which crawlers drop shards of images and labels (docs/reclean.md).

A shard is a Parquet file with image bytes, or a folder of images with a label file. Unlike the other readers it gives
its rows shard by shard, so that the stage prepare reads each shard once in its life.
"""

from __future__ import annotations

from lnl_core.crawl.reader import CrawlReader
from lnl_core.crawl.settings import CrawlSettings
from lnl_core.datasets import DATASETS


class CrawlConfig(CrawlSettings):
    """See `crawl_settings.py`."""


@DATASETS.register(
    "crawl",
    config=CrawlConfig,
    summary="a growing folder or s3:// prefix of Parquet shards, or of image folders with label files; listed shards",
)
class Crawl(CrawlReader):
    """Holds the ids and texts of one shard; images stream."""
