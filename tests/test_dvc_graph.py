"""dvc.yaml against the code, and `dvc repro` in a fresh checkout.

`make dvc-deps` (LNL_WRITE_DVC_YAML=1) writes what the first test compares.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml
from ruamel.yaml import YAML

from lnl_core.config import Params, load_params, load_preset, preset_names
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.registry import Registry
from lnl_core.stages.stage import Stage, run_stage, stage_named
from tasks.graph import read_graph
from tests.run_dvc import run_dvc

REPOSITORY = Path(__file__).parents[1]
DVC_YAML = REPOSITORY / "dvc.yaml"
PARAMS_YAML = REPOSITORY / "params.yaml"
CHANGED_PURIFY_SETTING = "purify.ipc_ensemble.prior=uniform"
QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))
DATA = Layout(Path("data"))
PACKAGE_DATA = {".j2", ".css"}  # what a module may read beside itself
HOLDS_WALL_SECONDS = {"pretrain_curve", "report"}
SECTIONS = "lnl_core.report.sections"
CANNOT_CHANGE_A_RESULT = {"lnl_core.cli", "lnl_core.progress"}


@functools.cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph("lnl_core", cache_dir=None)


def closure(module: str) -> set[str]:
    """`module` and everything inside lnl_core that it imports, directly or not; a package of sections as a whole."""
    found = {module} | import_graph().find_upstream_modules(module)
    if SECTIONS in found:  # imports its files by their presence
        sections = import_graph().find_children(SECTIONS)
        found = found.union(sections, *map(import_graph().find_upstream_modules, sections))
    return found


def stage_module(stage: str) -> str:
    return f"lnl_core.stages.{stage}"


def registries(stage: Stage) -> list[Registry[Any]]:
    """The registries that the stage's module imports: it calls what is registered there."""
    held = vars(importlib.import_module(stage_module(stage.name))).values()
    return [value for value in held if isinstance(value, Registry)]


def selecting_field(stage: Stage, registry: Registry[Any]) -> str:
    """The setting that names the method, e.g. `method` in section purify."""
    section, _, field = registry.kind.setting.partition(".")
    assert section == stage.name
    return field


def expected_modules(stage: Stage) -> list[str]:
    """Paths of the modules that the stage's result depends on; a selected method as a template."""
    modules = closure(stage_module(stage.name))
    templates = []
    for registry in registries(stage):
        methods = {entry.make.__module__ for entry in registry}
        modules = modules.union(*map(closure, methods)) - methods
        folder = registry.kind.package.replace(".", "/")
        templates.append(f"{folder}/${{{stage.name}.{selecting_field(stage, registry)}}}.py")
    files = [REPOSITORY.joinpath(*name.split(".")).with_suffix(".py") for name in modules - CANNOT_CHANGE_A_RESULT]
    files = [file for file in files if file.exists()]
    beside = {other for file in files for other in file.parent.iterdir() if other.suffix in PACKAGE_DATA}
    return sorted([str(file.relative_to(REPOSITORY)) for file in [*files, *beside]] + templates)


def files_read(stage: Stage) -> list[str]:
    tables = [str(getattr(DATA, name)) for name in stage.reads]
    return tables + [str(DATA.metrics(name)) for name in stage.reads_metrics]


def expected_entry(stage: Stage) -> dict[str, Any]:
    """The stage as dvc.yaml has to have it: metrics.json is an out, for `dvc metrics show` would print 250 columns."""
    metrics = str(DATA.metrics(stage.name))
    return {
        "cmd": f"lnl stage {stage.name}",
        "desc": stage.summary,
        "deps": expected_modules(stage) + files_read(stage),
        "params": [*stage.shared, stage.name],
        "outs": [*(str(getattr(DATA, name)) for name in stage.writes if name not in stage.figures), metrics],
        **({"metrics": [str(getattr(DATA, name)) for name in stage.figures]} if stage.figures else {}),
        "meta": {"pool": stage.pool},
    }


def write_dvc_yaml() -> None:
    """Rewrite the entries of all stages (comments and the plots section stay), and params.yaml from the preset."""
    shutil.copyfile(REPOSITORY / "lnl_core" / "presets" / "digits.yaml", PARAMS_YAML)
    editor = YAML()
    editor.width = 120
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(DVC_YAML.read_text(encoding="utf-8"))
    for name in STAGE_NAMES:
        document["stages"][name] = expected_entry(stage_named(name))
    with DVC_YAML.open("w", encoding="utf-8") as file:
        editor.dump(document, file)


def test_graph_is_what_the_code_says() -> None:
    if os.environ.get("LNL_WRITE_DVC_YAML"):
        write_dvc_yaml()
    stages = yaml.safe_load(DVC_YAML.read_text(encoding="utf-8"))["stages"]
    assert list(stages) == list(STAGE_NAMES)
    for name in STAGE_NAMES:
        assert stages[name] == expected_entry(stage_named(name)), f"stage {name} is out of date: make dvc-deps"


