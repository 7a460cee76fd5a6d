"""Cells of a benchmark: each in a process of its own, so that time and peak memory are its own; finished ones are kept.

A results file has one JSON record a line. A cell that stands there is not run again, so a benchmark that was stopped
goes on where it was; delete the lines of what is to be measured anew.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "pyarrow")
Cell = dict[str, Any]


def run_cells(script: str, cells: Sequence[Cell], results: Path, threads: int, jobs: int = 1) -> int:
    """Run what is missing, `jobs` at a time, a line appended to `results` after each; returns how many failed."""
    done = [record["cell"] for record in read_results(results)]
    missing = [cell for cell in cells if cell not in done]
    print(f"{len(cells) - len(missing)} of {len(cells)} cells are in {results}", flush=True)
    results.parent.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ThreadPoolExecutor(jobs) as pool:
        running = [(cell, pool.submit(_in_a_process, script, cell, threads)) for cell in missing]
        for number, (cell, result) in enumerate(running, start=1):
            name = " ".join(str(value) for value in cell.values())
            record = result.result()
            if record is None:
                failed += 1
                print(f"[{number}/{len(missing)}] {name}: FAILED", flush=True)
                continue
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"[{number}/{len(missing)}] {name}: {_brief(record['found'])}", flush=True)
    return failed


def run_cell(text: str, measure: Callable[[Cell], Cell]) -> None:
    """In the cell's process: measure, and print the figures as the last line."""
    print(json.dumps(measure(json.loads(text))))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The records of a results file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def peak_mib() -> float:
    """Peak resident memory of this process so far, file-backed pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine(threads: int) -> dict[str, Any]:
    """Where a cell was measured, and with what."""
    return {
        "commit": _commit(),
        "threads": threads,
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def machine_line(records: Sequence[dict[str, Any]]) -> str:
    """One sentence on where all cells were measured; every commit and number of threads that occurs is named."""
    places = [record["machine"] for record in records]
    commits = ", ".join(dict.fromkeys(place["commit"] for place in places))
    threads = " or ".join(map(str, dict.fromkeys(place["threads"] for place in places)))
    cpus = ", ".join(dict.fromkeys(f"{place['cpu']}, {place['cores']} cores" for place in places))
    libraries = ", ".join(f"{name} {number}" for name, number in places[-1]["versions"].items())
    return f"{threads} threads on {cpus}; {libraries}; commit {commits}."


def _in_a_process(script: str, cell: Cell, threads: int) -> dict[str, Any] | None:
    environment = {**os.environ, **dict.fromkeys(THREAD_SETTINGS, str(threads))}
    where = machine(threads)  # before it runs: somebody may commit meanwhile
    done = subprocess.run(
        [sys.executable, script, "--cell", json.dumps(cell)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return None
    return {"cell": cell, "found": json.loads(done.stdout.splitlines()[-1]), "machine": where}


def _brief(found: Cell) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float))


def _commit() -> str:
    """The commit whose code is measured, and whether files of the package differ from it."""
    root = Path(__file__).parents[1]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    changes = subprocess.run(
        ["git", "status", "--porcelain", "lnl_core"], cwd=root, capture_output=True, text=True, check=False
    )
    return (commit.stdout.strip() or "unknown") + (" with changes" if changes.stdout.strip() else "")


def _cpu() -> str:
    """The processor's name where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
