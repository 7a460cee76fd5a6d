"""Shards on Ray beside shards in this process: rows a second, and what Ray costs.

    python benchmarks/scale_out.py --scratch /a/folder/with/2/GB --write benchmarks/results/scale_out.md

Features: synthetic 32 px JPEG images through a small_cnn and a ResNet-18 with random weights. Purification: synthetic
float16 features, 512 wide, 14 classes: the moments of each part, and p(y | x) of each part by five linear heads and ten
networks, as ipc_ensemble has them. A worker has one thread, so has the local run. Ray's start is timed apart,
and its workers are warm: they have loaded libraries and encoder. A round runs a kind of work in this process, on one
worker and on two; a cell's figure is the median over rounds of its rate, and of its ratio to the local run of the same
round. Processor time is that of the process which does the shard, and does not mind who else uses the machine.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cells import machine, machine_line
from PIL import Image

from lnl_core.config import ImageSettings, ModelSettings, RunSettings
from lnl_core.contracts import string_ids
from lnl_core.execution.shards import Execution, execution
from lnl_core.features.cache import FeatureCache, FeatureSelection
from lnl_core.features.encode_shard import EncoderSource, ShardEncoder
from lnl_core.features.shards import ShardKey, write_shard
from lnl_core.images import shards as image_shards
from lnl_core.models.encoder import build_encoder
from lnl_core.models.saved import save_encoder
from lnl_core.runtime import use_threads
from lnl_core.statistics.moments import Moments, accumulate

IMAGES = ImageSettings(size=32)
CLASSES, WIDTH, HIDDEN, HEADS, NETWORKS = 14, 512, 128, 5, 10
LOCAL = RunSettings(device="cpu", threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--write", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[4, 16])
    arguments = parser.parse_args()
    use_threads(1)
    root = Path(tempfile.mkdtemp(dir=arguments.scratch, prefix="scale-out-"))
    try:
        text = report(root, arguments)
    finally:
        shutil.rmtree(root)
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


Work = Callable[[Execution], float]  # processor seconds of the shards


def report(root: Path, arguments: argparse.Namespace) -> str:
    """All cells, each in rounds; as Markdown."""
    works = {key: work for count in arguments.shards for key, work in works_of(root, arguments, count)}
    before = os.getloadavg()[0]
    started = time.perf_counter()
    seconds: dict[tuple[Any, str], list[float]] = {}
    processor: dict[tuple[Any, str], list[float]] = {}
    with execution(ray_of(2)) as two, execution(ray_of(1)) as one, execution(LOCAL) as local:
        start_seconds = time.perf_counter() - started
        wheres = {"local": local, "Ray, 1 worker": one, "Ray, 2 workers": two}
        for key, work in works.items():
            work(two)  # warm: a worker keeps the encoder of its last shard
            for _ in range(arguments.rounds):
                for name, where in wheres.items():
                    start = time.perf_counter()
                    processor.setdefault((key, name), []).append(work(where))
                    seconds.setdefault((key, name), []).append(time.perf_counter() - start)
                    print(key, name, f"{seconds[key, name][-1]:.2f} s", file=sys.stderr, flush=True)
        start = time.perf_counter()
        list(one.map(os.path.basename, ["x"] * 300))
        empty = (time.perf_counter() - start) / 300
    loads = f"{before:.1f} before, {os.getloadavg()[0]:.1f} after"
    lines = [
        HEAD.format(machine=machine_line([{"machine": machine(1)}]), rounds=arguments.rounds, loads=loads),
        *TABLE_HEAD,
    ]
    for (key, name), found in seconds.items():
        what, rows, count = key
        ratio = statistics.median(a / b for a, b in zip(seconds[key, "local"], found, strict=True))
        rate = rows / statistics.median(found)
        busy = statistics.median(processor[key, name]) / rows * 1e6
        lines.append(f"| {what} | {rows:,} | {count} | {name} | {rate:,.0f} | {ratio:.2f} | {busy:,.0f} |")
    tail = f"\nStarting Ray on this machine: {start_seconds:.1f} s. A task that does nothing: {empty * 1000:.1f} ms.\n"
    return "\n".join(lines) + "\n" + tail


HEAD = """# Scale-out

Shards in this process and as Ray tasks on the same machine. Written by `python benchmarks/scale_out.py`.

