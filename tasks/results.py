"""What a finished run shows in Prefect: summary, noise protocol, plots, a link to the report, the version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact

from lnl_core.contracts import read_labels
from lnl_core.layout import Layout
from lnl_core.report.summary import summary_table
from lnl_core.s3 import upload
from tasks.executor import fetch_outputs
from tasks.job import StageDone
from tasks.machine import Machine
from tasks.patient_task import patient_task
from tasks.report_plots import report_plots
from tasks.run import OpenRun

SHOWN = ("labels", "metrics", "report")  # names of Layout that the artifacts are made of
MOST_PLOTS_BYTES = 200_000  # of the plots' artifact: it lies in Prefect's database


@patient_task("show results")
async def show_results(results: Layout, name: str) -> None:
    """Artifacts `summary` (table), `noise-protocol` and `plots` (markdown), `report` (link to the HTML file).

    Args:
        results: the finished run's files.
        name: what the report is called where LNL_PUBLISH (s3://bucket/prefix) has it uploaded; empty: it is not.
    """
    table = [{"what": label, "value": value} for label, value in summary_table(results)]
    await acreate_table_artifact(key="summary", table=table, description="What the run achieved")
    await acreate_markdown_artifact(key="noise-protocol", markdown=protocol_markdown(results))
    page = results.report.read_text(encoding="utf-8")
    await acreate_markdown_artifact(key="plots", markdown=plots_markdown(page))
    link, described = await asyncio.to_thread(_report_link, results.report, name)
    await acreate_link_artifact(key="report", link=link, link_text="HTML report", description=described)


async def show_version(run: OpenRun, version: str, done: Mapping[str, StageDone]) -> None:
    """The artifacts of `show_results`, and `version` (markdown): the commit, and what each stage did."""
    with _folder_for(run.run) as folder:
        results = await asyncio.to_thread(fetch_outputs, run.repository, version, Machine(), SHOWN, folder)
        await show_results(results, f"{run.run}.html")
    await acreate_markdown_artifact(key="version", markdown=version_markdown(run, version, done))


@contextlib.contextmanager
def _folder_for(run: str) -> Iterator[Path]:
    """Kept below the machine's home where the report's link leads to it; gone again where the report is uploaded."""
    if os.environ.get("LNL_PUBLISH"):
        with tempfile.TemporaryDirectory(prefix="lnl-results-") as folder:
            yield Path(folder)
    else:
        yield Machine().home / "results" / run


def protocol_markdown(results: Layout) -> str:
    """The protocol card of the labels, as YAML in a code block; a sentence where the labels carry none."""
    card = dict(read_labels(results.labels).protocol)
    if not card:
        return "The labels carry no noise protocol: they were taken as they came."
    return f"```yaml\n{yaml.safe_dump(card, sort_keys=True, allow_unicode=True)}```\n"


def plots_markdown(page: str) -> str:
    """The report's charts one below the other, those that fit."""
    parts: list[str] = []
    for plot in report_plots(page):
        part = f"### {plot.title}\n\n![{plot.title}]({plot.data_uri})\n"
        if sum(map(len, parts)) + len(part) <= MOST_PLOTS_BYTES:
            parts.append(part)
    return "\n".join(parts) or "The report has no charts."


def version_markdown(run: OpenRun, version: str, done: Mapping[str, StageDone]) -> str:
    """The commit, how to get its files, and a table of the stages."""
    rows = "\n".join(f"| {stage} | {made.how} | {made.seconds:.1f} | {made.machine} |" for stage, made in done.items())
    return (
        f"Version `{version}` on branch `runs/{run.run}` of `{run.repository}`.\n\n"
        f"    git fetch origin && git checkout {version}\n    dvc pull\n\n"
        f"| stage | how | seconds | machine |\n|---|---|---|---|\n{rows}\n"
    )


def _report_link(report: Path, name: str) -> tuple[str, str]:
    """(link, description) of the report: on this machine's disk, or where LNL_PUBLISH says that reports go.

    No presigned URL: whoever can see an artifact could read the bucket with it. Where a web server or a proxy with
    a login of its own serves that prefix, LNL_PUBLISH_URL is its address, and the link leads there.
    """
    prefix, pages = (os.environ.get(key, "").rstrip("/") for key in ("LNL_PUBLISH", "LNL_PUBLISH_URL"))
    if not prefix or not name:
        return report.resolve().as_uri(), f"On the disk of the machine that ran the flow: {report.resolve()}"
    upload(report, f"{prefix}/{name}", content_type="text/html; charset=utf-8")
    return f"{pages or prefix}/{name}", f"{prefix}/{name}"
