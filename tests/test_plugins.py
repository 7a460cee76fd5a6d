"""Methods outside the package: by `module:function` in a settings file or a command, and by entry point."""

from __future__ import annotations

import importlib
import json
import linecache
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lnl_core import catalogue, plugins
from lnl_core import registry as registry_module
from lnl_core.config import ConfigError, Settings, load_preset
from lnl_core.datasets import DATASETS
from lnl_core.estimators import Purifier
from lnl_core.layout import Layout
from lnl_core.noise import NOISE_TYPES
from lnl_core.purify import PURIFIERS
from lnl_core.registry import PURIFIER
from lnl_core.stages.chain import run_chain
from lnl_core.stages.stage import check_params, stage_named
from lnl_core.train import TRAINERS

MODULE = """
import numpy as np
from pydantic import Field
from lnl_core.config import Settings
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseConfig
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import Purification

class SharpConfig(Settings):
    sharp: float = Field(default=0.9, gt=0, lt=1)

@PURIFIERS.register("believer", config=SharpConfig, summary="believes the observed labels")
def believe(task, config, generator):
    rest = (1 - config.sharp) / (task.classes - 1)
    posterior = np.full((len(task.observed), task.classes), rest, dtype=np.float32)
    posterior[np.arange(len(posterior)), task.observed] = config.sharp
    return Purification(posterior=posterior, metrics={"sharp": config.sharp})

class ShiftConfig(NoiseConfig):
    pass

@NOISE_TYPES.register("shift", config=ShiftConfig, summary="every label is the next one")
def shift(source, config, generator):
    return ((source.true_label + 1) % len(source.class_names)).astype(np.int32)

def stranger(task, config, generator):
    return None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the current folder, which is not on the path; forgotten afterwards."""
    (tmp_path / "own_methods.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "own_methods"
    forget()


def forget() -> None:
    """As a new process has it."""
    sys.modules.pop("own_methods", None)
    linecache.checkcache()
    importlib.invalidate_caches()
    for registry, name in ((PURIFIERS, "believer"), (NOISE_TYPES, "shift")):
        registry._entries.pop(name, None)


@pytest.fixture
def entry_point(module: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same method as an installed package would offer it."""
    points = {
        "believer": EntryPoint(name="believer", value=f"{module}:believe", group=PURIFIER.group),
        "broken": EntryPoint(name="broken", value="no_such_module:f", group=PURIFIER.group),
    }
    for place in (registry_module, catalogue):
        monkeypatch.setattr(place, "entry_points_of", lambda group: points if group == PURIFIER.group else {})
    return "believer"


def test_a_reference_is_a_method_with_settings_of_its_own(module: str) -> None:
    settings = stage_named("purify").settings({"method": f"{module}:believe", "believe": {"sharp": 0.8}})
    assert settings.model_dump()["method"] == f"{module}:believe"
    assert settings.model_dump()["options"][f"{module}:believe"] == {"sharp": 0.8}
    with pytest.raises(ConfigError, match=r"purify\.believe\.sharp = 2"):
        check_params({"purify": {"method": f"{module}:believe", "believe": {"sharp": 2}}})
    with pytest.raises(ConfigError, match=r"purify\.believe\.sharpp: unknown setting; did you mean 'sharp'"):
        check_params({"purify": {"method": f"{module}:believe", "believe": {"sharpp": 0.5}}})


@pytest.mark.parametrize(
    ("section", "field", "named", "message"),
    [
        ("purify", "method", "no_such_module:f", "No module named 'no_such_module'.*on PYTHONPATH or in this folder"),
        ("purify", "method", "own_methods:beleive", "has no attribute 'beleive'"),
        ("purify", "method", "own_methods:stranger", "no registered purifier; decorate it"),
        ("purify", "method", "own_methods:shift", "no registered purifier; decorate it"),
        ("train", "method", "own_methods:believe", "no registered training method; decorate it"),
        ("inject", "type", "own_methods:believe", "no registered noise type; decorate it"),
        ("prepare", "dataset", "own_methods:believe", "no registered dataset; decorate it"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_no_method_is_refused_before_any_stage_starts(
    section: str, field: str, named: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{field} = '{named}': .*{message}"):
        check_params({section: {field: named}})


@pytest.mark.usefixtures("module")
def test_a_module_that_fails_while_it_is_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"purify\.method = 'broken_module:f': ZeroDivisionError"):
        check_params({"purify": {"method": "broken_module:f"}})


@pytest.mark.usefixtures("module")
def test_a_run_with_methods_of_ones_own_and_again_after_an_edit(tmp_path: Path) -> None:
    quick = ["run.device=cpu", "pretrain.simclr.epochs=1", "pretrain.simclr.warmup_epochs=0"]
    own = ["inject.type=own_methods:shift", "purify.method=own_methods:believe"]
    paths = Layout(tmp_path / "run")

    def ran() -> list[str]:
        return run_chain(load_preset("digits", [*quick, *own]), paths, last="purify")

    assert ran() == ["prepare", "inject", "pretrain", "features", "purify"]
    assert paths.read_metrics("inject")["rate_realised"] == 1.0
    assert paths.read_metrics("purify")["sharp"] == 0.9
    assert ran() == []
    forget()
    (tmp_path / "own_methods.py").write_text(
        MODULE.replace("default=0.9", "default=0.8") + "# edited", encoding="utf-8"
    )
    assert ran() == ["inject", "purify"]
    assert paths.read_metrics("purify")["sharp"] == 0.8


def test_lnl_purify_and_the_estimator_take_a_reference(module: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
    fitted = Purifier(method=f"{module}:believe", settings={"sharp": 0.6}).fit(features, labels)
    assert (fitted.labels_ == labels).all()
    assert fitted.soft_labels_.max() == pytest.approx(0.6)
    rows = "".join(f"{row},{','.join(map(str, features[row]))}\n" for row in range(30))
    (tmp_path / "F.csv").write_text("id,feature0,feature1,feature2,feature3\n" + rows)
    (tmp_path / "L.csv").write_text("id,label\n" + "".join(f"{row},{labels[row]}\n" for row in range(30)))
    arguments = ["--features", "F.csv", "--labels", "L.csv", "--out", "P.parquet", "--method", f"{module}:believe"]
    command = [str(Path(sys.executable).with_name("lnl")), "purify", *arguments, "-S", "sharp=0.6"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "P.parquet")
    assert np.stack(table["soft_label"].to_pylist()).max() == pytest.approx(0.6)
    assert json.loads(table.schema.metadata[b"lnl"])["about"]["method"] == f"{module}:believe"


def test_an_entry_point_is_a_method_like_any_other(entry_point: str) -> None:
    settings = stage_named("purify").settings({"method": entry_point, entry_point: {"sharp": 0.7}})
    assert settings.model_dump()["options"][entry_point] == {"sharp": 0.7}
    assert PURIFIERS.get(entry_point).name == entry_point
    assert entry_point not in PURIFIERS.names()  # of the package alone


@pytest.mark.usefixtures("entry_point")
def test_entry_points_are_listed_and_a_broken_one_says_why() -> None:
    theirs = catalogue.listed(PURIFIER)[-2:]
    assert [one.name for one in theirs] == ["believer", "broken"]
    assert theirs[0].summary == "believes the observed labels"
    assert theirs[0].defaults == {"sharp": 0.9}
    assert "no_such_module" in theirs[1].problem
    with pytest.raises(ConfigError, match="no_such_module"):
        PURIFIERS.get("broken")
    check_params({"purify": {"method": "none"}})  # and does no harm to others


def test_no_plug_in_takes_the_name_of_a_method_of_the_package(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"knn": EntryPoint(name="knn", value=f"{module}:believe", group=PURIFIER.group)}
    monkeypatch.setattr(registry_module, "entry_points_of", lambda _: taken)
    assert PURIFIERS.get("knn").make.__module__ == "lnl_core.purify.knn"


def test_entry_points_are_read_from_installed_packages() -> None:
    assert plugins.entry_points_of("console_scripts")["lnl"].value == "lnl_core.cli.app:main"


@pytest.mark.parametrize("registry", [PURIFIERS, TRAINERS, NOISE_TYPES, DATASETS], ids=lambda one: one.kind.name)
def test_an_unknown_name_has_the_nearest(registry: registry_module.Registry[object]) -> None:
    name = registry.names()[0]
    with pytest.raises(ConfigError, match=f"unknown {registry.kind.name} '{name}x'; did you mean '{name}'"):
        registry.get(f"{name}x")


def test_settings_of_another_kind_are_refused_at_once() -> None:
    class Plain(Settings):
        """No NoiseConfig."""

    with pytest.raises(ConfigError, match="noise type 'plain': Plain must be a NoiseConfig"):
        NOISE_TYPES.register("plain", config=Plain, summary="")


def test_a_name_of_the_package_is_never_replaced(module: str, tmp_path: Path) -> None:
    (tmp_path / "own_methods.py").write_text(MODULE.replace('"believer"', '"knn"'), encoding="utf-8")
    with pytest.raises(ConfigError, match=f"purifier 'knn' is there already; register {module}'s under another name"):
        PURIFIERS.get(f"{module}:believe")
    assert PURIFIERS.get("knn").make.__module__ == "lnl_core.purify.knn"


def test_a_module_may_register_its_own_again(module: str) -> None:
    first = PURIFIERS.get(f"{module}:believe")
    importlib.reload(sys.modules[module])
    again = PURIFIERS.get(f"{module}:believe")
    assert again.make is not first.make


def test_a_file_of_one_line_makes_it_a_method_of_the_checkout(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As docs/add-a-method.md says for DVC, whose stages depend on the file of the selected method."""
    package = sys.modules["lnl_core.purify"]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "believer.py").write_text(f"from {module} import believe\n", encoding="utf-8")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "more")])
    assert PURIFIERS.get("believer").make.__module__ == module
    assert "believer" in PURIFIERS.names()
    sys.modules.pop("lnl_core.purify.believer", None)