{machine} Median of {rounds} rounds. Load average on the 2 cores, this benchmark in it: {loads}.
Above 2 the machine was shared with other work: rates are then low, and two workers get more of the machine than one
process does. A ratio compares runs of the same round.
"""
TABLE_HEAD = [
    "| work | rows | shards | where | rows a second | times local | processor time a row, microseconds |",
    "|---|---|---|---|---|---|---|",
]


def ray_of(workers: int) -> RunSettings:
    return LOCAL.model_copy(update={"execution": "ray", "ray": LOCAL.ray.model_copy(update={"workers": workers})})


def with_processor_time(function: Callable[[Path], Any], shard: Path) -> tuple[float, Any]:
    start = time.process_time()
    result = function(shard)
    return time.process_time() - start, result


def works_of(root: Path, arguments: argparse.Namespace, count: int) -> Iterator[tuple[tuple[str, int, int], Work]]:
    """((name, rows, shards), work) of one number of shards."""
    folder = root / str(count)
    images = write_images(folder / "images", arguments.images, count)
    for arch, share in (("small_cnn", 1), ("resnet18", 16)):  # a ResNet-18 is some fifty times slower
        encoder = folder / arch
        save_encoder(encoder, build_encoder(ModelSettings(arch=arch), 3, seed=0), {})
        used = images if share == 1 else write_images(folder / "few", arguments.images // share, count)
        key = (f"features, {arch}", arguments.images // share, count)
        yield key, functools.partial(encode, shard_encoder(encoder), used)
    features = write_features(folder / "features", arguments.rows, count)
    yield ("moments", arguments.rows, count), functools.partial(drain, moments, features)
    yield (
        ("prediction", arguments.rows, count),
        functools.partial(drain, functools.partial(predict, members()), features),
    )


def write_images(folder: Path, rows: int, count: int) -> list[Path]:
    generator = np.random.default_rng(0)
    found = []
    for number, picked in enumerate(np.array_split(np.arange(rows), count)):
        ids = [f"{row:08d}" for row in picked]
        path = folder / f"part-{number:05d}.parquet"
        image_shards.write_shard(path, ids, (jpeg(generator) for _ in ids), "benchmark")
        found.append(path)
    return found


def jpeg(generator: np.random.Generator) -> bytes:
    sink = pa.BufferOutputStream()
    Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(sink, "JPEG")
    return bytes(sink.getvalue())


def shard_encoder(folder: Path) -> ShardEncoder:
    source = EncoderSource(
        name="simclr", weights=None, random_weights=False, pretrained=folder, images=IMAGES, run=LOCAL
    )
    opened = source.open()
    return ShardEncoder(
        source=source, fingerprint=opened.fingerprint, dtype="float16", batch_size=256, folders=(), here=opened
    )


def encode(encoder: ShardEncoder, images: list[Path], where: Execution) -> float:
    """Anew each time: nothing is left to be found."""
    out = Path(tempfile.mkdtemp(dir=images[0].parent))
    busy = drain(replace(encoder, folders=(out,)), images, where)
    shutil.rmtree(out)
    return busy


def write_features(folder: Path, rows: int, count: int) -> list[Path]:
    generator = np.random.default_rng(0)
    key = ShardKey(fingerprint="synthetic", dtype="float16", source="synthetic")
    found = []
    for number, picked in enumerate(np.array_split(np.arange(rows), count)):
        path = folder / f"part-{number:05d}.parquet"
        batches = (
            (string_ids([f"{row:08d}" for row in block]), generator.standard_normal((len(block), WIDTH), np.float32))
            for block in np.array_split(picked, -(-len(picked) // 4096))
        )
        write_shard(path, batches, key)
        found.append(path)
    return found


def drain(function: Callable[[Path], Any], shards: list[Path], where: Execution) -> float:
    return sum(busy for busy, _ in where.map(functools.partial(with_processor_time, function), shards))


def rows_of(path: Path) -> FeatureSelection:
    return FeatureSelection(cache=FeatureCache(path), rows=np.arange(pq.read_metadata(path).num_rows))


def moments(path: Path) -> Moments:
    rows = rows_of(path)
    return accumulate(rows.batches(), np.arange(rows.shape[0]) % CLASSES, WIDTH, CLASSES, np.float64)


Member = tuple[np.ndarray, np.ndarray]


def members() -> tuple[np.ndarray, list[Member]]:
    generator = np.random.default_rng(1)
    linear = generator.standard_normal((WIDTH, HEADS * CLASSES), np.float32)
    shapes = [((WIDTH, HIDDEN), (HIDDEN, CLASSES)) for _ in range(NETWORKS)]
    return linear, [tuple(generator.standard_normal(shape, np.float32) for shape in pair) for pair in shapes]


def predict(models: tuple[np.ndarray, list[Member]], path: Path) -> np.ndarray:
    """[b, K]: each row by one head and by two of the networks, as ipc_ensemble's splits do."""
    linear, networks = models
    rows = rows_of(path)
    found = np.empty((rows.shape[0], CLASSES), dtype=np.float32)
    for place, features in rows.batches():
        scores = (features @ linear).reshape(len(features), HEADS, CLASSES).sum(axis=1)
        for split, (first, second) in enumerate(networks):
            mine = slice(split // 2, None, HEADS)
            scores[mine] += np.maximum(features[mine] @ first, 0) @ second
        found[place] = scores
    return found


if __name__ == "__main__":
    main()
