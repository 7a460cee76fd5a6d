"""`lnl show`: a page of a run, everything of a stage, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import ConfigError
from lnl_core.files import write_json
from lnl_core.layout import Layout


@pytest.fixture
def run(tmp_path: Path) -> Path:
    root = tmp_path / "run"
    write_json(
        Layout(root).metrics("purify"), {"purify": {"seconds": 1.5, "settings": {"k": 3}, "transition": [[1.0]]}}
    )
    return root


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_run(run: Path) -> None:
    text = shown(str(run))
    assert "labels right after" in text
    assert "time of purify" in text
    assert "1.5 s" in text


def test_a_stage(run: Path) -> None:
    lines = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in shown(str(run), "purify").splitlines()[1:]}
    assert lines == {"seconds": "1.5", "settings.k": "3", "transition": "[[1.0]]"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such folder; name the folder of a run"),
        (("RUN", "purfy"), "unknown stage 'purfy'; did you mean 'purify'"),
        (("RUN", "train"), "the stage train has not run there"),
        (("EMPTY",), "no stage has run there"),
    ],
)
def test_errors_say_what_to_do(run: Path, arguments: tuple[str, ...], message: str) -> None:
    (run / "EMPTY").mkdir()
    places = {"RUN": str(run), "EMPTY": str(run / "EMPTY")}
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["show", *(places.get(one, one) for one in arguments)], catch_exceptions=False)
