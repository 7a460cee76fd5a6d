"""The commands `lnl labels ...`: the history of every label, and the way back. Heavy imports wait until needed."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lnl_core.cli.tables import print_table
from lnl_core.config import ConfigError

if TYPE_CHECKING:
    from lnl_core.ledger.change import Appended

app = typer.Typer(
    help="The label ledger: who changed which label when, and how to take it back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Folder = Annotated[Path, typer.Option("--ledger", envvar="LNL_LEDGER", help="Folder of the ledger.")]
Purified = Annotated[Path, typer.Argument(help="purified.parquet of `lnl purify` or of the stage purify.")]
Base = Annotated[Path, typer.Option(help="CSV or Parquet with all ids and the labels before any change.")]
SHOWN = 20  # rows printed; --out writes them all


class LinkKind(StrEnum):
    """How images are linked."""

    symlink = "symlink"
    hardlink = "hardlink"


@app.command()
def commit(purified: Purified, folder: Folder = Path("ledger")) -> None:
    """Append the changes of a purified table. Labels that a person has set stay; a second call appends nothing.

    [dim]lnl labels commit data/purify/purified.parquet[/dim]
    """
    from lnl_core.ledger.change import commit_purified
    from lnl_core.ledger.store import Ledger

    _print_appended(folder, commit_purified(Ledger(folder), purified, _now()))


@app.command()
def review(
    purified: Purified,
    out: Annotated[Path, typer.Option(help="The rows to look at, .csv or .parquet.")],
) -> None:
    """List the rows for review; fill in the column `label` and hand the file to `lnl labels apply`.

    [dim]lnl labels review purified.parquet --out review.csv[/dim]
    """
    from lnl_core.contracts import read_purified
    from lnl_core.ledger.change import review_list
    from lnl_core.ledger.export import write_labels_table

    rows = review_list(read_purified(purified))
    write_labels_table(rows, out)
    typer.echo(f"{len(rows):,} rows for review in {out}")


@app.command()
def apply(
    reviewed: Annotated[Path, typer.Argument(help="CSV or Parquet with ids and the labels a person gave.")],
    folder: Folder = Path("ledger"),
    reviewer: Annotated[str, typer.Option(help="Who looked; stands in the column `method`.")] = "person",
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    label_column: Annotated[str, typer.Option(help="Column of the labels; an empty one is left for later.")] = "label",
    classes: Annotated[str, typer.Option(help="Class names in order, where the ledger does not know them.")] = "",
) -> None:
    """Append a person's labels. No purifier changes them afterwards.

    [dim]lnl labels apply review.csv --reviewer anna[/dim]
    """
    from lnl_core.ledger.change import apply_reviewed
    from lnl_core.ledger.store import Ledger

    names = [name.strip() for name in classes.split(",") if name.strip()]
    done = apply_reviewed(
        Ledger(folder),
        reviewed,
        _now(),
        reviewer=reviewer,
        id_column=id_column,
        label_column=label_column,
        class_names=names,
    )
    _print_appended(folder, done)


@app.command()
def revert(
    run: Annotated[str, typer.Argument(help="A run's name or number; `lnl labels list` shows them.")],
    folder: Folder = Path("ledger"),
    skip_changed: Annotated[bool, typer.Option(help="Leave rows alone that a later run has changed.")] = False,
) -> None:
    """Take a run back, by appending its inverse. A revert can be reverted.

    [dim]lnl labels revert 7[/dim]
    """
    from lnl_core.ledger.change import revert_run
    from lnl_core.ledger.store import Ledger

    _print_appended(folder, revert_run(Ledger(folder), run, _now(), skip_changed=skip_changed))


@app.command("list")
def list_runs(folder: Folder = Path("ledger")) -> None:
    """List the runs of the ledger, oldest first.   [dim]lnl labels list[/dim]"""
    from lnl_core.ledger.store import Ledger

    runs = Ledger(folder).runs()
    rows = [
        (run.name, run.card.source, f"{run.rows:,}", _time(run.time), run.card.about.get("reverts", "")) for run in runs
    ]
    print_table(("run", "source", "rows", "time", "reverts"), rows)


@app.command()
def history(
    name: Annotated[str, typer.Argument(metavar="ID", help="The id of a row.")], folder: Folder = Path("ledger")
) -> None:
    """Every change of one row's label, oldest first.   [dim]lnl labels history cat/0007.png[/dim]"""
    from lnl_core.ledger.store import Ledger

    found = Ledger(folder).history(name).to_pylist()
    if not found:
        typer.echo(f"{name}: no change of its label is in the ledger {folder}")
        return
    columns = ("run", "from", "to", "source", "method", "version", "confidence", "route", "time")
    print_table(columns, [tuple(_cell(row[column]) for column in columns) for row in found])


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="A run, or a purified table (.parquet).")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    folder: Folder = Path("ledger"),
    out: Annotated[Path | None, typer.Option(help="All rows that differ, .csv or .parquet.")] = None,
) -> None:
    """Where two runs, or two purified tables, differ.   [dim]lnl labels diff 3 5[/dim]"""
    import pyarrow.compute as pc

    from lnl_core.ledger.compare import compare, counts, labels_of
    from lnl_core.ledger.export import write_labels_table
    from lnl_core.ledger.store import Ledger

    ledger = Ledger(folder)
    compared = compare(labels_of(first, ledger), labels_of(second, ledger))
    print_table(("what", "rows"), [(kind, f"{count:,}") for kind, count in counts(compared).items()])
    differs = compared.filter(pc.not_equal(compared["kind"], "same"))
    if out is not None:
        write_labels_table(differs, out)
        typer.echo(f"{len(differs):,} rows in {out}")
        return
    rows = differs.slice(0, SHOWN).to_pylist()
    print_table(tuple(differs.column_names), [tuple(_cell(value) for value in row.values()) for row in rows])
    if len(differs) > SHOWN:
        typer.echo(f"... and {len(differs) - SHOWN:,} more; --out FILE writes them all")


