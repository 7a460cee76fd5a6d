"""The whole chain: prepare, inject, pretrain, features, purify, train, evaluate, report.

    python -m flows.purify_and_train --params params.yaml --root data -S run.seed=1

The order and the stages are those of dvc.yaml; each is one Prefect task. Without a Prefect server of your own a
temporary one serves the run. `prefect deploy --all` makes the deployment `purify-and-train/local`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from lnl_core.config import load_params
from lnl_core.stages.stage import check_params
from tasks.graph import read_graph
from tasks.results import show_results
from tasks.stage import stage_task
from tasks.workspace import InPlace

DVC_YAML = Path(__file__).parents[1] / "dvc.yaml"


@flow(name="purify-and-train", flow_run_name="{params} in {root}", persist_result=False)
async def purify_and_train(params: str = "params.yaml", root: str = "data", overrides: list[str] | None = None) -> None:
    """From a noisy image set to purified labels, a robust model and a report.

    Args:
        params: the params file.
        root: folder of the run's files, one sub-folder a stage.
        overrides: settings in the form `section.key=value`.
    """
    settings = load_params(Path(params), overrides or [])
    check_params(settings)  # a typo in the last section is found before the first stage starts
    workspace = InPlace(params=settings, root=Path(root))
    for stage in read_graph(DVC_YAML):
        await stage_task(stage.name, workspace)
    await show_results(workspace)


def main(
    params: Annotated[Path, typer.Option(help="the params file")] = Path("params.yaml"),
    root: Annotated[Path, typer.Option(help="folder of the run's files")] = Path("data"),
    override: Annotated[list[str] | None, typer.Option("-S", "--set-param", help="section.key=value")] = None,
) -> None:
    """Run the flow in this process."""
    asyncio.run(purify_and_train(str(params), str(root), override))


if __name__ == "__main__":
    typer.run(main)
