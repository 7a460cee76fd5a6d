"""How purifiers scale: seconds and memory on 100k, 300k and 1M rows of 2,048 float16 features, 14 classes.

    python benchmarks/purify_scaling.py --scratch /a/folder/with/4/GB

The features are synthetic: classes are Gaussian clusters about random centres with shared directions of large variance,
40 % of the labels are drawn anew, 1,000 rows are trusted. They are written once to a memory-mapped file, of which a
smaller size takes the first rows, and deleted at the end. A method streams them from that file, so its pages count as
resident memory until the system needs them; private memory, sampled ten times a second, is what the process holds.
Each pass over the features is timed apart from what comes between passes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import Cell, machine_line, peak_mib, read_results, run_cell, run_cells

from lnl_core.contracts import string_ids
from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask

HERE = Path(__file__).parent
CLASSES, WIDTH, TRUSTED, NOISE = 14, 2048, 1000, 0.4
SIZES = (100_000, 300_000, 1_000_000)
METHODS = ("ipc_ensemble", "two_em", "knn", "trusted_only", "confident_learning")
BATCH = 8192
LATENT = 64  # shared directions of large variance
SCRATCH = "LNL_SCALING_SCRATCH"


class TimedRows:
    """Features that remember when each pass over them began and ended."""

    def __init__(self, rows: MappedRows) -> None:
        self._rows = rows
        self.passes: list[tuple[float, float]] = []

    @property
    def shape(self) -> tuple[int, int]:
        return self._rows.shape

    def batches(self) -> Iterator[tuple[slice, Any]]:
        start = time.perf_counter()
        yield from self._rows.batches()
        self.passes.append((start, time.perf_counter()))


class PrivateMemory(threading.Thread):
    """Samples the private (anonymous) memory of this process until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib = 0.0
        self._stop_wanted = threading.Event()

    def run(self) -> None:
        while not self._stop_wanted.wait(0.1):
            text = Path("/proc/self/status").read_text(encoding="utf-8")
            held = next(line for line in text.splitlines() if line.startswith("RssAnon"))
            self.peak_mib = max(self.peak_mib, int(held.split()[1]) / 1024)

    def stop(self) -> float:
        self._stop_wanted.set()
        self.join()
        return self.peak_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in METHODS if name in PURIFIERS.names()]
    parser.add_argument("--methods", nargs="+", default=known, choices=PURIFIERS.names())
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scratch", type=Path, help="folder for the features (4 GB for a million rows)")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "purify_scaling.jsonl")
    parser.add_argument("--render", action="store_true", help="write the page from what is there, run nothing")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        return run_cell(arguments.cell, measure)
    failed = 0 if arguments.render else run(arguments)
    page = arguments.results.with_suffix(".md")
    page.write_text(render(read_results(arguments.results)), encoding="utf-8")
    print(f"wrote {page}")
    return sys.exit(f"{failed} cells failed") if failed else None


def run(arguments: argparse.Namespace) -> int:
    """Write the features, measure the cells, delete the features; returns how many cells failed."""
    scratch = Path(tempfile.mkdtemp(dir=arguments.scratch, prefix="lnl-scaling-"))
    try:
        write_features(scratch, max(arguments.sizes))
        os.environ[SCRATCH] = str(scratch)
        cells = [{"method": method, "rows": size} for size in sorted(arguments.sizes) for method in arguments.methods]
        return run_cells(__file__, cells, arguments.results, arguments.threads)
    finally:
        shutil.rmtree(scratch)


