"""Stage inject: who gets noise, who keeps what, and the protocol card."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, Labels, Truth, read_labels, string_ids, write_labels, write_truth
from lnl_core.images.shards import write_shard
from lnl_core.layout import Layout
from lnl_core.runtime import resolve
from lnl_core.stages.inject import STAGE
from lnl_core.stages.stage import Shared, StageContext

CLASSES = ("a", "b", "c", "d")
ROWS = 800


def source(root: Path, truth: bool = True) -> Layout:
    """800 rows, every tenth in test, every tenth in val, every tenth trusted; source labels wrong in every fifth."""
    paths = Layout(root)
    row = np.arange(ROWS)
    true = (row // 10 % 4).astype(np.int32)
    observed = np.where(row % 5 == 3, (true + 1) % 4, true).astype(np.int32)
    split = string_ids(["test" if r % 10 == 0 else "val" if r % 10 == 1 else "train" for r in row])
    trusted = row % 10 == 2
    ids = string_ids([f"r{r:04d}" for r in row])
    label = np.where(trusted, true, observed).astype(np.int32)
    labels = Labels(ids=ids, label=label, observed_label=observed, trusted=trusted, split=split, class_names=CLASSES)
    write_labels(paths.source_labels, labels)
    known = np.arange(ROWS if truth else 0)
    write_truth(paths.truth, Truth(ids=ids[known], true_label=true[known]))
    return paths


def inject(paths: Layout, seed: int = 0, images: dict[str, Any] | None = None, **section: Any) -> dict[str, Any]:
    shared = Shared.model_validate({"run": {"seed": seed}, "images": images or {}})
    context = StageContext(shared=shared, runtime=resolve(shared.run), paths=paths)
    return dict(STAGE.run(STAGE.settings(section), context))


def true_label() -> np.ndarray:
    return (np.arange(ROWS) // 10 % 4).astype(np.int32)


def test_none_keeps_the_labels_and_measures_them(tmp_path: Path) -> None:
    paths = source(tmp_path)
    card = inject(paths)
    before, after = read_labels(paths.source_labels), read_labels(paths.labels)
    assert np.array_equal(before.label, after.label)
    assert np.array_equal(before.observed_label, after.observed_label)
    # Of the seven untrusted train rows in ten (3 to 9), rows 3 and 8 are wrong.
    assert card["rate_realised"] == pytest.approx(2 / 7, abs=1e-6)
    assert card["rows"] == 560
    assert np.allclose(card["matrix"], 5 / 7 * np.eye(4) + 2 / 7 * np.roll(np.eye(4), 1, axis=1), atol=1e-6)


def test_none_without_truth_says_so(tmp_path: Path) -> None:
    card = inject(source(tmp_path, truth=False))
    assert card["truth"] == "unknown"
    assert card["rate_realised"] is None
    assert card["rate_realised_overall"] is None
    assert card["matrix"] is None


def test_noise_reaches_train_and_val_and_never_test(tmp_path: Path) -> None:
    paths = source(tmp_path)
    card = inject(paths, type="symmetric", symmetric={"rate": 1.0, "protocol": "exclusive"})
    labels, true = read_labels(paths.labels), true_label()
    test = labels.split == "test"
    before = read_labels(paths.source_labels)
    assert np.array_equal(labels.label[test], before.label[test])
    assert (labels.observed_label[~test] != true[~test]).all()
    assert (labels.label[labels.split == "val"] != true[labels.split == "val"]).all()
    assert np.array_equal(labels.label[labels.trusted], true[labels.trusted])
    assert (labels.observed_label[labels.trusted] != NO_LABEL).all()
    assert card["rate_realised"] == card["rate_realised_overall"] == 1.0


def test_the_card_has_what_was_set_and_what_came_out(tmp_path: Path) -> None:
    paths = source(tmp_path)
    card = inject(paths, seed=7, type="symmetric", symmetric={"rate": 0.6, "protocol": "exclusive"})
    labels, true = read_labels(paths.labels), true_label()
    noisy = (labels.split == "train") & ~labels.trusted
    assert labels.protocol == card
    assert (card["type"], card["protocol"], card["counting"], card["seed"]) == ("symmetric", "exclusive", "exact", 7)
    assert card["nominal_rate"] == 0.6
    assert card["rate_realised"] == pytest.approx((labels.label[noisy] != true[noisy]).mean(), abs=1e-6)
    assert card["rate_realised_overall"] == pytest.approx(0.6, abs=1e-6)  # exactly 432 of 720 rows
    slow = np.zeros((4, 4))
    for row in np.flatnonzero(noisy):
        slow[true[row], labels.label[row]] += 1
    assert np.allclose(card["matrix"], slow / slow.sum(axis=1, keepdims=True), atol=1e-6)
    assert card["sha256"] == hashlib.sha256(labels.label.astype("<i4").tobytes()).hexdigest()


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    written = []
    for number, seed in enumerate((0, 0, 1)):
        paths = source(tmp_path / str(number))
        inject(paths, seed, type="pair", pair={"rate": 0.3})
        written.append(paths.labels.read_bytes())
    assert written[0] == written[1] != written[2]


def test_noise_without_truth_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"inject.type = 'pair': .*720 of 720 rows have none; use inject.type = 'none'"
    ):
        inject(source(tmp_path, truth=False), type="pair")


def test_settings_are_checked(tmp_path: Path) -> None:
    paths = source(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'symmetric'"):
        inject(paths, type="symetric")
    with pytest.raises(ConfigError, match=r"inject\.symmetric\.rate"):
        inject(paths, type="symmetric", symmetric={"rate": 1.5})
    with pytest.raises(ConfigError, match=r"inject\.pair\.ratio: unknown setting"):
        inject(paths, type="symmetric", pair={"ratio": 0.5})  # a typo in an unselected type is a typo too


def test_instance_noise_streams_the_images_of_the_shards(tmp_path: Path) -> None:
    def png(row: int) -> bytes:
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    written = []
    for name, size in (("one", 800), ("many", 90)):  # the same noise however the images are sharded
        paths = source(tmp_path / name)
        for number, start in enumerate(range(0, ROWS, size)):
            rows = range(start, min(start + size, ROWS))
            write_shard(
                paths.images / f"part-{number:05d}.parquet", [f"r{r:04d}" for r in rows], map(png, rows), "prepare"
            )
        card = inject(paths, images={"size": 8, "channels": 1}, type="instance", instance={"rate": 0.4})
        assert card["protocol"] == "part-dependent, unit pixels"
        assert card["rate_realised"] == pytest.approx(0.4, abs=0.1)
        written.append(paths.labels.read_bytes())
    assert written[0] == written[1]
