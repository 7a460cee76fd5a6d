"""The labels as they stand: a base table with the ledger's changes on top, as a table or as folders of images.

Held in memory: the base table and the last row of each id.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, check_unique, metadata_of
from lnl_core.files import atomic_folder, atomic_path
from lnl_core.labels.class_labels import label_text
from lnl_core.labels.label_file import column, read_label_file, read_user_table
from lnl_core.ledger.store import Ledger

LinkKind = Literal["symlink", "hardlink"]


def current_labels(ledger: Ledger, base: Path, id_column: str = "id", label_column: str = "label") -> pa.Table:
    """id, label, base_label, source (of the label), run; sorted by id.

    Args:
        base: CSV or Parquet with ids and labels; numbers are names where its metadata has class names.
    Raises:
        ConfigError: no such file.
        ContractError: an id that stands twice, or an id of the ledger that the base does not have.
    """
    ids, raw = read_label_file(base, id_column, label_column)
    check_unique(ids, str(base))
    latest = ledger.latest()
    here = pa.array(ids, pa.string())
    _check_known(latest, here, base)
    places = pc.index_in(here, value_set=latest["id"].combine_chunks())
    before = pa.array(_names(raw, base), pa.string())
    changed = latest["to"].combine_chunks().take(places)
    table = pa.table(
        {
            "id": here,
            "label": pc.coalesce(changed, before),
            "base_label": before,
            "source": pc.coalesce(latest["source"].combine_chunks().take(places), pa.scalar("base")),
            "run": latest["run"].combine_chunks().take(places),
        }
    )
    return table.sort_by("id")


def write_labels_table(table: pa.Table, out: Path) -> None:
    """Write .csv or .parquet atomically.

    Raises:
        ConfigError: another extension.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out {out}: extension {out.suffix!r}; allowed are .csv and .parquet")
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            _write_csv(table, temporary)
        else:
            pq.write_table(table, temporary, compression="zstd")


def image_paths(table: pa.Table, images: Path, paths: Path | None, id_column: str, path_column: str) -> list[Path]:
    """The image of each row: below `images` at the path that `paths` gives its id, or at the id itself.

    Raises:
        ConfigError: no such folder or table.
        ContractError: an id without a path, or a path without a file.
    """
    if not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder; name the one that the ids are paths in")
    ids = [str(name) for name in table["id"].to_pylist()]
    relative = {name: name for name in ids}
    if paths is not None:
        listed = read_user_table(paths)
        relative = dict(
            zip(map(str, column(listed, id_column, paths)), map(str, column(listed, path_column, paths)), strict=True)
        )
    missing = [name for name in ids if name not in relative]
    if missing:
        raise ContractError(f"{paths}: has no path for id {missing[0]!r} ({len(missing)} such ids); add them")
    found = [images / relative[name] for name in ids]
    lost = [number for number, path in enumerate(found) if not path.is_file()]
    if lost:
        raise ContractError(
            f"{found[lost[0]]}: no such image, wanted for id {ids[lost[0]]!r} ({len(lost)} such rows); "
            "correct --images, or give a table of ids and paths with --paths"
        )
    return found


def link_images(table: pa.Table, images: list[Path], out: Path, kind: LinkKind) -> int:
    """A folder a class with a link to each image; a row without a label gets none. Returns how many links there are.

    A link has its image's file name; where two of a class have the same, all of these are named after their id.

    Raises:
        ConfigError: the folder exists, or is on another device than the images (hard links).
        ContractError: a class name that can be no folder.
    """
    if out.exists():
        raise ConfigError(f"--links {out}: exists; name a new folder, for its contents would be replaced")
    ids, labels = table["id"].to_pylist(), table["label"].to_pylist()
    rows = [row for row, label in enumerate(labels) if label is not None]
    for name in sorted({labels[row] for row in rows}):
        if not name or name in (".", "..") or "/" in name or os.sep in name:
            raise ContractError(f"class {name!r} cannot be the name of a folder; rename the class before linking")
    twice = Counter((labels[row], images[row].name) for row in rows)
    with atomic_folder(out) as folder:
        for name in sorted({labels[row] for row in rows}):
            (folder / name).mkdir()
        for row in rows:
            own = twice[labels[row], images[row].name] == 1
            _link(images[row], folder / labels[row] / (images[row].name if own else _flat(ids[row], images[row])), kind)
    return len(rows)


def _write_csv(table: pa.Table, path: Path) -> None:
    """Quotes where they are needed alone, for a person will edit it (pyarrow's writer quotes every text)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches(max_chunksize=100_000):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _flat(name: str, image: Path) -> str:
    """The id as a file name; % stands before what was replaced, so that two ids never meet."""
    flat = name.replace("%", "%25").replace("/", "%2F")
    return flat if flat.endswith(image.suffix) else flat + image.suffix


def _link(image: Path, link: Path, kind: LinkKind) -> None:
    try:
        if kind == "symlink":
            link.symlink_to(image.resolve())
        else:
            os.link(image.resolve(), link)
    except OSError as error:
        raise ConfigError(
            f"{link}: cannot link {image} ({error.strerror}); for hard links both must lie on one file system, "
            "symbolic links work across them (--link symlink)"
        ) from error


def _names(raw: list[object], base: Path) -> list[str | None]:
    """Labels as texts; numbers as class names where the metadata has them."""
    names: tuple[str, ...] = ()
    if base.suffix == ".parquet":
        names = tuple(metadata_of(pq.read_schema(base)).get("class_names", ()))
    texts = [label_text(value) for value in raw]
    numbered = bool(names) and all(isinstance(value, int | np.integer) for value in raw if value is not None)
    if not numbered:
        return [text or None for text in texts]
    bad = [row for row, text in enumerate(texts) if text and not 0 <= int(text) < len(names)]
    if bad:
        raise ContractError(
            f"{base}: row {bad[0]}: label {texts[bad[0]]} is no class; allowed are 0 to {len(names) - 1}"
        )
    return [names[int(text)] if text else None for text in texts]


def _check_known(latest: pa.Table, ids: pa.Array, base: Path) -> None:
    strange = latest["id"].combine_chunks().filter(pc.invert(pc.is_in(latest["id"].combine_chunks(), value_set=ids)))
    if len(strange):
        raise ContractError(
            f"{base}: has no row for id {strange[0].as_py()!r} of the ledger ({len(strange)} such ids); "
            "name the table that the purified labels were made from"
        )
