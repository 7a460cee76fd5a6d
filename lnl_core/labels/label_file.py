"""Files of ids and labels that people bring: CSV or Parquet by extension, and CIFAR-N's .pt files."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Ids, IntArray, string_ids
from lnl_core.files import file_sha256
from lnl_core.s3 import Place, open_place, read_bytes


def read_user_table(path: Place, only: tuple[str, ...] = ()) -> pa.Table:
    """A CSV (header line, all columns as text) or Parquet file, local or on S3, as a table.

    Args:
        only: of a Parquet file, read these columns alone, so that images beside the labels stay on disk.

    Raises:
        ConfigError: no such file, or another extension.
        ContractError: the file cannot be parsed.
    """
    if isinstance(path, Path) and not path.is_file():
        raise ConfigError(f"{path}: no such file; correct the path (relative paths start at the working directory)")
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path, only)
        if path.suffix in (".csv", ".tsv"):
            return _read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: cannot be read as {path.suffix[1:]} ({error}); write it again") from error
    raise ConfigError(f"{path}: extension {path.suffix!r}; allowed are .csv, .tsv and .parquet")


def column(table: pa.Table, name: str, path: Place) -> list[object]:
    """One column as python values.

    Raises:
        ContractError: there is no such column.
    """
    if name not in table.column_names:
        raise ContractError(f"{path}: has no column {name!r} (it has: {', '.join(table.column_names)}); name it right")
    values: list[object] = table[name].to_pylist()
    return values


def read_label_file(path: Place, id_column: str, label_column: str) -> tuple[Ids, list[object]]:
    """Ids as text, labels as they stand there (names or numbers).

    Raises:
        ConfigError: no such file, or another extension.
        ContractError: the file cannot be parsed or lacks a column.
    """
    table = read_user_table(path, (id_column, label_column))
    ids, labels = column(table, id_column, path), column(table, label_column, path)
    return string_ids([str(value) for value in ids]), labels


def check_hash(path: Place, wanted: str, setting: str) -> None:
    """Raise ConfigError if the file has another sha256 than `setting` says; an empty hash is not checked."""
    if not wanted:
        return
    if isinstance(path, Path) and not path.is_file():
        raise ConfigError(f"{path}: no such file; {setting} is set for it")
    found = file_sha256(path) if isinstance(path, Path) else hashlib.sha256(read_bytes(path)).hexdigest()
    if found != wanted:
        raise ConfigError(
            f"{path}: its sha256 is {found}, {setting} says {wanted}; bring the right file, or set "
            "the hash to that of the new one"
        )


def read_torch_labels(path: Path) -> dict[str, IntArray]:
    """The label sets of a .pt file such as CIFAR-N's: name -> labels [n], in the order of the rows they belong to.

    Raises:
        ConfigError: no such file.
        ContractError: not such a file, or one that holds more than arrays and texts (it is not run).
    """
    try:
        with torch.serialization.safe_globals(_array_globals()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; correct the path") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ContractError(f"{path}: not a file of label arrays ({error}); fetch it again") from error
    if not isinstance(loaded, dict):
        raise ContractError(f"{path}: holds a {type(loaded).__name__}, must hold a dict of label arrays")
    return {str(name): np.asarray(values).astype(np.int32) for name, values in loaded.items()}


def _array_globals() -> list[Any]:
    """What a pickled numpy array is made of, under the module names of numpy 1 and 2."""
    parts: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("i1", "i2", "i4", "i8", "u1"))]
    for module in ("numpy.core", "numpy._core"):
        parts.append((np._core.multiarray._reconstruct, f"{module}.multiarray._reconstruct"))  # type: ignore[attr-defined]
        parts.append((np._core.multiarray.scalar, f"{module}.multiarray.scalar"))  # type: ignore[attr-defined]
    return [*parts, (codecs.encode, "_codecs.encode")]


def _read_parquet(path: Place, only: tuple[str, ...]) -> pa.Table:
    with open_place(path) as file, pq.ParquetFile(file) as parquet:
        has_all = set(only) <= set(parquet.schema_arrow.names)
        return parquet.read(columns=list(only) if only and has_all else None)


def _read_csv(path: Place) -> pa.Table:
    # Text throughout: ids such as 0007 must not turn into numbers.
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with open_place(path) as file:
        names = next(csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), delimiter=delimiter), [])
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
    )
    with open_place(path) as file:
        return pa_csv.read_csv(file, parse_options=pa_csv.ParseOptions(delimiter=delimiter), convert_options=convert)