def write_features(folder: Path, rows: int) -> None:
    """features.npy [rows, WIDTH] float16 and true.npy; trusted_features.npy and trusted.npy beside them."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLASSES, WIDTH), dtype=np.float32)
    directions = generator.standard_normal((LATENT, WIDTH), dtype=np.float32)
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, WIDTH))
    true = generator.integers(0, CLASSES, rows).astype(np.int32)
    for start in range(0, rows, BATCH):
        label = true[start : start + BATCH]
        features[start : start + BATCH] = clusters(label, centres, directions, generator)
    features.flush()
    trusted = (np.arange(TRUSTED) % CLASSES).astype(np.int32)
    np.save(folder / "true.npy", true)
    np.save(folder / "trusted.npy", trusted)
    np.save(folder / "trusted_features.npy", clusters(trusted, centres, directions, generator).astype(np.float16))


def clusters(label: Any, centres: Any, directions: Any, generator: np.random.Generator) -> Any:
    """[b, WIDTH]: centre of the class, variance along shared directions, and noise of its own for each feature."""
    latent = generator.standard_normal((len(label), LATENT), dtype=np.float32)
    own = generator.standard_normal((len(label), WIDTH), dtype=np.float32)
    return 0.06 * centres[label] + 0.3 * latent @ directions + own


def measure(cell: Cell) -> Cell:
    """Purify the first rows once."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder, rows = Path(os.environ[SCRATCH]), cell["rows"]
    features, true = np.load(folder / "features.npy", mmap_mode="r"), np.load(folder / "true.npy")[:rows]
    trusted, label = np.load(folder / "trusted_features.npy"), np.load(folder / "trusted.npy")
    generator = np.random.default_rng(1)
    timed = TimedRows(MappedRows(values=features, rows=np.arange(rows)))
    task = PurifyTask(
        noisy=timed,
        observed=drawn_anew(true, generator),
        trusted=trusted.astype(np.float32),
        trusted_label=label,
        trusted_observed=drawn_anew(label, generator),
        classes=CLASSES,
    )
    ids, names = string_ids([f"{row:07d}" for row in range(rows)]), tuple(map(str, range(CLASSES)))
    memory = PrivateMemory()
    memory.start()
    start = time.perf_counter()
    purified, metrics = purify(cell["method"], PURIFIERS.get(cell["method"]).config(), task, ids, names, 0)
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "rows_a_second": rows / (end - start),
        "peak_mib": peak_mib(),
        "peak_private_mib": memory.stop(),
        "observed_right": float((task.observed == true).mean()),
        "labels_right": float((purified.purified_label == true).mean()),
        "stages": stages(timed.passes, start, end),
        "method_seconds": metrics.get("seconds"),
    }


def drawn_anew(label: Any, generator: np.random.Generator) -> Any:
    """A share NOISE of the labels drawn among all classes."""
    return np.where(generator.random(len(label)) < NOISE, generator.integers(0, CLASSES, len(label)), label).astype(
        np.int32
    )


def stages(passes: list[tuple[float, float]], start: float, end: float) -> list[list[Any]]:
    """What the time went to, in order: `[name, seconds]` of each pass over the features and of what lies between."""
    found: list[list[Any]] = []
    for number, (begun, ended) in enumerate(passes, start=1):
        found += [["between", begun - start], [f"pass {number}", ended - begun]]
        start = ended
    found.append(["between", end - start])
    return [[name, round(seconds, 2)] for name, seconds in found if seconds >= 0.05]


def render(records: list[dict[str, Any]]) -> str:
    """The page: a line a cell."""
    lines = ["# Purifiers on a million rows", ""]
    if not records:
        return "\n".join([*lines, "Nothing has been measured yet: `make bench-purify`.", ""])
    records = sorted(records, key=lambda record: (record["cell"]["method"], record["cell"]["rows"]))
    lines += [
        f"Synthetic clusters, {WIDTH} float16 features from a memory-mapped file, {CLASSES} classes, {TRUSTED:,} "
        f"trusted rows, {NOISE:.0%} of the labels drawn anew. Resident memory has the file's pages in it, which the "
        "system takes back when it needs them; private memory is the process's own. Written by "
        "`benchmarks/purify_scaling.py`.",
        "",
        machine_line(records),
        "",
        "| method | rows | seconds | rows a second | resident, MiB | private, MiB | labels right before, after, % "
        "| passes over the features, seconds | between them |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(row(record["cell"], record["found"]) for record in records), ""])


def row(cell: Cell, found: Cell) -> str:
    """A line of the table; passes beyond the eighth are summed."""
    passes = [seconds for name, seconds in found["stages"] if name != "between"]
    between = sum(seconds for name, seconds in found["stages"] if name == "between")
    shown = " + ".join(f"{seconds:.0f}" for seconds in passes[:8])
    if len(passes) > 8:
        shown += f" + {sum(passes[8:]):.0f} in {len(passes) - 8} more"
    return (
        f"| `{cell['method']}` | {cell['rows']:,} | {found['seconds']:.0f} | {found['rows_a_second']:,.0f} | "
        f"{found['peak_mib']:,.0f} | {found['peak_private_mib']:,.0f} | "
        f"{100 * found['observed_right']:.1f}, {100 * found['labels_right']:.1f} | {shown} | {between:.0f} |"
    )


if __name__ == "__main__":
    main()
