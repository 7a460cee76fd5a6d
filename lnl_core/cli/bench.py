"""The command `lnl bench`: a grid of runs and its table. Heavy imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lnl_core.config import ConfigError

if TYPE_CHECKING:
    from lnl_core.bench.grid import Cell

FAILED = 1  # exit code where a cell failed


class TableFormat(StrEnum):
    """How the table is written."""

    markdown = "markdown"
    csv = "csv"


def bench(
    preset: Annotated[str, typer.Option(help="The data set: a preset, overlays after a +.")] = "",
    noise: Annotated[str, typer.Option(help="Noise overlays, separated by commas; none: the preset's own.")] = "",
    methods: Annotated[str, typer.Option(help="Method overlays, separated by commas; with starts after a +.")] = "",
    seeds: Annotated[str, typer.Option(help="How many, from 0; or the seeds themselves, separated by commas.")] = "3",
    out: Annotated[Path, typer.Option(help="Folder of results, runs and table.")] = Path("bench"),
    override: Annotated[
        list[str] | None, typer.Option("-S", "--set", metavar="SECTION.KEY=VALUE", help="In every cell; repeatable.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say which cells there are and which are done.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the table of what is done, run nothing.")] = False,
    table_format: Annotated[TableFormat, typer.Option("--format", help="Of the table.")] = TableFormat.markdown,
    published: Annotated[str, typer.Option(help="Preset whose published numbers to show; none: --preset.")] = "",
) -> None:
    """Run a grid of methods, noises and seeds, and print its table beside published numbers.

    Finished cells are skipped, a stopped one goes on; a failed one is recorded, the others run, and the exit code is 1.

    [dim]lnl bench --preset cifar10 --noise sym50,sym80 --methods cross_entropy,divide_mix --seeds 3 --out bench[/dim]
    """
    from lnl_core.bench.cells import run_cells

    if table:
        typer.echo(_write_table(out, table_format, published))
        return
    cells = _cells(preset, noise, methods, seeds, override or [])
    if listed:
        _list(cells, out)
        return
    failures = run_cells(cells, out, _cell_lines(len(cells)))
    typer.echo(_write_table(out, table_format, published))
    if failures:
        raise typer.Exit(FAILED)


def _cells(preset: str, noise: str, methods: str, seeds: str, overrides: Sequence[str]) -> list[Cell]:
    from lnl_core.bench.grid import grid_cells

    if not preset or not methods:
        raise ConfigError("give --preset and --methods; `lnl presets` lists both")
    return grid_cells(preset, _split(noise) or [""], _split(methods), _seeds(seeds), overrides)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _seeds(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in _split(text)]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: write a number, or numbers separated by commas") from error
    if not numbers or min(numbers) < 0 or ("," not in text and not numbers[0]):
        raise ConfigError(f"--seeds {text!r}: at least one seed, none below 0")
    return numbers if "," in text else list(range(numbers[0]))


def _list(cells: Sequence[Cell], out: Path) -> None:
    from lnl_core.bench.cells import cell_state

    states = [cell_state(cell, out) for cell in cells]
    for cell, state in zip(cells, states, strict=True):
        typer.echo(f"{state:7s} {cell.name}")
    typer.echo(f"{states.count('done')} of {len(cells)} cells are done")


def _cell_lines(total: int) -> Any:
    """A line a cell, on stderr."""
    console = Console(stderr=True, soft_wrap=True)
    number = 0

    def on_progress(cell: Cell, what: str, record: dict[str, Any] | None) -> None:
        nonlocal number
        number += what == "start" or what == "skipped"
        if what != "start" or console.is_terminal:
            line = f"[{number}/{total}] {cell.name}: {_outcome(what, record)}"
            console.print(line, highlight=False, markup=False, end="\r" if what == "start" else "\n")

    return on_progress


def _outcome(what: str, record: dict[str, Any] | None) -> str:
    if record is None:
        return "..."
    if "error" in record:
        return f"FAILED {record['error'].splitlines()[0]}"
    scores = ", ".join(f"{key} {value:.1%}" for key, value in record["test"].items() if value is not None)
    when = "done before" if what == "skipped" else f"{record['seconds']['train']:.0f} s of training"
    return f"{scores or 'no test rows'} ({when})"


def _write_table(out: Path, table_format: TableFormat, published: str) -> str:
    """OUT/table.md or OUT/table.csv; returns its text."""
    from lnl_core.bench.records import read_records
    from lnl_core.bench.table import comma_separated, markdown, table_rows
    from lnl_core.files import atomic_path

    rows = table_rows(read_records(out / "results.jsonl").values(), published)
    text = markdown(rows) if table_format is TableFormat.markdown else comma_separated(rows)
    with atomic_path(out / f"table.{'md' if table_format is TableFormat.markdown else 'csv'}") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text
