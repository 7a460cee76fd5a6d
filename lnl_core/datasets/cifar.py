"""CIFAR-10 and CIFAR-100 in the layout that torchvision and the authors' archives share, with CIFAR-N human labels.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; human labels: Wei et al., Learning
with Noisy Labels Revisited, ICLR 2022. The batches are pickles. They are read here by an unpickler that knows numpy
arrays and nothing else, because torchvision's own reader runs whatever a pickle asks for, and accepts only files with
the published checksums, so that no subset or recompressed copy can be read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import ContractError, IntArray, QuarantineRow, string_ids
from lnl_core.labels.index import Index
from lnl_core.labels.label_file import read_torch_labels

Pixels = npt.NDArray[np.uint8]
_ARRAY_PARTS = {  # what the pickles of numpy arrays are made of, under the names of numpy 1 and 2
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class CIFARConfig(Settings):
    """What the settings of both have; the names of the human label sets are those of each."""

    root: str = ""  # the folder that holds the unpacked archive: cifar-10-batches-py or cifar-100-python
    human_file: str = ""  # CIFAR-10_human.pt or CIFAR-100_human.pt
    human_label: str = "none"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Where an archive, and the file of human labels beside it, have what is read."""

    dataset: str  # as messages name it
    folder: str
    train: Sequence[str]  # files
    test: Sequence[str]
    meta: str
    label: str  # key in the batches
    class_names: str  # key in `meta`
    human: str  # key of the chosen set of human labels
    clean: str  # key of the clean labels in the same file


class CIFAR:
    """Ids train-00000 and test-00000 on, in the archive's order. Holds all pixels (184 MB for the whole archive)."""

    def __init__(self, config: CIFARConfig, archive: Archive) -> None:
        self._config = config
        self._archive = archive
        self._folder = Path(config.root) / archive.folder
        self._split_files = {"train": archive.train, "test": archive.test}
        self._pixels: dict[str, Pixels] = {}

    def index(self) -> Index:
        """All rows. Raises ConfigError for a missing folder or file, ContractError for a broken one."""
        archive = self._archive
        self._check_root()
        human_file = self._human_file()
        label = {split: self._read_split(split) for split in self._split_files}
        observed = label["train"]
        if human_file:
            observed = _human_labels(Path(human_file), archive.human, archive.clean, label["train"])
        sizes = {split: len(labels) for split, labels in label.items()}
        ids = [f"{split}-{row:05d}" for split, size in sizes.items() for row in range(size)]
        return Index(
            ids=string_ids(ids),
            observed_label=np.concatenate([observed, label["test"]]),
            true_label=np.concatenate([label["train"], label["test"]]),
            verified=np.ones(len(ids), dtype=bool),
            split=string_ids([name.split("-")[0] for name in ids]),
            class_names=tuple(str(name) for name in _unpickle(self._folder / archive.meta)[archive.class_names]),
        )

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        for row in rows:
            split, number = str(index.ids[row]).split("-")
            yield _png(self._pixels[split][int(number)])

    def source_files(self) -> Sequence[str]:
        names = [*self._split_files["train"], *self._split_files["test"], self._archive.meta]
        return [str(self._folder / name) for name in names]

    def _read_split(self, split: str) -> IntArray:
        batches = [_unpickle(self._folder / name) for name in self._split_files[split]]
        self._pixels[split] = np.concatenate([np.asarray(batch["data"], np.uint8) for batch in batches])
        return np.concatenate([np.asarray(batch[self._archive.label], np.int32) for batch in batches])

    def _check_root(self) -> None:
        root, archive = self._config.root, self._archive
        if not root or not self._folder.is_dir():
            raise ConfigError(
                f"prepare.{archive.dataset}.root = {root!r}: it must hold {archive.folder}; unpack the archive there"
            )

    def _human_file(self) -> str:
        """The file of human labels; empty where the clean labels are observed."""
        config, name = self._config, self._archive.dataset
        if config.human_label == "none":
            return ""
        if not config.human_file:
            raise ConfigError(f"prepare.{name}.human_label = {config.human_label!r} needs prepare.{name}.human_file")
        return config.human_file


def _human_labels(path: Path, key: str, clean_key: str, clean: IntArray) -> IntArray:
    sets = read_torch_labels(path)
    if key not in sets:
        raise ContractError(f"{path}: has no label set {key!r} (it has: {', '.join(sets)}); is it the right file?")
    labels = sets[key]
    if len(labels) != len(clean):
        raise ContractError(f"{path}: {key} has {len(labels)} labels for {len(clean)} train images; use matching files")
    if clean_key in sets and not np.array_equal(sets[clean_key], clean):
        row = int(np.flatnonzero(sets[clean_key] != clean)[0])
        raise ContractError(
            f"{path}: row {row}: {clean_key} = {sets[clean_key][row]}, but the archive says {clean[row]}; the order of "
            "rows differs: use the file that belongs to this archive"
        )
    return labels


class _ArrayUnpickler(pickle.Unpickler):
    """Knows numpy arrays and nothing else, so that a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            loaded: dict[str, Any] = _ArrayUnpickler(file, encoding="latin1").load()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; unpack the whole archive") from error
    except (pickle.UnpicklingError, EOFError) as error:
        raise ContractError(f"{path}: not a CIFAR batch ({error}); unpack the archive again") from error
    return loaded


def _png(row: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
