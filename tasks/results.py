"""What a finished run shows in Prefect: the summary table, the noise protocol and a link to the report."""

from __future__ import annotations

import yaml
from prefect import task
from prefect.artifacts import acreate_link_artifact, acreate_markdown_artifact, acreate_table_artifact
from prefect.cache_policies import NO_CACHE

from lnl_core.contracts import read_labels
from lnl_core.report.summary import summary_table
from lnl_core.stages.layout import Layout
from tasks.workspace import Workspace


@task(task_run_name="show results", cache_policy=NO_CACHE, persist_result=False)
async def show_results(workspace: Workspace) -> None:
    """Three artifacts: `summary` (table), `noise-protocol` (markdown), `report` (link to the HTML file)."""
    results = workspace.results
    table = [{"what": label, "value": value} for label, value in summary_table(results)]
    await acreate_table_artifact(key="summary", table=table, description="What the run achieved")
    await acreate_markdown_artifact(key="noise-protocol", markdown=protocol_markdown(results))
    await acreate_link_artifact(key="report", link=results.report.resolve().as_uri(), link_text="HTML report")


def protocol_markdown(results: Layout) -> str:
    """The protocol card of the labels, as YAML in a code block; a sentence where the labels carry none."""
    card = dict(read_labels(results.labels).protocol)
    if not card:
        return "The labels carry no noise protocol: they were taken as they came."
    return f"```yaml\n{yaml.safe_dump(card, sort_keys=True, allow_unicode=True)}```\n"
