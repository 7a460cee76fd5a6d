"""The noise protocol as it shows in Prefect."""

from pathlib import Path

import numpy as np

from lnl_core.contracts import Labels, write_labels
from lnl_core.layout import Layout
from tasks.results import protocol_markdown


def labels(protocol: dict[str, object]) -> Labels:
    return Labels(
        ids=np.array(["a", "b"], dtype=object),
        label=np.array([0, 1], dtype=np.int32),
        observed_label=np.array([0, 1], dtype=np.int32),
        trusted=np.array([False, False]),
        split=np.array(["train", "train"], dtype=object),
        class_names=("cat", "dog"),
        protocol=protocol,
    )


def test_protocol_card_is_shown(tmp_path: Path) -> None:
    results = Layout(tmp_path)
    write_labels(results.labels, labels({"type": "symmetric", "realised_rate": 0.6}))
    assert protocol_markdown(results) == "```yaml\nrealised_rate: 0.6\ntype: symmetric\n```\n"


def test_labels_without_a_card_say_so(tmp_path: Path) -> None:
    results = Layout(tmp_path)
    write_labels(results.labels, labels({}))
    assert "no noise protocol" in protocol_markdown(results)
