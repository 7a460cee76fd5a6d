"""What fixed seeds give: digests of the artefacts of small runs, and a few figures of each.

A digest is that of the numbers alone (columns of tables, tensors of weights): names, times and metadata are left out,
so that what is only renamed keeps it. Figures are compared where another processor rounds otherwise.
`LNL_WRITE_DIGESTS=1 pytest tests/pipeline/test_digests.py` writes digests.json anew.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from lnl_core.config import load_preset
from lnl_core.contract_tests.test_trainers import make_task, train
from lnl_core.contracts import NO_LABEL, string_ids
from lnl_core.crawl.reclean import reclean
from lnl_core.features.user_table import MappedRows
from lnl_core.layout import Layout
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask
from lnl_core.stages.chain import run_chain
from lnl_core.train import TRAINERS

ENSEMBLE = "ipc_ensemble"
DIGITS = load_digits()
CHAIN = (
    "run.threads=1",
    "run.device=cpu",
    "pretrain.simclr.epochs=2",
    "pretrain.simclr.warmup_epochs=1",
    "train.divide_mix.epochs=2",
    "train.divide_mix.warmup_epochs=1",
    f"purify.{ENSEMBLE}.folds=2",
    f"purify.{ENSEMBLE}.ridge=[0.01, 1.0]",
    f"purify.{ENSEMBLE}.max_steps=16",
    f"purify.{ENSEMBLE}.eac_steps=20",
)
PURIFIER_SETTINGS: dict[str, dict[str, Any]] = {
    ENSEMBLE: {"eac_steps": 50, "eac_hidden": 16, "vote_work": 1e12, "eac_network_steps": 50},
    "emlc": {"min_steps": 40, "epochs": 1},
    "mlc": {"min_steps": 40, "epochs": 1},
    "mslc": {"min_steps": 40, "epochs": 1},
    "two_em": {"head_steps": 50, "cycles": 3},
    "auto": {"candidates": (ENSEMBLE, "two_em", "knn", "none"), "options": {ENSEMBLE: {"eac_steps": 20}}},
}
Found = dict[str, dict[str, Any]]


def all_digests(folder: Path) -> Found:
    """Artefact -> its digest and figures."""
    return {**chain(folder / "chain"), **purifiers(), **trainers(folder / "trainers"), **crawl(folder / "crawl")}


def chain(folder: Path) -> Found:
    """The stages on the real digits with 60 % wrong labels."""
    paths = Layout(folder)
    run_chain(load_preset("digits", CHAIN), paths, last="evaluate")
    tables = ("source_labels", "labels", "purified", "held_out")
    found = {f"chain/{name}": of_table(getattr(paths, name)) for name in tables}
    found |= {f"chain/{name}": of_parts(getattr(paths, name)) for name in ("images", "features", "train_trace")}
    found["chain/sums"] = of_tensors(paths.kept_sums)
    found |= {f"chain/{which}": of_tensors(paths.model / which / "weights.safetensors") for which in ("best", "last")}
    return found


def purifiers() -> Found:
    """Every purifier on 300 digits of six classes, a third of whose labels are wrong; 60 trusted rows."""
    rng = np.random.default_rng(1)
    rows = np.flatnonzero(DIGITS.target < 6)[:360]
    true = DIGITS.target[rows].astype(np.int32)
    observed = np.where(rng.random(len(rows)) < 0.4, rng.integers(0, 6, len(rows)), true).astype(np.int32)
    features = DIGITS.data[rows].astype(np.float32)
    unknown = np.where(rng.random(60) < 0.2, NO_LABEL, observed[300:]).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(300)),
        observed=observed[:300],
        trusted=features[300:],
        trusted_label=true[300:],
        trusted_observed=unknown,
        classes=6,
    )
    ids = string_ids([f"{row:03d}" for row in range(300)])
    found = {}
    for name, settings in purifier_settings():
        method = name.partition(" ")[0]
        purified, _ = purify(method, PURIFIERS.get(method).config(**settings), task, ids, tuple("abcdef"), 0)
        arrays = [purified.purified_label, purified.confidence, purified.soft_label]
        found[f"purify/{name}"] = of_arrays(arrays)
    return found


def purifier_settings() -> list[tuple[str, dict[str, Any]]]:
    """Settings of every purifier, and of the modes of DMLP."""
    plain = [(name, PURIFIER_SETTINGS.get(name, {})) for name in PURIFIERS.names() if name != "dmlp"]
    modes = [(f"dmlp {mode}", {"mode": mode, "ridge": 0.1, "epochs": 5}) for mode in ("paper", "released")]
    return plain + modes


def trainers(folder: Path) -> Found:
    """Two to four epochs of every training method: weights of the best and the last epoch, and the curve."""
    found = {}
    for method in TRAINERS.names():
        trained = train(method, make_task(folder / method))
        weights = [value for state in (*trained.best, *trained.last) for _, value in sorted(state.items())]
        curve = [value for record in trained.curve for _, value in sorted(record.items())]
        found[f"train/{method}"] = of_arrays([value.numpy() for value in weights] + [np.array(curve)])
    return found


def crawl(folder: Path) -> Found:
    """A crawl of three increments, cleaned again after each."""
    (folder / "shards").mkdir(parents=True)
    params = {
        "run": {"seed": 0, "device": "cpu", "threads": 1},
        "images": {"size": 8, "channels": 1, "flip": False},
        "prepare": {
            "dataset": "crawl",
            "crawl": {
                "path": str(folder / "shards"),
                "class_names": list("abcdefghij"),
                "near_duplicates": {"enabled": False},
            },
            "trusted": {"source": "file", "file": str(folder / "trusted.csv"), "held_out_share": 0.3},
        },
        "inject": {"type": "none"},
        "pretrain": {"method": "none"},
        "features": {"encoder": "tests.pixels:encoder"},
        "purify": {
            "method": ENSEMBLE,
            ENSEMBLE: {"ridge": [0.01, 1.0], "folds": 2, "max_steps": 4, "eac_steps": 20},
            "update": {"flip_margin": 0.7},
        },
    }
    (folder / "crawl.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    rng, trusted, found = np.random.default_rng(2), "id,label\n", {}
    for number, (start, stop) in enumerate(((0, 400), (400, 520), (520, 640))):
        wrong = rng.random(stop - start) < 0.3
        labels = np.where(wrong, rng.integers(0, 10, stop - start), DIGITS.target[start:stop])
        write_shard(folder / "shards" / f"week-{number}.parquet", start, labels)
        trusted += "".join(f"{row:04d},{'abcdefghij'[DIGITS.target[row]]}\n" for row in range(start, start + 90))
        (folder / "trusted.csv").write_text(trusted, encoding="utf-8")
        run_version(params, folder)
        paths = Layout(folder / "run")
        found[f"crawl/purified {number + 1}"] = of_table(paths.purified)
        found[f"crawl/sums {number + 1}"] = of_tensors(paths.kept_sums)
        found[f"crawl/features {number + 1}"] = of_parts(paths.features)
    return found


def run_version(params: dict[str, Any], folder: Path) -> None:
    """The next version of the crawl, as far as its labels."""
    reclean(params, folder / "run", folder / "ledger", run_chain, last="purify", min_age=0.0)


def write_shard(path: Path, start: int, labels: Any) -> None:
    """Rows of the digits from `start` on with these labels."""
    images = []
    for row in range(start, start + len(labels)):
        file = io.BytesIO()
        Image.fromarray((DIGITS.images[row] * 15).astype(np.uint8)).save(file, "png")
        images.append(file.getvalue())
    names = [f"{row:04d}" for row in range(start, start + len(labels))]
    pq.write_table(pa.table({"id": names, "label": ["abcdefghij"[label] for label in labels], "image": images}), path)


def of_table(path: Path) -> dict[str, Any]:
    """Of the columns of a Parquet table, whatever they are called."""
    return of_arrays([_as_array(column) for column in pq.read_table(path).columns])


def of_parts(folder: Path) -> dict[str, Any]:
    """Of all Parquet files of a folder."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return of_arrays([_as_array(column) for table in tables for column in table.columns])


def of_tensors(path: Path) -> dict[str, Any]:
    """Of a safetensors file."""
    return of_arrays([value.numpy() for _, value in sorted(load_file(path).items())])


def of_arrays(arrays: list[Any]) -> dict[str, Any]:
    """The digest, how many values there are, and mean and root mean square of the numbers."""
    digest, total, squares, count = hashlib.sha256(), 0.0, 0.0, 0
    for array in map(np.ascontiguousarray, arrays):
        digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
        count += array.size
        if array.dtype != object:
            values = np.nan_to_num(array.astype(np.float64))
            total, squares = total + values.sum(), squares + np.square(values).sum()
    figures = [round(total / max(count, 1), 6), round(float(np.sqrt(squares / max(count, 1))), 6)]
    return {"digest": digest.hexdigest()[:16], "values": count, "figures": figures}


def _as_array(column: pa.ChunkedArray) -> Any:
    if pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    array = column.to_numpy()
    return array.astype(object) if array.dtype.kind in "OSU" else array
