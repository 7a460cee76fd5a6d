"""The cells of a grid, what each one's settings are, and which of them can share a run folder."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lnl_core.config import ConfigError, Params, load_preset
from lnl_core.stages.stage import check_params

NO_RESULT_DEPENDS_ON = ("device", "threads", "image_memory_mb")  # settings of section run
BEFORE_THE_LABELS = ("images", "model", "prepare", "pretrain", "features")  # sections that the noise leaves alone


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the chain: a preset, a noise overlay (empty: the preset's own), a method overlay, and a seed."""

    preset: str
    noise: str
    method: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def spec(self) -> str:
        """The composed preset, e.g. `cifar10+sym80+divide_mix`."""
        return "+".join(part for part in (self.preset, self.noise, self.method) if part)

    @property
    def name(self) -> str:
        return f"{self.spec} seed {self.seed}"

    @cached_property
    def params(self) -> Params:
        """The settings of its run."""
        return load_preset(self.spec, [*self.overrides, f"run.seed={self.seed}"])

    @property
    def settings(self) -> str:
        """A hash of all settings that its result can depend on; two cells with the same one are the same cell."""
        return _hash(_without(self.params, {"run": NO_RESULT_DEPENDS_ON}))

    @property
    def group(self) -> str:
        """The same without the seed: what a mean over seeds is taken over."""
        return _hash(_without(self.params, {"run": (*NO_RESULT_DEPENDS_ON, "seed")}))

    @property
    def folder(self) -> str:
        """Where it runs. Cells with the same images, network, encoder and seed share a folder, one after the other:

        the chain finds prepare, pretrain and features up to date there, whatever the noise.
        """
        shared = {section: self.params.get(section) for section in BEFORE_THE_LABELS}
        precision = (self.params.get("run") or {}).get("precision")
        return f"seed{self.seed}-{_hash([shared, precision])[:8]}"

    @property
    def labels_key(self) -> str:
        """Cells of a folder with the same one have the same purified labels."""
        return _hash([self.params.get("inject"), self.params.get("purify")])


def grid_cells(
    preset: str,
    noises: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
) -> list[Cell]:
    """All cells, in the order in which the least is done twice: by seed, folder, labels, and only then by method.

    Raises:
        ConfigError: a part is unknown or a setting is wrong, in any cell: before the first one has begun.
    """
    if any(override.partition("=")[0].strip() == "run.seed" for override in overrides):
        raise ConfigError("override 'run.seed': the seeds of a grid are --seeds")
    cells = [
        Cell(preset=preset, noise=noise, method=method, seed=seed, overrides=tuple(overrides))
        for seed, noise, method in itertools.product(seeds, noises, methods)
    ]
    for cell in cells[: len(noises) * len(methods)]:  # the seed changes nothing that can be wrong
        check_params(cell.params)
    return [cells[number] for number in _shared_together([(c.seed, c.folder, c.labels_key) for c in cells])]


def _shared_together(places: Sequence[tuple[int, str, str]]) -> list[int]:
    """Row numbers so that equal seeds, then equal folders, then equal labels stand together, in order of appearance."""
    first: dict[tuple[object, ...], int] = {}
    for number, place in enumerate(places):
        for depth in (1, 2, 3):
            first.setdefault(place[:depth], number)
    return sorted(range(len(places)), key=lambda number: [first[places[number][:depth]] for depth in (1, 2, 3)])


def _without(params: Params, left_out: dict[str, tuple[str, ...]]) -> Params:
    """The settings without some keys, and without the report's, which changes no number."""
    return {
        section: {key: value for key, value in values.items() if key not in left_out.get(section, ())}
        for section, values in params.items()
        if section != "report"
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
