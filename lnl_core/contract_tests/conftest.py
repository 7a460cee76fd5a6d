"""For `lnl check-plugin`: only what runs on the method that it names."""

from __future__ import annotations

import os

import pytest

from lnl_core.contract_tests.under_test import REFERENCE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reference = os.environ.get(REFERENCE)
    if reference:
        items[:] = [item for item in items if reference in getattr(item, "callspec", _NoParameters).params.values()]


class _NoParameters:
    params: dict[str, object] = {}  # noqa: RUF012 - nobody writes to it
