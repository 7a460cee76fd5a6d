"""Held-out trusted rows: which they are, that they stay the same ones, and that the file is the one that is meant."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, read_labels, string_ids
from lnl_core.labels.trusted_rows import FEW_HELD_OUT, TrustedSettings, held_out_rows
from lnl_core.layout import Layout
from lnl_core.runtime import resolve
from lnl_core.stages.prepare import STAGE
from lnl_core.stages.stage import Shared, StageContext
from tests.stages.test_prepare import ROWS, table

NAMES = ("cat", "dog")


def held(ids: list[str], share: float) -> set[str]:
    settings = TrustedSettings(held_out_share=share)
    verified = np.zeros(len(ids), dtype=np.int32)
    return {ids[row] for row in np.flatnonzero(held_out_rows(string_ids(ids), verified, settings, NAMES))}


def prepared(root: Path, **section: object) -> tuple[Layout, dict[str, object]]:
    shared = Shared()
    context = StageContext(shared=shared, runtime=resolve(shared.run), paths=Layout(root))
    return context.paths, dict(STAGE.run(STAGE.settings(section), context))


def test_held_out_is_what_the_hash_says() -> None:
    """By hand: the first 8 bytes of a SHA-256, as a share of 2^64. The text keeps it apart from splits by hash."""
    ids = [f"row-{number}" for number in range(1000)]
    place = {name: int(hashlib.sha256(f"held out: {name}".encode()).hexdigest()[:16], 16) / 2**64 for name in ids}
    assert held(ids, 0.3) == {name for name in ids if place[name] < 0.3}
    assert len(held(ids, 0.3)) == pytest.approx(300, abs=60)
    assert held(ids, 0.0) == set()


def test_no_row_changes_sides_when_the_set_or_the_share_grows() -> None:
    ids = [f"row-{number}" for number in range(500)]
    small, large = held(ids[::2], 0.3), held(ids, 0.3)
    assert small == large & set(ids[::2])
    assert large <= held(ids, 0.5)


def test_untrusted_rows_are_never_held_out(caplog: pytest.LogCaptureFixture) -> None:
    ids = string_ids([f"row-{number}" for number in range(400)])
    verified = np.where(np.arange(400) % 2, NO_LABEL, 0).astype(np.int32)
    with caplog.at_level(logging.WARNING, "lnl"):
        chosen = held_out_rows(ids, verified, TrustedSettings(held_out_share=0.5), NAMES)
    assert not chosen[verified == NO_LABEL].any()
    assert chosen.sum() > FEW_HELD_OUT
    assert "1 of 2 classes have fewer than 20 held-out rows (dog 0)" in caplog.text


def test_held_out_rows_go_to_val_with_their_verified_label(tmp_path: Path) -> None:
    paths, metrics = prepared(tmp_path, trusted={"source": "draw", "count": 400, "held_out_share": 0.25})
    labels = read_labels(paths.source_labels)
    chosen = labels.where(split="val", trusted=True)
    assert metrics["trusted_held_out"] == len(chosen) == pytest.approx(100, abs=30)
    assert metrics["trusted"] == 400 - len(chosen)
    whole = read_labels(prepared(tmp_path / "b", trusted={"source": "draw", "count": 400})[0].source_labels)
    assert set(labels.ids[labels.trusted]) == set(whole.ids[whole.trusted])
    assert np.array_equal(labels.label, whole.label)


def test_own_verified_val_rows_are_held_out_where_set(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "e,4.png,dog,cat,val"])
    held_out = {"source": "none", "held_out_val": True}
    for trusted, count in ((held_out, 1), ({"source": "none"}, 0)):
        paths, metrics = prepared(tmp_path / f"run{count}", **section, trusted=trusted)
        labels = read_labels(paths.source_labels)
        assert metrics["trusted_held_out"] == count
        row = labels.ids.tolist().index("e")
        assert (labels.class_names[labels.label[row]], labels.split[row]) == ("cat" if count else "dog", "val")
        assert labels.class_names[labels.observed_label[row]] == "dog"


def test_the_file_must_be_the_one_that_is_meant(tmp_path: Path) -> None:
    section = table(tmp_path / "source", ROWS)
    file = tmp_path / "trusted.csv"
    file.write_text("id,label\na,cat\nc,dog\n")
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    trusted = {"source": "file", "file": str(file)}
    prepared(tmp_path / "run", **section, trusted={**trusted, "sha256": right})
    with pytest.raises(ConfigError, match=rf"trusted\.csv: its sha256 is {right}, prepare\.trusted\.sha256 says 0000"):
        prepared(tmp_path / "run", **section, trusted={**trusted, "sha256": "0" * 64})
    with pytest.raises(ConfigError, match="no such file"):
        prepared(tmp_path / "run", **section, trusted={**trusted, "file": "gone.csv", "sha256": right})
    with pytest.raises(ConfigError, match="sha256 is the hash of file"):
        prepared(tmp_path / "run", trusted={"source": "draw", "count": 100, "sha256": right})


def test_no_class_may_lose_all_its_trusted_train_rows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.trusted: the verified train rows: no row of"):
        prepared(tmp_path, trusted={"source": "draw", "count": 10, "held_out_share": 0.9})
