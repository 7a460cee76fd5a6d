"""The architecture as tests: who may import whom, and who may know the truth. Computed from the packages."""

from __future__ import annotations

import ast
import importlib
import itertools
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lnl_core.registry import Registry

REPOSITORY = Path(__file__).parents[1]
METHOD_PACKAGES = ("lnl_core.datasets", "lnl_core.noise", "lnl_core.purify", "lnl_core.train")
MAY_READ_TRUTH = ("lnl_core.contracts", "lnl_core.stages.inject", "lnl_core.stages.evaluate", "lnl_core.evaluate")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("lnl_core", "tasks", "flows", cache_dir=None)


def registry_of(package: str) -> Registry[object]:
    """The registry that the package's `__init__` holds."""
    held = [value for value in vars(importlib.import_module(package)).values() if isinstance(value, Registry)]
    (registry,) = [value for value in held if value.kind.package == package]
    return registry


def method_modules(package: str) -> set[str]:
    """The modules that register something; the others of the package are its seam."""
    return {entry.make.__module__ for entry in registry_of(package)}


def test_contracts_of_pyproject_hold() -> None:
    """In a process of its own: import-linter disables every logger that exists."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", METHOD_PACKAGES)
def test_methods_never_import_their_siblings(package: str, graph: grimp.ImportGraph) -> None:
    """Directly or through a seam module; what two of them share is a block."""
    methods = method_modules(package)
    assert methods, f"nothing is registered in {package}"
    for importer, imported in itertools.permutations(sorted(methods), 2):
        chain = graph.find_shortest_chain(importer, imported)
        assert chain is None, f"{' -> '.join(chain)}: move what they share to lnl_core/statistics or lnl_core/training"


@pytest.mark.parametrize("package", METHOD_PACKAGES)
def test_every_registered_name_is_its_file(package: str) -> None:
    """One method is one file of that name: dvc.yaml names `purify/${purify.method}.py` as a dependency."""
    assert {entry.name: entry.make.__module__ for entry in registry_of(package)} == {
        entry.name: f"{package}.{entry.name}" for entry in registry_of(package)
    }


def test_every_package_of_methods_is_checked() -> None:
    """A new package with a registry must not escape the tests above."""
    found = set()
    for package in pkgutil.iter_modules([str(REPOSITORY / "lnl_core")], "lnl_core."):
        if package.ispkg:
            held = vars(importlib.import_module(package.name)).values()
            found |= {value.kind.package for value in held if isinstance(value, Registry)}
    assert found <= set(METHOD_PACKAGES), f"name {found - set(METHOD_PACKAGES)} in METHOD_PACKAGES"


def names_used(source: str) -> set[str]:
    """Names, attributes and strings of a module, docstrings and comments left out."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.alias | ast.Name | ast.Attribute):
            used.add(getattr(node, "name", None) or getattr(node, "id", None) or getattr(node, "attr", ""))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            used.add(node.value)
    return used


def test_names_used_sees_imports_calls_and_strings_but_no_docstring() -> None:
    assert "read_truth" in names_used("from lnl_core.contracts import read_truth")
    assert "read_truth" in names_used("import lnl_core.contracts as c\nc.read_truth(1)")
    assert "a/truth.parquet" in names_used("def f():\n    return open('a/truth.parquet')")
    assert names_used('"""read_truth of truth.parquet"""\ndef f():\n    """truth.parquet"""') == set()


def test_only_injection_and_evaluation_read_true_labels() -> None:
    """Methods cannot see the truth: no other module reads truth.parquet, by function or by file name."""
    readers = set()
    for path in sorted((REPOSITORY / "lnl_core").rglob("*.py")):
        module = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        used = names_used(path.read_text(encoding="utf-8"))
        if "read_truth" in used or any(name.endswith("truth.parquet") for name in used):
            readers.add(module)
    readers.discard("lnl_core.layout")  # where the file lies, nothing more
    outside = {module for module in readers if not module.startswith(MAY_READ_TRUTH)}
    assert readers, "no module reads the truth: has read_truth been renamed?"
    assert not outside, f"{sorted(outside)} may not read true labels"


def test_no_method_package_can_reach_a_reader_of_the_truth(graph: grimp.ImportGraph) -> None:
    for package in ("lnl_core.purify", "lnl_core.train", "lnl_core.noise", "lnl_core.ssl", "lnl_core.features"):
        for reader in ("lnl_core.evaluate", "lnl_core.stages"):
            chain = graph.find_shortest_chain(package, reader, as_packages=True)
            assert chain is None, " -> ".join(chain or ())


def test_dependencies_inside_a_package_are_not_hidden_in_functions(graph: grimp.ImportGraph) -> None:
    """dvc.yaml's dependencies are computed from static imports: an import by name would escape them."""
    allowed = {  # what loads what a setting names, and what lists what there is
        "lnl_core.catalogue",
        "lnl_core.plugins",
        "lnl_core.registry",
        "lnl_core.report.sections",
        "lnl_core.stages.stage",
    }
    users = {
        module
        for module in graph.modules
        if module.startswith("lnl_core")
        and (path := module_file(module)) is not None
        and "import_module" in names_used(path.read_text(encoding="utf-8"))
    }
    assert users <= allowed


def test_every_imported_package_is_declared() -> None:
    """A package that comes with another one today may not tomorrow."""
    external = grimp.build_graph("lnl_core", "tasks", "flows", include_external_packages=True, cache_dir=None)
    imported = {module for module in external.modules if "." not in module and external.is_module_squashed(module)}
    imported -= set(sys.stdlib_module_names)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["ray"], *extras["check-plugin"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    owners = packages_distributions()
    assert "torch" in imported
    missing = {module for module in imported if declared.isdisjoint(map(canonicalize_name, owners.get(module, [])))}
    assert not missing, f"declare {sorted(missing)} in pyproject.toml"


def module_file(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)
