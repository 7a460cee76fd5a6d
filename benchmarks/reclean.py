"""Re-cleaning a growing crawl: 40,000 CIFAR-10 images and five increments of 2,000, against cleaning everything anew.

    LNL_TEST_DATA=folder python benchmarks/reclean.py

The folder holds cifar10.parquet (index, label, worse_label, image) and cifar10_features.parquet (index, feature). The
train images, in their original order, are written as a crawl: shards of 2,000 with the human labels `worse`
(CIFAR-10N). 1,000 verified rows are drawn from the first 40,000 by a fixed seed; with the third increment 300 more,
from all rows that are there. Each cell is one call of `lnl reclean` in a process of its own, imports included, up to
the stage purify.

    computed   a ResNet-18 with random weights at 32 px: it costs what a small encoder costs, its labels mean nothing
    given      the 512 wide features of the file, found by pixels: stands for a user's own encoder

`update` is one folder that grows; `anew` is an empty folder with the same shards and trusted rows. True labels score,
and nothing else. Cells of one `update` build on each other: its folder, --work, must be kept while the benchmark runs.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from cells import Cell, machine_line, read_results, run_cell, run_cells

from lnl_core.contracts import read_purified
from lnl_core.layout import Layout
from lnl_core.ledger.store import Ledger

HERE = Path(__file__).parent
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BASE, STEP, INCREMENTS = 40_000, 2_000, 5
TRUSTED, MORE_TRUSTED, MORE_AT = 1_000, 300, 3
SEED = 0
ENCODERS: dict[str, dict[str, Any]] = {
    "computed": {"encoder": "torchvision:resnet18", "random_weights": True},
    "given": {"encoder": "given_features:encoder"},
}
ANEW = {"computed": (INCREMENTS,), "given": (5, 3, 1, 2, 4)}  # increments after which all is made anew
HOW_TO_READ = (
    "CPU seconds are those of the call and its processes. All other seconds are wall time, in which other work on the "
    "machine has its share: compare them within a line, and CPU seconds between lines. `updated` labels are those in "
    "use, with the margin; `same posterior` says whether the soft labels of both are the same, bit for bit, so that "
    "`no margin` is what cleaning everything anew gives."
)
STAGES = ("prepare", "inject", "pretrain", "features", "purify")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LNL_TEST_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lnl-bench-reclean")
    parser.add_argument("--encoders", nargs="+", default=[*ENCODERS], choices=[*ENCODERS])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "reclean.jsonl")
    parser.add_argument("--render", action="store_true", help="write the page from what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        return run_cell(arguments.cell, measure)
    failed = 0
    if not arguments.render:
        if not (arguments.data / "cifar10_features.parquet").exists():
            sys.exit(f"{arguments.data}: has no cifar10_features.parquet; name the folder with --data or LNL_TEST_DATA")
        os.environ |= {"LNL_TEST_DATA": str(arguments.data.resolve()), "LNL_BENCH_WORK": str(arguments.work.resolve())}
        if not read_results(arguments.results):
            for encoder in arguments.encoders:
                shutil.rmtree(arguments.work / encoder, ignore_errors=True)
        failed = run_cells(__file__, cells(arguments.encoders), arguments.results, arguments.threads)
    page = arguments.results.with_suffix(".md")
    page.write_text(render(read_results(arguments.results)), encoding="utf-8")
    print(f"wrote {page}")
    sys.exit(1 if failed else 0)


def cells(encoders: Iterable[str]) -> list[Cell]:
    found = []
    for encoder in encoders:
        found += [{"encoder": encoder, "how": "update", "increment": number} for number in range(INCREMENTS + 1)]
        found += [{"encoder": encoder, "how": "anew", "increment": number} for number in ANEW[encoder]]
    return found


def measure(cell: Cell) -> Cell:
    """One call of `lnl reclean`."""
    work = Path(os.environ["LNL_BENCH_WORK"])
    name = cell["encoder"] if cell["how"] == "update" else f"{cell['encoder']}-anew-{cell['increment']}"
    folder = work / name
    table = pq.read_table(
        Path(os.environ["LNL_TEST_DATA"]) / "cifar10.parquet",
        columns=["index", "label", "worse_label", "image"],
        filters=[("index", "<", BASE + INCREMENTS * STEP)],
    ).sort_by("index")
    write_crawl(folder / "crawl", table, cell["increment"])
    truth = table["label"].to_numpy()
    (folder / "trusted.csv").write_text(trusted_rows(truth, cell["increment"]), encoding="utf-8")
    params = folder / "crawl.yaml"
    params.write_text(yaml.safe_dump(params_of(cell["encoder"], folder), sort_keys=False), encoding="utf-8")
    before = disk(folder / "run")
    command = ["reclean", "--params", str(params), "--root", str(folder / "run"), "--until", "purify", "--min-age", "0"]
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "lnl_core.cli", *command],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
    )
    seconds = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = figures(Layout(folder / "run"), truth)
    if cell["how"] == "anew":
        found["same_posterior"] = same_posterior(
            folder / "run", work / cell["encoder"] / f"soft-{cell['increment']}.npy"
        )
    else:
        np.save(folder / f"soft-{cell['increment']}.npy", read_purified(Layout(folder / "run").purified).soft_label)
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "disk_mib": (disk(folder / "run") - before) / 2**20, **found}


def write_crawl(folder: Path, table: pa.Table, increment: int) -> None:
    """The shards up to an increment; what is there already is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, BASE + increment * STEP, STEP):
        shard = folder / f"shard-{start // STEP:04d}.parquet"
        if not shard.exists():
            rows = table.slice(start, STEP)
            names = [CLASSES[label] for label in rows["worse_label"].to_pylist()]
            ids = [row_id(index) for index in rows["index"].to_pylist()]
            pq.write_table(pa.table({"id": ids, "label": names, "image": rows["image"]}), shard)


