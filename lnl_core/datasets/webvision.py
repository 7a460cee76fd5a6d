"""WebVision 1.0 as released: photographs found by queries at Google and Flickr, with the class of the query as label.

Source: Li et al., WebVision Database: Visual Learning and Understanding from Web Data, arXiv 1708.02862. The first 50
classes of its Google part are mini-WebVision (Jiang et al., MentorNet, ICML 2018; about 66,000 train images), tested on
WebVision's own validation images or, by `test: imagenet`, on those of ILSVRC 2012 for the same synsets. Which synset a
class number means stands in `info/synsets.txt`: line n is class n - 1.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import NO_LABEL, ContractError, QuarantineRow, string_ids
from lnl_core.datasets import DATASETS
from lnl_core.datasets.imagenet_val import val_images
from lnl_core.datasets.key_lists import Fault, LabelList, numbered_lines, read_labels, read_names
from lnl_core.datasets.release_place import is_file, is_folder
from lnl_core.images.image_files import read_image_files
from lnl_core.labels.index import Index
from lnl_core.s3 import Place, S3Path, locate

log = logging.getLogger("lnl")
_TRAIN_FOLDERS = ("", "train/")  # where `google` and `flickr` may lie
_VAL_FOLDERS = ("val_images_256", "val_images", "val")


class WebVisionConfig(Settings):
    """Which part of it, and on what is tested. One test split a run: the two test sets are two runs of `evaluate`."""

    path: str = ""  # the folder, or s3://bucket/prefix, that has `info`
    sources: tuple[Literal["google", "flickr"], ...] = Field(default=("google",), min_length=1)
    classes: int = Field(default=50, ge=2, le=1000)  # the first ones; 50 are mini-WebVision
    test: Literal["webvision", "imagenet"] = "webvision"
    imagenet: str = ""  # the folder, not on S3, of ILSVRC 2012's validation images, for test: imagenet

    @model_validator(mode="after")
    def _imagenet_is_named(self) -> WebVisionConfig:
        if self.test == "imagenet" and not self.imagenet:
            raise ValueError("test 'imagenet' needs imagenet: the folder of ILSVRC 2012's validation images")
        return self


@DATASETS.register(
    "webvision",
    config=WebVisionConfig,
    summary="WebVision 1.0 as released: file lists in info, images in google, flickr and val_images_256",
    source="Li et al., WebVision Database, arXiv 1708.02862",
)
class WebVision:
    """Ids are `google/q0001/NAME`, `val/NAME` and `imagenet/NAME`. Holds ids and labels; reads one image at a time, and
    only then finds that it is missing."""

    def __init__(self, config: WebVisionConfig) -> None:
        self._config = config
        self._folders: dict[str, Place] = {}  # first part of an id -> the folder in which the rest of it lies
        self._imagenet: dict[str, Path] = {}  # id -> path
        self._files: list[str] = []

    def index(self) -> Index:
        config, info = self._config, _info(self._config.path)
        names = _class_names(info / "synsets.txt", config.classes)
        self._folders = _folders(locate(config.path), config)
        train = [read_labels(info / f"train_filelist_{source}.txt", len(names)) for source in config.sources]
        for found in train:
            _check_queries(found, info / "queries_synsets_map.txt")
        test = self._imagenet_test(names) if config.test == "imagenet" else _webvision_test(info, len(names))
        index = _index(train, test, names[: config.classes])
        places = {self._path(key).parent for key in index.ids}
        folders = sorted(str(place) for place in places if not isinstance(place, S3Path))  # S3 has none
        self._files = [str(info / "synsets.txt"), *(str(found.path) for found in (*train, test)), *folders]
        return index

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        yield from read_image_files((self._path(name), name) for name in index.ids[rows])

    def source_files(self) -> Sequence[str]:
        """The lists and the folders with images: millions of files need not be looked at to see that one has come."""
        if not self._files:
            self.index()
        return self._files

    def _path(self, name: str) -> Place:
        top, _, rest = name.partition("/")
        return self._imagenet.get(name) or self._folders.get(top, locate(self._config.path) / top) / rest

    def _imagenet_test(self, names: tuple[str, ...]) -> LabelList:
        synsets = [name.split()[0] for name in names[: self._config.classes]]
        root = Path(self._config.imagenet)
        found = val_images(root, synsets, "prepare.webvision.imagenet")
        self._imagenet = {f"imagenet/{path.name}": path for path, _ in found}
        return LabelList(root, {f"imagenet/{path.name}": number for path, number in found}, 0)


def _webvision_test(info: Place, classes: int) -> LabelList:
    found = read_labels(info / "val_filelist.txt", classes)
    return LabelList(found.path, {f"val/{key}": label for key, label in found.rows.items()}, found.repeated)


def _info(path: str) -> Place:
    if not path:
        raise ConfigError("prepare.webvision.path is not set; set it to the folder where the release was unpacked")
    info = locate(path) / "info"
    if not is_folder(info):
        raise ConfigError(f"prepare.webvision.path = {path!r}: has no folder info; unpack info.tar there")
    return info


def _folders(root: Place, config: WebVisionConfig) -> dict[str, Place]:
    """Where the sources and WebVision's val images lie.

    Raises:
        ConfigError: nowhere.
    """
    places: dict[str, list[Place]] = {}
    for source in config.sources:
        places[source] = [root / f"{top}{source}" for top in _TRAIN_FOLDERS]
    if config.test == "webvision":
        places["val"] = [root / name for name in _VAL_FOLDERS]
    there = {name: next(filter(is_folder, tried), None) for name, tried in places.items()}
    for name, folder in there.items():
        if folder is None:
            tried = ", ".join(map(str, places[name]))
            raise ConfigError(f"prepare.webvision.path = {config.path!r}: no folder {tried}; unpack the archive there")
    return {name: folder for name, folder in there.items() if folder is not None}


def _class_names(path: Place, classes: int) -> tuple[str, ...]:
    """`n01440764 tench` of a line `n01440764 tench, Tinca tinca`: some of ImageNet's words stand for two synsets."""
    names = tuple(" ".join(name.split(",")[0].split()) for name in read_names(path))
    if len(names) < classes:
        raise ContractError(f"{path}: {len(names)} synsets, prepare.webvision.classes = {classes}; lower classes")
    return names


