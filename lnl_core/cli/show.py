"""The command `lnl show`: what a run has measured, in a page or in full. Heavy imports wait until they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lnl_core.cli.completion import complete_stage
from lnl_core.cli.tables import print_rows
from lnl_core.config import ConfigError
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.registry import unknown_name


def show(
    root: Annotated[Path, typer.Argument(help="Folder of a run; data under DVC.")] = Path("run"),
    stage: Annotated[
        str, typer.Argument(help="Everything that this stage has measured.", autocompletion=complete_stage)
    ] = "",
) -> None:
    """Print what a run has found, or all metrics of one of its stages.

    [dim]lnl show demo[/dim]   [dim]lnl show demo purify[/dim]
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; name the folder of a run")
    if stage and stage not in STAGE_NAMES:
        raise ConfigError(unknown_name("stage", stage, STAGE_NAMES))
    paths = Layout(root)
    if stage:
        print_rows(f"{stage} in {root}", list(flat(_metrics(paths, stage))))
        return
    from lnl_core.report.summary import summary_table

    if not any(paths.read_metrics(name) for name in STAGE_NAMES):
        raise ConfigError(f"{root}: no stage has run there; name the folder of a run")
    print_rows(f"Run in {root}", summary_table(paths))


def flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every value; a list as it is."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", f"{value:.6g}" if isinstance(value, float) else str(value)


def _metrics(paths: Layout, stage: str) -> Mapping[str, Any]:
    found = paths.read_metrics(stage)
    if not found:
        raise ConfigError(f"{paths.metrics(stage)}: no such file; the stage {stage} has not run there")
    return found
