"""The commands that take s3:// paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import ConfigError
from lnl_core.layout import Layout
from lnl_core.s3 import read_bytes, upload


def test_purify_reads_features_labels_and_trusted_rows_from_s3(s3: str, tmp_path: Path) -> None:
    features, label = load_digits(return_X_y=True)
    ids = [f"{row:04d}" for row in range(len(label))]
    observed = np.where(np.arange(len(label)) % 3, label, (label + 1) % 10)
    table = pa.table({"id": ids, "feature": list(features.astype(np.float32))})
    (tmp_path / "features").mkdir()
    for number in range(2):
        pq.write_table(table.slice(number * 900, 900), tmp_path / f"features/part-{number}.parquet", row_group_size=100)
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *map("{},{}".format, ids, observed)]))
    (tmp_path / "trusted.csv").write_text("\n".join(["id,label", *map("{},{}".format, ids[::20], label[::20])]))
    for name in ("features/part-0.parquet", "features/part-1.parquet", "labels.csv", "trusted.csv"):
        upload(tmp_path / name, f"{s3}/given/{name}")
    made = []
    for place, out in ((str(tmp_path), tmp_path / "local.parquet"), (f"{s3}/given", tmp_path / "remote.parquet")):
        options = {"features": f"{place}/features", "labels": f"{place}/labels.csv", "trusted": f"{place}/trusted.csv"}
        options |= {"out": str(out), "method": "knn"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        done = CliRunner().invoke(app, ["purify", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_report_is_published(s3: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["report", "--root", str(tmp_path), "--publish", f"{s3}/runs/1"], catch_exceptions=False
    )
    assert done.output.split()[-1] == f"{s3}/runs/1/report/report.html"
    assert read_bytes(f"{s3}/runs/1/report/report.html") == Layout(tmp_path).report.read_bytes()
    with pytest.raises(ConfigError, match="a path holds no credentials"):
        CliRunner().invoke(app, ["report", "--root", str(tmp_path), "--publish", "s3://a:b@c"], catch_exceptions=False)
