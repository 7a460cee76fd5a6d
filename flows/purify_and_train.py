"""The whole chain: prepare, inject, pretrain, features, purify, train, evaluate, report.

    python -m flows.purify_and_train -S run.seed=1         the last commit of this checkout, through git and DVC
    python -m flows.purify_and_train --root data           in the folder data, without them

The order and the stages are those of dvc.yaml; each is one Prefect task. Without a Prefect server of your own a
temporary one serves the run. prefect.yaml has the deployments `local`, `pools` and `scheduled`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow
from prefect.runtime import flow_run

from lnl_core.config import load_params
from lnl_core.stages.stage import check_params
from tasks.base_commit import default_repository, read_base
from tasks.first_state import emit_first_state
from tasks.graph import read_graph
from tasks.placement import INLINE, Placement
from tasks.results import show_results, show_version
from tasks.run import begin_run, drive_stages, finish_run
from tasks.stage import stage_in_place
from tasks.workspace import InPlace

DVC_YAML = Path(__file__).parents[1] / "dvc.yaml"


@flow(name="purify-and-train", persist_result=False)
async def purify_and_train(
    params: str = "params.yaml",
    root: str | None = None,
    overrides: list[str] | None = None,
    *,
    repository: str | None = None,
    revision: str = "HEAD",
    placement: str | dict[str, str] = INLINE,
) -> str | None:
    """From a noisy image set to purified labels, a robust model and a report.

    Args:
        params: the params file: a path in the repository, with `root` any path.
        root: a folder to run in, without git and DVC; one sub-folder a stage. None: through git and DVC.
        overrides: settings in the form `section.key=value`.
        repository: URL or folder of the git repository that has dvc.yaml; None: LNL_REPOSITORY or this checkout.
        revision: branch, tag or commit to run; changes that are not committed are not part of it.
        placement: where stages run: `inline` (here), `pools` (each in the work pool that it wants), or stage -> pool.

    Returns:
        The commit that is the run's version; None with `root`.
    """
    if root is not None:
        await _run_in_folder(params, Path(root), overrides or [])
        return None
    return await _run_through_dvc(params, overrides or [], repository or default_repository(), revision, placement)


async def _run_in_folder(params: str, root: Path, overrides: list[str]) -> None:
    settings = load_params(Path(params), overrides)
    check_params(settings)  # a typo in the last section is found before the first stage starts
    workspace = InPlace(params=settings, root=root)
    for stage in read_graph(DVC_YAML):
        await stage_in_place(stage.name, workspace)
    await show_results(workspace.results, "")


async def _run_through_dvc(
    params: str, overrides: list[str], repository: str, revision: str, placement: Placement
) -> str:
    await emit_first_state()
    base = await asyncio.to_thread(read_base, repository, revision, params, overrides)
    run = await begin_run(base, flow_run.id, placement)
    done = await drive_stages(run)
    version = await finish_run(run, done)
    await show_version(run, version, done)
    return version


def main(
    params: Annotated[str, typer.Option(help="the params file; a path in the repository")] = "params.yaml",
    root: Annotated[str | None, typer.Option(help="run in this folder, without git and DVC")] = None,
    override: Annotated[list[str] | None, typer.Option("-S", "--set-param", help="section.key=value")] = None,
    repository: Annotated[str | None, typer.Option(help="URL or folder of a git repository; none: this one")] = None,
    revision: Annotated[str, typer.Option(help="branch, tag or commit")] = "HEAD",
) -> None:
    """Run the flow in this process."""
    asyncio.run(purify_and_train(params, root, override, repository=repository, revision=revision))


if __name__ == "__main__":
    typer.run(main)
