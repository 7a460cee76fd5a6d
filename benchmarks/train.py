"""Training methods on digits and on 5,000 images of CIFAR-10: test accuracy at the best and the last epoch, seconds.

    LNL_TEST_DATA=folder python benchmarks/train.py

Digits: 1,438 train rows at symmetric noise of 20, 50 and 80 % (inclusive), 100 of them trusted, 359 test rows, 3 seeds;
every method from scratch on the observed labels. CIFAR-10: 5,000 noisy and 500 trusted train rows with human labels
(CIFAR-10N worse) or at symmetric 50 %, all 10,000 test rows, one seed; observed labels, and labels purified by
ipc_ensemble on the 512 features of the folder's cifar10_features.parquet (without the folder this part is left out).
All methods of a data set have the same network and number of epochs. Trusted rows choose the epoch and give the noise
estimate that a method gets; test rows choose nothing.
A cell is a process of one thread; two run at a time. Finished cells are kept, see cells.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cells import Cell, machine_line, read_results, run_cell, run_cells
from sklearn.datasets import load_digits

from lnl_core.config import Params
from lnl_core.contracts import read_labels, read_truth, write_purified
from lnl_core.features.user_table import MappedRows
from lnl_core.files import read_json, write_json
from lnl_core.images.store import load_images
from lnl_core.layout import Layout
from lnl_core.models.predictions import predict_probabilities
from lnl_core.models.saved import load_classifier
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.runtime import Runtime, resolve
from lnl_core.stages.chain import run_chain
from lnl_core.stages.purify import purify_task
from lnl_core.stages.stage import run_stage, shared_settings

HERE = Path(__file__).parent
NAMES = {
    "cross_entropy": "CE",
    "co_teaching": "Co-teaching",
    "co_teaching_plus": "Co-teaching+",
    "jocor": "JoCoR",
    "cdr": "CDR",
    "elr": "ELR",
    "elr_plus": "ELR+",
    "divide_mix": "DivideMix",
    "pro_mix": "ProMix",
    "flywheel": "LNL-flywheel",
    "ssr": "SSR+",
}
VARIANTS = {"co_teaching_plus": "plus", "jocor": "jocor"}  # of co_teaching
START, END = "<!-- training -->", "<!-- /training -->"
DIGITS_EPOCHS, CIFAR_EPOCHS = 80, 14
DIGITS_NOISES, CIFAR_NOISES = ("sym 20", "sym 50", "sym 80"), ("worse", "sym 50")
# What short runs on small data need; all else is a method's default. Every SGD method has the same rate and schedule.
SGD = {"lr": 0.05, "batch_size": 64, "schedule": "cosine"}
SHORT: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "cross_entropy": SGD,
        "co_teaching": {"batch_size": 64},
        "co_teaching_plus": {"batch_size": 64},
        "jocor": {"batch_size": 64},
        "cdr": SGD,
        "elr": SGD,
        "elr_plus": {**SGD, "mixup_alpha": 0.2},  # 0.2: a mixture of two 8 px digits is soon no digit
        "divide_mix": {**SGD, "warmup_epochs": 10, "alpha": 0.2, "lambda_u_ramp": 5},
        "pro_mix": SGD,
        "flywheel": {**SGD, "warmup_epochs": 15, "mixup_alpha": 0.2},
        "ssr": {**SGD, "warmup_epochs": 5, "alpha": 0.2},
    },
    "cifar10": {
        "cross_entropy": SGD,
        "elr_plus": SGD,
        "divide_mix": {**SGD, "warmup_epochs": 5, "lambda_u_ramp": 5},
        "pro_mix": SGD,
        "flywheel": {**SGD, "warmup_epochs": 5},
        "ssr": SGD,
    },
}
CIFAR_METHODS = ("cross_entropy", "divide_mix", "pro_mix", "flywheel", "elr_plus", "ssr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LNL_TEST_DATA", "../shared/data")))
    parser.add_argument("--sets", nargs="+", default=["digits", "cifar10"], choices=["digits", "cifar10"])
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--seeds", type=int, default=3, help="of digits; CIFAR-10 has one")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "train.jsonl")
    parser.add_argument("--render", action="store_true", help="write the page from what is there, run nothing")
    parser.add_argument("--readme", type=Path, help="replace the tables between the markers in this file, too")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["LNL_TEST_DATA"] = str(arguments.data.resolve())
    if arguments.cell:
        return run_cell(arguments.cell, measure)
    failed = 0
    if not arguments.render:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LNL_BENCH_PREPARED"] = folder
            todo = list(cells(arguments))
            for cell in todo:
                prepare(cell, Path(folder))
            failed = run_cells(__file__, todo, arguments.results, threads=1, jobs=arguments.jobs)
    page = arguments.results.with_suffix(".md")
    records = read_results(arguments.results)
    page.write_text(render(records), encoding="utf-8")
    print(f"wrote {page}")
    if arguments.readme and records:
        before, rest = arguments.readme.read_text(encoding="utf-8").split(START)
        text = f"{before}{START}\n{tables(records, '###')}\n{END}{rest.split(END)[1]}"
        arguments.readme.write_text(text, encoding="utf-8")
    return sys.exit(f"{failed} cells failed") if failed else None


def cells(arguments: argparse.Namespace) -> Iterable[Cell]:
    """Seeds outermost; the slow data set last."""
    if "digits" in arguments.sets:
        for seed in range(arguments.seeds):
            for noise in DIGITS_NOISES:
                for method in arguments.methods:
                    yield {"data": "digits", "noise": noise, "labels": "observed", "method": method, "seed": seed}
    if "cifar10" in arguments.sets and (arguments.data / "cifar10_features.parquet").exists():
        for noise in CIFAR_NOISES:
            for method in [name for name in arguments.methods if name in CIFAR_METHODS]:
                for labels in ("observed", "purified_hard"):
                    yield {"data": "cifar10", "noise": noise, "labels": labels, "method": method, "seed": 0}


def measure(cell: Cell) -> Cell:
    """Train once and score it."""
    prepared = prepared_folder(cell, Path(os.environ["LNL_BENCH_PREPARED"]))
    with tempfile.TemporaryDirectory() as folder:
        paths = Layout(Path(folder))
        for stage in ("prepare", "inject", "purify"):
            (paths.root / stage).symlink_to(prepared.root / stage)
        start = time.perf_counter()
        metrics = run_stage("train", params(cell), paths)
        seconds = time.perf_counter() - start
        tests = {which: test_accuracy(paths, which, cell) for which in ("best", "last")}
    purified = read_json(prepared.metrics("purify"))["purify"]
    return {
        **tests,
        "seconds": seconds,
        "epochs": metrics["epochs"],
        "best_epoch": metrics["best_epoch"],
        "held_out": metrics["held_out"]["accuracy_last"],
        "wrong": purified["wrong"] if cell["labels"] == "observed" else purified["wrong_after"],
        "estimated": metrics["noise"]["rate"],
        "estimated_by": metrics["noise"]["source"],
        "derived": metrics.get("derived"),
    }


def prepared_folder(cell: Cell, folder: Path) -> Layout:
    return Layout(folder / f"{cell['data']} {cell['noise']} {cell['seed']}".replace(" ", "-"))


def prepare(cell: Cell, folder: Path) -> None:
    """Images, noisy labels and purified labels, once for all methods."""
    paths = prepared_folder(cell, folder)
    if paths.purified.exists():
        return
    if cell["data"] == "cifar10":
        write_subset(folder / "cifar10.parquet", cell["seed"])
    run_chain({**params(cell), "prepare": source(cell, folder)}, paths, last="inject")
    labels = read_labels(paths.labels)
    noisy, trusted = (labels.take(labels.where(split="train", trusted=kind)) for kind in (False, True))
    features, row_of = features_of(cell)
    rows = {kind: np.array([row_of[name] for name in table.ids]) for kind, table in (("n", noisy), ("t", trusted))}
    task = purify_task(
        MappedRows(values=features, rows=rows["n"]), noisy, torch.from_numpy(features[rows["t"]]), trusted
    )
    config = PURIFIERS.get("ipc_ensemble").config()
    purified, metrics = purify("ipc_ensemble", config, task, noisy.ids, labels.class_names, cell["seed"])
    write_purified(paths.purified, purified)
    truth = read_truth(paths.truth)
    true = dict(zip(truth.ids, truth.true_label, strict=True))
    right = np.array([true[name] for name in noisy.ids])
    wrong = {
        "wrong": float((noisy.label != right).mean()),
        "wrong_after": float((purified.purified_label != right).mean()),
    }
    write_json(paths.metrics("purify"), {"purify": {**metrics, **wrong}})


def source(cell: Cell, folder: Path) -> dict[str, Any]:
    """Section `prepare`."""
    if cell["data"] == "digits":
        return {"dataset": "digits", "rows_per_shard": 500, "trusted": {"source": "draw", "count": 100}}
    observed = "true" if cell["noise"] != "worse" else "worse"
    columns = {"id_column": "id", "label_column": observed, "true_label_column": "true", "split_column": "split"}
    table = {"path": str(folder / "cifar10.parquet"), **columns, "verified_splits": ["test"]}
    return {"dataset": "parquet", "parquet": table, "trusted": {"source": "draw", "count": 500}}


def params(cell: Cell) -> Params:
    """The settings of a cell, without its source."""
    small = cell["data"] == "digits"
    inject: dict[str, Any] = {"type": "none"}
    if cell["noise"].startswith("sym"):
        inject = {"type": "symmetric", "symmetric": {"rate": int(cell["noise"][4:]) / 100, "protocol": "inclusive"}}
    method = "co_teaching" if cell["method"] in VARIANTS else cell["method"]
    own = {"epochs": DIGITS_EPOCHS if small else CIFAR_EPOCHS, **SHORT[cell["data"]].get(cell["method"], {})}
    if cell["method"] in VARIANTS:
        own["variant"] = VARIANTS[cell["method"]]
    return {
        "run": {"seed": cell["seed"], "device": "cpu", "threads": 1},
        "images": {"size": 8 if small else 32, "channels": 1 if small else 3, "flip": not small},
        "model": {"arch": "small_cnn", "width": 32 if small else 16},
        "prepare": {"dataset": "digits"},
        "inject": inject,
        "train": {"method": method, "labels": cell["labels"], "yardstick": False, method: own},
    }


def write_subset(path: Path, seed: int) -> None:
    """5,500 train rows and all test rows of CIFAR-10 under their index."""
    if path.exists():
        return
    columns = ["index", "split", "label", "worse_label", "image"]
    table = pq.read_table(Path(os.environ["LNL_TEST_DATA"]) / "cifar10.parquet", columns=columns)
    train = np.flatnonzero(np.array(table["split"].to_pylist()) == "train")
    test = np.setdiff1d(np.arange(len(table)), train)
    rows = np.concatenate([np.sort(np.random.default_rng(seed).choice(train, 5_500, replace=False)), test])
    table = table.take(rows)
    worse = np.where(np.isin(rows, test), table["label"].to_numpy(), table["worse_label"].fill_null(-1).to_numpy())
    ids = pa.array([f"{row:05d}" for row in rows])
    found = {"id": ids, "split": table["split"], "true": table["label"], "worse": worse, "image": table["image"]}
    pq.write_table(pa.table(found), path, row_group_size=512)


def features_of(cell: Cell) -> tuple[Any, dict[str, int]]:
    """Features [n, d] float32 and the row of each id: the pixels of digits, the file's features of CIFAR-10."""
    if cell["data"] == "digits":
        images = load_digits().images.reshape(-1, 64).astype(np.float32)
        return images, {f"digit-{row:04d}": row for row in range(len(images))}
    table = pq.read_table(Path(os.environ["LNL_TEST_DATA"]) / "cifar10_features.parquet", columns=["index", "feature"])
    column = table["feature"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), -1)
    return values, {f"{row:05d}": row for row in range(len(values))}


