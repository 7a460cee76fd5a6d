"""One cell of a grid as a Prefect task, named after the cell; what is finished is not run again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prefect import task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE

from lnl_core.bench.cells import run_cells
from lnl_core.bench.grid import Cell
from lnl_core.bench.records import read_records
from lnl_core.bench.table import markdown, table_rows
from tasks.prefect_log import send_logs_to_prefect


class CellFailed(RuntimeError):
    """The cell's own error, which results.jsonl has with its traceback."""


@task(task_run_name="{cell.name}", cache_policy=NO_CACHE, persist_result=False)  # the result is a line in a file
async def cell_task(cell: Cell, out: Path) -> None:
    """Run one cell on a thread; a failed one is recorded, and the next run of the flow tries it again.

    Raises:
        CellFailed: the cell failed.
    """
    send_logs_to_prefect()
    if await asyncio.to_thread(run_cells, [cell], out):
        raise CellFailed(read_records(out / "results.jsonl")[cell.settings]["error"])


@task(task_run_name="show table", cache_policy=NO_CACHE, persist_result=False)
async def show_table(out: Path) -> None:
    """The artifact `sweep-table` (markdown), and OUT/table.md."""
    text = markdown(table_rows(read_records(out / "results.jsonl").values()))
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    await acreate_markdown_artifact(key="sweep-table", markdown=text)
