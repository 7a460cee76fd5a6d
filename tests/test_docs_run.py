"""The blocks of the documents that a minute suffices for, run in a folder of their own.

The others: test_readme.py has README's commands, test_contributing.py the examples of docs/add-a-method.md.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from lnl_core.bench import cells as bench_cells
from lnl_core.cli.app import app
from lnl_core.config import load_preset
from lnl_core.contracts import Purified, read_labels, read_truth, string_ids, write_purified
from lnl_core.layout import Layout
from lnl_core.stages.chain import run_chain
from tests.docs_blocks import REPOSITORY, Block, blocks, commands, read

QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))
STORY = read("docs/how-it-works.md")


def block_with(page: str, text: str) -> Block:
    [block] = [block for block in blocks(page) if text in block.text]
    return block


def lnl(words: list[str]) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.output


@pytest.fixture(scope="module")
def digits() -> dict[str, Any]:
    """What the Python blocks take for granted: features, labels of which 40 % are wrong, a few verified rows."""
    features, true_label = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(true_label))[:600]
    features, true_label = features[order].astype(np.float32), true_label[order]
    wrong = generator.random(len(order)) < 0.4
    labels = np.where(wrong, (true_label + generator.integers(1, 10, len(order))) % 10, true_label)
    rows = np.arange(100)
    return {
        "features": features,
        "labels": labels,
        "rows": rows,
        "verified": true_label[rows],
        "new": features[:5],
        "true_label": true_label,
    }


def test_the_estimator_block(digits: dict[str, Any]) -> None:
    """The same in README and on the page; the labels get better."""
    block = block_with("docs/estimators.md", "IPCEnsemble")
    assert block.text == block_with("README.md", "IPCEnsemble().fit").text
    names = dict(digits)
    exec(compile(block.text, str(block), "exec"), names)
    assert np.mean(names["purifier"].labels_ == digits["true_label"]) > 0.85


def test_the_bench_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cells are made and its table is written; tests/bench runs cells."""
    given = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_cells, "run_cells", lambda cells, out: given.append((list(cells), out)) or [])
    block = block_with("docs/benchmarks.md", "grid_cells")
    exec(compile(block.text, str(block), "exec"), {})
    assert len(given[0][0]) == 2 * 2 * 3  # noises, methods, seeds
    assert given[0][1] == Path("bench")
    assert capsys.readouterr().out


def test_purify_tables_as_own_data_says(
    digits: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [f"image {row}" for row in range(len(digits["labels"]))]
    pq.write_table(pa.table({"id": ids, "feature": list(digits["features"])}), "features.parquet")
    pa_csv.write_csv(pa.table({"id": ids, "label": digits["labels"]}), "labels.csv")
    pa_csv.write_csv(pa.table({"id": ids[:100], "label": digits["verified"]}), "trusted.csv")
    [words] = commands(block_with("docs/own-data.md", "lnl purify").text)
    ridge = ["-S", "ridge=0.1"]  # some pixels are always blank, which has no inverse
    lnl([*words[1:], *ridge])
    found = pq.read_table("purified.parquet")
    [columns] = re.findall(r"`purified.parquet` has (.*?)\n\n|\Z", read("docs/own-data.md"), flags=re.DOTALL)[:1]
    assert set(found.column_names) <= set(re.findall(r"`(\w+)`", columns))
    assert len(found) == 500


def purified(label: list[int], new: list[int]) -> Purified:
    return Purified(
        ids=string_ids(["cat/0007.png", "cat/0008.png", "dog/0001.png"]),
        label=np.array(label, dtype=np.int32),
        purified_label=np.array(new, dtype=np.int32),
        confidence=np.full(3, 0.9, dtype=np.float32),
        soft_label=np.eye(2, dtype=np.float32)[new],
        class_names=("cat", "dog"),
        about={"method": "knn", "settings": {}, "seed": 0, "version": "0"},
    )


def test_the_ledger_commands_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After four runs, so that 3 and 5 are two of them."""
    monkeypatch.chdir(tmp_path)
    for new in ([1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]):
        write_purified(Path("purified.parquet"), purified([0, 0, 1], new))
        lnl(["labels", "commit", "purified.parquet"])
    write_purified(Path("purified.parquet"), purified([0, 0, 1], [1, 1, 0]))
    pa_csv.write_csv(
        pa.table({"id": ["cat/0007.png", "cat/0008.png", "dog/0001.png"], "label": ["cat", "cat", "dog"]}), "labels.csv"
    )
    for name in ("cat/0007.png", "cat/0008.png", "dog/0001.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"an image")
    printed = {}
    for words in commands(block_with("docs/labels.md", "lnl labels commit").text):
        printed[words[2]] = lnl(words[1:])
    assert "appended, 1 changes of 3 rows" in printed["commit"]
    assert printed["history"].count("cat") > 0
    assert pa_csv.read_csv("current.csv").num_rows == 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `demo` is a short run of the demo, up to purified labels; its noise is that of `lnl demo`."""
    folder = tmp_path_factory.mktemp("story")
    run_chain(load_preset("digits", QUICK), Layout(folder / "demo"), last="purify")
    return folder


def test_the_story_is_that_of_its_row(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not depend on the machine: the file, the image, the noise."""
    monkeypatch.chdir(demo)
    exec(compile(block_with("docs/how-it-works.md", "pq.read_table").text, "how-it-works.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "prepare/truth [{'id': 'digit-0003', 'true_label': 3}]" in printed
    for table, label in (("prepare", 3), ("inject", 4)):
        assert f"{table}/labels [{{'id': 'digit-0003', 'label': {label}, 'observed_label': {label}" in printed
    assert "purify/purified [{'id': 'digit-0003', 'label': 4, 'purified_label':" in printed

    [row] = pq.read_table("demo/prepare/images/part-00000.parquet", filters=[("id", "==", "digit-0003")]).to_pylist()
    assert f"the {len(row['image'])} bytes of the PNG" in STORY
    assert f"(`{row['sha256'][:12]}...`)" in STORY
    pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
    drawn = ["".join(2 * " .:+#"[value // 52] for value in line).rstrip() for line in pixels]
    assert [line.rstrip() for line in block_with("docs/how-it-works.md", "##++").text.splitlines()] == drawn


def test_the_story_counts_the_noise(demo: Path) -> None:
    labels = read_labels(demo / "demo/inject/labels.parquet")
    truth = read_truth(demo / "demo/prepare/truth.parquet")
    true = dict(zip(truth.ids, truth.true_label, strict=True))
    noisy = [
        (true[name], label)
        for name, label, trusted, split in zip(
            labels.ids, labels.observed_label, labels.trusted, labels.split, strict=True
        )
        if split == "train" and not trusted
    ]
    wrong = sum(first != second for first, second in noisy)
    assert f"of the {len(noisy):,} rows" in STORY
    assert f"{wrong} have a wrong label, {wrong / len(noisy):.2%}".replace("%", " %") in STORY
    threes = [label for first, label in noisy if first == 3]
    assert f"of the {len(threes)} threes among them {threes.count(4)} are fours" in STORY
