"""Every block of code, every command and every setting that README, CONTRIBUTING and docs/ name.

What a newcomer types is run (in test_docs_run.py, test_readme.py and test_contributing.py). What needs servers, data
sets or days is held to the programs: their command lines parse it, and settings, presets, modules and files exist. A
block that no check knows fails.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
import yaml

from lnl_core.config import ConfigError, apply_overrides, load_preset
from lnl_core.layout import STAGE_NAMES
from lnl_core.purify import PURIFIERS
from lnl_core.registry import KINDS
from lnl_core.stages.stage import SHARED_SECTIONS, check_params
from tests.docs_blocks import PAGES, REPOSITORY, Block, blocks, check_command, check_lnl_mention, commands, inline_code

BLOCKS = [block for page in PAGES for block in blocks(page)]
EXAMPLES = {  # whole files, which begin with their path
    found[1]: block.text for block in BLOCKS if (found := re.match(r"# (\S+\.py)\n", block.text))
}
PROGRAMS = ("lnl", "make", "python", "dvc", "prefect", "torchrun", "pip")
SECTIONS = (*SHARED_SECTIONS, *STAGE_NAMES)
SETTING = re.compile(rf"(?:-S )?((?:{'|'.join(SECTIONS)})(?:\.[a-z]\w*)+)(?: ?[:=] ?.*)?")
FILE = re.compile(r"(?:lnl_core|tasks|flows|tests|benchmarks|dev|docs)/[\w./-]+")
SUFFIXES = ("html", "parquet", "csv", "json", "yaml", "py")


@pytest.fixture(scope="module", autouse=True)
def my_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The purifier of docs/add-a-method.md as a module that stands outside the package, which that page names."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "my_module.py").write_text(EXAMPLES["lnl_core/purify/class_mean.py"], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        PURIFIERS.names()  # loads it
        patched.setattr(PURIFIERS, "_entries", dict(PURIFIERS._entries))
        yield
        sys.modules.pop("my_module", None)


def test_blocks_are_found() -> None:
    assert {block.language for block in BLOCKS} >= {"", "python", "yaml", "text", "ini", "mermaid"}
    assert len(BLOCKS) > 40


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_what_it_says(block: Block) -> None:
    check = {
        "": _shell,
        "python": _python,
        "yaml": _yaml,
        "toml": _toml,
        "ini": _ini,
        "mermaid": _mermaid,
        "text": _text,
    }
    assert block.language in check, f"no check knows a block of {block.language!r}"
    check[block.language](block)


def _shell(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    found = commands(block.text)
    assert found
    for words in found:
        check_command(words)


def _python(block: Block) -> None:
    """Compiles, and its imports resolve."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names if name.name != "annotations"), node.module


def _yaml(block: Block) -> None:
    """Settings on top of a preset, all of them checked."""
    values = yaml.safe_load(block.text)
    check_params(apply_overrides(load_preset("image_folder"), list(_overrides(values))))


def _overrides(values: dict[str, object], above: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        name = f"{above}{key}"
        found += _overrides(value, f"{name}.") if isinstance(value, dict) else [f"{name}={value}"]
    return found


def _toml(block: Block) -> None:
    """Entry points of a package with methods."""
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert set(groups) <= {kind.group for kind in KINDS}


def _ini(block: Block) -> None:
    parsed = configparser.ConfigParser(interpolation=None, strict=True)
    parsed.read_string(block.text)
    for section in parsed.values():
        for key, value in section.items():
            if key.startswith("exec"):
                for words in commands(value):
                    check_command(words)


def _mermaid(block: Block) -> None:
    assert all(re.search(rf"\b{name}\b", block.text) for name in STAGE_NAMES)


def _text(block: Block) -> None:
    """A drawing: nothing in it is to be typed."""
    assert not [line for line in block.text.splitlines() if line.split(" ")[0] in PROGRAMS]


@pytest.mark.parametrize("page", PAGES)
def test_what_sentences_name_exists(page: str) -> None:
    """Commands, settings and files in the text."""
    problems = []
    for code in inline_code(page):
        try:
            _mentioned(code)
        except Exception as error:  # noqa: BLE001  whatever a program raises on a wrong command line
            problems.append(f"`{code}`: {type(error).__name__} {error}")
    assert not problems, "\n".join(problems)


def _mentioned(code: str) -> None:
    words = code.split()
    if words[0] == "lnl" and len(words) > 1:
        for part in commands(code):
            check_lnl_mention([word for word in part[1:] if word != "..."])
    elif words[0] in PROGRAMS and len(words) > 1:
        for part in commands(code):
            check_command(part)
    elif (found := SETTING.fullmatch(code)) and not found[1].endswith(SUFFIXES):
        _check_setting(found[1])
    elif FILE.fullmatch(code) and "NAME" not in code and code not in EXAMPLES:
        assert (REPOSITORY / code).exists(), "no such file"


def _check_setting(name: str) -> None:
    """Set to something odd, the complaint is about that and not about the name."""
    try:
        check_params(apply_overrides(load_preset("digits"), [f"{name}={{odd: value}}"]))
    except ConfigError as error:
        unknown = [line for line in str(error).splitlines() if "unknown" in line and f"{name}.odd" not in line]
        if unknown:
            raise ValueError(unknown[0]) from error
