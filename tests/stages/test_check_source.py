"""`lnl check` counts what is there and what is missing, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from lnl_core.cli.app import app


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes below train and test; a broken image, and a file outside the classes."""
    for split, count in (("train", 6), ("test", 2)):
        for name in ("cat", "cow", "dog"):
            for number in range(count):
                path = tmp_path / "photos" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (30, 20), (number, 9, 9)).save(path)
    (tmp_path / "photos" / "train" / "cow" / "6.png").write_bytes(b"no image")
    (tmp_path / "photos" / "train" / "notes.txt").write_text("outside the classes")
    return tmp_path / "photos"


def lines(*words: str) -> dict[str, str]:
    done = CliRunner().invoke(app, ["check", *words])
    assert done.exit_code == 0, done.output
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_counts_and_faults(photos: Path) -> None:
    before = sorted(photos.parent.rglob("*"))
    found = lines(
        "--preset", "image_folder", "-S", f"prepare.image_folder.path={photos}",
        "-S", "prepare.image_folder.verified_splits=[train, test]", "-S", f"model.weights={photos}/none.pth",
    )  # fmt: skip
    assert found["classes"] == "3: cat, cow, dog"
    assert found["train rows"] == "19, 6 to 7 a class"
    assert found["val rows"] == "0"
    assert found["test rows"] == "6, 2 to 2 a class"
    assert found["train rows that may be trusted"] == "19, 19 of them with an observed label"
    assert found["set aside by the lists"] == "1 (no-class-folder 1)"
    assert found["set aside of 25 images looked at"] == "1 (not-an-image 1)"
    assert found["the first of them"].startswith("train/cow/6.png: 8 bytes")
    assert found["an image on average"].startswith("30 x 20 pixels")
    assert found["model.weights"] == f"{photos}/none.pth (MISSING: put the file there)"
    assert sorted(photos.parent.rglob("*")) == before


def test_a_sample_covers_the_rows_evenly(photos: Path) -> None:
    few = lines("--preset", "image_folder", "-S", f"prepare.image_folder.path={photos}", "--images", "5")
    assert (
        few["set aside of 5 images looked at"] == "1 (not-an-image 1)"
    )  # rows 0, 6, 12, 18 and 24: one of each corner
    none = lines("--preset", "image_folder", "-S", f"prepare.image_folder.path={photos}", "--images", "0")
    assert not any(name.startswith("set aside of") for name in none)
