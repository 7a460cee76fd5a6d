"""The commands `lnl crawl ...`: which shards of a growing crawl are read, in which order. Heavy imports wait."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnl_core.cli.options import Overrides, ParamsInstead, Preset, chosen_params

app = typer.Typer(
    help="The listing of a growing crawl: which shards there are, in the order in which they were first seen.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Crawl = Annotated[str, typer.Option("--path", help="Folder or s3:// prefix that the crawlers fill.")]
ListingFile = Annotated[Path, typer.Option("--listing", help="The listing, a .json file.")]
MinAge = Annotated[float, typer.Option(min=0, help="Seconds; a shard with a younger file waits for the next time.")]
DEFAULT = Path("data/crawl/listing.json")


@app.command()
def update(
    path: Crawl,
    listing: ListingFile = DEFAULT,
    min_age: MinAge = 60.0,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="List an overwritten shard as a new one; its old rows stay.")
    ] = False,
) -> None:
    """Append the shards that are new and whole to the listing; run it as often as you like.

    [dim]lnl crawl update --path s3://crawl/shop-images[/dim]
    """
    from lnl_core.crawl.listing import read_listing, update_listing, write_listing

    old = read_listing(listing)
    updated, new = update_listing(path, old, min_age=min_age, accept_changed=accept_changed)
    if updated != old or not listing.exists():
        write_listing(listing, updated)
    for shard in new:
        note = f", the same as {shard.duplicate_of}" if shard.duplicate_of else ""
        typer.echo(f"new  {shard.name}  ({shard.form}, {shard.files} files, {shard.size:,} bytes{note})")
    typer.echo(f"{len(updated.shards)} shards in {listing}, {len(new)} of them new")
    typer.echo(f"prepare.crawl.listing_sha256: {updated.sha256}")


@app.command()
def status(path: Crawl, listing: ListingFile = DEFAULT, min_age: MinAge = 60.0) -> None:
    """Say what `update` would find, and change nothing.

    [dim]lnl crawl status --path s3://crawl/shop-images[/dim]
    """
    from lnl_core.crawl.listing import look_at, read_listing

    listed = read_listing(listing)
    state = look_at(path, listed, min_age=min_age)
    lines = [f"new      {shard.name}" for shard in state.new]
    lines += [f"waiting  {name}: {why}" for name, why in state.waiting]
    lines += [f"changed  {shard.name}" for shard in state.changed]
    lines += [f"gone     {name}" for name in state.vanished]
    typer.echo("\n".join([*lines, f"{len(listed.shards)} shards listed, {listed.sha256}"]))


@app.command("import")
def import_(
    out: Annotated[Path, typer.Option(help="Folder to write: shards/, trusted.csv, test.csv, crawl.yaml.")],
    preset: Preset = "",
    params: ParamsInstead = None,
    override: Overrides = None,
    rows_a_shard: Annotated[int, typer.Option(min=1, help="Rows of a shard.")] = 50_000,
) -> None:
    """Begin a crawl with a dataset: its images as shards, its verified labels as files beside them.

    [dim]lnl crawl import --preset clothing1m --out data/clothing1m-crawl[/dim]
    """
    from lnl_core.config import ConfigError
    from lnl_core.crawl.import_dataset import import_dataset, write_params
    from lnl_core.datasets import DATASETS
    from lnl_core.labels.index import Dataset
    from lnl_core.stages.prepare import PrepareSettings
    from lnl_core.stages.stage import stage_named

    settings = chosen_params(preset, params, override)
    prepare = stage_named("prepare").settings(settings.get("prepare"))
    assert isinstance(prepare, PrepareSettings)
    name = prepare.dataset
    dataset = DATASETS.get(name).make(prepare.options[name])
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"prepare.dataset = {name!r} is a crawl already; name the dataset to begin with")
    done = import_dataset(name, dataset, out, rows_a_shard)
    write_params(out / "crawl.yaml", settings, out, done)
    left = ", ".join(f"{reason} {count:,}" for reason, count in done.left_out.items()) or "none"
    typer.echo(f"{done.rows:,} rows in {done.shards} shards, {done.trusted:,} trusted, {done.test:,} test")
    typer.echo(f"left out: {left}")
    typer.echo(f"next: lnl reclean --params {out / 'crawl.yaml'} --root run")
