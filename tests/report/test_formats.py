"""Numbers as people read them."""

from __future__ import annotations

import pytest

from lnl_core.report.formats import NONE, count, duration, percent, plain


def test_percent_never_breaks_from_its_unit() -> None:
    assert percent(0.97312) == "97.3\u00a0%"
    assert percent(None) == NONE


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.423, "0.42 s"), (12.34, "12.3 s"), (59.96, "1 min 00 s"), (245.0, "4 min 05 s"), (7800.0, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_any_value_is_a_short_text() -> None:
    assert plain({"a": 1, "b": [True, None, 0.12345]}) == "a 1, b yes, —, 0.1235"
    assert plain([]) == NONE
    assert count(1234567) == "1,234,567"
