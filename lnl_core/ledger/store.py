"""The ledger on disk: a folder of Parquet parts, one a run, that are appended and never rewritten.

    part-000001.parquet    run, id, from, to, source, method, version, confidence, route, time; sorted by id
                           metadata: the run's card, so that runs are listed without reading rows

The part's number is the run's place in history: the last row of an id is its label. A part is written under a hidden
name and linked to its own in one step that fails where the name is taken. So a reader never sees half a part, and of
two that append at once one comes second: it looks at the ledger anew before it tries the next number. Held in memory:
the rows of the run that is appended, and of all runs id, label, source and run (about 100 bytes a row).
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lnl_core.config import ConfigError, nearest
from lnl_core.contracts import ContractError, metadata_of

Source = Literal["purify", "person", "revert"]
ROW_GROUP = 65_536  # rows; a look-up of one id reads one such group a part
LEDGER = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("from", pa.string()),  # null: the label before is not known to the ledger
        pa.field("to", pa.string()),  # null: back to what it was before the ledger knew it
        pa.field("source", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("confidence", pa.float32()),
        pa.field("route", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
LATEST = pa.schema([LEDGER.field(name) for name in ("id", "to", "source", "run")])
CHANGES = pa.schema([LEDGER.field(name) for name in ("id", "from", "to", "confidence", "route")])


@dataclass(frozen=True, kw_only=True)
class Card:
    """Who changes labels: what all rows of a run share."""

    source: Source
    method: str  # a purifier, a person's name, or the name of the run that is reverted
    version: str
    class_names: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the ledger lists it."""

    name: str  # number and method, e.g. 000007-dmlp
    number: int
    rows: int
    time: datetime
    card: Card


Plan = Callable[[pa.Table], tuple[Card, pa.Table]]
"""From the latest row of each id (`LATEST`) to what is to be appended: the card and rows as in `CHANGES`."""


class Ledger:
    """A ledger folder; it need not exist before the first append."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--ledger {folder}: is a file; name a folder")

    def runs(self) -> list[Run]:
        """All runs, oldest first; reads the parts' footers alone.

        Raises:
            ContractError: a part that cannot be read or was not written by a ledger.
        """
        return [_run_of(path) for path in self._parts()]

    def run(self, name: str) -> Run:
        """The run of this name; its number is enough.

        Raises:
            ConfigError: no such run, with the nearest name.
        """
        runs = self.runs()
        for run in runs:
            if name == run.name or (name.isdecimal() and int(name) == run.number):
                return run
        if not runs:
            raise ConfigError(f"{self.folder}: the ledger has no runs yet; `lnl labels commit` appends the first")
        raise ConfigError(f"{self.folder}: no run {name!r}{nearest(name, [run.name for run in runs[-20:]])}")

    def changes(self, run: Run) -> pa.Table:
        """The rows of one run (`LEDGER`), sorted by id."""
        return _read(self.folder / _part_name(run.number))

    def history(self, name: str) -> pa.Table:
        """The rows of one id (`LEDGER`), oldest first; of each part only the row group that may hold the id is read."""
        paths = self._parts()
        if not paths:
            return LEDGER.empty_table()
        dataset = ds.dataset([str(path) for path in paths], schema=LEDGER, format="parquet")
        found = dataset.to_table(filter=pc.field("id") == name)
        return found.sort_by("run")  # names begin with the number

    def latest(self) -> pa.Table:
        """The last row of each id (`LATEST`), sorted by id."""
        return _latest(self._parts())

    def append(self, plan: Plan, time: datetime) -> Run | None:
        """Append what `plan` makes of the latest rows; None where it has no rows to append.

        `plan` is called again where another run was appended meanwhile.
        """
        while True:
            paths = self._parts()
            number = _number(paths[-1]) + 1 if paths else 1
            card, changes = plan(_latest(paths))
            if not len(changes):
                return None
            run = Run(name=f"{number:06d}-{card.method}", number=number, rows=len(changes), time=time, card=card)
            if self._write(run, changes.sort_by("id")):
                return run

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"), key=_number)

    def _write(self, run: Run, changes: pa.Table) -> bool:
        """Write the part of a run; False where its number was taken meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hidden = self.folder / f".{uuid.uuid4().hex}.tmp"
        with _removed(hidden):
            pq.write_table(_rows(run, changes), hidden, compression="zstd", row_group_size=ROW_GROUP)
            _to_disk(hidden)
            try:
                os.link(hidden, self.folder / _part_name(run.number))  # unlike a rename, fails where the name exists
            except FileExistsError:
                return False
            except OSError as error:
                raise ConfigError(
                    f"--ledger {self.folder}: the file system makes no hard links ({error.strerror}), without which "
                    "two appends could overwrite each other; keep the ledger on a local disk and copy it from there"
                ) from error
        _to_disk(self.folder)
        return True


def _rows(run: Run, changes: pa.Table) -> pa.Table:
    constant = {
        "run": run.name,
        "source": run.card.source,
        "method": run.card.method,
        "version": run.card.version,
        "time": run.time,
    }
    columns = [
        pa.repeat(pa.scalar(constant[column.name], column.type), len(changes))
        if column.name in constant
        else changes[column.name].cast(column.type)
        for column in LEDGER
    ]
    card = {
        "run": run.name,
        "rows": run.rows,
        "time": run.time.isoformat(),
        "source": run.card.source,
        "method": run.card.method,
        "version": run.card.version,
        "class_names": list(run.card.class_names),
        "about": dict(run.card.about),
    }
    return pa.Table.from_arrays(columns, schema=LEDGER.with_metadata({"lnl": json.dumps(card, sort_keys=True)}))


def _run_of(path: Path) -> Run:
    try:
        card = metadata_of(pq.read_schema(path))
        return Run(
            name=card["run"],
            number=_number(path),
            rows=card["rows"],
            time=datetime.fromisoformat(card["time"]),
            card=Card(
                source=card["source"],
                method=card["method"],
                version=card["version"],
                class_names=tuple(card["class_names"]),
                about=card["about"],
            ),
        )
    except (pa.ArrowInvalid, OSError, KeyError, json.JSONDecodeError) as error:
        raise ContractError(
            f"{path}: not a part that a ledger wrote ({error}); take it out of the folder or restore it from a backup"
        ) from error


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path}: not a readable part of a ledger ({error}); restore it from a backup") from error


def _latest(paths: list[Path]) -> pa.Table:
    if not paths:
        return LATEST.empty_table()
    every = pa.concat_tables([_read(path, list(LATEST.names)).select(LATEST.names) for path in paths])
    place = pa.array(np.arange(len(every)))
    last = every.append_column("place", place).group_by("id").aggregate([("place", "max")])
    return every.take(last["place_max"]).sort_by("id").replace_schema_metadata(None)


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _number(path: Path) -> int:
    text = path.stem.removeprefix("part-")
    if not text.isdecimal():
        raise ContractError(f"{path}: not the name of a ledger's part (part-000001.parquet); take it out of the folder")
    return int(text)


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """A ledger is a record: what was appended must outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
