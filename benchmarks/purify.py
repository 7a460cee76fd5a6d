"""Purifiers x label noise on CIFAR-10 features: labels right, a head's test accuracy, calibration, seconds, memory.

    LNL_TEST_DATA=folder python benchmarks/purify.py --seeds 3

The folder holds cifar10.parquet (index, split, label, aggre_label, worse_label) and cifar10_features.parquet (index,
feature). A seed draws the trusted set, 100 of the 50,000 train rows of each class, and the noise; human labels are as
they are. The noise falls on all 50,000 rows, so what the source had said of a trusted row is known to a method, as in
practice where rows are verified that came with a label. A method never sees a true label of the 49,000 others.
Test accuracy: multinomial logistic regression, fitted to convergence on the purified soft labels and the trusted rows;
the 10,000 test rows choose nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from cells import Cell, machine_line, peak_mib, read_results, run_cell, run_cells

from lnl_core.contracts import string_ids
from lnl_core.evaluate.calibration import expected_calibration_error, reliability
from lnl_core.features.user_table import MappedRows
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseSource
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask
from lnl_core.runtime import seed_for
from lnl_core.statistics.linear_probe import fit_linear_probe

HERE = Path(__file__).parent
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRUSTED_A_CLASS = 100
BINS = 15  # of the expected calibration error
NOISES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"sym {rate}": ("symmetric", {"rate": rate / 100, "protocol": "inclusive"}) for rate in (20, 50, 80, 90)},
    "asym 40": ("asymmetric", {"rate": 0.4, "map": "cifar10"}),
}
HUMAN = {"aggre": "aggre_label", "worse": "worse_label"}
SLOW = ("emlc", "mlc", "mslc")  # --slow-seeds of these
TABLES = {  # key of a record: title, factor, digits, whether more is better
    "labels_right": ("Labels right, % of the 49,000 noisy rows", 100, 1, True),
    "test_accuracy": ("Test accuracy of a linear head on the purified labels, %", 100, 1, True),
    "ece": (f"Expected calibration error of the confidence, % ({BINS} bins)", 100, 1, False),
    "seconds": ("Seconds", 1, 1, False),
    "peak_mib": ("Peak memory of the process, MiB (features in float16 and libraries included)", 1, 0, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LNL_TEST_DATA", "../shared/data")))
    parser.add_argument("--methods", nargs="+", default=PURIFIERS.names(), choices=PURIFIERS.names())
    parser.add_argument("--noises", nargs="+", default=[*NOISES, *HUMAN], choices=[*NOISES, *HUMAN])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slow-seeds", type=int, default=1, help=f"seeds of {', '.join(SLOW)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "purify.jsonl")
    parser.add_argument("--render", action="store_true", help="write the page from what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["LNL_TEST_DATA"] = str(arguments.data)
    if arguments.cell:
        return run_cell(arguments.cell, measure)
    failed = 0
    if not arguments.render:
        if not (arguments.data / "cifar10_features.parquet").exists():
            sys.exit(f"{arguments.data}: has no cifar10_features.parquet; name the folder with --data or LNL_TEST_DATA")
        failed = run_cells(__file__, list(cells(arguments)), arguments.results, arguments.threads)
    page = arguments.results.with_suffix(".md")
    page.write_text(render(read_results(arguments.results)), encoding="utf-8")
    print(f"wrote {page}")
    return sys.exit(f"{failed} cells failed") if failed else None


def cells(arguments: argparse.Namespace) -> Iterable[Cell]:
    """Seeds outermost, so that a benchmark that is stopped has compared all methods on the first."""
    for seed in range(arguments.seeds):
        for noise in arguments.noises:
            for method in arguments.methods:
                if method not in SLOW or seed < arguments.slow_seeds:
                    yield {"method": method, "noise": noise, "seed": seed}


def measure(cell: Cell) -> Cell:
    """Purify once and score it."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    features, tables = load(Path(os.environ["LNL_TEST_DATA"]))
    true, test = tables["label"], np.flatnonzero(~tables["train"])
    task, noisy, trusted = draw_task(features, tables, cell["noise"], cell["seed"])
    before, start = peak_mib(), time.perf_counter()
    config = PURIFIERS.get(cell["method"]).config()
    ids = string_ids([f"{row:05d}" for row in noisy])
    purified, metrics = purify(cell["method"], config, task, ids, CLASSES, cell["seed"])
    seconds, peak = time.perf_counter() - start, peak_mib()
    right = purified.purified_label == true[noisy]
    soft = np.concatenate([purified.soft_label, np.eye(len(CLASSES), dtype=np.float32)[true[trusted]]])
    rows = np.concatenate([noisy, trusted])
    return {
        "labels_right": float(right.mean()),
        "observed_right": float((task.observed == true[noisy]).mean()),
        "test_accuracy": head_accuracy(features, rows, soft, test, true[test]),
        "ece": expected_calibration_error(reliability(purified.confidence, right, BINS)),
        "seconds": seconds,
        "peak_mib": peak,
        "peak_before_mib": before,
        "chosen": metrics.get("chosen"),
    }


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Features [60000, 512] float16 and label columns, in order of index."""
    table = pq.read_table(folder / "cifar10_features.parquet", columns=["index", "feature"])
    column = table["feature"].combine_chunks()
    features = column.flatten().to_numpy(zero_copy_only=False).astype(np.float16).reshape(len(table), -1)
    labels = pq.read_table(folder / "cifar10.parquet", columns=["index", "split", "label", *HUMAN.values()])
    assert np.array_equal(table["index"], labels["index"]), "the two tables hold other rows, or in another order"
    found = {name: labels[name].fill_null(-1).to_numpy().astype(np.int32) for name in ("label", *HUMAN.values())}
    return features, {**found, "train": np.array(labels["split"].to_pylist()) == "train"}


def draw_task(features: Any, tables: dict[str, Any], noise: str, seed: int) -> tuple[PurifyTask, Any, Any]:
    """What a purifier is given, and the row numbers of the noisy and of the trusted rows."""
    true, train = tables["label"], np.flatnonzero(tables["train"])
    generator = np.random.default_rng(seed_for(seed, "benchmark", noise))
    trusted = draw_trusted(true, train, generator)
    observed = noisy_labels(noise, tables, train, generator)
    noisy = np.setdiff1d(train, trusted)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=noisy),
        observed=observed[noisy],
        trusted=features[trusted].astype(np.float32),
        trusted_label=true[trusted],
        trusted_observed=observed[trusted],
        classes=len(CLASSES),
    )
    return task, noisy, trusted


def draw_trusted(true: Any, train: Any, generator: np.random.Generator) -> Any:
    """Row numbers, the same number of each class, sorted."""
    of_class = [train[true[train] == label] for label in range(len(CLASSES))]
    return np.sort(np.concatenate([generator.choice(rows, TRUSTED_A_CLASS, replace=False) for rows in of_class]))


def noisy_labels(noise: str, tables: dict[str, Any], train: Any, generator: np.random.Generator) -> Any:
    """Observed labels of all rows; test rows keep the true one and are not used."""
    if noise in HUMAN:
        return tables[HUMAN[noise]]
    name, settings = NOISES[noise]
    entry = NOISE_TYPES.get(name)
    source = NoiseSource(
        ids=string_ids([f"{row:05d}" for row in train]),
        true_label=tables["label"][train],
        class_names=CLASSES,
        pixels=lambda: iter(()),
    )
    observed = tables["label"].copy()
    observed[train] = entry.make(source, entry.config(**settings), generator)
    return observed


def head_accuracy(features: Any, rows: Any, soft: Any, test: Any, true: Any) -> float:
    """Test accuracy of logistic regression on soft labels [r, K] of `rows`."""
    probe = fit_linear_probe(torch.from_numpy(features[rows].astype(np.float32)), torch.from_numpy(soft), len(CLASSES))
    scores = probe.scores(torch.from_numpy(features[test].astype(np.float32)))
    return float((scores.argmax(dim=1).numpy() == true).mean())


def render(records: list[dict[str, Any]]) -> str:
    """The page: a table a figure, methods by noise."""
    lines = ["# Purifiers on CIFAR-10 features", ""]
    if not records:
        return "\n".join([*lines, "Nothing has been measured yet: `make bench-purify`.", ""])
    found: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for record in records:
        found[record["cell"]["method"], record["cell"]["noise"]].append(record["found"])
    noises = [noise for noise in (*NOISES, *HUMAN) if any(key[1] == noise for key in found)]
    methods = sorted({method for method, _ in found})
    lines += [
        "512 principal components of an ImageNet network's features; 1,000 trusted rows, 100 a class, out of the "
        "50,000 train rows; what the source says of a trusted row is known too. Symmetric noise is inclusive (90 % "
        "leaves 19 % right). `none` keeps the observed labels. Mean ± standard deviation over seeds, each with a "
        "trusted set and noise of its own; one seed where no deviation stands. Default settings throughout; nothing "
        "is chosen on true labels. Written by `benchmarks/purify.py`.",
        "",
        machine_line(records),
    ]
    for key, (title, factor, digits, more_is_better) in TABLES.items():
        lines += ["", f"## {title}", "", f"| | {' | '.join(noises)} |", "|---" * (len(noises) + 1) + "|"]
        best = {noise: best_method(found, noise, key, more_is_better) for noise in noises}
        for method in methods:
            cells = [mean_and_sd([one[key] for one in found[method, noise]], factor, digits) for noise in noises]
            pairs = zip(noises, cells, strict=True)
            marked = [f"**{cell}**" if best[noise] == method else cell for noise, cell in pairs]
            lines.append(f"| `{method}` | {' | '.join(marked)} |")
    return "\n".join([*lines, ""])


def best_method(found: dict[tuple[str, str], list[Cell]], noise: str, key: str, more_is_better: bool) -> str | None:
    """Which mean is best; None for seconds and memory, where doing nothing always wins."""
    if key in ("seconds", "peak_mib"):
        return None
    scores = {method: [one[key] for one in cells] for (method, of), cells in found.items() if of == noise and cells}
    means = {method: float(np.mean(values)) for method, values in scores.items()}
    return (max if more_is_better else min)(means, key=lambda method: means[method])


def mean_and_sd(values: list[float], factor: float, digits: int) -> str:
    """`82.1 ± 0.3`, `82.1` of one seed, or a dash."""
    if not values:
        return "-"
    scaled = factor * np.array(values)
    text = f"{scaled.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {scaled.std(ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
