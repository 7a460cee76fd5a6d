"""The command `lnl`. Every sub-command is a few lines over the library; heavy imports wait until they are needed.

Exit codes: 0 done; 2 wrong usage or settings; 3 data that break a contract; 130 interrupted (run it again to resume);
1 anything unforeseen, with its traceback.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from lnl_core.cli.bench import bench
from lnl_core.cli.check import check
from lnl_core.cli.crawl import app as crawl_app
from lnl_core.cli.labels import app as labels_app
from lnl_core.cli.labels import commit
from lnl_core.cli.reclean import reclean
from lnl_core.cli.versions import app as versions_app
from lnl_core.cli.versions import promote, rollback
from lnl_core.config import ConfigError, Params, load_overlays, load_params, load_preset, preset_names, preset_text

if TYPE_CHECKING:
    from lnl_core.registry import Registry

USAGE_ERROR, DATA_ERROR, INTERRUPTED = 2, 3, 130
app = typer.Typer(
    name="lnl",
    help="Learning with noisy labels: purified labels, a robust model and a report from partly wrong labels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(labels_app, name="labels")
app.add_typer(crawl_app, name="crawl")
app.add_typer(versions_app, name="versions")
app.command()(bench)
app.command()(check)
app.command()(reclean)
app.command()(promote)
app.command()(rollback)
log = logging.getLogger("lnl")

Overrides = Annotated[
    list[str] | None, typer.Option("-S", "--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
]
ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]
Root = Annotated[Path, typer.Option("--root", help="Folder of the run's files, one sub-folder a stage.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", envvar="LNL_VERBOSE", show_envvar=False, help="Log what the stages do.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of noise, trusted set and training.")] = 0,
    verbose: Verbose = False,
) -> None:
    """The whole chain on scikit-learn's digits, 60 % of whose labels are made wrong.

    A second call reuses what is there.   [dim]lnl demo[/dim]
    """
    _logging(verbose)
    _run(load_preset("digits", [f"run.seed={seed}"]), out, "prepare", "report", force=False, quiet=False)


@app.command()
def run(
    preset: Annotated[str, typer.Option(help="A preset, overlays after a +; `lnl presets` lists both.")] = "",
    params: Annotated[Path | None, typer.Option(help="A params file of your own instead of a preset.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("run"),
    override: Overrides = None,
    first: Annotated[str, typer.Option("--from", help="First stage to run.")] = "prepare",
    last: Annotated[str, typer.Option("--until", help="Last stage to run.")] = "report",
    force: Annotated[bool, typer.Option(help="Run stages that are up to date, too.")] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Run the stages in a folder; what is up to date is skipped, what was killed resumes.

    [dim]lnl run --preset digits --out run -S inject.symmetric.rate=0.4[/dim]
    """
    _logging(verbose)
    if bool(preset) == bool(params):
        raise ConfigError("give either --preset NAME or --params FILE")
    settings = load_params(params, override or []) if params else load_preset(preset, override or [])
    _run(settings, out, first, last, force=force, quiet=quiet)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="prepare, inject, pretrain, features, purify, train, evaluate or report")],
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

    _logging(verbose)
    metrics = run_stage(name, load_params(params, override or []), Layout(root))
    typer.echo(f"{name}: done in {metrics['seconds']:.1f} s", err=True)


