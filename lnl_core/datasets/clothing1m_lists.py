"""The lists of Clothing1M: where they lie, which release they are of, and to which split a key belongs."""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lnl_core.config import ConfigError
from lnl_core.datasets.key_lists import KeyList, LabelList, read_keys, read_labels, read_names
from lnl_core.datasets.release_place import is_file, is_folder
from lnl_core.s3 import Place, locate

log = logging.getLogger("lnl")
# A key that stands in several lists belongs to the first of these: no val or test image is ever a train row.
SPLITS = {"clean_test": "test", "clean_val": "val", "clean_train": "train", "noisy_train": "train"}
_NAMES = "category_names_eng.txt"
_NOISY, _CLEAN = "noisy_label_kv.txt", "clean_label_kv.txt"


@dataclass(frozen=True)
class Lists:
    """What the files say. `keys` and `labels` are by list (`SPLITS`)."""

    class_names: tuple[str, ...]
    keys: Mapping[str, KeyList]
    labels: Mapping[str, LabelList]  # noisy labels for noisy_train, verified ones for the others
    noisy: LabelList  # the observed labels of clean train images; empty where the release has lost them
    files: tuple[str, ...]


def read_lists(path: str, names: Sequence[str]) -> Lists:
    """The lists `names` below the folder or S3 prefix `path`.

    Raises:
        ConfigError: no such folder, none of the lists in it, or one of them is missing.
        ContractError: a file that is no text, or class names that are not distinct.
    """
    folder, merged = _find(path)
    class_names = read_names(folder / _NAMES)
    noisy = LabelList(folder / _NOISY, {}, 0)
    if not merged or is_file(noisy.path):
        noisy = read_labels(noisy.path, len(class_names))
    if merged:
        labels = {name: read_labels(folder / f"{name}.txt", len(class_names)) for name in names}
        keys = {name: found.keys() for name, found in labels.items()}
    else:
        clean = read_labels(folder / _CLEAN, len(class_names))
        labels = {name: noisy if name == "noisy_train" else clean for name in names}
        keys = {name: read_keys(folder / f"{name}_key_list.txt") for name in names}
    read = [folder / _NAMES, noisy.path, *(one.path for one in keys.values()), *(one.path for one in labels.values())]
    return Lists(class_names, keys, labels, noisy, tuple(sorted(set(map(str, read)))))


def assign(lists: Lists) -> dict[str, list[str]]:
    """The keys of each list that belong to it: those that no list before it has. Says how many others there are."""
    owner: dict[str, str] = {}
    for name in SPLITS:
        if name not in lists.keys:
            continue
        found = lists.keys[name]
        for before, count in sorted(collections.Counter(owner[key] for key in found.keys if key in owner).items()):
            level = logging.INFO if SPLITS[before] == "train" else logging.WARNING
            log.log(level, "%s: %d keys stand in %s too and belong there", found.path, count, before)
        if found.repeated:
            log.warning("%s: %d lines repeat a key; it counts once", found.path, found.repeated)
        for key in found.keys:
            owner.setdefault(key, name)
    belong: dict[str, list[str]] = {name: [] for name in SPLITS if name in lists.keys}
    for key, name in owner.items():
        belong[name].append(key)
    return belong


def _find(path: str) -> tuple[Place, bool]:
    """The folder of the lists, and whether they are merged with their labels."""
    if not path:
        raise ConfigError("prepare.clothing1m.path is not set; set it to the folder where the release was unpacked")
    root = locate(path)
    if not is_folder(root):
        raise ConfigError(f"prepare.clothing1m.path = {path!r}: no such folder; correct the path")
    for folder in (root, root / "annotations"):
        for name, merged in (("noisy_train_key_list.txt", False), ("noisy_train.txt", True)):
            if is_file(folder / name):
                return folder, merged
    raise ConfigError(
        f"prepare.clothing1m.path = {path!r}: neither it nor its folder annotations has noisy_train_key_list.txt or "
        "noisy_train.txt; unpack the release's annotations there"
    )
