"""The command `lnl purify`: labels for features that are there already. Heavy imports wait until they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lnl_core.cli.completion import complete_purifier
from lnl_core.cli.labels import commit
from lnl_core.cli.options import Verbose, show_log
from lnl_core.cli.tables import print_rows


def purify(
    features: Annotated[str, typer.Option(help="Parquet or CSV with ids and features: file, folder or s3://...")],
    labels: Annotated[str, typer.Option(help="Parquet or CSV with ids and observed labels (names or numbers).")],
    out: Annotated[Path, typer.Option(help="The purified labels, a .parquet file.")],
    trusted: Annotated[str, typer.Option(help="Parquet or CSV with ids and verified labels.")] = "",
    method: Annotated[
        str, typer.Option(help="A purifier; `lnl methods` lists them.", autocompletion=complete_purifier)
    ] = "ipc_ensemble",
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

    show_log(verbose)
    section = method.rpartition(":")[2]
    settings = apply_overrides({section: {}}, [f"{section}.{item}" for item in override or []])
    config = parse(PURIFIERS.get(method).config, settings[section], section)
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
    print_rows(f"{method} wrote {out}", _purify_summary(metrics))
    if ledger is not None:
        commit(out, ledger)


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