def _check_queries(found: LabelList, path: Place) -> None:
    """Warn where an image's folder, which is its query, is of another synset than its label (`path` counts from 1)."""
    if not is_file(path):
        return
    lines = [line.split() for _, line in numbered_lines(path)]
    label_of = {f"q{int(query):04d}": int(synset) - 1 for query, synset in lines}
    rows = [(key, label) for key, label in found.rows.items() if isinstance(label, int)]
    other = [(key, label) for key, label in rows if label_of.get(posixpath.basename(posixpath.dirname(key))) != label]
    if other:
        text = "%s: %d of %d labels are not those of %s (first: %s has label %d); take both files from one release"
        log.warning(text, found.path, len(other), len(rows), path, *other[0])


def _index(train: Sequence[LabelList], test: LabelList, names: tuple[str, ...]) -> Index:
    """Rows of the chosen classes; faulty ones of any class, since nobody knows theirs."""
    lists = [*(("train", found) for found in train), ("test", test)]
    rows = [(key, label, split) for split, found in lists for key, label in found.rows.items() if _within(label, names)]
    faulty = [found.fault(key) for _, found in lists for key, row in found.rows.items() if isinstance(row, tuple)]
    label = np.array([number for _, number, _ in rows], dtype=np.int32)
    split = string_ids([name for _, _, name in rows])
    tests = np.asarray(split == "test", dtype=bool)
    log.info("webvision: %d train, %d test, %d classes", np.sum(~tests), np.sum(tests), len(names))
    return Index(
        ids=string_ids([key for key, _, _ in rows]),
        observed_label=label,
        true_label=np.where(tests, label, NO_LABEL).astype(np.int32),
        verified=tests,
        split=split,
        class_names=names,
        quarantined=tuple(faulty),
    )


def _within(label: int | Fault, names: tuple[str, ...]) -> bool:
    return isinstance(label, int) and label < len(names)
