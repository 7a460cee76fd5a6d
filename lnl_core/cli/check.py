"""The command `lnl check`: what a dataset holds, before hours are spent on it. Heavy imports wait until needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnl_core.cli.options import Overrides, ParamsInstead, Preset, chosen_params


def check(
    preset: Preset = "",
    params: ParamsInstead = None,
    override: Overrides = None,
    images: Annotated[int, typer.Option(min=0, help="Images to read and decode, taken evenly from all rows.")] = 1000,
) -> None:
    """Count the rows of a dataset, look at some of its images and say what is missing. Writes nothing.

    [dim]lnl check --preset clothing1m -S prepare.clothing1m.path=/data/clothing1m[/dim]
    """
    from lnl_core.stages.check_source import check_source
    from lnl_core.stages.prepare import PrepareSettings
    from lnl_core.stages.stage import check_params, stage_named

    settings = chosen_params(preset, params, override)
    check_params(settings)
    prepare = stage_named("prepare").settings(settings.get("prepare"))
    assert isinstance(prepare, PrepareSettings)
    for name, value in [*check_source(prepare, images), *_weights(settings)]:
        typer.echo(f"{name}: {value}")


def _weights(settings: dict[str, dict[str, object]]) -> list[tuple[str, str]]:
    """Whether the files of weights that the settings name are there: nothing is ever downloaded."""
    named = {f"{section}.weights": settings.get(section, {}).get("weights") for section in ("model", "features")}
    return [
        (key, f"{path} ({'there' if Path(str(path)).is_file() else 'MISSING: put the file there'})")
        for key, path in named.items()
        if path
    ]
