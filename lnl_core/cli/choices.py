"""The commands `lnl methods`, `lnl datasets` and `lnl presets`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from lnl_core.catalogue import Listed, listed
from lnl_core.cli.completion import complete_preset
from lnl_core.cli.tables import print_rows
from lnl_core.config import load_overlays, preset_names, preset_text
from lnl_core.registry import DATASET, NOISE_TYPE, PURIFIER, TRAINER, Kind


def methods() -> None:
    """List purifiers, training methods and noise types, with their settings' defaults.   [dim]lnl methods[/dim]"""
    _print_kind("Purifiers", PURIFIER)
    _print_kind("Training methods", TRAINER)
    _print_kind("Noise types", NOISE_TYPE)


def datasets() -> None:
    """List the datasets that `prepare` can read.   [dim]lnl datasets[/dim]"""
    _print_kind("Datasets", DATASET)


def presets(
    name: Annotated[
        str, typer.Argument(help="Print this preset's params file, overlays merged in.", autocompletion=complete_preset)
    ] = "",
) -> None:
    """List presets and the overlays that `+` merges into them, or print one as a start for your own params file.

    [dim]lnl presets digits > params.yaml[/dim]   [dim]lnl presets cifar10+sym80+divide_mix[/dim]
    """
    if name:
        typer.echo(preset_text(name), nl=False)
        return
    about = [(preset, preset_text(preset).splitlines()[0].lstrip("# ")) for preset in preset_names()]
    print_rows("Presets (lnl run --preset)", about)
    for kind, title in {"noise": "noise", "methods": "method", "starts": "start and labels"}.items():
        overlays = [overlay for overlay in load_overlays().values() if overlay.kind == kind]
        typer.echo()
        print_rows(f"Overlays: {title} (lnl run --preset PRESET+OVERLAY)", [(one.name, one.about) for one in overlays])


def _print_kind(title: str, kind: Kind) -> None:
    print_rows(f"{title} ({kind.setting})", [(one.name, _about(one)) for one in listed(kind)])
    typer.echo()


def _about(one: Listed) -> str:
    if one.problem:
        return f"cannot be imported: {one.problem}"
    defaults = ", ".join(f"{name}={value}" for name, value in one.defaults.items())
    source = f" [{one.source}]" if one.source else ""
    return f"{one.summary}{source}" + (f"\n{defaults}" if defaults else "")
