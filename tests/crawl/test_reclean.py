"""A crawl that grows: three versions in a folder against cleaning everything anew, with kills between the stages.

The crawl is scikit-learn's digits in three shards with a third of the labels wrong; the encoder looks at the pixels.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, Params, load_params
from lnl_core.contracts import ContractError, Purified, read_labels, read_purified
from lnl_core.crawl import reclean as reclean_module
from lnl_core.crawl.reclean import Recleaned, read_state, reclean
from lnl_core.features.cache import FeatureCache
from lnl_core.files import file_md5
from lnl_core.layout import Layout
from lnl_core.ledger.store import Ledger
from lnl_core.stages.chain import run_chain

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHARDS = ("week-01.parquet", "week-02.parquet", "week-03.parquet")
ROWS = {"week-01.parquet": (0, 600), "week-02.parquet": (600, 850), "week-03.parquet": (850, 1100)}
TRUSTED, MORE = 150, 30  # rows of the first shard, and rows verified with the second
MARGIN = 0.7
QUICK = {"transforms": ["centre"], "ridge": [0.01, 1.0], "folds": 2, "max_steps": 4, "eac_steps": 0}
DATA = load_digits()
OBSERVED = np.where(
    np.random.default_rng(1).random(len(DATA.target)) < 0.35,
    np.random.default_rng(2).integers(10, size=len(DATA.target)),
    DATA.target,
)


def row_id(row: int) -> str:
    return f"{row * 7919 % 10007:05d}.png"  # an order that is not that of ingest


@dataclass(frozen=True)
class Crawl:
    """A crawl below a folder and the settings that clean it."""

    folder: Path

    @property
    def params(self) -> Params:
        return load_params(self.folder / "crawl.yaml")

    def arrive(self, shard: str) -> None:
        path = self.folder / "crawl" / shard
        path.parent.mkdir(exist_ok=True)
        rows = range(*ROWS[shard])
        columns = {
            "id": [row_id(row) for row in rows],
            "label": [DIGITS[OBSERVED[row]] for row in rows],
            "source": [f"site{row % 3}.org" for row in rows],
            "image": [png(DATA.images[row]) for row in rows],
        }
        pq.write_table(pa.table(columns), path)

    def verify(self, rows: range) -> None:
        path = self.folder / "trusted.csv"
        text = path.read_text(encoding="utf-8") if path.exists() else "id,label\n"
        path.write_text(text + "".join(f"{row_id(row)},{DIGITS[DATA.target[row]]}\n" for row in rows), encoding="utf-8")

    def clean(self, name: str = "run", *, margin: float = MARGIN, last: str = "purify") -> Recleaned:
        params: dict[str, Any] = dict(self.params)
        params["purify"] = {**params["purify"], "update": {"flip_margin": margin}}
        return reclean(params, self.folder / name, self.folder / f"{name}-ledger", run_chain, last=last, min_age=0.0)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def write_params(folder: Path) -> None:
    params = {
        "run": {"seed": 0, "device": "cpu", "threads": 1},
        "images": {"size": 8, "channels": 1, "flip": False},
        "prepare": {
            "dataset": "crawl",
            "crawl": {
                "path": str(folder / "crawl"),
                "class_names": list(DIGITS),
                "near_duplicates": {"enabled": False},
            },
            "trusted": {"source": "file", "file": str(folder / "trusted.csv")},
        },
        "inject": {"type": "none"},
        "pretrain": {"method": "none"},
        "features": {"encoder": "tests.pixels:encoder"},
        "purify": {"method": "ipc_ensemble", "ipc_ensemble": QUICK},
    }
    (folder / "crawl.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture
def crawl(tmp_path: Path) -> Crawl:
    write_params(tmp_path)
    found = Crawl(tmp_path)
    found.arrive(SHARDS[0])
    found.verify(range(TRUSTED))
    return found


def grow(crawl: Crawl, number: int) -> None:
    """What arrives with version `number`; rows of both shards are verified with the second."""
    if number == 2:
        crawl.arrive(SHARDS[1])
        crawl.verify(range(TRUSTED, TRUSTED + MORE))
        crawl.verify(range(600, 600 + MORE))
    if number == 3:
        crawl.arrive(SHARDS[2])


def purified(crawl: Crawl, name: str = "run") -> Purified:
    return read_purified(Layout(crawl.folder / name).purified)


@pytest.mark.slow
def test_three_versions_against_cleaning_everything_anew(crawl: Crawl) -> None:
    """With a margin of 0: the same bytes. With one: the same posteriors, and other labels only where one is held."""
    for number in (1, 2, 3):
        grow(crawl, number)
        check_version(crawl, "run", number, reused=number - 1)
        if number != 2:
            check_version(crawl, "loose", number, reused=number // 2, margin=0.0)
        if number > 1:
            crawl.clean(f"anew{number}")
            check_held(purified(crawl), purified(crawl, f"anew{number}"))
    anew, loose = Layout(crawl.folder / "anew3"), Layout(crawl.folder / "loose")
    assert loose.purified.read_bytes() == anew.purified.read_bytes()
    assert loose.kept_sums.read_bytes() == anew.kept_sums.read_bytes()
    ids = FeatureCache(Layout(crawl.folder / "run").features).ids
    assert ids.tolist() == [name for shard in SHARDS for name in sorted(map(row_id, range(*ROWS[shard])))]


def check_version(crawl: Crawl, name: str, shards: int, *, reused: int, margin: float = MARGIN) -> None:
    """Clean, and look what was encoded and summed."""
    crawl.clean(name, margin=margin)
    paths = Layout(crawl.folder / name)
    new = [ROWS[shard] for shard in SHARDS[reused:shards]]
    encoded = paths.read_metrics("features")["images_encoded"]
    assert encoded == sum(stop - start for start, stop in new), "old images are not encoded again"
    assert paths.read_metrics("purify")["sums"] == {"parts": shards, "parts_kept": reused}


def check_held(updated: Purified, anew: Purified) -> None:
    """The same posteriors; labels differ where one is held, and only as far as the margin goes."""
    assert np.array_equal(updated.ids, anew.ids)
    assert np.array_equal(updated.soft_label, anew.soft_label)
    differs = np.flatnonzero(updated.purified_label != anew.purified_label)
    assert len(differs), "some rows are near a tie"
    held = updated.soft_label[differs, updated.purified_label[differs]]
    assert (np.log(anew.soft_label.max(axis=1)[differs]) - np.log(held) <= MARGIN + 1e-6).all()


def test_churn_ledger_and_trusted_rows_of_the_second_version(crawl: Crawl) -> None:
    crawl.clean()
    before, ledger = purified(crawl), Ledger(crawl.folder / "run-ledger")
    assert ledger.runs()[-1].rows == before.changed.sum()
    grow(crawl, 2)
    crawl.clean()
    after, churn = purified(crawl), Layout(crawl.folder / "run").read_metrics("purify")["churn"]
    was = dict(zip(before.ids, before.purified_label, strict=True))
    flips = {name for name, label in zip(after.ids, after.purified_label, strict=True) if was.get(name, label) != label}
    assert churn["flips"] == len(flips) > 0
    assert churn["rows_before"] == len(before) == 600 - TRUSTED
    assert churn["rows_new"] == 250 - MORE
    assert churn["rows_now_trusted"] == MORE
    assert churn["rows_gone"] == churn["rows_with_another_observed_label"] == 0
    assert {record["source"] for record in churn["by_source"]} == {f"site{number}.org" for number in range(3)}
    by_shard = {record["shard"]: record["flips"] for record in churn["by_shard"]}
    assert by_shard == {SHARDS[0]: len(flips), SHARDS[1]: 0}
    new = set(after.ids[after.changed]) - set(was)
    assert ledger.runs()[-1].rows == len(flips) + len(new)
    trusted = {row_id(row) for row in (*range(TRUSTED + MORE), *range(600, 600 + MORE))}
    labels = read_labels(Layout(crawl.folder / "run").labels)
    assert set(labels.ids[labels.trusted]) == trusted
    assert not trusted & set(after.ids)


def test_where_nothing_is_new_nothing_is_done(crawl: Crawl) -> None:
    first = crawl.clean()
    assert (first.version, first.nothing_new, first.reasons) == (1, False, ("the first version",))
    files = {path: path.stat().st_mtime_ns for path in crawl.folder.rglob("*") if path.is_file()}
    again = crawl.clean()
    assert (again.version, again.nothing_new, again.ran) == (1, True, ())
    now = {path: path.stat().st_mtime_ns for path in crawl.folder.rglob("*") if path.is_file()}
    assert {path for path in now if now[path] != files.get(path)} <= {crawl.folder / "run" / ".lnl" / "reclean.lock"}
    crawl.verify(range(TRUSTED, TRUSTED + 1))
    assert crawl.clean().reasons == ("trusted labels",)
    assert crawl.clean(margin=1.0).reasons == ("settings",)
    grow(crawl, 3)
    found = crawl.clean(margin=1.0)
    assert found.version == 4
    assert [shard.name for shard in found.new_shards] == [SHARDS[2]]


def killed_before(stage: str, crawl: Crawl) -> None:
    """`lnl reclean` in a process that kills itself where `stage` begins."""
    code = (
        "import os, signal, sys, pathlib\n"
        "from lnl_core.stages import chain\n"
        "from tests.crawl.test_reclean import Crawl\n"
        "run = chain.run_stage\n"
        "def killing(name, *rest):\n"
        "    if name == sys.argv[2]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return run(name, *rest)\n"
        "chain.run_stage = killing\n"
        "Crawl(pathlib.Path(sys.argv[1])).clean()\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(crawl.folder), stage],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
def test_a_killed_version_goes_on_and_gives_the_same_bytes(crawl: Crawl) -> None:
    """Killed before features and before purify, with shards that arrive in between."""
    crawl.clean()
    first = file_md5(Layout(crawl.folder / "run").purified)
    grow(crawl, 2)
    killed_before("features", crawl)
    state = read_state(Layout(crawl.folder / "run"))
    assert state is not None
    assert (state.version, state.done, state.previous_md5) == (2, "", first)
    assert file_md5(Layout(crawl.folder / "run").previous.purified) == first
    grow(crawl, 3)
    killed_before("purify", crawl)
    assert file_md5(Layout(crawl.folder / "run").previous.purified) == first, "the last version is placed once"
    assert crawl.clean().version == 2
    assert len(Ledger(crawl.folder / "run-ledger").runs()) == 2

    calm = Crawl(crawl.folder / "calm")
    calm.folder.mkdir()
    write_params(calm.folder)
    calm.arrive(SHARDS[0])
    calm.verify(range(TRUSTED))
    calm.clean()
    for number in (2, 3):
        grow(calm, number)
    calm.clean()
    ours, theirs = Layout(crawl.folder / "run"), Layout(calm.folder / "run")
    assert ours.purified.read_bytes() == theirs.purified.read_bytes()
    assert ours.kept_sums.read_bytes() == theirs.kept_sums.read_bytes()


def test_a_kill_while_the_last_version_is_placed_loses_nothing(crawl: Crawl, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl.clean()
    paths = Layout(crawl.folder / "run")
    whole = paths.purified.read_bytes()
    grow(crawl, 2)
    for part in ("link_or_copy", "write_json"):
        with monkeypatch.context() as broken:
            broken.setattr(reclean_module, part, stop)
            with pytest.raises(KeyboardInterrupt):
                crawl.clean()
        assert paths.purified.read_bytes() == whole
        state = read_state(paths)
        assert state is not None
        assert (state.version, state.done) == (1, "purify")
    assert crawl.clean().version == 2
    assert paths.previous.purified.read_bytes() == whole


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_settings_for_another_dataset_are_refused(crawl: Crawl) -> None:
    with pytest.raises(ConfigError, match=r"'digits'.*set it to crawl"):
        reclean({"prepare": {"dataset": "digits"}}, crawl.folder / "run", crawl.folder / "ledger", run_chain)
    with pytest.raises(ConfigError, match="must be purify or a stage after it"):
        crawl.clean(last="features")


def test_two_calls_at_once_in_a_folder_are_refused(crawl: Crawl) -> None:
    with (
        reclean_module._alone(Layout(crawl.folder / "run")),
        pytest.raises(ConfigError, match="another `lnl reclean` is at work"),
    ):
        crawl.clean()


def test_a_broken_state_is_named(crawl: Crawl) -> None:
    (crawl.folder / "run" / ".lnl").mkdir(parents=True)
    (crawl.folder / "run" / ".lnl" / "reclean.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ContractError, match="not the state of `lnl reclean`"):
        crawl.clean()
