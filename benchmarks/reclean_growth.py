"""Ten re-cleanings in a row by the flow `reclean`: what grows, and by how much.

    python benchmarks/reclean_growth.py

A crawl of 64-pixel pieces of scikit-learn's two photographs: a first shard of 600 images, then ten shards of 60 with a
re-cleaning after each, then two re-cleanings with nothing new. Through git, DVC (a folder as remote) and a Prefect
server with SQLite, all in one folder. Bytes are what files hold, not blocks.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).parents[1]))
from dev.checkout import commit, copy_of_checkout  # the path above makes it importable
from dev.prefect_server import PrefectServer

CLASSES = ("church", "flower")
BASE, STEP, RUNS, IDLE = 600, 60, 10, 2
TRUSTED = 400
ENCODER = "def pixels():\n    return lambda images: images[:, :, ::8, ::8].flatten(1).float()\n"
RESULTS = Path(__file__).parent / "results" / "reclean_growth.md"
PHOTOGRAPHS = load_sample_images().images


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of each place after a run, and what the run did."""

    what: str
    new: int
    encoded: int
    seconds: float
    places: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lnl-growth-"))
    try:
        measured = measure(folder, arguments.runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    arguments.write.write_text(page(measured), encoding="utf-8")
    print(arguments.write.read_text(encoding="utf-8"))


def measure(folder: Path, runs: int) -> list[Sizes]:
    repository = copy_of_checkout(folder / "repository")
    (repository / "crawl.yaml").write_text(yaml.safe_dump(settings(folder / "crawl")), encoding="utf-8")
    (repository / "crawl_encoder.py").write_text(ENCODER, encoding="utf-8")
    trust(repository / "trusted.csv", range(TRUSTED))
    commit(repository, "settings of a crawl")
    environment = {
        "LNL_HOME": str(folder / "home"),
        "LNL_DVC_REMOTE": str(folder / "remote"),
        "LNL_VERSIONS": str(folder / "versions"),
        "LNL_LEDGER": str(folder / "ledger"),
    }
    found = []
    with PrefectServer(folder / "prefect", checkout=repository, environment=environment) as server:
        server.python("-m", "tasks.setup")
        for run in range(runs + 1 + IDLE):
            new = BASE if run == 0 else STEP if run <= runs else 0
            if new:
                start = 0 if run == 0 else BASE + (run - 1) * STEP
                write_shard(folder / "crawl" / f"{run:03d}.parquet", range(start, start + new))
            found.append(one_run(server, folder, new))
            print(json.dumps(found[-1].__dict__), flush=True)
    return found


def one_run(server: PrefectServer, folder: Path, new: int) -> Sizes:
    started = time.perf_counter()
    server.python("-m", "flows.reclean", "--params", "crawl.yaml", "--min-age", "0", timeout=900)
    seconds = time.perf_counter() - started
    [run] = server.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    encoded = 0 if run["state_name"] == "NothingNew" else images_encoded(server, run["id"])
    return Sizes(what=run["state_name"], new=new, encoded=encoded, seconds=round(seconds, 1), places=places(folder))


def images_encoded(server: PrefectServer, run: str) -> int:
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["metrics-features"]}}}
    [artifact] = server.post("artifacts/filter", wanted)
    rows: list[dict[str, Any]] = json.loads(artifact["data"])
    return int(next(row["value"] for row in rows if row["metric"] == "images_encoded"))


def places(folder: Path) -> dict[str, int]:
    home = folder / "home"
    return {
        "crawl": size(folder / "crawl"),
        "cache": size(home / "cache"),
        "worktrees": size(home / "worktrees"),
        "bare clone": size(home / "repositories"),
        "shown results": size(home / "results"),
        "remote files": size(folder / "remote" / "files"),
        "remote runs": size(folder / "remote" / "runs"),
        "versions": size(folder / "versions"),
        "ledger": size(folder / "ledger"),
        "Prefect's database": size(folder / "prefect", "*.db*"),
    }


def size(folder: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file()) if folder.exists() else 0


def page(measured: Sequence[Sizes]) -> str:
    names = list(measured[0].places)
    lines = [
        "# Ten re-cleanings in a row",
        "",
        f"`python benchmarks/reclean_growth.py`: a crawl of {BASE} images, then {STEP} more before each run, then runs "
        "with nothing new. kB in each place after the run; in brackets what the run added. `shown results` are the "
        "reports that the flow keeps on its machine for Prefect's links; cache and remote hold the same reports, too.",
        "",
        "| run | new images | encoded | seconds | " + " | ".join(names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    before: dict[str, int] = dict.fromkeys(names, 0)
    for number, one in enumerate(measured):
        cells = [f"{one.places[name] / 1e3:,.0f} ({(one.places[name] - before[name]) / 1e3:+,.0f})" for name in names]
        lines.append(f"| {number} {one.what} | {one.new} | {one.encoded} | {one.seconds} | {' | '.join(cells)} |")
        before = one.places
    return "\n".join(lines) + "\n"


def settings(crawl: Path) -> dict[str, Any]:
    return {
        "run": {"seed": 0, "threads": 1, "device": "cpu", "precision": "float32"},
        "images": {"size": 32, "channels": 3},
        "model": {"arch": "small_cnn", "width": 8},
        "prepare": {
            "dataset": "crawl",
            "crawl": {"path": str(crawl), "class_names": list(CLASSES), "near_duplicates": {"distance": 0}},
            "trusted": {"source": "file", "file": "trusted.csv", "held_out_share": 0.5},
        },
        "inject": {"type": "none"},
        "pretrain": {"method": "none"},
        "features": {"encoder": "crawl_encoder:pixels", "dtype": "float32"},
        "purify": {"method": "ipc_ensemble"},
        "train": {"method": "cross_entropy", "cross_entropy": {"epochs": 1}, "init": "scratch"},
        "evaluate": {},
        "report": {},
    }


def trust(path: Path, numbers: range) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows([f"{number:05d}", CLASSES[number % 2]] for number in numbers)


def write_shard(path: Path, numbers: range) -> None:
    """Every fifth label is wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {
            "id": f"{number:05d}",
            "image": picture(number),
            "label": CLASSES[(number + (number % 5 == 0)) % 2],
            "source": f"site-{number % 7}.example",
        }
        for number in numbers
    ]
    pq.write_table(pa.Table.from_pylist(records), path)


def picture(number: int) -> bytes:
    draw = np.random.default_rng(number)
    top, left = draw.integers(0, 327), draw.integers(0, 540)
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPHS[number % 2][top : top + 100, left : left + 100]).resize((64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
