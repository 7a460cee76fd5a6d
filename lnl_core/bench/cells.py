"""Run the cells of a grid: what is finished is skipped, what was killed goes on, what fails is reported and left.

OUT/results.jsonl          a line a finished or failed cell
OUT/runs/SEED-ENCODER/     the run folder that cells with the same encoder share, one after the other
OUT/cells/CELL/            what is kept of each cell: metrics of its stages, training curve, tables for plots
"""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from lnl_core.bench.grid import Cell
from lnl_core.bench.records import Record, append_record, failed, finished, read_records
from lnl_core.files import atomic_folder
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.stages.chain import run_chain

log = logging.getLogger("lnl")
LAST = "evaluate"
FAILURES = (  # what data, settings and machines do to a run; an interrupt is none of them and ends the grid
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
State = Literal["done", "failed", "open"]
OnProgress = Callable[[Cell, Literal["skipped", "start", "done", "failed"], Record | None], None]


def run_cells(cells: Sequence[Cell], out: Path, on_progress: OnProgress = lambda *_: None) -> int:
    """Run every cell that is not done yet; returns how many failed."""
    results = out / "results.jsonl"
    failures = 0
    for cell in cells:
        if cell_state(cell, out) == "done":
            on_progress(cell, "skipped", read_records(results)[cell.settings])
            continue
        on_progress(cell, "start", None)
        record = run_cell(cell, out)
        append_record(results, record)
        failures += "error" in record
        on_progress(cell, "failed" if "error" in record else "done", record)
    return failures


def run_cell(cell: Cell, out: Path) -> Record:
    """Run the chain of one cell as far as its scores; its record, with `error` where it failed."""
    paths = Layout(out / "runs" / cell.folder)
    try:
        run_chain(cell.params, paths, last=LAST)
        _keep(paths, out / "cells" / f"{cell.spec}-seed{cell.seed}-{cell.settings[:8]}")
        return finished(cell, paths)
    except FAILURES as error:
        log.info("%s: failed", cell.name, exc_info=error)
        return failed(cell, error, traceback.format_exc())


def cell_state(cell: Cell, out: Path) -> State:
    """Whether a cell is done, has failed, or is open (not begun, or stopped: it goes on where it was)."""
    record = read_records(out / "results.jsonl").get(cell.settings)
    if record is None:
        return "open"
    return "failed" if "error" in record else "done"


def _keep(paths: Layout, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        for stage in STAGE_NAMES[: STAGE_NAMES.index(LAST) + 1]:
            shutil.copyfile(paths.metrics(stage), temporary / f"{stage}.json")
        shutil.copyfile(paths.train_curves, temporary / "curves.csv")
        shutil.copytree(paths.plots, temporary / "plots")
