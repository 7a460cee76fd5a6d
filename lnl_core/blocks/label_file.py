"""Files of ids and labels that people bring: CSV or Parquet by extension."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Ids, string_ids


def read_user_table(path: Path) -> pa.Table:
    """A CSV (header line, all columns as text) or Parquet file as a table.

    Raises:
        ConfigError: no such file, or another extension.
        ContractError: the file cannot be parsed.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; correct the path (relative paths start at the working directory)")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix in (".csv", ".tsv"):
            return _read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: cannot be read as {path.suffix[1:]} ({error}); write it again") from error
    raise ConfigError(f"{path}: extension {path.suffix!r}; allowed are .csv, .tsv and .parquet")


def column(table: pa.Table, name: str, path: Path) -> list[object]:
    """One column as python values.

    Raises:
        ContractError: there is no such column.
    """
    if name not in table.column_names:
        raise ContractError(f"{path}: has no column {name!r} (it has: {', '.join(table.column_names)}); name it right")
    values: list[object] = table[name].to_pylist()
    return values


def read_label_file(path: Path, id_column: str, label_column: str) -> tuple[Ids, list[object]]:
    """Ids as text, labels as they stand there (names or numbers).

    Raises:
        ConfigError: no such file, or another extension.
        ContractError: the file cannot be parsed or lacks a column.
    """
    table = read_user_table(path)
    ids = column(table, id_column, path)
    return string_ids([str(value) for value in ids]), column(table, label_column, path)


def _read_csv(path: Path) -> pa.Table:
    # Text throughout: ids such as 0007 must not turn into numbers.
    parse = pa_csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    with path.open("rb") as file:
        header = file.readline().decode("utf-8-sig").rstrip("\r\n")
    names = next(iter(_split_header(header, parse.delimiter)), [])
    convert = pa_csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
    )
    return pa_csv.read_csv(path, parse_options=parse, convert_options=convert)


def _split_header(header: str, delimiter: str) -> list[list[str]]:
    import csv

    return list(csv.reader([header], delimiter=delimiter))
