"""Human noise: observed labels that people gave, read from a file, joined on id.

CSV and Parquet files name their ids in a column. A .pt file such as CIFAR-N's has none: its rows are numbered, and
`id_format` says how a number becomes an id of the dataset.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Ids, IntArray, check_unique, positions, string_ids
from lnl_core.labels.class_labels import class_numbers
from lnl_core.labels.label_file import read_label_file, read_torch_labels
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseConfig, NoiseSource


class HumanConfig(NoiseConfig):
    """The file and where its labels stand."""

    file: str = ""  # .csv, .tsv, .parquet or .pt
    id_column: str = "id"
    label_column: str = "label"  # class names or numbers; for a .pt file the key, e.g. worse_label
    id_format: str = "train-{:05d}"  # .pt: id of row number n; as the readers cifar10 and cifar100 name their rows

    @property
    def protocol_name(self) -> str:
        return self.label_column


@NOISE_TYPES.register(
    "human",
    config=HumanConfig,
    summary="labels that people gave, from a CSV, Parquet or CIFAR-N file",
    source="Wei et al., Learning with Noisy Labels Revisited, ICLR 2022",
)
def human(source: NoiseSource, config: HumanConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]; every row must have one, and rows of the file that are not in the data do not matter.

    Raises:
        ConfigError: no file.
        ContractError: an id without a label or with two, or a label that is no class.
    """
    del generator
    if not config.file:
        raise ConfigError("inject.human.file is not set; set it to a file of ids and labels")
    path = Path(config.file)
    ids, raw = _read_pt(path, config) if path.suffix == ".pt" else _read_table(path, config)
    check_unique(ids, str(path))
    rows = positions(source.ids, ids, str(path))
    label = class_numbers([raw[row] for row in rows], source.class_names)
    bad = np.flatnonzero(label < 0)
    if len(bad):
        row = int(bad[0])
        raise ContractError(
            f"{path}: id {source.ids[row]!r}: {config.label_column} = {raw[rows[row]]!r} is no class; allowed are "
            f"class names or 0 to {len(source.class_names) - 1}; correct it ({len(bad)} such rows)"
        )
    return label


def _read_pt(path: Path, config: HumanConfig) -> tuple[Ids, list[object]]:
    sets = read_torch_labels(path)
    if config.label_column not in sets:
        raise ContractError(f"{path}: has no label set {config.label_column!r} (it has: {', '.join(sets)}); name one")
    label = sets[config.label_column]
    return string_ids([config.id_format.format(number) for number in range(len(label))]), label.tolist()


def _read_table(path: Path, config: HumanConfig) -> tuple[Ids, list[object]]:
    return read_label_file(path, config.id_column, config.label_column)
