"""What had another name up to version 0.1.0: old settings are refused with the new one, old files are still read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from lnl_core import renamed
from lnl_core.cli.app import app
from lnl_core.config import ConfigError, load_params
from lnl_core.contracts import read_labels, read_purified
from lnl_core.crawl.reclean import reclean
from lnl_core.layout import Layout
from lnl_core.ledger.store import Ledger
from lnl_core.stages.chain import run_chain
from lnl_core.stages.stage import check_params
from lnl_core.training.training_trace import read_trace
from lnl_core.versions.store import VersionStore

REPOSITORY = Path(__file__).parents[1]
OLD = Path(__file__).parent / "fixtures" / "before_renaming"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the code before the renaming wrote, as the working directory."""
    folder = tmp_path / "old"
    shutil.copytree(OLD, folder)
    (folder / "run" / ".lnl").mkdir()
    (folder / "state" / "reclean.json").rename(folder / "run" / ".lnl" / "reclean.json")
    monkeypatch.chdir(folder)
    return folder


def lnl(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def nested(key: str, value: object) -> dict[str, object]:
    """`a.b.c` -> {a: {b: {c: value}}}."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


@pytest.mark.parametrize(("before", "now"), renamed.SETTINGS.items())
def test_an_old_setting_is_refused_with_its_new_name(before: str, now: str) -> None:
    with pytest.raises(ConfigError, match=rf"{before}: this setting is called {now} now"):
        check_params(nested(before, 1))


@pytest.mark.parametrize("method", ["cdr", "co_teaching", "divide_mix", "pro_mix"])
def test_an_old_mode_is_refused_with_its_new_name(method: str) -> None:
    with pytest.raises(ConfigError, match=rf"train.{method}.mode = 'reference': is now written 'released'"):
        check_params(nested(f"train.{method}.mode", "reference"))


def test_the_old_modes_of_dmlp_are_refused_with_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"purify.dmlp.mode = 'fixed': is now written 'purify.method: ipc_ensemble'"):
        check_params(nested("purify.dmlp.mode", "fixed"))
    with pytest.raises(ConfigError, match=r"purify.emlc.mode = 'reference': is now written 'released'"):
        check_params(nested("purify.emlc.mode", "reference"))


def test_an_old_option_of_the_command_is_refused_with_its_new_name(old: Path) -> None:
    features, labels = str(old / "run" / "features" / "parts"), str(old / "run" / "inject" / "labels.parquet")
    arguments = ["--features", features, "--labels", labels, "--out", "out.parquet", "--method", "dmlp"]
    done = CliRunner().invoke(app, ["purify", *arguments, "-S", "mode=fixed"])
    assert str(done.exception) == "dmlp.mode = 'fixed': is now written 'purify.method: ipc_ensemble'"
    done = CliRunner().invoke(app, ["purify", *arguments, "-S", "folds=2"])
    assert isinstance(done.exception, ConfigError)
    assert "dmlp.folds: this setting is called purify.ipc_ensemble.folds now" in str(done.exception)


def test_every_old_name_stands_in_the_changelog() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").partition("### Renamed")[2].partition("\n## ")[0]
    names = [*renamed.SETTINGS, *renamed.METRICS, *renamed.COLUMNS, *renamed.VERSION_FIELDS]
    names += [value for _, value in renamed.VALUES]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_new_keys_at_any_depth() -> None:
    assert renamed.with_new_keys({"voices": [{"voice": "IPC", "weight": 1.0}]}) == {
        "members": [{"member": "IPC", "weight": 1.0}]
    }
    classes = {"trusted_per_class": {"voice": 3}, "rows_by_source": {"answer": 2}}
    assert renamed.with_new_keys(classes) == classes


def test_an_old_run_is_reported(old: Path) -> None:
    """Metrics, plots and trace are read under their old names."""
    paths = Layout(old / "run")
    assert "nominal_rate" in read_labels(paths.labels).protocol
    assert {"member", "weight"} <= paths.read_metrics("purify")["members"][0].keys()
    assert read_trace(next(iter(sorted(paths.train_trace.glob("*.parquet"))))).predicted is not None
    lnl("report", "--root", "run")
    page = paths.report.read_text(encoding="utf-8")
    assert "divide_mix" in page.lower() or "DivideMix" in page


def test_an_old_ledger_and_old_versions_are_read(old: Path) -> None:
    assert [run.name for run in Ledger(old / "ledger").runs()] == ["000001-dmlp"]
    assert "000001-dmlp" in lnl("labels", "list", "--ledger", "ledger")
    assert VersionStore.open("versions").version(2).gate_decision["outcome"] == "undecided"
    listed = lnl("versions", "list", "--store", "versions").splitlines()
    assert [line.split()[0] for line in listed if line.split()[0] in ("1", "2", "*")] == ["1", "*"]
    shown = lnl("versions", "show", "2", "--store", "versions", "--against", "1")
    assert "with fewer than 100 hardly any loss could be seen" in shown


def test_an_old_model_predicts(old: Path) -> None:
    lnl("predict", "--model", "run/train/model/best", "--images", "week-03.parquet", "--out", "predicted.csv")
    assert len((old / "predicted.csv").read_text(encoding="utf-8").splitlines()) == 81


def test_an_old_crawl_is_cleaned_again_on_its_old_decisions(old: Path) -> None:
    """Its settings are refused first; with the new names the next version builds on the last one."""
    with pytest.raises(ConfigError, match=r"purify.dmlp.transforms: this setting is called purify.ipc_ensemble"):
        check_params(load_params(old / "crawl.yaml"))
    params = yaml.safe_load((old / "crawl.yaml").read_text(encoding="utf-8"))
    params["purify"] |= {"method": "ipc_ensemble", "ipc_ensemble": params["purify"].pop("dmlp")}
    before = read_purified(Layout(old / "run").purified)
    shutil.move(old / "week-03.parquet", old / "shards" / "week-03.parquet")
    done = reclean(params, old / "run", old / "ledger", run_chain, last="purify", min_age=0.0)
    assert (done.version, [shard.name for shard in done.new_shards]) == (3, ["week-03.parquet"])
    assert Layout(old / "run").read_metrics("features")["images_encoded"] == 80
    churn = Layout(old / "run").read_metrics("purify")["churn"]
    assert churn["compared"] == churn["rows_before"] == len(before)
    assert churn["rows_new"] == 80
    after = read_purified(Layout(old / "run").purified)
    same = dict(zip(before.ids, before.purified_label, strict=True))
    kept = [same[name] == label for name, label in zip(after.ids, after.purified_label, strict=True) if name in same]
    assert sum(kept) / len(kept) > 0.9
    assert len(Ledger(old / "ledger").runs()) == 2
    assert pq.read_metadata(old / "ledger" / "part-000002.parquet").num_rows > 0