@app.command()
def export(
    base: Base,
    folder: Folder = Path("ledger"),
    out: Annotated[Path | None, typer.Option(help="The labels as they stand, .csv or .parquet.")] = None,
    source: Annotated[str, typer.Option(help="Only rows last set by base, purify, person or revert.")] = "",
    id_column: Annotated[str, typer.Option(help="Column of the ids in --base.")] = "id",
    label_column: Annotated[str, typer.Option(help="Column of the labels in --base.")] = "label",
    links: Annotated[Path | None, typer.Option(help="A new folder: a sub-folder a class with links.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images that --links links to.")] = None,
    paths: Annotated[Path | None, typer.Option(help="Table of ids and paths, where ids are no paths.")] = None,
    path_column: Annotated[str, typer.Option(help="Column of the paths in --paths.")] = "path",
    link: Annotated[LinkKind, typer.Option(help="Symbolic or hard links.")] = LinkKind.symlink,
) -> None:
    """Write the labels as they stand: base labels with the ledger's changes on top.

    [dim]lnl labels export --base labels.csv --out current.csv --links by_class --images photos[/dim]
    """
    import pyarrow.compute as pc

    from lnl_core.ledger.export import current_labels, image_paths, link_images, write_labels_table
    from lnl_core.ledger.store import Ledger

    if out is None and links is None:
        raise ConfigError("give --out FILE, --links FOLDER, or both")
    if links is not None and images is None:
        raise ConfigError("--links needs --images, the folder of the images")
    if source not in ("", "base", "purify", "person", "revert"):
        raise ConfigError(f"--source {source!r}: allowed are base, purify, person and revert")
    table = current_labels(Ledger(folder), base, id_column, label_column)
    if source:
        table = table.filter(pc.equal(table["source"], source))
    if out is not None:
        write_labels_table(table, out)
        typer.echo(f"{len(table):,} labels in {out}")
    if links is not None and images is not None:
        found = image_paths(table, images, paths, id_column, path_column)
        typer.echo(f"{link_images(table, found, links, link.value):,} links in {links}")


def _print_appended(folder: Path, done: Appended) -> None:
    if done.run is None:
        typer.echo(f"{folder}: nothing to append, the labels are as wanted ({done.rows:,} rows)")
    else:
        typer.echo(f"{folder}: run {done.run.name} appended, {done.run.rows:,} changes of {done.rows:,} rows")
    if done.kept_by_person:
        typer.echo(f"{done.kept_by_person:,} rows keep the label that a person gave them")
    if done.undecided:
        typer.echo(f"{done.undecided:,} rows have no label yet and are left for later")


def _now() -> datetime:
    return datetime.now(UTC)


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return _time(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
