"""The next version of a growing crawl: what is new is added, and takes the place of the promoted version if it may.

    python -m flows.reclean --crawl s3://bucket/crawl --store s3://bucket/versions

    look for news -> open run -> the stages of dvc.yaml -> close run -> register -> promote, or say why not

Where nothing is new (shards, tables of labels, settings, code), it ends at once. prefect.yaml has the deployment
`weekly`, which also starts when `watch-crawl` has seen new shards.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

import typer
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.base_commit import BaseCommit, default_repository, read_base
from tasks.churn_artifact import show_churn
from tasks.crawl_news import News, default_store, look_for_news, previous_of, registered
from tasks.first_state import emit_first_state
from tasks.machine import Machine
from tasks.placement import INLINE, Placement
from tasks.promote import gate_and_promote, register_version
from tasks.results import show_version
from tasks.run import begin_run, drive_stages, finish_run

MIN_AGE = 600.0  # seconds; a shard whose files are younger may still be growing


@flow(name="reclean", persist_result=False)
async def reclean(
    crawl: str | None = None,
    params: str = "params.yaml",
    overrides: list[str] | None = None,
    *,
    repository: str | None = None,
    revision: str = "HEAD",
    placement: str | dict[str, str] = INLINE,
    store: str | None = None,
    ledger: str | None = None,
    gate: dict[str, Any] | None = None,
    min_age: float = MIN_AGE,
    force: bool = False,
) -> State[str]:
    """Clean a crawl again.

    Args:
        crawl: folder or s3://bucket/prefix of the crawl; None: `prepare.crawl.path` of the params.
        params: the params file, a path in the repository; `prepare.dataset` must be crawl.
        overrides: settings in the form `section.key=value`.
        repository: URL or folder of the git repository that has dvc.yaml; None: LNL_REPOSITORY or this checkout.
        revision: branch, tag or commit whose code and params are run.
        placement: where stages run, as in purify-and-train.
        store: the versions, a folder or s3://bucket/prefix; None: LNL_VERSIONS, else `versions`.
        ledger: label ledger that the labels of promoted versions are committed to; None: LNL_LEDGER, else none.
        gate: settings of the promotion gate (docs/versions.md), e.g. {"tolerance": 0.01}.
        min_age: seconds; shards with a younger file wait for the next time.
        force: run even if nothing is new.

    Returns:
        A completed state: NothingNew, Promoted or NotPromoted; its message says why.
    """
    await emit_first_state()
    where = store or default_store()
    number = await asyncio.to_thread(registered, where, flow_run.id)
    if number is None:
        settings = [*(overrides or []), *([f"prepare.crawl.path={crawl}"] if crawl else [])]
        base = await asyncio.to_thread(read_base, repository or default_repository(), revision, params, settings)
        news = await look_for_news(base, where, min_age)
        if not news.reasons and not force:
            return Completed(name="NothingNew", message="no new shards, tables of labels, settings or code")
        number = await _new_version(replace(base, params=news.params), news, placement, where, gate)
    home = repository or default_repository()
    return await gate_and_promote(where, number, repository=home, ledger=ledger, gate=gate)


async def _new_version(
    base: BaseCommit, news: News, placement: Placement, store: str, gate: dict[str, Any] | None
) -> int:
    run = await begin_run(base, flow_run.id, placement, files=news.files)
    run = replace(run, previous=await asyncio.to_thread(previous_of, run.repository, run.revision, Machine()))
    done = await drive_stages(run)
    version = await finish_run(run, done, f"Clean again: {', '.join(news.reasons)}")
    await show_version(run, version, done)
    await show_churn(done["purify"].metrics)
    return await register_version(store, run, version, gate)


def main(
    crawl: Annotated[str | None, typer.Option(help="folder or s3://bucket/prefix; none: that of the params")] = None,
    params: Annotated[str, typer.Option(help="the params file, a path in the repository")] = "params.yaml",
    override: Annotated[list[str] | None, typer.Option("-S", "--set-param", help="section.key=value")] = None,
    repository: Annotated[str | None, typer.Option(help="URL or folder of a git repository; none: this one")] = None,
    revision: Annotated[str, typer.Option(help="branch, tag or commit")] = "HEAD",
    store: Annotated[str | None, typer.Option(help="the versions; none: LNL_VERSIONS, else `versions`")] = None,
    ledger: Annotated[str | None, typer.Option(help="label ledger; none: LNL_LEDGER, else none")] = None,
    min_age: Annotated[float, typer.Option(help="seconds; younger shards wait for the next time")] = MIN_AGE,
    force: Annotated[bool, typer.Option(help="run even if nothing is new")] = False,
) -> None:
    """Run the flow in this process."""
    asyncio.run(
        reclean(
            crawl,
            params,
            override,
            repository=repository,
            revision=revision,
            store=store,
            ledger=ledger,
            min_age=min_age,
            force=force,
        )
    )


if __name__ == "__main__":
    typer.run(main)