def test_stage_order_follows_from_the_files() -> None:
    """No stage reads what a later one writes."""
    assert read_graph(DVC_YAML)[0].name == "prepare"
    done: set[str] = set()
    for name in STAGE_NAMES:
        node = next(node for node in read_graph(DVC_YAML) if node.name == name)
        assert node.after <= done, f"{name} reads outputs of {node.after - done}"
        done.add(name)


@pytest.mark.parametrize("method_stage", ["prepare", "inject", "purify", "train"])
def test_only_the_selected_method_is_a_dependency(method_stage: str) -> None:
    stage = stage_named(method_stage)
    (registry,) = registries(stage)
    modules = expected_modules(stage)
    for entry in registry:
        assert f"{registry.kind.package.replace('.', '/')}/{entry.name}.py" not in modules
    assert [path for path in modules if "$" in path] == [
        f"{registry.kind.package.replace('.', '/')}/${{{method_stage}.{selecting_field(stage, registry)}}}.py"
    ]


def test_package_data_are_dependencies_and_are_shipped() -> None:
    """A template of the report is no import, but an edit to it must be noticed."""
    assert "lnl_core/report/page.html.j2" in expected_modules(stage_named("report"))
    found = {path.suffix for path in (REPOSITORY / "lnl_core").rglob("*") if path.is_file()}
    known = {".py", ".pyc", ".yaml", ".json", ".typed"}
    assert found - PACKAGE_DATA <= known, "name the new kind in PACKAGE_DATA and pyproject"


def test_params_are_the_digits_preset() -> None:
    """The preset is the package's copy, params.yaml the checkout's."""
    assert yaml.safe_load(PARAMS_YAML.read_text(encoding="utf-8")) == load_preset("digits")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_the_keys_that_the_graph_watches(preset: str) -> None:
    """DVC refuses a stage whose parameter is missing from params.yaml, defaults or not."""
    params = load_preset(preset)
    for name in STAGE_NAMES:
        stage = stage_named(name)
        selectors = [f"{name}.{selecting_field(stage, registry)}" for registry in registries(stage)]
        for key in [*expected_entry(stage)["params"], *selectors]:
            value: Any = params
            for part in key.split("."):
                assert part in value, f"preset {preset}: write {key}, for stage {name} depends on it"
                value = value[part]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files as they are now, in a git repository of their own with settings that take seconds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "checkout")
    return folder


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).exists()]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    """Run dvc with this Python's `lnl` and the checkout's own code; its output."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
    return run_dvc(folder, environment, *arguments)


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def change_setting(folder: Path, *overrides: str) -> None:
    params = load_params(folder / "params.yaml", overrides)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


@pytest.mark.slow
def test_repro_runs_once_and_then_only_what_changed(checkout: Path) -> None:
    change_setting(checkout, *QUICK)
    assert stages_run(dvc(checkout, "repro")) == list(STAGE_NAMES)
    assert (checkout / DATA.report).stat().st_size > 10_000
    changed = [line[3:] for line in git(checkout, "status", "--porcelain").splitlines()]
    assert sorted(changed) == ["dvc.lock", "params.yaml"], "only the lock file is new to git"

    assert stages_run(dvc(checkout, "repro")) == []
    plots = json.loads(dvc(checkout, "plots", "show", "--json"))
    assert "errors" not in plots
    shown = [
        "Coverage",
        "Estimated noise",
        "Reliability",
        "Review",
        "SimCLR",
        "Training",
        "Training loss",
        "True noise",
    ]
    assert sorted(plots["data"]) == shown
    metrics = json.loads(dvc(checkout, "metrics", "show", "--json"))
    assert list(metrics[""]["data"]) == ["data/evaluate/figures.json"]

    change_setting(checkout, CHANGED_PURIFY_SETTING)
    assert stages_run(dvc(checkout, "repro")) == ["purify", "train", "evaluate", "report"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGE_NAMES)
def test_a_stage_needs_nothing_but_its_dependencies(name: str, finished: tuple[Params, Layout], tmp_path: Path) -> None:
    """The stage in a folder that holds its declared inputs alone gives what it gave in the full one."""
    params, full = finished
    stage, alone = stage_named(name), Layout(tmp_path)
    tables = [getattr(full, read) for read in stage.reads]
    for path in tables + [full.metrics(other) for other in stage.reads_metrics]:
        link = tmp_path / path.relative_to(full.root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    run_stage(name, params, alone)
    for written in stage.writes:
        here, there = contents(getattr(alone, written)), contents(getattr(full, written))
        assert here.keys() == there.keys()
        assert written in HOLDS_WALL_SECONDS or here == there, written


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Layout]:
    """A whole run with settings that take seconds."""
    params, full = load_preset("digits", QUICK), Layout(tmp_path_factory.mktemp("finished"))
    for name in STAGE_NAMES:
        run_stage(name, params, full)
    return params, full


def contents(path: Path) -> dict[str, bytes]:
    """Bytes by name, of a file or of all files of a folder."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
