"""Stage `report`: one self-contained HTML file out of what the other stages wrote. Never reads the truth.

Whatever is missing is said on the page; the stage fails only on broken files. Held in memory: labels.parquet, the
metadata of purified.parquet, and one row group of encoded images at a time for the thumbnails.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field

from lnl_core.config import Settings, parse
from lnl_core.contracts import metadata_of, read_labels, read_quarantine
from lnl_core.files import atomic_path
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.renamed import METRICS
from lnl_core.report.page import render
from lnl_core.report.run_files import Record, read_metrics, read_records
from lnl_core.report.sources import Sources
from lnl_core.report.thumbnails import thumbnails
from lnl_core.report.versions import versions
from lnl_core.stages.stage import Metrics, Stage, StageContext

GALLERIES = ("suspicious", "uncertain")


class ReportSettings(Settings):
    """Section `report`."""

    title: str = Field(default="Purified labels", min_length=1, max_length=200)
    suspicious: int = Field(default=48, ge=0, le=200)  # images a gallery; 48 of 32 px weigh 0.1 MB


def report(settings: ReportSettings, context: StageContext) -> Metrics:
    """Gather, render, write report.html; return its bytes and the images shown."""
    paths = context.paths
    plots = _plots(paths, settings.suspicious)
    shown = {record["id"] for name in GALLERIES for record in plots.get(name, [])}
    images = thumbnails(paths.images, shown)
    metrics = read_metrics(paths)
    page = render(
        Sources(
            title=settings.title,
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            labels=read_labels(paths.labels) if paths.labels.exists() else None,
            metrics=metrics,
            plots=plots,
            train_curves=read_records(paths.train_curves),
            pretrain_curve=read_records(paths.pretrain_curve),
            quarantine=read_quarantine(paths.quarantine) if paths.quarantine.exists() else [],
            thumbnails=images,
            purifier=_about(paths),
            versions=versions(context.runtime.device, paths.root),
            settings=_settings(context, metrics),
        )
    )
    content = page.encode("utf-8")
    with atomic_path(paths.report) as temporary:
        temporary.write_bytes(content)
    return {"bytes": len(content), "images": len(images)}


def _plots(paths: Layout, rows: int) -> dict[str, list[Record]]:
    """By name; a plot that evaluate had under another name up to version 0.1.0 has the new one of its metric."""
    files = sorted(paths.plots.glob("*.csv"))
    found = {METRICS.get(file.stem, file.stem): read_records(file) for file in files}
    return {name: records[:rows] if name in GALLERIES else records for name, records in found.items()}


def _about(paths: Layout) -> Mapping[str, Any]:
    if not paths.purified.exists():
        return {}
    about: Mapping[str, Any] = metadata_of(pq.read_schema(paths.purified)).get("about", {})
    return about


def _settings(context: StageContext, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The shared sections, and the settings, or else texts and numbers, in the metrics of each stage."""
    shared: dict[str, Mapping[str, Any]] = context.shared.model_dump(
        mode="json", include={"run": {"seed", "precision"}, "images": True, "model": True}
    )
    own = {stage: found.get("settings") or _texts_and_numbers(found) for stage, found in metrics.items()}
    return shared | {stage: found for stage, found in own.items() if found and stage not in ("evaluate", "report")}


def _texts_and_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if isinstance(value, str | int | float) and key != "seconds"}


STAGE = Stage(
    name="report",
    summary="One self-contained HTML page: scores, plots, suspicious images, quarantine, timings.",
    settings=lambda values: parse(ReportSettings, values, "report"),
    run=report,
    reads=("images", "labels", "quarantine", "purified", "train_curves", "pretrain_curve", "plots"),
    writes=("report",),
    shared=("run.seed", "run.precision", "images", "model"),
    reads_metrics=STAGE_NAMES[:-1],
)
