"""A stage run in place leaves its files below the root and nothing else."""

from pathlib import Path

from lnl_core.contracts import read_labels
from lnl_core.files import read_json
from tasks.workspace import InPlace


def test_in_place_runs_a_stage_below_its_root(tmp_path: Path) -> None:
    params = {"prepare": {"dataset": "digits"}, "run": {"seed": 3, "threads": 1}}
    workspace = InPlace(params=params, root=tmp_path)
    metrics = workspace.run("prepare")
    assert len(read_labels(workspace.results.source_labels)) == 1797
    assert read_json(workspace.results.metrics("prepare")) == {"prepare": metrics}
