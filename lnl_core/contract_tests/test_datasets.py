"""A dataset: an index whose columns fit together, and for each of its rows an image or the reason why there is none.

Of the package's own only `digits` has its files at hand; `lnl check-plugin` runs this on yours, with `-S` for its path.
"""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from lnl_core.contract_tests import under_test
from lnl_core.contracts import NO_LABEL, SPLITS, QuarantineRow, check_unique
from lnl_core.datasets import DATASETS
from lnl_core.labels.index import Dataset

NAMES = under_test.names(DATASETS) if os.environ.get(under_test.REFERENCE) else ["digits"]
ROWS = 20  # whose images are read


def reader(name: str) -> Dataset:
    entry = DATASETS.get(name)
    return entry.make(under_test.settings_of(entry, {}))


@pytest.mark.parametrize("name", NAMES)
def test_the_columns_of_the_index_fit_together(name: str) -> None:
    index = reader(name).index()
    rows, classes = len(index.ids), len(index.class_names)
    assert rows
    check_unique(index.ids, f"dataset {name}")
    for column in (index.observed_label, index.true_label, index.verified, index.split):
        assert column.shape == (rows,)
    for column in (index.observed_label, index.true_label):
        assert column.dtype == np.int32
        assert ((column == NO_LABEL) | ((column >= 0) & (column < classes))).all()
    assert set(index.split) <= set(SPLITS)
    assert len(set(index.class_names)) == classes > 1


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_a_second_time(name: str) -> None:
    first, second = reader(name).index(), reader(name).index()
    assert first.ids.tolist() == second.ids.tolist()
    assert np.array_equal(first.observed_label, second.observed_label)


@pytest.mark.parametrize("name", NAMES)
def test_each_row_has_an_image_or_a_reason(name: str) -> None:
    dataset = reader(name)
    index = dataset.index()
    wanted = np.argsort(index.ids)[:: max(len(index.ids) // ROWS, 1)]  # in order of id, as the stage reads them
    found = list(dataset.images(index, wanted))
    assert len(found) == len(wanted)
    for image, row in zip(found, wanted, strict=True):
        if isinstance(image, QuarantineRow):
            assert image.reason
            assert image.id in (None, index.ids[row])
        else:
            Image.open(io.BytesIO(image)).load()


@pytest.mark.parametrize("name", NAMES)
def test_it_names_its_files(name: str) -> None:
    assert all(isinstance(file, str) for file in reader(name).source_files())
