"""What the documents say one can type: their blocks of code, and whether a command is one that the programs know."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from lnl_core.bench.grid import grid_cells
from lnl_core.cli.app import app
from lnl_core.config import load_preset
from lnl_core.layout import STAGE_NAMES
from lnl_core.purify import PURIFIERS
from lnl_core.stages.stage import check_params

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("docs/**/*.md")),
]
FENCED = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1[ \t]*$", flags=re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?:(?:    [^\n]*)?\n)*?(?:    [^\n]*\n)+(?=\n|\Z)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# Of the system or of others; their syntax alone is checked.
FOREIGN = {"cd", "mkdir", "cp", "tar", "unzip", "git", "aws", "export", "for", "done", "systemctl"}
PLACEHOLDER = re.compile(r"[A-Z]+")
NOTHING_ELSE = {"purify": ["--features", "F", "--labels", "L", "--out", "O"]}  # what `...` in a command stands for


@dataclass(frozen=True)
class Block:
    """A block of code of a document."""

    page: str
    line: int
    language: str  # of a fence; empty: commands
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All fenced and indented blocks of a page."""
    text = read(page)
    found = [Block(page, text.count("\n", 0, block.start()) + 1, block[2], block[3]) for block in FENCED.finditer(text)]
    without = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    for block in INDENTED.finditer(without):
        line = without.count("\n", 0, block.start()) + 1 + len(block[0]) - len(block[0].lstrip("\n"))
        found.append(Block(page, line, "", "\n".join(row[4:] for row in block[0].strip("\n").splitlines())))
    return found


def inline_code(page: str) -> list[str]:
    """The code inside the sentences and tables of a page."""
    text = FENCED.sub("", read(page))
    return [code for line in text.splitlines() if not line.startswith("    ") for code in INLINE.findall(line)]


def commands(text: str) -> list[list[str]]:
    """The words of each simple command of a shell text, without comments, redirections and assignments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        skipped = False
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                found.append(words)
                words = []
            elif set(word) <= set("<>"):
                skipped = True
            elif skipped:
                skipped = False
            elif word != "do" and (words or not re.match(r"[A-Z_]+=", word)):
                words.append(word)
    return [words for words in found if words]


def check_command(words: list[str]) -> None:
    """Raises where a command is not known, or has an argument that its program would refuse."""
    program = Path(words[0]).name
    checks = {
        "lnl": check_lnl,
        "make": _check_make,
        "python": _check_python,
        "dvc": _check_dvc,
        "prefect": _check_prefect,
        "torchrun": _check_torchrun,
        "pip": _check_pip,
        "pytest": _check_pytest,
    }
    if program in checks:
        checks[program](words[1:])
    elif program not in FOREIGN:
        raise ValueError(f"no check knows the program {program!r}")


@functools.cache
def _lnl() -> Any:
    return typer.main.get_command(app)


def check_lnl(words: list[str]) -> None:
    """Parsed by the real command line; presets, overrides, methods, noises and stages are looked up."""
    command, context = _lnl(), None
    if "..." in words:
        words = [*(word for word in words if word != "..."), *NOTHING_ELSE[words[0]]]
    while True:
        context = command.make_context(command.name, list(words), parent=context)
        if not hasattr(command, "commands"):
            break
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        command.name = name
    values = {**context.params}
    if command.name == "bench":
        parts = {key: (values.get(key) or "").split(",") for key in ("noise", "methods")}
        assert grid_cells(values["preset"], parts["noise"], parts["methods"], seeds=[0])
    elif values.get("preset"):
        check_params(load_preset(values["preset"], values.get("override") or ()))
    if command.name == "presets" and values.get("name"):
        check_params(load_preset(values["name"]))
    if command.name == "purify":
        PURIFIERS.get(values["method"])
    stages = {"run": ("first", "last"), "stage": ("name",)}.get(command.name, ())
    assert {values[key] for key in stages} <= set(STAGE_NAMES)


def check_lnl_mention(words: list[str]) -> None:
    """A command as a sentence names it: sub-commands and options exist; values may be left out."""
    command = _lnl()
    for word in words:
        if hasattr(command, "commands") and not word.startswith("-"):
            if PLACEHOLDER.fullmatch(word):
                return
            command = command.commands[word]
        elif word.startswith("-"):
            known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
            assert word in known, f"{command.name} has no option {word}; it has {sorted(known)}"


def _check_make(words: list[str]) -> None:
    makefile = read("Makefile")
    for word in words:
        name, equals, _ = word.partition("=")
        pattern = rf"\$[({{](?:or \$\()?{name}\b|^{name} \?=" if equals else rf"^{re.escape(name)}:"
        assert re.search(pattern, makefile, flags=re.MULTILINE), f"the Makefile does not know {word}"


def _check_python(words: list[str]) -> None:
    if words[0] == "-m":
        spec = importlib.util.find_spec(words[1])
        if spec is None or spec.origin is None:
            raise ValueError(f"no module {words[1]}")
        source = Path(spec.origin).read_text(encoding="utf-8")
    else:
        source = read(words[0])
    for option in [word for word in words[2:] if word.startswith("--")]:
        name = option.removeprefix("--").replace("-", "_")
        assert f'"{option}"' in source or re.search(rf"^    {name}: Annotated", source, flags=re.MULTILINE), option


def _check_dvc(words: list[str]) -> None:
    from dvc.cli import parse_args

    parse_args(words)


def _check_prefect(words: list[str]) -> None:
    from prefect.cli._app import _app

    if words[-1].isupper():  # an id
        words = [*words[:-1], "00000000-0000-0000-0000-000000000000"]
    _app.parse_args(words, exit_on_error=False, print_error=False)
    if words[:2] == ["worker", "start"]:
        assert words[words.index("--pool") + 1] in ("local", "cpu", "gpu", "%i")
    for word in words:
        if re.fullmatch(r"[\w-]+/[\w-]+", word):
            assert word in deployments(), f"prefect.yaml has no deployment {word}"


@functools.cache
def deployments() -> set[str]:
    """`flow/deployment` of prefect.yaml."""
    listed = yaml.safe_load(read("prefect.yaml"))["deployments"]
    return {f"{one['entrypoint'].rpartition('.')[2].replace('_', '-')}/{one['name']}" for one in listed}


def _check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    given = get_args_parser().parse_args(words)
    assert given.module
    assert given.training_script == "lnl_core.cli"
    check_lnl(given.training_script_args)


def _check_pip(words: list[str]) -> None:
    action, package = words
    name, extra = re.fullmatch(r"([\w-]+)\[([\w-]+)\]", package).groups()  # type: ignore[union-attr]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert action == "install"
    assert name == project["name"]
    assert extra in project["optional-dependencies"]


def _check_pytest(words: list[str]) -> None:
    for word in words[: words.index("-k")]:
        assert (REPOSITORY / word).exists(), word
