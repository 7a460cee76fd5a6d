"""The main job on photographs with real human errors: CIFAR-10N `worse`, weak features of a frozen encoder.

Reads cifar10.parquet and cifar10_features.parquet from the folder in LNL_TEST_DATA (by default `../shared/data` beside
the checkout) and skips where they are not there; the data may not be distributed with the project.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import RidgeClassifierCV

from lnl_core.contracts import read_purified
from lnl_core.features.user_table import read_user_features
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig
from lnl_core.stages.purify_table import Columns, purify_files

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("LNL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
IMAGES, FEATURES = DATA / "cifar10.parquet", DATA / "cifar10_features.parquet"


@pytest.mark.skipif(not FEATURES.exists(), reason=f"no CIFAR-10N tables in {DATA} (set LNL_TEST_DATA)")
def test_more_labels_right_than_observed_and_than_the_trusted_rows_alone_give(tmp_path: Path) -> None:
    table = pq.read_table(IMAGES, columns=["index", "split", "label"])
    true = table["label"].to_numpy()
    rng = np.random.default_rng(0)
    train = np.flatnonzero(np.array(table["split"].to_pylist()) == "train")
    trusted = np.concatenate([rng.choice(train[true[train] == label], 100, replace=False) for label in range(10)])
    (tmp_path / "trusted.csv").write_text("index,label\n" + "".join(f"{row},{true[row]}\n" for row in trusted))
    out = tmp_path / "purified.parquet"
    purify_files(
        FEATURES,
        IMAGES,
        tmp_path / "trusted.csv",
        out,
        method="ipc_ensemble",
        config=IPCEnsembleConfig(),
        seed=0,
        columns=Columns(id="index", label="worse_label"),
        trusted_columns=Columns(id="index", label="label"),
    )
    purified = read_purified(out)
    rows = purified.ids.astype(int)
    observed, after = (purified.label == true[rows]).mean(), (purified.purified_label == true[rows]).mean()

    features = read_user_features(FEATURES, "index", "feature", tmp_path)
    values = features.values[np.argsort(features.ids.astype(int))].astype(np.float32)
    yardstick = RidgeClassifierCV(alphas=np.logspace(0, 5, 11)).fit(values[trusted], true[trusted])
    trusted_only = (yardstick.predict(values[rows]) == true[rows]).mean()
    assert len(purified) == 49_000
    assert 0.59 < observed < 0.61
    assert after > trusted_only + 0.05
    assert after > 0.78
