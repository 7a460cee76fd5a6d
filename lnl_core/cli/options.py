"""Options that several commands have, and what they do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from lnl_core.cli.completion import complete_preset
from lnl_core.config import ConfigError, Params, load_params, load_preset

Overrides = Annotated[
    list[str] | None, typer.Option("-S", "--set", metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable.")
]
Preset = Annotated[
    str,
    typer.Option(help="A preset, overlays after a +; `lnl presets` lists both.", autocompletion=complete_preset),
]
ParamsInstead = Annotated[Path | None, typer.Option(help="A params file of your own instead of a preset.")]
Root = Annotated[Path, typer.Option("--root", help="Folder of the run's files, one sub-folder a stage.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", envvar="LNL_VERBOSE", show_envvar=False, help="Log what the stages do.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]


def chosen_params(preset: str, params: Path | None, override: list[str] | None) -> Params:
    """The settings of `--preset` or `--params`, with those of `-S` on top.

    Raises:
        ConfigError: both or neither are given, or a setting is wrong.
    """
    if bool(preset) == bool(params):
        raise ConfigError("give either --preset NAME or --params FILE")
    return load_params(params, override or []) if params else load_preset(preset, override or [])


def show_log(verbose: bool) -> None:
    """Warnings of the package on stderr; with `verbose`, what the stages do as well."""
    log = logging.getLogger("lnl")
    log.handlers = [RichHandler(console=Console(stderr=True), show_path=False, markup=False)]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False
