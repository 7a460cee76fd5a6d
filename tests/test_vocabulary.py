"""The words: retired ones occur nowhere, and docs/glossary.md gives each term once, with a name that the code has."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GLOSSARY = REPOSITORY / "docs" / "glossary.md"
RETIRED = {  # word, whole or as a part of a name -> what is said instead
    "voice": "ensemble member",
    "voices": "ensemble members",
    "told": "given, reported; noise estimate",
    "tell": "on_progress, on_log; show, report",
    "tells": "shows, reports",
    "teller": "callback",
    "telling": "reporting",
    "belief": "predicted label, posterior",
    "beliefs": "predicted labels, posteriors",
    "judge": "score, compare",
    "judged": "calibrated, evaluated out of fold",
    "judges": "scores, compares",
    "judging": "scoring",
    "answer": "prediction, posterior, reply",
    "answers": "predictions, posteriors, replies",
    "answered": "predicted, replied",
    "answering": "predicting",
    "asked": "requested, needed, set",
    "dealing": "fold assignment",
    "dealings": "fold assignments",
    "dealt": "assigned to folds",
    "laid": "placed",
    "verdict": "gate decision",
    "verdicts": "gate decisions",
    "shelf": "version files",
    "shelves": "version files",
    "spread": "standard deviation; wide columns",
    "asleep": "paused",
    "wakes": "resumed",
}
# What old files hold, and the history, keep the old words; so does this list.
EXEMPT = ("CHANGELOG.md", "lnl_core/renamed.py", "tests/test_renamed.py", "tests/test_vocabulary.py", "tests/fixtures/")
READ_AS_TEXT = {".py", ".md", ".j2", ".yaml", ".toml", ".css", ""}
FILE_PROTOCOL = re.compile(r"\.tell\(\)|def tell\(self\)")  # where a file stands; Python's name
WORD = re.compile(r"[A-Za-z]+")
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def text_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if (REPOSITORY / name).is_file()]
    return [name for name in names if Path(name).suffix in READ_AS_TEXT and not name.startswith(EXEMPT)]


def retired_in(text: str) -> list[str]:
    """Retired words of a text, as words or as parts of names such as `told_noise` and `NoiseTold`."""
    words = WORD.findall(FILE_PROTOCOL.sub("", text))
    return [part for word in words for part in map(str.lower, CAMEL.split(word)) if part in RETIRED]


def test_names_are_split_into_words() -> None:
    assert retired_in("told_noise NoiseTold, ANSWERS; file.tell() untold retell") == ["told", "told", "answers"]


def test_no_retired_word_is_used() -> None:
    files = text_files()
    assert "lnl_core/purify/decide/decide.py" in files
    found = []
    for name in files:
        for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{name}:{number}: {word!r}; write {RETIRED[word]}" for word in retired_in(line)]
        found += [f"{name}: {word!r} in its name" for word in retired_in(name)]
    assert found == []


def rows() -> list[list[str]]:
    """(term, meaning, symbol, where) of every row of the glossary."""
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] != "term" and set(row[0]) != {"-"}]


def test_every_term_stands_once_and_in_order() -> None:
    terms = [row[0].lower() for row in rows()]
    assert len(set(terms)) == len(terms) > 40
    for section in GLOSSARY.read_text(encoding="utf-8").split("\n## ")[1:]:
        inside = [line.split("|")[1].strip().lower() for line in section.splitlines() if line.startswith("| ")]
        inside = [term for term in inside if term != "term"]
        assert inside == sorted(inside), section.splitlines()[0]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_code_has_what_a_term_names(row: list[str]) -> None:
    assert len(row) == 4, "term, meaning, symbol, where"
    path, name = re.fullmatch(r"`(\S+\.py)` `(\w+)`", row[3]).groups()  # type: ignore[union-attr]
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined, f"{path} defines no {name}"
