"""What a store keeps of a version, and of a promotion: two small JSON files, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import Field

from lnl_core.config import ConfigError, Settings, parse
from lnl_core.contracts import ContractError
from lnl_core.renamed import VERSION_FIELDS

FORMAT: Literal[1] = 1
Why = Literal["gate", "person", "rollback"]
Record = TypeVar("Record", bound="Manifest | Promotion")


class Artefact(Settings):
    """A file or folder of the version, as DVC names its content."""

    md5: str | None = None  # with .dir for a folder; none: too large to be read for this, and not in a dvc.lock
    size: int | None = None  # bytes
    files: int | None = None  # of a folder


class Manifest(Settings):
    """versions/000007.json: created once, never changed."""

    format: Literal[1] = FORMAT
    number: int = Field(ge=1)
    key: str  # a random name, so that two writers' manifests are never the same bytes
    run_id: str  # the same run is registered once
    commit: str | None = None  # of the repository, where the run had one
    parent: int | None = None  # the version that was promoted when this one was made
    created: datetime
    package: str  # version of lnl
    params_sha256: str | None = None
    listing_sha256: str | None = None  # of the crawl's listing; see docs on crawls
    class_names: tuple[str, ...]
    rows: Mapping[str, int]  # train, val, test, trusted (train), held_out
    labels_changed: int  # train rows whose label in use is not the observed one
    held_out: Mapping[str, Any] = Field(default_factory=dict)  # scores on the held-out trusted rows
    churn: Mapping[str, Any] = Field(
        default_factory=dict
    )  # against the parent: what the purifier reported, rows that differ
    artefacts: Mapping[str, Artefact] = Field(default_factory=dict)  # path in the run -> artefact
    gate_decision: Mapping[str, Any] = Field(default_factory=dict)  # of the gate, against the parent
    files: Mapping[str, str] = Field(default_factory=dict)  # held_out, changes -> file in the store

    @property
    def tag(self) -> str:
        return f"version-{self.number:04d}"


class Promotion(Settings):
    """promotions/000012.json: the last one names the promoted version."""

    format: Literal[1] = FORMAT
    number: int = Field(ge=1)
    key: str
    version: int
    previous: int | None = None  # promoted before it
    why: Why
    who: str
    reason: str
    time: datetime
    gate_decision: Mapping[str, Any] = Field(default_factory=dict)  # of the gate, where it decided


def to_bytes(record: Manifest | Promotion) -> bytes:
    """JSON with sorted keys."""
    return (json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def from_bytes(kind: type[Record], data: bytes, where: str) -> Record:
    """Read one record.

    Raises:
        ContractError: not JSON, of a newer format, or a field that is missing or unknown; it names the file.
    """
    try:
        values = json.loads(data)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ContractError(f"{where}: format {values.get('format')!r}, this lnl reads {FORMAT}; use a newer lnl")
        if isinstance(values, dict):
            values = {VERSION_FIELDS.get(name, name): value for name, value in values.items()}
        return parse(kind, values, where)
    except (json.JSONDecodeError, ConfigError) as error:
        raise ContractError(f"{where}: not a record of a version store ({error}); restore it from a backup") from error
