"""A stage's metrics as rows of a table."""

from tasks.stage_artifacts import flat


def test_nested_metrics_get_dotted_names_and_short_numbers() -> None:
    metrics = {"rows": 12, "labels": {"right": 0.98765432, "by_class": [1, 2]}, "missing": None}
    assert list(flat(metrics)) == [("rows", "12"), ("labels.right", "0.9877")]
