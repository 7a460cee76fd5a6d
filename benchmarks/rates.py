"""Rates of the stages on photographs of 256 pixels, and what Clothing1M takes at these rates.

    python benchmarks/rates.py

A few minutes. The photographs are synthetic: noise with a 1/f spectrum, 256 x 341 pixels, as JPEG of the quality at
which their mean size is that of WebVision's `val_images_256.tar` (873,574,400 bytes for 50,000 images). They are
unpacked like Clothing1M, so its reader and the stages run as they would. Weights are random, which changes no rate.
Seconds of the processor (user and system, all threads) stand beside those of the clock, which other jobs lengthen.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from cells import Cell, machine_line, peak_mib, read_results, run_cell, run_cells
from PIL import Image

from lnl_core.config import ImageSettings
from lnl_core.contracts import NO_LABEL, Labels, Purified, Truth, string_ids, write_labels, write_purified, write_truth
from lnl_core.datasets import DATASETS
from lnl_core.features.user_table import MappedRows
from lnl_core.images.decode import decode_image, to_array
from lnl_core.layout import Layout
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig, ipc_ensemble
from lnl_core.purify.task import PurifyTask
from lnl_core.stages.stage import run_stage

HERE = Path(__file__).parent
MEAN_BYTES = 873_574_400 / 50_000
CLASSES, WIDTH = 14, 2048
NOISY, CLEAN_TRAIN, VAL, TEST, BOTH = 1_000_000, 47_570, 14_313, 10_526, 37_497  # of the release's README
ALL = NOISY + CLEAN_TRAIN + VAL + TEST
CELLS: list[Cell] = [
    {"what": "index", "rows": ALL},
    {"what": "decode", "rows": 1000},
    {"what": "prepare", "rows": 4000},
    {"what": "inject", "rows": ALL},
    {"what": "features", "rows": 512, "precision": "float32"},
    {"what": "features", "rows": 512, "precision": "bfloat16"},
    {"what": "ipc_ensemble", "rows": 100_000, "trusted": 1_000},
    {"what": "ipc_ensemble", "rows": 100_000, "trusted": 10_000},
    {"what": "ipc_ensemble", "rows": 100_000, "trusted": CLEAN_TRAIN},
    {"what": "purified table", "rows": NOISY},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=HERE / "results" / "rates.jsonl")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        run_cell(arguments.cell, measure)
        return
    failed = run_cells(__file__, CELLS, arguments.results, arguments.threads)
    records = [record for record in read_results(arguments.results) if record["cell"] in CELLS]
    page = [*rates_table(records), *estimate_table(records)]
    arguments.results.with_suffix(".md").write_text("\n".join([*page, ""]), encoding="utf-8")
    print("\n".join(page))
    sys.exit(failed)


def measure(cell: Cell) -> Cell:
    with tempfile.TemporaryDirectory() as scratch:
        found: Cell = MEASURES[cell["what"]](cell, Path(scratch))
    return {"rows": cell["rows"], **found, "peak_mib": peak_mib()}


def timed(call: Callable[[], Any]) -> Cell:
    clock, processor = time.perf_counter(), processor_seconds()
    call()
    return {"seconds": time.perf_counter() - clock, "processor_seconds": processor_seconds() - processor}


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- one measurement each ----------------------------------------------------------------------------------------


def index(cell: Cell, scratch: Path) -> Cell:
    write_lists(scratch, release_keys(cell["rows"], random.Random(0)))
    for archive in range(10):
        (scratch / "images" / str(archive)).mkdir(parents=True)
    entry = DATASETS.get("clothing1m")
    return timed(entry.make(entry.config(path=str(scratch))).index)


def decode(cell: Cell, _: Path) -> Cell:
    images, settings = photographs(cell["rows"]), ImageSettings(size=224)
    return {**timed(lambda: [to_array(decode_image(image), settings) for image in images])}


def prepare(cell: Cell, scratch: Path) -> Cell:
    params = small_release(cell["rows"], scratch)
    found = timed(lambda: run_stage("prepare", params, Layout(scratch)))
    return {**found, "rows": image_rows(scratch), "bytes": folder_bytes(Layout(scratch).images)}


def inject(cell: Cell, scratch: Path) -> Cell:
    paths, rng = Layout(scratch), np.random.default_rng(0)
    keys = string_ids([key for keys in release_keys(cell["rows"], random.Random(0)).values() for key in keys])
    label = rng.integers(0, CLASSES, len(keys)).astype(np.int32)
    trusted = np.arange(len(keys)) < CLEAN_TRAIN
    split = string_ids(["train"] * (len(keys) - TEST - VAL) + ["val"] * VAL + ["test"] * TEST)
    names = tuple(map(str, range(CLASSES)))
    labels = Labels(ids=keys, label=label, observed_label=label, trusted=trusted, split=split, class_names=names)
    write_labels(paths.source_labels, labels)
    write_truth(paths.truth, Truth(ids=keys[trusted], true_label=label[trusted]))
    found = timed(lambda: run_stage("inject", {"inject": {"type": "none"}}, paths))
    return {**found, "bytes": paths.labels.stat().st_size}


def features(cell: Cell, scratch: Path) -> Cell:
    params = small_release(cell["rows"], scratch) | {"run": {"device": "cpu", "precision": cell["precision"]}}
    params["features"] = {"encoder": "torchvision:resnet50", "random_weights": True, "batch_size": 64}
    run_stage("prepare", params, Layout(scratch))
    importlib.import_module("torchvision.models")  # seconds that are not the stage's
    found = timed(lambda: run_stage("features", params, Layout(scratch)))
    return {**found, "rows": image_rows(scratch), "bytes": folder_bytes(Layout(scratch).features)}


def purify(cell: Cell, scratch: Path) -> Cell:
    rows, trusted, rng = cell["rows"], cell["trusted"], np.random.default_rng(0)
    label = rng.integers(0, CLASSES, rows + trusted).astype(np.int32)
    centres = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    values = np.lib.format.open_memmap(scratch / "f.npy", "w+", np.float16, (rows + trusted, WIDTH))
    for start in range(0, len(label), 8192):
        part = label[start : start + 8192]
        values[start : start + 8192] = centres[part] + 5 * rng.standard_normal((len(part), WIDTH), np.float32)
    known = rng.random(trusted) < BOTH / (ALL - NOISY)  # trusted rows whose noisy label is known
    observed = np.where(rng.random(len(label)) < 0.4, rng.integers(0, CLASSES, len(label)), label).astype(np.int32)
    task = PurifyTask(
        noisy=MappedRows(values=values, rows=np.arange(rows)),
        observed=observed[:rows],
        trusted=values[rows:].astype(np.float32),
        trusted_label=label[rows:],
        trusted_observed=np.where(known, observed[rows:], NO_LABEL).astype(np.int32),
        classes=CLASSES,
    )
    return timed(lambda: ipc_ensemble(task, IPCEnsembleConfig(), np.random.default_rng(0)))


def purified_table(cell: Cell, scratch: Path) -> Cell:
    rows, rng = cell["rows"], np.random.default_rng(0)
    soft = rng.dirichlet(np.full(CLASSES, 0.1), rows).astype(np.float32)
    table = Purified(
        ids=string_ids([key for keys in release_keys(rows, random.Random(0)).values() for key in keys][:rows]),
        label=rng.integers(0, CLASSES, rows).astype(np.int32),
        purified_label=soft.argmax(axis=1).astype(np.int32),
        confidence=soft.max(axis=1),
        soft_label=soft,
        class_names=tuple(map(str, range(CLASSES))),
        about={},
    )
    found = timed(lambda: write_purified(scratch / "purified.parquet", table))
    return {**found, "bytes": (scratch / "purified.parquet").stat().st_size}


MEASURES: dict[str, Callable[[Cell, Path], Cell]] = {
    "index": index,
    "decode": decode,
    "prepare": prepare,
    "inject": inject,
    "features": features,
    "ipc_ensemble": purify,
    "purified table": purified_table,
}


# --- what they measure on ----------------------------------------------------------------------------------------


def release_keys(rows: int, rng: random.Random) -> dict[str, list[str]]:
    """Keys of each list, in the proportions of the release."""
    shares = {"noisy_train": NOISY, "clean_train": CLEAN_TRAIN, "clean_val": VAL, "clean_test": TEST}
    counts = {name: max(round(rows * share / ALL), 2 * CLASSES) for name, share in shares.items()}
    return {name: [new_key(rng) for _ in range(count)] for name, count in counts.items()}


def new_key(rng: random.Random) -> str:
    return f"images/{rng.randrange(10)}/{rng.randrange(100)}/{rng.randrange(10**10)},{rng.randrange(10**9)}.jpg"


def write_lists(root: Path, keys: dict[str, list[str]]) -> None:
    clean = [key for name in ("clean_train", "clean_val", "clean_test") for key in keys[name]]
    noisy = [*keys["noisy_train"], *clean[: len(clean) * BOTH // (ALL - NOISY)]]
    for name, chosen in keys.items():
        (root / f"{name}_key_list.txt").write_text("\n".join(chosen), encoding="utf-8")
    for name, chosen in (("noisy", noisy), ("clean", clean)):
        lines = [f"{key} {number % CLASSES}" for number, key in enumerate(chosen)]
        (root / f"{name}_label_kv.txt").write_text("\n".join(lines), encoding="utf-8")
    (root / "category_names_eng.txt").write_text("\n".join(f"class {n}" for n in range(CLASSES)), encoding="utf-8")


def small_release(rows: int, scratch: Path) -> dict[str, Any]:
    """A release with images; returns params that read it."""
    keys, root = release_keys(rows, random.Random(0)), scratch / "release"
    root.mkdir()
    write_lists(root, keys)
    every = [key for chosen in keys.values() for key in chosen]
    for key, image in zip(every, photographs(len(every)), strict=True):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(image)
    reader = {"dataset": "clothing1m", "clothing1m": {"path": str(root)}, "trusted": {"source": "draw", "share": 1.0}}
    return {"images": {"size": 224}, "prepare": reader}


def photographs(count: int) -> list[bytes]:
    """JPEGs of `MEAN_BYTES` on average; 100 different ones."""
    rng = np.random.default_rng(0)
    pictures = [pink_picture(rng) for _ in range(100)]
    quality = min(range(30, 96), key=lambda q: abs(np.mean([len(jpeg(one, q)) for one in pictures[:20]]) - MEAN_BYTES))
    encoded = [jpeg(one, quality) for one in pictures]
    return [encoded[number % len(encoded)] for number in range(count)]


def pink_picture(rng: np.random.Generator, height: int = 256, width: int = 341) -> Image.Image:
    """Amplitudes fall with frequency as in photographs; brightness varies more than colour."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / width)
    bands = []
    for deviation in (50.0, 12.0, 12.0):  # standard deviations of Y, Cb, Cr
        spectrum = amplitude * (rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape))
        plane = np.fft.irfft2(spectrum, (height, width))
        bands.append(np.clip(128 + deviation * plane / plane.std(), 0, 255).astype(np.uint8))
    return Image.fromarray(np.stack(bands, axis=2), "YCbCr")


def jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def image_rows(root: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in Layout(root).images.glob("*"))


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*"))


# --- the page ----------------------------------------------------------------------------------------------------


def rates_table(records: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Rates of the stages on photographs of 256 pixels",
        "",
        "Written by `benchmarks/rates.py`, which says what the photographs are. Other jobs ran on the same cores.",
        "",
        machine_line(records),
        "",
        "| what | rows | rows a second | rows a second of one processor | bytes a row | peak, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for record in records:
        found, rows = record["found"], record["found"]["rows"]
        more = [str(value) for name, value in record["cell"].items() if name in ("precision", "trusted")]
        name = " ".join([record["cell"]["what"], *more])
        wrote = f"{found['bytes'] / rows:,.0f}" if "bytes" in found else ""
        speed = f"{per_second(rows / found['seconds'])} | {per_second(rows / found['processor_seconds'])}"
        lines.append(f"| {name} | {rows:,} | {speed} | {wrote} | {found['peak_mib']:,.0f} |")
    return lines


def per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def estimate_table(records: list[dict[str, Any]]) -> list[str]:
    """Seconds of one processor for all of Clothing1M, and what is written."""
    found = {(record["cell"]["what"], record["cell"].get("precision", "")): record for record in records}
    lines = [
        "",
        f"## Clothing1M, {ALL:,} images, at these rates",
        "",
        "| what | hours of one processor | GB written |",
        "|---|---|---|",
    ]
    for what in (("prepare", ""), ("inject", ""), ("features", "float32"), ("features", "bfloat16")):
        if what in found:
            one, rows = found[what]["found"], found[what]["found"]["rows"]
            hours = one["processor_seconds"] / rows * ALL / 3600
            lines.append(f"| {' '.join(what).strip()} | {hours:.2f} | {one['bytes'] / rows * ALL / 1e9:.2f} |")
    return lines


if __name__ == "__main__":
    main()
