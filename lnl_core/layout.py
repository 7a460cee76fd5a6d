"""The stages in order, and where each artefact lies below one root folder.

dvc.yaml names the same paths below `data/` (a test holds it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lnl_core.files import read_json
from lnl_core.renamed import with_new_keys

STAGE_NAMES = ("prepare", "inject", "pretrain", "features", "purify", "train", "evaluate", "report")


@dataclass(frozen=True)
class Layout:
    """The paths of a run. `root` is `data/` under DVC and any folder under `lnl run`."""

    root: Path

    @property
    def images(self) -> Path:  # folder of part-*.parquet
        return self.root / "prepare" / "images"

    @property
    def source_labels(self) -> Path:  # as prepared, before noise injection
        return self.root / "prepare" / "labels.parquet"

    @property
    def truth(self) -> Path:
        return self.root / "prepare" / "truth.parquet"

    @property
    def quarantine(self) -> Path:
        return self.root / "prepare" / "quarantine.parquet"

    @property
    def provenance(self) -> Path:  # where each image of a crawl came from; no rows for other datasets
        return self.root / "prepare" / "provenance.parquet"

    @property
    def flags(self) -> Path:  # near-duplicates of test and trusted rows of a crawl; no rows for other datasets
        return self.root / "prepare" / "flags.parquet"

    @property
    def ingest(self) -> Path:  # folder: what was found in each shard of a crawl; empty for other datasets
        return self.root / "prepare" / "ingest"

    @property
    def labels(self) -> Path:  # what every later stage reads
        return self.root / "inject" / "labels.parquet"

    @property
    def encoder(self) -> Path:  # folder: weights.safetensors, config.json
        return self.root / "pretrain" / "encoder"

    @property
    def pretrain_curve(self) -> Path:
        return self.root / "pretrain" / "curve.csv"

    @property
    def features(self) -> Path:  # folder of part-*.parquet
        return self.root / "features" / "parts"

    @property
    def purified(self) -> Path:
        return self.root / "purify" / "purified.parquet"

    @property
    def kept_sums(self) -> Path:  # what the next version's purification starts from
        return self.root / "purify" / "sums.safetensors"

    @property
    def model(self) -> Path:  # folder: best/ and last/, each weights.safetensors and config.json
        return self.root / "train" / "model"

    @property
    def yardstick(self) -> Path:  # same method and start, observed labels; an empty folder where not wanted
        return self.root / "train" / "yardstick"

    @property
    def train_curves(self) -> Path:
        return self.root / "train" / "curves.csv"

    @property
    def train_trace(self) -> Path:  # folder of epoch-*.parquet, of the model's arm; may be empty
        return self.root / "train" / "trace"

    @property
    def plots(self) -> Path:  # folder of csv and json
        return self.root / "evaluate" / "plots"

    @property
    def held_out(self) -> Path:  # what this version says of the held-out trusted rows
        return self.root / "evaluate" / "held_out.parquet"

    @property
    def figures(self) -> Path:  # the twenty figures of `dvc metrics show`
        return self.root / "evaluate" / "figures.json"

    @property
    def report(self) -> Path:
        return self.root / "report" / "report.html"

    def outputs(self, stage: str) -> Path:
        """Folder of all that a stage writes, its metrics included."""
        return self.root / stage

    def metrics(self, stage: str) -> Path:
        return self.outputs(stage) / "metrics.json"

    def read_metrics(self, stage: str) -> Mapping[str, Any]:
        """What a stage has measured; empty where it has not run."""
        path = self.metrics(stage)
        found: Mapping[str, Any] = with_new_keys(read_json(path).get(stage, {})) if path.exists() else {}
        return found

    @property
    def previous(self) -> Layout:
        """Files of the version before this one, of the stages that build on it; they are read and never written.

        Whoever starts a stage puts them there; without them a stage does all of its work. They lie outside the stage's
        outputs because DVC deletes those before it runs a stage again.
        """
        return Layout(self.root / ".lnl" / "previous")

    def resume(self, stage: str) -> Path:
        """Folder for checkpoints of an unfinished run; not an artefact, removed when the stage ends well.

        It lies outside the stage's outputs because DVC deletes those before it runs a stage again.
        """
        return self.root / ".lnl" / stage
