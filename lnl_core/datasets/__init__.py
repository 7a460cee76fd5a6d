"""Readers: one file a dataset. A reader gives a light index of rows and then the encoded images, id by id.

`DATASETS.get(name).make(config)` is a `Dataset` (see `index.py`).
"""

from lnl_core.datasets.index import Dataset
from lnl_core.registry import Registry

DATASETS: Registry[type[Dataset]] = Registry("dataset", "lnl_core.datasets")
