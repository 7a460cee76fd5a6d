"""Clothing1M as its authors release it: ten archives of shop photographs, and lists of keys and labels.

Source: Xiao et al., Learning from Massive Noisy Labeled Data for Image Classification, CVPR 2015, and the README of the
release. 14 classes; 1,000,000 noisy train, 47,570 clean train, 14,313 clean val and 10,526 clean test images. 37,497 of
the clean ones have a noisy label too; none of these is in the noisy train list.

Accepted are both ways in which the lists are unpacked (beside `images` or in `annotations`), both ways in which the
archives are (below `images` or not; keys begin with `images/` either way), and lists merged with their labels as some
projects pass them on (`noisy_train.txt`, `clean_val.txt`, ...). Merged lists have lost the noisy labels of the clean
images; they come from `noisy_label_kv.txt` where that file lies beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, Ids, QuarantineRow, string_ids
from lnl_core.datasets import DATASETS
from lnl_core.datasets.clothing1m_lists import SPLITS, Lists, assign, read_lists
from lnl_core.datasets.release_place import is_folder
from lnl_core.images.image_files import read_image_files
from lnl_core.labels.index import Index
from lnl_core.s3 import Place, S3Path, locate

log = logging.getLogger("lnl")
CleanTrain = Literal["trusted", "noisy", "none"]
_PREFIX = "images/"  # of every key, wherever the archives were unpacked


class Clothing1MConfig(Settings):
    """Where the release was unpacked, and what its clean train images are for."""

    path: str = ""  # the folder, or s3://bucket/prefix, that has `images`, or `0` to `9`
    # trusted: all of them may be drawn into the trusted set, with their noisy label beside the verified one.
    # noisy: those that have a noisy label; what is not drawn is a noisy row whose truth is known, which measures
    # purification on real noise. none: the list is not read.
    use_clean_train: CleanTrain = "trusted"


@DATASETS.register(
    "clothing1m",
    config=Clothing1MConfig,
    summary="Clothing1M as released: lists of keys, noisy and clean labels, images below 0 to 9",
    source="Xiao et al., Learning from Massive Noisy Labeled Data for Image Classification, CVPR 2015",
)
class Clothing1M:
    """Ids are the keys of the release, such as `images/0/0/1.jpg`. Holds keys and labels, half a kB an image; reads one
    image at a time (from S3 up to 32 ahead), and only then finds that it is missing."""

    def __init__(self, config: Clothing1MConfig) -> None:
        self._config = config
        self._sources: list[str] = []

    def index(self) -> Index:
        use = self._config.use_clean_train
        lists = read_lists(self._config.path, [name for name in SPLITS if use != "none" or name != "clean_train"])
        parts = [_part(name, keys, lists, use) for name, keys in assign(lists).items()]
        index = _joined(parts, lists)
        folders = self._folders(index.ids)
        self._sources = [*lists.files, *map(str, folders)]
        _log(index)
        return index

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        root = self._root()
        yield from read_image_files((root / key.removeprefix(_PREFIX), key) for key in index.ids[rows])

    def source_files(self) -> Sequence[str]:
        """The lists and the folders with images: a million files need not be looked at to see that one has come."""
        if not self._sources:
            self.index()
        return self._sources

    def _root(self) -> Place:
        root = locate(self._config.path)
        return root / "images" if is_folder(root / "images") else root

    def _folders(self, ids: Ids) -> list[Place]:
        """The folders that the keys name; none on S3, which has no folders. Warns of archives that are not there.

        Raises:
            ConfigError: none of them is.
        """
        root = self._root()
        names = sorted({key.removeprefix(_PREFIX).rpartition("/")[0] for key in ids})
        archives = sorted({name.split("/")[0] for name in names})
        missing = [name for name in archives if not is_folder(root / name)]
        if archives and missing == archives:
            raise ConfigError(f"{root}: has none of the folders {', '.join(archives)}; unpack the archives there")
        if missing:
            log.warning("%s: no folder %s; its images go to quarantine: unpack the archive", root, ", ".join(missing))
        return [] if isinstance(root, S3Path) else [root / name for name in names]


def _part(name: str, keys: list[str], lists: Lists, use: CleanTrain) -> Index:
    """The rows of one list. A row without the label that its list promises is set aside."""
    label = lists.labels[name].numbers(keys)
    observed = lists.noisy.numbers(keys) if name == "clean_train" else label
    nobody = np.full(len(keys), NO_LABEL, dtype=np.int32)
    clean = name != "noisy_train"
    index = Index(
        ids=string_ids(keys),
        observed_label=observed,
        true_label=label if clean else nobody,
        verified=np.full(len(keys), clean),
        split=string_ids([SPLITS[name]] * len(keys)),
        class_names=lists.class_names,
        quarantined=tuple(lists.labels[name].fault(keys[row]) for row in np.flatnonzero(label == NO_LABEL)),
    )
    usable = label != NO_LABEL
    if name == "clean_train" and use == "noisy":
        usable &= observed != NO_LABEL
    return index.take(usable)


def _joined(parts: Sequence[Index], lists: Lists) -> Index:
    columns = ("ids", "observed_label", "true_label", "verified", "split")
    return Index(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns},
        class_names=lists.class_names,
        quarantined=tuple(row for part in parts for row in part.quarantined),
    )


def _log(index: Index) -> None:
    verified_train = index.verified & (index.split == "train")
    both = verified_train & (index.observed_label != NO_LABEL)
    counts = [(index.split == "train").sum() - verified_train.sum(), verified_train.sum(), both.sum()]
    counts += [(index.split == name).sum() for name in ("val", "test")]
    log.info("clothing1m: %d noisy train, %d clean train (%d with a noisy label too), %d val, %d test", *counts)
