"""The command `lnl reclean`: the next version of a growing crawl in a folder. Heavy imports wait until needed."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lnl_core.cli.options import Overrides
from lnl_core.config import apply_overrides, load_params

if TYPE_CHECKING:
    from lnl_core.config import Params
    from lnl_core.crawl.reclean import Recleaned
    from lnl_core.layout import Layout

SHOWN = 10  # shards named one by one


def reclean(
    params: Annotated[Path, typer.Option(help="A params file with prepare.dataset: crawl.")] = Path("crawl.yaml"),
    root: Annotated[Path, typer.Option(help="Folder of the versions' files.")] = Path("run"),
    path: Annotated[str, typer.Option(help="Folder or s3:// prefix of the crawl, instead of the params file's.")] = "",
    override: Overrides = None,
    last: Annotated[str, typer.Option("--until", help="Last stage to run: purify or one after it.")] = "report",
    ledger: Annotated[
        Path | None, typer.Option(envvar="LNL_LEDGER", help="Label ledger; by default ROOT/ledger.")
    ] = None,
    min_age: Annotated[float, typer.Option(min=0, help="Seconds; a shard with a younger file waits.")] = 60.0,
    dry_run: Annotated[bool, typer.Option(help="Say what is new and do nothing.")] = False,
) -> None:
    """Clean a growing crawl again: only new shards are read and encoded, and old labels change only with good reason.

    Where nothing is new, nothing is done; what was killed goes on.

    [dim]lnl reclean --params crawl.yaml --root run[/dim]
    """
    from lnl_core.crawl.reclean import reclean as make_version
    from lnl_core.layout import Layout
    from lnl_core.stages.chain import run_chain
    from lnl_core.stages.stage import check_params

    settings = _settings(params, path, override or [])
    check_params(settings)
    if dry_run:
        _preview(settings, root, min_age)
        return
    seconds: dict[str, float] = {}

    def on_progress(stage: str, what: str, metrics: Mapping[str, Any] | None) -> None:
        if what != "start":
            seconds[stage] = (metrics or {}).get("seconds", 0.0)
            typer.echo(f"{stage:9s} {'up to date' if what == 'skipped' else f'{seconds[stage]:.1f} s'}", err=True)

    run = functools.partial(run_chain, on_progress=on_progress)
    started = time.perf_counter()
    done = make_version(settings, root, ledger or root / "ledger", run, last=last, min_age=min_age)
    if done.nothing_new:
        typer.echo(f"{root}: nothing is new since version {done.version}")
        return
    for line in summary(done, Layout(root), time.perf_counter() - started):
        typer.echo(line)


def summary(done: Recleaned, paths: Layout, seconds: float) -> list[str]:
    """What a person wants to know of a version."""
    prepare, features, purify = (paths.read_metrics(stage) for stage in ("prepare", "features", "purify"))
    encoded = features.get("images_encoded", 0) if "features" in done.ran else 0
    lines = [
        f"version {done.version}: {', '.join(done.reasons)}; {seconds:.1f} s",
        *[f"  new shard {shard.name}" for shard in done.new_shards[:SHOWN]],
        *([f"  and {len(done.new_shards) - SHOWN} more"] if len(done.new_shards) > SHOWN else []),
        f"rows       {purify['rows']:,} to clean, {prepare.get('trusted', 0):,} trusted; {encoded:,} images encoded",
        f"labels     {purify['changed']:,} differ from the source's",
    ]
    if churn := purify.get("churn"):
        lines.append(
            f"decisions  {churn['flips']:,} of {churn['compared']:,} changed ({churn['flip_share']:.2%}), "
            f"{churn['held_back']:,} held back; {churn['rows_new']:,} rows are new"
        )
    run = done.committed.run if done.committed else None
    lines.append(f"ledger     run {run.name}, {run.rows:,} changes" if run else "ledger     nothing to append")
    return lines


def _settings(params: Path, path: str, overrides: list[str]) -> Params:
    settings = load_params(params, overrides)
    return apply_overrides(settings, [f"prepare.crawl.path={path}"]) if path else settings


def _preview(settings: Params, root: Path, min_age: float) -> None:
    from lnl_core.crawl.reclean import preview

    state, new = preview(settings, root, min_age=min_age)
    for shard in state.new:
        typer.echo(f"new        {shard.name} ({shard.size:,} bytes)")
    for name, why in state.waiting:
        typer.echo(f"waits      {name}: {why}")
    for shard in state.changed:
        typer.echo(f"changed    {shard.name}: shards are never written twice; `lnl reclean` will refuse")
    for name in state.vanished:
        typer.echo(f"gone       {name}")
    typer.echo(f"{root}: {', '.join(new) if new else 'nothing is new'}; nothing was done")
