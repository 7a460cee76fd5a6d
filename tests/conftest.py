"""Shapes in signatures are checked in every test run; tests of servers are marked; what takes longest starts first."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("lnl_core", "beartype.beartype")

pytest_plugins = ["dev.pytest_servers"]
SERVERS = {"seaweed", "prefect_server", "cluster"}  # fixtures that start one, or several
CONTRACT_MINUTES, SLOW_MINUTES, SERVER_MINUTES = 1, 0.5, 0.1  # of a file; a mark may say otherwise


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take files in this order (`--no-loadscope-reorder`): with a long one at the end the others would idle."""
    minutes: defaultdict[str, float] = defaultdict(float)
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if "contract_tests" in item.path.parts:  # they train dozens of networks, and are shipped without this marker
            item.add_marker(pytest.mark.slow(minutes=CONTRACT_MINUTES))
        slow, server = item.get_closest_marker("slow"), item.get_closest_marker("server")
        if slow or server:
            expected = slow.kwargs.get("minutes", SLOW_MINUTES) if slow else SERVER_MINUTES
            minutes[file_of(item)] = max(minutes[file_of(item)], expected)
    items.sort(key=lambda item: -minutes[file_of(item)])


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Flows and commands set up the project's log; the next test of this process finds it as this one did."""
    log = logging.getLogger("lnl")
    before = log.level, log.propagate, log.disabled, log.handlers[:]
    yield
    log.level, log.propagate, log.disabled, log.handlers[:] = before
    log.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """A stage takes all cores where its settings do not say; the workers of the next tests would fight for them."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        from lnl_core.runtime import use_threads  # after the import hook

        use_threads(before)
