"""Readers: one file a dataset. A reader gives a light index of rows and then the encoded images, id by id.

`DATASETS.get(name).make(config)` is a `Dataset` (see `index.py`), or the reader of a crawl, which grows.
"""

from lnl_core.crawl.reader import CrawlReader
from lnl_core.labels.index import Dataset
from lnl_core.registry import DATASET, Registry

DATASETS: Registry[type[Dataset] | type[CrawlReader]] = Registry(DATASET)