def row_id(index: int) -> str:
    return f"{index:05d}.jpg"


def trusted_rows(truth: np.ndarray, increment: int) -> str:
    """A CSV of verified rows: drawn once, and more of them from the increment `MORE_AT` on."""
    generator = np.random.default_rng(SEED)
    rows = generator.permutation(BASE)[:TRUSTED]
    if increment >= MORE_AT:
        others = np.setdiff1d(np.arange(BASE + MORE_AT * STEP), rows)
        rows = np.concatenate([rows, generator.permutation(others)[:MORE_TRUSTED]])
    return "id,label\n" + "".join(f"{row_id(row)},{CLASSES[truth[row]]}\n" for row in np.sort(rows))


def params_of(encoder: str, folder: Path) -> dict[str, Any]:
    return {
        "run": {"seed": SEED, "device": "cpu"},
        "images": {"size": 32, "channels": 3, "flip": True},
        "prepare": {
            "dataset": "crawl",
            "crawl": {"path": str(folder / "crawl"), "class_names": list(CLASSES)},
            "trusted": {"source": "file", "file": str(folder / "trusted.csv")},
        },
        "inject": {"type": "none"},
        "pretrain": {"method": "none"},
        "features": ENCODERS[encoder],
        "purify": {"method": "ipc_ensemble"},
    }


def figures(paths: Layout, truth: np.ndarray) -> dict[str, Any]:
    purified = read_purified(paths.purified)
    true = truth[[int(name[:5]) for name in purified.ids]]
    metrics = {stage: paths.read_metrics(stage) for stage in STAGES}
    churn = metrics["purify"].get("churn") or {}
    last = Ledger(paths.root / "ledger").runs()[-1]
    return {
        "rows": len(purified),
        "stages": {stage: metrics[stage].get("seconds") for stage in STAGES},
        "images_encoded": metrics["features"]["images_encoded"],
        "parts": [metrics["purify"]["sums"]["parts"], metrics["purify"]["sums"]["parts_kept"]],
        "observed_right": float((purified.label == true).mean()),
        "labels_right": float((purified.applied_label == true).mean()),
        "labels_right_without_margin": float((purified.soft_label.argmax(axis=1) == true).mean()),
        "churn": {key: value for key, value in churn.items() if not isinstance(value, list)},
        "ledger": last.rows,
    }


def same_posterior(root: Path, of_update: Path) -> bool:
    """Are the soft labels those of the folder that grew, bit for bit?"""
    return bool(np.array_equal(read_purified(Layout(root).purified).soft_label, np.load(of_update)))


def disk(folder: Path) -> int:
    """Bytes of all files, each counted once whatever names it has."""
    files = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return sum(files.values())


def render(records: list[dict[str, Any]]) -> str:
    if not records:
        return "Nothing has been measured.\n"
    by_cell = {tuple(record["cell"].values()): record["found"] for record in records}
    about = "\n\n".join((__doc__ or "").split("\n\n")[2:]).rstrip()
    lines = ["# Re-cleaning a growing crawl", "", about, "", machine_line(records), "", HOW_TO_READ]
    for encoder in ENCODERS:
        lines += ["", f"## Cost with the encoder `{encoder}`", "", *_cost(encoder, by_cell)]
    lines += ["", "## Labels right with the encoder `given`, %", "", *_labels(by_cell)]
    notes = [
        f"{' '.join(map(str, record['cell'].values()))}: {record['note']}" for record in records if "note" in record
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _cost(encoder: str, by_cell: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    lines = [
        "| | rows to clean | images encoded | CPU seconds | seconds | "
        + " | ".join(STAGES)
        + " | parts summed | disk, MiB |",
        "|---|---|---|---|---|" + "---|" * (len(STAGES) + 2),
    ]
    for (name, how, number), found in by_cell.items():
        if name == encoder:
            title = f"anew after {number}" if how == "anew" else f"increment {number}" if number else "base"
            stages = " | ".join(f"{found['stages'][stage] or 0:.1f}" for stage in STAGES)
            parts, kept = found["parts"]
            lines.append(
                f"| {title} | {found['rows']:,} | {found['images_encoded']:,} | {found['cpu_seconds']:.1f} | "
                f"{found['seconds']:.1f} | {stages} | {parts - kept} of {parts} | {found['disk_mib']:.1f} |"
            )
    return lines


def _labels(by_cell: dict[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    lines = [
        "| | source's labels | updated | no margin | cleaned anew | same posterior | decisions changed | held back "
        "| ledger rows |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number in range(INCREMENTS + 1):
        found = by_cell.get(("given", "update", number))
        if found is None:
            continue
        anew = by_cell.get(("given", "anew", number)) or {}
        churn = found["churn"]
        cells_ = [
            "base" if number == 0 else f"increment {number}",
            f"{100 * found['observed_right']:.2f}",
            f"{100 * found['labels_right']:.2f}",
            f"{100 * found['labels_right_without_margin']:.2f}",
            f"{100 * anew['labels_right']:.2f}" if anew else "",
            {True: "yes", False: "no", None: ""}[anew.get("same_posterior")],
            f"{churn['flips']:,} ({100 * churn['flip_share']:.2f} %)" if churn else "",
            f"{churn['held_back']:,}" if churn else "",
            f"{found['ledger']:,}",
        ]
        lines.append("| " + " | ".join(cells_) + " |")
    return lines


if __name__ == "__main__":
    main()