def test_accuracy(paths: Layout, which: str, cell: Cell) -> float:
    labels = read_labels(paths.labels)
    rows = labels.where(split="test")
    saved = load_classifier(paths.model / which)
    runtime: Runtime = resolve(shared_settings(params(cell)).run)
    store = load_images(paths.images, saved.images, ids=labels.ids[rows], scratch=paths.root, memory_mb=4096)
    found = predict_probabilities(saved.ensemble, store.pixels, runtime).argmax(axis=1)
    return float((found == labels.label[rows]).mean())


def render(records: list[dict[str, Any]]) -> str:
    """The page: a table a data set and kind of labels."""
    lines = ["# Training methods", ""]
    if not records:
        return "\n".join([*lines, "Nothing has been measured yet: `make bench-train`.", ""])
    lines += [
        "Test accuracy in %, last epoch (best on trusted rows); from scratch; mean ± standard deviation over seeds; "
        "median of the seconds. All methods of a table have the same network, epochs and data. What a method needs to "
        "know of the noise is estimated from the trusted rows. Written by `benchmarks/train.py`.",
        "",
        machine_line(records),
    ]
    return "\n".join([*lines, "", tables(records, "##"), ""])


def tables(records: list[dict[str, Any]], level: str) -> str:
    lines = []
    for data, labels in (("digits", "observed"), ("cifar10", "observed"), ("cifar10", "purified_hard")):
        found = [one for one in records if (one["cell"]["data"], one["cell"]["labels"]) == (data, labels)]
        if found:
            lines += [f"{level} {heading(data, labels)}", "", *table(found), ""]
    return "\n".join(lines[:-1])


