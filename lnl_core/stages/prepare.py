"""Stage `prepare`: any dataset to image shards, labels, truth and quarantine.

It reads the light index first, then streams the encoded images in order of id, decodes each once to see that it can
be decoded, and writes them as they came. A broken image or label goes to quarantine with a reason and the run goes on.
A killed run starts again at its first unfinished shard; the files are the same either way.
Held in memory: the index (ids and labels), one SHA-256 an image, and one row group of encoded images.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydantic import SerializeAsAny

from lnl_core.config import Settings
from lnl_core.contracts import (
    write_flags,
    write_labels,
    write_provenance,
    write_quarantine,
    write_truth,
)
from lnl_core.crawl.prepare import prepare_crawl
from lnl_core.crawl.reader import CrawlReader
from lnl_core.datasets import DATASETS
from lnl_core.files import atomic_folder
from lnl_core.labels.prepared import Prepared, PrepareRules
from lnl_core.layout import Layout
from lnl_core.stages.prepare_dataset import prepare_dataset
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods


class PrepareSettings(PrepareRules):
    """Section `prepare`; each dataset has a sub-section of its own."""

    dataset: str = "digits"
    options: dict[str, SerializeAsAny[Settings]]


def run(settings: PrepareSettings, context: StageContext) -> Metrics:
    """Read the dataset, write its tables, return counts."""
    paths, work, before = context.paths, context.paths.resume("prepare"), context.paths.previous
    options = settings.options[settings.dataset]
    dataset = DATASETS.get(settings.dataset).make(options)
    if isinstance(dataset, CrawlReader):
        earlier = [(paths.images, paths.ingest), (before.images, before.ingest)]
        prepared = prepare_crawl(dataset, settings, work, earlier, context.runtime)
    else:
        prepared = prepare_dataset(settings.dataset, dataset, options, settings, work, context.runtime)
    metrics = {"dataset": settings.dataset, **prepared.as_metrics()}
    _write(prepared, work, paths)
    return metrics


def _write(prepared: Prepared, work: Path, paths: Layout) -> None:
    """The tables, and what was written in the work folder in its place."""
    write_labels(paths.source_labels, prepared.labels)
    write_truth(paths.truth, prepared.truth)
    write_quarantine(paths.quarantine, prepared.quarantined)
    write_provenance(paths.provenance, prepared.provenance)
    write_flags(paths.flags, prepared.flags)
    _move(work / "images", paths.images)
    if (work / "ingest").exists():
        _move(work / "ingest", paths.ingest)
    else:
        with atomic_folder(paths.ingest):
            pass  # of crawls alone


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


STAGE = Stage(
    name="prepare",
    summary="Read a dataset into image shards, labels, truth and quarantine.",
    settings=section_with_methods("prepare", PrepareSettings, DATASETS),
    run=run,
    reads=(),
    writes=("images", "source_labels", "truth", "quarantine", "provenance", "flags", "ingest"),
    shared=("run.seed",),
)
