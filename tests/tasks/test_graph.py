"""The order that the flow takes from dvc.yaml."""

from pathlib import Path

import pytest

from tasks.graph import read_graph

DIAMOND = """
stages:
  last: {cmd: d, deps: [b.out, c.json], outs: [d.out], meta: {pool: gpu}}
  left: {cmd: b, deps: [a.out, "code/${x.method}.py"], outs: [{b.out: {cache: false}}]}
  right: {cmd: c, deps: [a.out], metrics: [c.json]}
  first: {cmd: a, outs: [a.out]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "dvc.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_stage_comes_after_those_it_reads_from(tmp_path: Path) -> None:
    nodes = read_graph(write(tmp_path, DIAMOND))
    names = [node.name for node in nodes]
    assert names[0] == "first"
    assert names[-1] == "last"
    assert sorted(names[1:3]) == ["left", "right"]
    assert nodes[-1].after == {"left", "right"}
    assert [node.pool for node in nodes] == ["cpu", "cpu", "cpu", "gpu"]


def test_a_circle_is_named(tmp_path: Path) -> None:
    text = "stages: {a: {cmd: a, deps: [b], outs: [a]}, b: {cmd: b, deps: [a], outs: [b]}}"
    with pytest.raises(ValueError, match=r"dvc\.yaml: .*in a circle: (a -> b|b -> a)"):
        read_graph(write(tmp_path, text))


def test_a_file_without_stages_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dvc\.yaml: no stages"):
        read_graph(write(tmp_path, "plots: []"))