def heading(data: str, labels: str) -> str:
    if data == "digits":
        return f"Digits, small_cnn of width 32, {DIGITS_EPOCHS} epochs, observed labels"
    kind = (
        "observed labels" if labels == "observed" else "labels purified by ipc_ensemble on a frozen encoder's features"
    )
    return f"5,000 images of CIFAR-10, small_cnn of width 16, {CIFAR_EPOCHS} epochs, {kind}"


def table(records: list[dict[str, Any]]) -> list[str]:
    noises = list(dict.fromkeys(one["cell"]["noise"] for one in records))
    wrong = [[one["found"]["wrong"] for one in records if one["cell"]["noise"] == noise] for noise in noises]
    heads = [f"{noise} ({100 * np.mean(shares):.0f} % wrong)" for noise, shares in zip(noises, wrong, strict=True)]
    lines = [f"| | {' | '.join(heads)} | seconds |", "|---" * (len(noises) + 2) + "|"]
    for method, name in NAMES.items():
        of = [one for one in records if one["cell"]["method"] == method]
        if not of:
            continue
        cells = [cell_text([one["found"] for one in of if one["cell"]["noise"] == noise]) for noise in noises]
        seconds = np.median([one["found"]["seconds"] for one in of])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
    return lines


def cell_text(found: list[Cell]) -> str:
    """`97.1 ± 0.3 (97.4 ± 0.2)`; without a deviation where there is one seed."""
    if not found:
        return "-"
    texts = []
    for which in ("last", "best"):
        values = 100 * np.array([one[which] for one in found])
        texts.append(f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""))
    return f"{texts[0]} ({texts[1]})"


if __name__ == "__main__":
    main()
