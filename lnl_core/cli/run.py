"""The commands `lnl demo`, `lnl run`, `lnl stage` and `lnl report`. Heavy imports wait until they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lnl_core.cli.completion import complete_stage
from lnl_core.cli.options import Overrides, ParamsInstead, Preset, Quiet, Root, Verbose, chosen_params, show_log
from lnl_core.cli.tables import print_rows
from lnl_core.config import ConfigError, Params, load_params, load_preset

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of noise, trusted set and training.")] = 0,
    verbose: Verbose = False,
) -> None:
    """The whole chain on scikit-learn's digits, 60 % of whose labels are made wrong.

    A second call reuses what is there.   [dim]lnl demo[/dim]
    """
    show_log(verbose)
    _run(load_preset("digits", [f"run.seed={seed}"]), out, "prepare", "report", force=False, quiet=False)


def run(
    preset: Preset = "",
    params: ParamsInstead = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("run"),
    override: Overrides = None,
    first: Annotated[
        str, typer.Option("--from", help="First stage to run.", autocompletion=complete_stage)
    ] = "prepare",
    last: Annotated[str, typer.Option("--until", help="Last stage to run.", autocompletion=complete_stage)] = "report",
    force: Annotated[bool, typer.Option(help="Run stages that are up to date, too.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run the stages in a folder; what is up to date is skipped, what was killed resumes.

    [dim]lnl run --preset digits --out run -S inject.symmetric.rate=0.4[/dim]
    """
    show_log(verbose)
    _run(chosen_params(preset, params, override), out, first, last, force=force, quiet=quiet)


def stage(
    name: Annotated[
        str,
        typer.Argument(
            help="prepare, inject, pretrain, features, purify, train, evaluate or report", autocompletion=complete_stage
        ),
    ],
    params: ParamsFile = Path("params.yaml"),
    root: Root = Path("data"),
    override: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Run one stage on the files of the stages before it, as dvc.yaml does.

    [dim]lnl stage purify --params params.yaml --root data[/dim]
    """
    from lnl_core.layout import Layout
    from lnl_core.stages.stage import run_stage

    show_log(verbose)
    metrics = run_stage(name, load_params(params, override or []), Layout(root))
    typer.echo(f"{name}: done in {metrics['seconds']:.1f} s", err=True)


def report(
    root: Root = Path("run"),
    params: Annotated[Path | None, typer.Option(help="A params file with a section `report`.")] = None,
    publish: Annotated[str, typer.Option(help="Send page, plots and metrics to this s3://bucket/prefix, too.")] = "",
    override: Overrides = None,
    verbose: Verbose = False,
) -> None:
    """Write the HTML report of a finished run anew.

    [dim]lnl report --root demo -S report.title="Monday's crawl"[/dim]
    """
    from lnl_core.config import apply_overrides
    from lnl_core.layout import Layout
    from lnl_core.s3 import parse_s3, publish_folder
    from lnl_core.stages.stage import run_stage

    show_log(verbose)
    settings = load_params(params, override or []) if params else apply_overrides({"report": {}}, override or [])
    if not root.is_dir():
        raise ConfigError(f"--root {root}: no such folder; name the folder of a run")
    target = parse_s3(publish) if publish else None  # before the work, not after it
    run_stage("report", settings, Layout(root))
    typer.echo(Layout(root).report)
    if target:
        typer.echo(publish_folder(root, target)[-1])


def _run(params: Params, out: Path, first: str, last: str, *, force: bool, quiet: bool) -> None:
    from lnl_core.layout import Layout
    from lnl_core.report.summary import summary_table
    from lnl_core.stages.chain import run_chain
    from lnl_core.stages.stage import check_params

    check_params(params)
    paths = Layout(out)
    console = Console(stderr=True)

    def on_progress(name: str, what: str, metrics: Any) -> None:
        if quiet or (what == "start" and not console.is_terminal):
            return
        text = {"start": "...", "skipped": "up to date", "done": f"{(metrics or {}).get('seconds', 0):.1f} s"}[what]
        console.print(f"{name:9s} {text}", highlight=False, end="\r" if what == "start" else "\n")

    run_chain(params, paths, first=first, last=last, force=force, on_progress=on_progress)
    if not quiet and last == "report":
        print_rows(f"Run in {out}", summary_table(paths))
        typer.echo(f"report: {paths.report.resolve()}")
