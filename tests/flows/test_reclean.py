"""The flow reclean on a small crawl of photographs' pieces: a first version, nothing new, growth, the gate's word."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State

from dev.checkout import commit, copy_of_checkout, git
from flows.reclean import reclean
from flows.watch_crawl import watch_crawl
from lnl_core.config import ConfigError
from lnl_core.ledger.store import Ledger
from lnl_core.versions.store import VersionStore
from tasks.executor import fetch_outputs
from tasks.machine import Machine
from tests.crawl.crawl_fixture import CLASSES, into, parquet_shard, rows

pytestmark = [pytest.mark.slow(minutes=2), pytest.mark.usefixtures("prefect_server")]
ENCODER = "def pixels():\n    return lambda images: images[:, :, ::4, ::4].flatten(1).float()\n"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where all of it lies."""

    repository: Path
    crawl: Path
    store: Path
    ledger: Path

    def settings(self) -> dict[str, Any]:
        return {
            "run": {"threads": 1, "device": "cpu"},
            "images": {"size": 16, "channels": 3},
            "model": {"arch": "small_cnn", "width": 8},
            "prepare": {
                "dataset": "crawl",
                "crawl": {"path": str(self.crawl), "class_names": list(CLASSES), "near_duplicates": {"distance": 0}},
                "trusted": {"source": "file", "file": "trusted.csv", "held_out_share": 0.5},
            },
            "inject": {"type": "none"},
            "pretrain": {"method": "none"},
            "features": {"encoder": "crawl_encoder:pixels", "dtype": "float32"},
            "purify": {"method": "knn"},
            "train": {"method": "cross_entropy", "labels": "purified_hard", "init": "scratch"},
            "evaluate": {},
            "report": {},
        }

    def trust(self, numbers: range) -> None:
        """Verify rows: even numbers are churches."""
        with (self.repository / "trusted.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label"])
            writer.writerows([f"{number:04d}", CLASSES[number % 2]] for number in numbers)

    def add(self, shard: str, numbers: range, site: str) -> None:
        parquet_shard(into(self.crawl), shard, rows(numbers, site))

    def reclean(self, **more: Any) -> State[str]:
        return asyncio.run(
            reclean(
                params="crawl.yaml",
                repository=str(self.repository),
                store=str(self.store),
                ledger=str(self.ledger),
                min_age=0.0,
                return_state=True,
                **more,
            )
        )

    def watch(self) -> State[str]:
        return asyncio.run(
            watch_crawl(
                params="crawl.yaml",
                repository=str(self.repository),
                store=str(self.store),
                min_age=0.0,
                return_state=True,
            )
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reclean")
    made = Place(
        repository=copy_of_checkout(folder / "repository"),
        crawl=folder / "crawl",
        store=folder / "versions",
        ledger=folder / "ledger",
    )
    (made.repository / "crawl.yaml").write_text(yaml.safe_dump(made.settings()), encoding="utf-8")
    (made.repository / "crawl_encoder.py").write_text(ENCODER, encoding="utf-8")
    made.trust(range(60))
    commit(made.repository, "settings of a crawl")
    made.add("2026-01.parquet", range(120), "a.example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNL_HOME", str(folder / "home"))
        patch.setenv("LNL_DVC_REMOTE", str(folder / "remote"))
        yield made


@pytest.fixture(scope="module")
def first(place: Place) -> State[str]:
    return place.reclean(overrides=["train.cross_entropy.epochs=1"])


def test_the_first_version_is_registered_and_promoted_where_that_is_allowed(place: Place, first: State[str]) -> None:
    store = VersionStore.open(str(place.store))
    [version] = store.versions()
    assert first.name in ("Promoted", "NotPromoted"), first
    assert git(place.repository, "rev-parse", version.tag) == version.commit
    assert version.rows["held_out"] > 0
    promoted = store.last_promotion()
    assert (promoted is not None) == (first.name == "Promoted")
    assert promoted is not None, first.message
    assert git(place.repository, "rev-parse", "promoted") == version.commit


def test_growth_reads_and_encodes_what_is_new_and_keeps_decisions(place: Place, first: State[str]) -> None:
    assert first.is_completed()
    again = place.reclean(overrides=["train.cross_entropy.epochs=1"])
    assert again.name == "NothingNew", again.message
    assert place.watch().name == "NothingNew"

    place.add("2026-02.parquet", range(120, 150), "b.example")
    assert place.watch().name == "Reported"
    assert place.watch().name == "ReportedBefore"
    grown = place.reclean(overrides=["train.cross_entropy.epochs=1"])
    assert grown.name in ("Promoted", "NotPromoted"), grown.message

    old, new = VersionStore.open(str(place.store)).versions()
    assert new.rows["train"] + new.rows["val"] == old.rows["train"] + old.rows["val"] + 30
    found = fetch_outputs(
        str(place.repository), str(new.commit), Machine(), ("metrics", "purified"), place.crawl.parent / "new"
    )
    assert found.read_metrics("features")["images_encoded"] == 30
    churn = found.read_metrics("purify")["churn"]
    assert churn["rows_new"] == 30
    assert [row["source"] for row in churn["by_source"] if row["new"]] == ["b.example"]
    artifact = asyncio.run(Artifact.aget("promotion"))
    assert artifact is not None
    assert f"ersion {new.number}" in str(artifact.data)
    promoted = VersionStore.open(str(place.store)).promotions()
    assert len(Ledger(place.ledger).runs()) <= len(promoted)


def test_another_dataset_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match="the flow reclean is for a crawl"):
        asyncio.run(reclean(repository=str(place.repository), store=str(place.store)))