@app.command()
def purify(
    features: Annotated[str, typer.Option(help="Parquet or CSV with ids and features: file, folder or s3://...")],
    labels: Annotated[str, typer.Option(help="Parquet or CSV with ids and observed labels (names or numbers).")],
    out: Annotated[Path, typer.Option(help="The purified labels, a .parquet file.")],
    trusted: Annotated[str, typer.Option(help="Parquet or CSV with ids and verified labels.")] = "",
    method: Annotated[str, typer.Option(help="A purifier; `lnl methods` lists them.")] = "ipc_ensemble",
    seed: Annotated[int, typer.Option(help="Seed of folds and samples.")] = 0,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    feature_column: Annotated[str, typer.Option(help="Column of the features, or their common prefix.")] = "feature",
    label_column: Annotated[str, typer.Option(help="Column of the observed labels.")] = "label",
    trusted_id_column: Annotated[str, typer.Option(help="Where it differs from --id-column.")] = "",
    trusted_label_column: Annotated[str, typer.Option(help="Where it differs from --label-column.")] = "",
    classes: Annotated[str, typer.Option(help="Class names in order, separated by commas.")] = "",
    max_wrong_changes: Annotated[
        float | None, typer.Option(help="At most this share of the applied changes is wrong; others go to review.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Probability that --max-wrong-changes is kept.")] = 0.9,
    calibration: Annotated[
        str, typer.Option(help="Trusted rows that test the promise: cross_fit, or split (exact, fewer to learn from).")
    ] = "cross_fit",
    ledger: Annotated[
        Path | None, typer.Option(help="Append the changes to this label ledger, as `lnl labels commit` does.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("-S", "--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Purify the labels of features you already have.

    [dim]lnl purify --features F.parquet --labels L.csv --trusted T.csv --out purified.parquet[/dim]
    """
    from lnl_core.config import apply_overrides, parse
    from lnl_core.purify import PURIFIERS
    from lnl_core.purify.decide.routes import RouteSettings
    from lnl_core.s3 import locate
    from lnl_core.stages.purify_table import Columns, purify_files

    _logging(verbose)
    settings = apply_overrides({method: {}}, [f"{method}.{item}" for item in override or []])
    config = parse(PURIFIERS.get(method).config, settings[method], method)
    promise = {"max_wrong_changes": max_wrong_changes, "confidence": confidence, "calibration": calibration}
    columns = Columns(id=id_column, feature=feature_column, label=label_column)
    metrics = purify_files(
        locate(features),
        locate(labels),
        locate(trusted) if trusted else None,
        out,
        method=method,
        config=config,
        seed=seed,
        columns=columns,
        class_names=[name.strip() for name in classes.split(",") if name.strip()],
        trusted_columns=Columns(id=trusted_id_column or id_column, label=trusted_label_column or label_column),
        routes=parse(RouteSettings, promise, "purify"),
    )
    _print_rows(f"{method} wrote {out}", _purify_summary(metrics))
    if ledger is not None:
        commit(out, ledger)


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="Folder of a trained model, e.g. run/train/model/best.")],
    images: Annotated[Path, typer.Option(help="An image, a folder of images, or Parquet with ids and images.")],
    out: Annotated[Path, typer.Option(help="Predictions, .parquet or .csv.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    verbose: Verbose = False,
) -> None:
    """Label images with a trained model.

    [dim]lnl predict --model demo/train/model/best --images photos --out labels.csv[/dim]
    """
    from lnl_core.config import RunSettings, parse
    from lnl_core.runtime import resolve
    from lnl_core.stages.predict import predict as predict_images

    _logging(verbose)
    runtime = resolve(parse(RunSettings, {"device": device, "precision": precision}, "run"))
    counts = predict_images(model, images, out, batch_size=batch_size, runtime=runtime)
    _print_rows(f"predictions in {out}", [(name, str(value)) for name, value in counts.items()])


@app.command()
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

    _logging(verbose)
    settings = load_params(params, override or []) if params else apply_overrides({"report": {}}, override or [])
    if not root.is_dir():
        raise ConfigError(f"--root {root}: no such folder; name the folder of a run")
    target = parse_s3(publish) if publish else None  # before the work, not after it
    run_stage("report", settings, Layout(root))
    typer.echo(Layout(root).report)
    if target:
        typer.echo(publish_folder(root, target)[-1])


@app.command()
def methods() -> None:
    """List purifiers, training methods and noise types, with their settings' defaults.   [dim]lnl methods[/dim]"""
    from lnl_core.noise import NOISE_TYPES
    from lnl_core.purify import PURIFIERS
    from lnl_core.train import TRAINERS

    _print_registry("Purifiers (purify.method)", PURIFIERS)
    _print_registry("Training methods (train.method)", TRAINERS)
    _print_registry("Noise types (inject.type)", NOISE_TYPES)


@app.command()
def datasets() -> None:
    """List the datasets that `prepare` can read.   [dim]lnl datasets[/dim]"""
    from lnl_core.datasets import DATASETS

    _print_registry("Datasets (prepare.dataset)", DATASETS)


@app.command()
def presets(
    name: Annotated[str, typer.Argument(help="Print this preset's params file, overlays merged in.")] = "",
) -> None:
    """List presets and the overlays that `+` merges into them, or print one as a start for your own params file.

    [dim]lnl presets digits > params.yaml[/dim]   [dim]lnl presets cifar10+sym80+divide_mix[/dim]
    """
    if name:
        typer.echo(preset_text(name), nl=False)
        return
    about = [(preset, preset_text(preset).splitlines()[0].lstrip("# ")) for preset in preset_names()]
    _print_rows("Presets (lnl run --preset)", about)
    for kind, title in {"noise": "noise", "methods": "method", "starts": "start and labels"}.items():
        overlays = [overlay for overlay in load_overlays().values() if overlay.kind == kind]
        typer.echo()
        _print_rows(f"Overlays: {title} (lnl run --preset PRESET+OVERLAY)", [(one.name, one.about) for one in overlays])


def main() -> None:
    """Entry point: errors of the user become one message and an exit code."""
    from lnl_core.contracts import ContractError

    try:
        app()
    except ConfigError as error:
        _fail(error, USAGE_ERROR)
    except ContractError as error:
        _fail(error, DATA_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped", INTERRUPTED)


def _fail(error: object, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/red] {escape(str(error))}", highlight=False)
    sys.exit(code)


def _logging(verbose: bool) -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    log.handlers = [handler]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False


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
        _print_rows(f"Run in {out}", summary_table(paths))
        typer.echo(f"report: {paths.report.resolve()}")


def _purify_summary(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("rows", f"{metrics['rows']:,}"),
        ("changed", f"{metrics['changed']:,} ({metrics['changed_share']:.1%})"),
        ("mean confidence", f"{metrics['mean_confidence']:.3f}"),
    ]
    if "routes" in metrics:
        rows.append(("for review", f"{metrics['routes']['review']:,}"))
        kept = metrics["promise_refused"] or f"at most {metrics['max_wrong_changes']:g} wrong among the changed"
        rows.append(("promise", kept))
    if "noise_rate" in metrics:
        rows.append(("noise rate, estimated", f"{metrics['noise_rate']:.1%}"))
    if "held_out_accuracy" in metrics:
        rows.append(("accuracy without the label, cross-validated", f"{metrics['held_out_accuracy']:.1%}"))
    if metrics["quarantined"]:
        rows.append(("quarantined", f"{metrics['quarantined']:,}"))
    return rows


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(escape(key), escape(value))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"[italic]{escape(title)}[/italic]", highlight=False, soft_wrap=True)
    console.print(table, highlight=False)


def _print_registry(title: str, registry: Registry[Any]) -> None:
    rows = []
    for entry in registry:
        defaults = ", ".join(f"{name}={value}" for name, value in entry.config().model_dump(mode="json").items())
        source = f" [{entry.source}]" if entry.source else ""
        rows.append((entry.name, f"{entry.summary}{source}" + (f"\n{defaults}" if defaults else "")))
    _print_rows(title, rows)
    typer.echo()


if __name__ == "__main__":
    main()
