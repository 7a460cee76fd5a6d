"""A folder of images: one sub-folder a class, or a table of ids, paths and labels beside the images.

Class folders may lie below train, val and test; without them all rows are train rows. The id is the path relative to
the folder. Hidden files are passed over; whatever else is no image goes to quarantine with its reason. An s3:// prefix
is a folder like any other.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import ConfigError
from lnl_core.contracts import SPLITS, Ids, QuarantineRow
from lnl_core.datasets import DATASETS
from lnl_core.datasets.label_table import Columns, TableColumns, index_from_table, table_ids
from lnl_core.images.image_files import read_image_files
from lnl_core.labels.index import Index
from lnl_core.labels.label_file import column, read_user_table
from lnl_core.s3 import Place, below, list_objects, locate


class ImageFolderConfig(TableColumns):
    """Where the images lie, and the table's columns where there is a table."""

    path: str = ""  # the folder, or s3://bucket/prefix
    table: str = Field(default="")  # CSV or Parquet below `path` or anywhere, S3 too; empty: class folders
    path_column: str = "path"  # relative to `path`


@DATASETS.register(
    "image_folder",
    config=ImageFolderConfig,
    summary="class folders (below train, val, test or not), or a folder and a table of id, path, label",
)
class ImageFolder:
    """Holds ids and paths; reads one image at a time, from S3 up to 32 ahead."""

    def __init__(self, config: ImageFolderConfig) -> None:
        self._config = config
        self._root = locate(config.path)
        self._sorted_ids: Ids = np.empty(0, dtype=object)
        self._paths: Ids = np.empty(0, dtype=object)  # of the sorted ids, relative to the root
        self._files: list[str] = []

    def index(self) -> Index:
        self._check_root()
        return self._from_table() if self._config.table else self._from_class_folders()

    def images(self, index: Index, rows: npt.NDArray[np.intp]) -> Iterator[bytes | QuarantineRow]:
        ids = index.ids[rows]
        paths = self._paths[np.searchsorted(self._sorted_ids, ids)]
        yield from read_image_files((self._root / path, name) for name, path in zip(ids, paths, strict=True))

    def source_files(self) -> Sequence[str]:
        if not self._files:
            self.index()
        return self._files

    def _check_root(self) -> None:
        if not self._config.path:
            raise ConfigError("prepare.image_folder.path is not set; set it to the folder of your images")
        if isinstance(self._root, Path) and not self._root.is_dir():
            raise ConfigError(f"prepare.image_folder.path = {self._config.path!r}: no such folder; correct the path")

    def _from_table(self) -> Index:
        config, path = self._config, below(self._root, self._config.table)
        table = read_user_table(path)
        config = config if config.id_column else config.model_copy(update={"id_column": config.path_column})
        columns = {name: column(table, name, path) for name in [*config.columns(), config.path_column]}
        ids = list(table_ids(columns[config.id_column]))
        self._remember(ids, [str(value) for value in columns[config.path_column]], [str(path)])
        return index_from_table(columns, config, lambda row: f"{path}: row {row}")

    def _from_class_folders(self) -> Index:
        found = _names_below(self._root)
        strange = [_set_aside(name) for name in found if not _encodes(name)]
        found = [name for name in found if _encodes(name)]
        has_splits = _has_splits(found)
        depth = 2 if has_splits else 1  # folders above the image: split and class, or class
        loose = [name for name in found if name.count("/") < depth]
        ids = [name for name in found if name.count("/") >= depth]
        self._remember(ids, ids, [])
        names = self._config.model_copy(update={"id_column": "id", "label_column": "class", "verified_column": ""})
        names = names.model_copy(update={"true_label_column": "", "split_column": "split" if has_splits else ""})
        index = index_from_table(_columns(ids, depth), names, lambda row: str(self._root / ids[row]))
        return _with_quarantine(index, [*strange, *map(_no_class, loose)])

    def _remember(self, ids: list[str], paths: list[str], tables: list[str]) -> None:
        order = sorted(range(len(ids)), key=ids.__getitem__)
        self._sorted_ids = np.array([ids[row] for row in order], dtype=object)
        self._paths = np.array([paths[row] for row in order], dtype=object)
        self._files = [*tables, *(str(self._root / path) for path in self._paths)]


def _names_below(root: Place) -> list[str]:
    """Relative paths of all files that are not hidden: a folder's own files first, then its folders, by name.

    Raises:
        ConfigError: nothing lies below an S3 prefix.
    """
    if isinstance(root, Path):
        return list(_walk(root))
    names = [found.path.key.removeprefix(root.prefix) for found in list_objects(root)]
    if not names:
        raise ConfigError(f"prepare.image_folder.path = {str(root)!r}: no object lies below it; correct the path")
    return sorted((name for name in names if not _is_hidden(name)), key=_walking_order)


def _walk(root: Path) -> Iterator[str]:
    """Class folders may be links."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _walking_order(name: str) -> list[tuple[bool, str]]:
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _has_splits(names: list[str]) -> bool:
    folders = {name.split("/")[0] for name in names if "/" in name}
    return "train" in folders and folders <= set(SPLITS)


def _columns(ids: list[str], depth: int) -> Columns:
    parts = [name.split("/", depth) for name in ids]
    columns: dict[str, Sequence[object]] = {"id": ids, "class": [part[depth - 1] for part in parts]}
    return {**columns, "split": [part[0] for part in parts]} if depth == 2 else columns


def _with_quarantine(index: Index, rows: list[QuarantineRow]) -> Index:
    return dataclasses.replace(index, quarantined=(*index.quarantined, *rows))


def _no_class(name: str) -> QuarantineRow:
    detail = "lies outside the class folders; move it into one"
    return QuarantineRow(stage="prepare", reason="no-class-folder", detail=detail, path=name)


def _encodes(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _set_aside(name: str) -> QuarantineRow:
    shown = name.encode("utf-8", "backslashreplace").decode()
    return QuarantineRow(stage="prepare", reason="name-not-utf8", detail="the name is not UTF-8; rename it", path=shown)
