"""The commands `lnl methods`, `lnl datasets` and `lnl presets`: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lnl_core.cli.tables import print_rows
from lnl_core.config import load_overlays, preset_names, preset_text

if TYPE_CHECKING:
    from lnl_core.registry import Registry


def methods() -> None:
    """List purifiers, training methods and noise types, with their settings' defaults.   [dim]lnl methods[/dim]"""
    from lnl_core.noise import NOISE_TYPES
    from lnl_core.purify import PURIFIERS
    from lnl_core.train import TRAINERS

    _print_registry("Purifiers (purify.method)", PURIFIERS)
    _print_registry("Training methods (train.method)", TRAINERS)
    _print_registry("Noise types (inject.type)", NOISE_TYPES)


def datasets() -> None:
    """List the datasets that `prepare` can read.   [dim]lnl datasets[/dim]"""
    from lnl_core.datasets import DATASETS

    _print_registry("Datasets (prepare.dataset)", DATASETS)


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
    print_rows("Presets (lnl run --preset)", about)
    for kind, title in {"noise": "noise", "methods": "method", "starts": "start and labels"}.items():
        overlays = [overlay for overlay in load_overlays().values() if overlay.kind == kind]
        typer.echo()
        print_rows(f"Overlays: {title} (lnl run --preset PRESET+OVERLAY)", [(one.name, one.about) for one in overlays])


def _print_registry(title: str, registry: Registry[Any]) -> None:
    rows = []
    for entry in registry:
        defaults = ", ".join(f"{name}={value}" for name, value in entry.config().model_dump(mode="json").items())
        source = f" [{entry.source}]" if entry.source else ""
        rows.append((entry.name, f"{entry.summary}{source}" + (f"\n{defaults}" if defaults else "")))
    print_rows(title, rows)
    typer.echo()
