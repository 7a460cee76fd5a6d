"""A grid of methods, noises and seeds: one Prefect task a cell, one after the other, and the table at the end.

    python -m flows.sweep --preset digits --noise sym20,sym50 --methods cross_entropy,divide_mix --seeds 3 --out bench

The cells are those of `lnl bench`, in the same folder: what either has finished the other skips. Cells share the
machine and their run folders, so they do not run at the same time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from lnl_core.bench.grid import grid_cells
from tasks.cell import CellFailed, cell_task, show_table


@flow(name="sweep", flow_run_name="{preset} in {out}", persist_result=False)
async def sweep(
    preset: str,
    methods: list[str],
    noises: list[str] | None = None,
    seeds: list[int] | None = None,
    out: str = "bench",
    overrides: list[str] | None = None,
) -> None:
    """Run every cell that is not done yet; a failed one does not stop the others.

    Args:
        preset: the data set.
        methods: method overlays.
        noises: noise overlays; none: the preset's own noise.
        seeds: none: 0, 1 and 2.
        out: folder of results, runs and table.
        overrides: settings in the form `section.key=value`, in every cell.

    Raises:
        CellFailed: a cell failed, reported after the last one has ended.
    """
    cells = grid_cells(preset, noises or [""], methods, seeds or [0, 1, 2], overrides or [])
    # Prefect's overloads forget that the state of an async task is awaited
    states = [await cell_task(cell, Path(out), return_state=True) for cell in cells]  # type: ignore[misc]
    await show_table(Path(out))
    failed = [cell.name for cell, state in zip(cells, states, strict=True) if not state.is_completed()]
    if failed:
        raise CellFailed(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}")


def main(
    preset: Annotated[str, typer.Option(help="the data set, a preset")],
    methods: Annotated[str, typer.Option(help="method overlays, separated by commas")],
    noise: Annotated[str, typer.Option(help="noise overlays, separated by commas")] = "",
    seeds: Annotated[int, typer.Option(help="how many, from 0")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results, runs and table")] = Path("bench"),
    override: Annotated[list[str] | None, typer.Option("-S", "--set-param", help="section.key=value")] = None,
) -> None:
    """Run the flow in this process."""
    noises = [part for part in noise.split(",") if part]
    asyncio.run(sweep(preset, methods.split(","), noises, list(range(seeds)), str(out), override))


if __name__ == "__main__":
    typer.run(main)
