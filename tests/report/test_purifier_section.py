"""What the page says of routes, of the noise, and of compared candidates."""

from __future__ import annotations

from typing import Any

from lnl_core.report.advice import advise
from lnl_core.report.page import _noise_lines
from lnl_core.report.purifier_section import comparison
from lnl_core.report.summary_section import routes
from tests.report.sources import sources

ROUTES: dict[str, Any] = {
    "routes": {"keep": 60, "relabel": 30, "review": 10},
    "max_wrong_changes": 0.05,
    "promise_confidence": 0.9,
    "promise_kept_from": 0.8125,
    "promise_refused": None,
    "calibration_rows": 1200,
}
REFUSED = {**ROUTES, "routes": {"keep": 60, "relabel": 0, "review": 40}, "promise_refused": "there are 7 trusted rows"}


def test_routes_are_shown_only_where_something_was_promised() -> None:
    assert routes({}) is None
    assert routes({**ROUTES, "max_wrong_changes": None}) is None


def test_routes_say_what_is_promised_and_on_what_it_was_tested() -> None:
    found = routes(ROUTES)
    assert found is not None
    text = found["text"].replace("\u00a0", " ")
    assert text.startswith("At most 5.0 % of the applied changes are wrong, with 90 % confidence; tested on 1,200")
    assert [part["share"] for part in found["shares"]] == [0.6, 0.3, 0.1]


def test_a_refused_promise_gives_its_reason() -> None:
    found = routes(REFUSED)
    assert found is not None
    assert "cannot be promised: there are 7 trusted rows" in found["text"]
    advice = advise({"purify": REFUSED, "evaluate": {"labels": {}}}, [], {})
    assert any(item.title == "No label was changed" and "7 trusted rows" in item.text for item in advice)


def test_what_is_left_to_review_is_something_to_do() -> None:
    advice = advise({"purify": ROUTES, "evaluate": {"labels": {}}}, [], {})
    assert any(item.kind == "do" and item.title == "Review 10 proposed changes" for item in advice)


def test_neighbours_speak_of_the_noise_where_no_trusted_rows_do() -> None:
    estimate = {"source": "hoc", "rate": 0.4, "rate_low": 0.38, "rate_high": 0.42}
    lines = dict(_noise_lines(sources(purify={"noise_estimate": estimate})))
    assert lines["agreement of neighbours says"].replace("\u00a0", " ") == "40.0 % (95 % interval 38.0 % to 42.0 %)"
    counted = dict(_noise_lines(sources(purify={"noise_estimate": {**estimate, "source": "trusted"}})))
    assert "agreement of neighbours says" not in counted


def test_a_table_begins_with_what_names_a_row_and_ends_with_seconds() -> None:
    records = [{"right": 0.9, "seconds": 3.0, "method": "knn"}, {"right": 0.8, "seconds": 1.0, "method": "none"}]
    found = comparison("candidates", records, {"method": "none"})
    assert found["columns"] == [("method", True), ("right", False), ("seconds", False)]
    assert [row["chosen"] for row in found["rows"]] == [False, True]
    assert found["rows"][0]["cells"][0] == ("knn", True)
