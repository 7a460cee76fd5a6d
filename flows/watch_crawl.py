"""Looks for new shards and reports them by the event `lnl.crawl.new-shards`, which starts `reclean/weekly`.

    python -m flows.watch_crawl --crawl s3://bucket/crawl --store s3://bucket/versions

It lists the prefix and hashes only what is new. The same shards are reported once, and none while a re-cleaning runs:
what then still is new is reported the next time.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.reclean import MIN_AGE
from tasks.base_commit import default_repository, read_base
from tasks.crawl_event import emit_once, find_new, is_cleaning


@flow(name="watch-crawl", persist_result=False)
async def watch_crawl(
    crawl: str | None = None,
    params: str = "params.yaml",
    overrides: list[str] | None = None,
    *,
    repository: str | None = None,
    revision: str = "HEAD",
    store: str | None = None,
    min_age: float = MIN_AGE,
) -> State[str]:
    """Report new shards.

    Args:
        crawl, params, overrides, repository, revision, store, min_age: as in the flow reclean.

    Returns:
        A completed state: NothingNew, Cleaning, ReportedBefore or Reported.
    """
    settings = [*(overrides or []), *([f"prepare.crawl.path={crawl}"] if crawl else [])]
    base = await asyncio.to_thread(read_base, repository or default_repository(), revision, params, settings)
    found = await find_new(base, store, min_age)
    if not found.shards:
        return Completed(name="NothingNew", message=f"no new shards below {found.path}")
    if await is_cleaning():
        return Completed(name="Cleaning", message="a re-cleaning runs; it or the next look will see them")
    reported = await emit_once(found)
    return Completed(
        name="Reported" if reported else "ReportedBefore", message=f"{len(found.shards)} new shards below {found.path}"
    )


def main(
    crawl: Annotated[str | None, typer.Option(help="folder or s3://bucket/prefix; none: that of the params")] = None,
    params: Annotated[str, typer.Option(help="the params file, a path in the repository")] = "params.yaml",
    store: Annotated[str | None, typer.Option(help="the versions; none: LNL_VERSIONS, else `versions`")] = None,
) -> None:
    """Run the flow in this process."""
    asyncio.run(watch_crawl(crawl, params, store=store))


if __name__ == "__main__":
    typer.run(main)
