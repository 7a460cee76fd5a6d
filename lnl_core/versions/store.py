"""The store of versions: what every version was, and which one is promoted. It only grows.

    versions/000007.json      the manifest of version 7 (`manifest.py`), created once
    promotions/000012.json    the twelfth promotion; the last one names the promoted version
    files/SHA256.parquet      held-out predictions and label changes of the versions, named by their content

The manifest is written last: a version that was cut short leaves files that nothing names, and the next one takes its
number. A promotion is one file: it is there or it is not. Numbers are given by whoever creates the file first, so two
that write at once get different ones, and nobody holds a lock that a killed process could keep. Nothing is ever
overwritten or removed. Held in memory: one version's files (about 30 bytes a held-out row, 20 a changed label).
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.evaluate.held_out import HeldOutTable, read_held_out
from lnl_core.versions.label_changes import read_changes
from lnl_core.versions.manifest import Manifest, Promotion, Why, from_bytes, to_bytes
from lnl_core.versions.version_files import VersionFiles, open_version_files

Content = TypeVar("Content")
_NAME = re.compile(r"(?:versions|promotions)/(\d{6})\.json")
RECENT = 100  # versions among which a run is looked for before it is registered: a retry comes soon


@dataclass(frozen=True)
class Wanted:
    """A promotion that is wanted."""

    version: int
    why: Why
    who: str
    reason: str
    time: datetime
    gate_decision: Mapping[str, Any]


class VersionStore:
    """A store in a folder or at s3://bucket/prefix; it need not exist before the first version."""

    def __init__(self, place: VersionFiles) -> None:
        self.place = place

    @classmethod
    def open(cls, where: str) -> VersionStore:
        return cls(open_version_files(where))

    def versions(self) -> list[Manifest]:
        """All manifests, oldest first."""
        return [self._manifest(number) for number in self._numbers("versions")]

    def version(self, number: int) -> Manifest:
        """One manifest.

        Raises:
            ConfigError: there is no such version.
        """
        have = self._numbers("versions")
        if number not in have:
            there = (
                f"it has versions {have[0]} to {have[-1]}" if have else "it has no versions yet (`lnl versions add`)"
            )
            raise ConfigError(f"{self.place}: no version {number}; {there}")
        return self._manifest(number)

    def of_run(self, run_id: str) -> Manifest | None:
        """The version that a run has been registered as; looks at the last `RECENT` ones."""
        recent = reversed(self._numbers("versions")[-RECENT:])
        return next((found for found in map(self._manifest, recent) if found.run_id == run_id), None)

    def promotions(self) -> list[Promotion]:
        """The history, oldest first."""
        return [self._promotion(number) for number in self._numbers("promotions")]

    def last_promotion(self) -> Promotion | None:
        """What is promoted now; None where nothing has been."""
        numbers = self._numbers("promotions")
        return self._promotion(numbers[-1]) if numbers else None

    def held_out(self, manifest: Manifest) -> HeldOutTable:
        """What a version said of the held-out trusted rows."""
        return self._content(manifest, "held_out", read_held_out)

    def changes(self, manifest: Manifest) -> pa.Table:
        """The labels of a version that are not the observed ones (`label_changes.py`)."""
        return self._content(manifest, "changes", read_changes)

    def add(self, draft: Callable[[int], Manifest], files: Mapping[str, bytes]) -> Manifest:
        """Create the next version; the same run twice is one version.

        Args:
            draft: the manifest under a number; its `files` and `key` are filled in here.
            files: `held_out` and `changes` as Parquet.
        """
        names = {what: self._put_file(data) for what, data in files.items()}
        while True:
            numbers = self._numbers("versions")
            manifest = draft(numbers[-1] + 1 if numbers else 1)
            if found := self.of_run(manifest.run_id):
                return found
            manifest = manifest.model_copy(update={"files": names, "key": uuid.uuid4().hex})
            if self.place.put_new(f"versions/{manifest.number:06d}.json", to_bytes(manifest)):
                return manifest

    def promote(self, wanted: Wanted, after: Promotion | None) -> Promotion | None:
        """Append a promotion; None, and nothing done, where `after` is no longer the last one."""
        promotion = Promotion(
            number=after.number + 1 if after else 1,
            key=uuid.uuid4().hex,
            version=wanted.version,
            previous=after.version if after else None,
            why=wanted.why,
            who=wanted.who,
            reason=wanted.reason,
            time=wanted.time,
            gate_decision=wanted.gate_decision,
        )
        done = self.place.put_new(f"promotions/{promotion.number:06d}.json", to_bytes(promotion))
        return promotion if done else None

    def _numbers(self, folder: str) -> list[int]:
        found = []
        for name in self.place.names(folder):
            match = _NAME.fullmatch(name)
            if match is None:
                raise ContractError(f"{self.place}/{name}: not a file of a version store; take it out of there")
            found.append(int(match[1]))
        return found

    def _manifest(self, number: int) -> Manifest:
        name = f"versions/{number:06d}.json"
        return from_bytes(Manifest, self.place.read(name), f"{self.place}/{name}")

    def _promotion(self, number: int) -> Promotion:
        name = f"promotions/{number:06d}.json"
        return from_bytes(Promotion, self.place.read(name), f"{self.place}/{name}")

    def _put_file(self, data: bytes) -> str:
        name = f"files/{hashlib.sha256(data).hexdigest()}.parquet"
        self.place.put_new(name, data)  # there already: the same bytes
        return name

    def _content(self, manifest: Manifest, what: str, read: Callable[[Path], Content]) -> Content:
        if what not in manifest.files:
            raise ContractError(f"{self.place}: version {manifest.number} has no file {what!r}; register its run again")
        data = self.place.read(manifest.files[what])
        if hashlib.sha256(data).hexdigest() != Path(manifest.files[what]).stem:
            raise ContractError(f"{self.place}/{manifest.files[what]}: damaged; restore it from a backup")
        with tempfile.TemporaryDirectory(prefix="lnl-version-") as folder:
            path = Path(folder) / f"{what}.parquet"
            path.write_bytes(data)
            return read(path)
