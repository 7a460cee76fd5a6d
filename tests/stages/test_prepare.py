"""Stage prepare: what it writes, what it sets aside, what it refuses, and that a killed run ends the same."""

import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lnl_core.config import ConfigError
from lnl_core.contracts import (
    NO_LABEL,
    ContractError,
    Labels,
    parts,
    read_labels,
    read_quarantine,
    read_truth,
)
from lnl_core.datasets.digits import Digits
from lnl_core.layout import Layout
from lnl_core.runtime import resolve
from lnl_core.stages.prepare import STAGE
from lnl_core.stages.stage import Shared, StageContext

DATA = Path(os.environ.get("LNL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
CIFAR10_N = DATA / "cifar10.parquet"


def prepare(root: Path, seed: int = 0, **section: Any) -> tuple[Layout, dict[str, Any]]:
    shared = Shared.model_validate({"run": {"seed": seed}})
    context = StageContext(shared=shared, runtime=resolve(shared.run), paths=Layout(root))
    return context.paths, dict(STAGE.run(STAGE.settings(section), context))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise_image(seed: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, channels)).astype(np.uint8)
    return Image.frombytes(mode, (24, 20), pixels.tobytes())


def folder_of(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def bytes_below(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def by_id(labels: Labels) -> dict[str, tuple[int, int, bool, str]]:
    columns = (labels.label, labels.observed_label, labels.trusted, labels.split)
    return {name: (int(a), int(b), bool(c), d) for name, a, b, c, d in zip(labels.ids, *columns, strict=True)}


def test_digits(tmp_path: Path) -> None:
    paths, metrics = prepare(tmp_path, rows_per_shard=500, trusted={"source": "draw", "count": 100})
    assert metrics["rows"] == {"train": 1438, "val": 0, "test": 359}
    assert metrics["trusted_per_class"] == {str(digit): 10 for digit in range(10)}
    shards = parts(paths.images)
    assert [shard.name for shard in shards] == [f"part-0000{number}.parquet" for number in range(4)]
    images = pa.concat_tables(pq.read_table(shard) for shard in shards)
    labels, truth = read_labels(paths.source_labels), read_truth(paths.truth)
    assert images["id"].to_pylist() == list(labels.ids) == list(truth.ids) == sorted(labels.ids)
    assert set(images["width"].to_pylist()) == set(images["height"].to_pylist()) == {8}
    assert np.array_equal(labels.label, truth.true_label)
    assert (labels.split[labels.trusted] == "train").all()
    assert read_quarantine(paths.quarantine) == []
    assert not paths.resume("prepare").joinpath("images").exists()


def test_same_seed_same_bytes_other_seed_other_trusted_rows(tmp_path: Path) -> None:
    section = {"trusted": {"source": "draw", "share": 0.1}, "val_share": 0.1}
    one, two, three = (prepare(tmp_path / str(n), seed, **section)[0] for n, seed in enumerate((0, 0, 1)))
    assert bytes_below(one.root / "prepare") == bytes_below(two.root / "prepare")
    assert read_labels(one.source_labels).trusted.tolist() != read_labels(three.source_labels).trusted.tolist()
    assert bytes_below(one.images) == bytes_below(three.images)


def test_a_killed_run_goes_on_where_it_stopped_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section: dict[str, Any] = {"rows_per_shard": 400, "trusted": {"source": "draw", "count": 50}}
    whole, _ = prepare(tmp_path / "whole", **section)
    requested: list[int] = []
    read = Digits.images

    def dying(self: Digits, index: Any, rows: Any) -> Iterator[Any]:
        for row, image in zip(rows, read(self, index, rows), strict=True):
            if row == 1000:
                raise KeyboardInterrupt
            yield image

    def counting(self: Digits, index: Any, rows: Any) -> Iterator[Any]:
        requested.extend(rows.tolist())
        return read(self, index, rows)

    monkeypatch.setattr(Digits, "images", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "killed", **section)
    monkeypatch.setattr(Digits, "images", counting)
    killed, _ = prepare(tmp_path / "killed", **section)
    assert min(requested) == 800  # the two finished shards were not read again
    assert bytes_below(whole.root / "prepare") == bytes_below(killed.root / "prepare")


def test_an_unfinished_run_of_other_settings_is_not_reused(tmp_path: Path) -> None:
    paths, _ = prepare(tmp_path / "a", digits={"test_share": 0.5})
    resume = Layout(tmp_path / "b").resume("prepare")
    shutil.copytree(paths.images, resume / "images")
    shutil.copytree(paths.resume("prepare") / "notes", resume / "notes")
    (resume / "images" / "part-00007.parquet").write_bytes(b"of a run with more shards")
    (resume / "images" / ".part-00000.parquet.1234.tmp").write_bytes(b"half written when the power failed")
    fresh, _ = prepare(tmp_path / "b", rows_per_shard=1000)
    expected, _ = prepare(tmp_path / "c", rows_per_shard=1000)
    assert bytes_below(fresh.root / "prepare") == bytes_below(expected.root / "prepare")


@pytest.fixture
def bad_folder(tmp_path: Path) -> str:
    jpeg = encoded(noise_image(1), "JPEG")
    return folder_of(
        tmp_path / "source",
        {
            "cat/good.jpg": jpeg,
            "cat/truncated.jpg": jpeg[: len(jpeg) // 2],
            "cat/png-in-disguise.jpg": encoded(noise_image(2), "PNG"),
            "cat/cmyk.jpg": encoded(noise_image(3, "CMYK"), "JPEG"),
            "cat/sixteen.png": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG"),
            "cat/zero.png": b"",
            "cat/notes.txt": b"these are my notes",
            "cat/.DS_Store": b"hidden",
            "dog/only.png": encoded(noise_image(4), "PNG"),
            "stray.png": encoded(noise_image(5), "PNG"),
        },
    )


def test_bad_images_are_set_aside_with_a_reason_and_the_run_goes_on(bad_folder: str, tmp_path: Path) -> None:
    paths, metrics = prepare(tmp_path / "run", dataset="image_folder", image_folder={"path": bad_folder})
    assert by_id(read_labels(paths.source_labels)) == {
        name: (label, label, False, "train")
        for name, label in {
            "cat/good.jpg": 0,
            "cat/png-in-disguise.jpg": 0,
            "cat/cmyk.jpg": 0,
            "cat/sixteen.png": 0,
            "dog/only.png": 1,
        }.items()
    }
    reasons = {row.id or row.path: row.reason for row in read_quarantine(paths.quarantine)}
    assert reasons == {
        "cat/truncated.jpg": "truncated-image",
        "cat/zero.png": "empty-file",
        "cat/notes.txt": "not-an-image",
        "stray.png": "no-class-folder",
    }
    assert all(row.detail for row in read_quarantine(paths.quarantine))
    assert metrics["quarantined_by_reason"] == dict.fromkeys(sorted(reasons.values()), 1)
    assert len(read_truth(paths.truth)) == 0
    images = pa.concat_tables(pq.read_table(part) for part in parts(paths.images)).to_pylist()
    sizes = {row["id"]: (row["width"], row["height"]) for row in images}
    assert sizes["cat/good.jpg"] == (24, 20)
    assert Path(bad_folder, "cat/cmyk.jpg").read_bytes() == next(
        r["image"] for r in images if r["id"] == "cat/cmyk.jpg"
    )


def test_quarantine_survives_a_killed_run(bad_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = {"dataset": "image_folder", "image_folder": {"path": bad_folder}, "rows_per_shard": 3}
    whole, _ = prepare(tmp_path / "whole", **section)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lnl_core.stages.prepare.write_labels", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "killed", **section)
    killed, _ = prepare(tmp_path / "killed", **section)
    assert bytes_below(whole.root / "prepare") == bytes_below(killed.root / "prepare")


def test_more_bad_rows_than_allowed_is_one_error(bad_folder: str, tmp_path: Path) -> None:
    section = {"dataset": "image_folder", "image_folder": {"path": bad_folder}}
    with pytest.raises(
        ContractError, match=r"4 of 9 rows cannot be used .*truncated-image 1.*max_quarantined_share = 0.3"
    ):
        prepare(tmp_path / "run", **section, max_quarantined_share=0.3)


def test_a_folder_without_images_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(ContractError, match="dataset image_folder: no rows at all"):
        prepare(tmp_path / "run", dataset="image_folder", image_folder={"path": str(tmp_path / "source")})


def table(root: Path, lines: list[str]) -> dict[str, Any]:
    """A flat folder of six images with the given CSV lines (id, path, label, true, split)."""
    folder_of(root, {f"{number}.png": encoded(noise_image(number), "PNG") for number in range(6)})
    (root / "labels.csv").write_text("\n".join(["id,path,label,true,split", *lines]) + "\n")
    columns = {"true_label_column": "true", "split_column": "split", "class_names": ["cat", "dog"]}
    return {"dataset": "image_folder", "image_folder": {"path": str(root), "table": "labels.csv", **columns}}


ROWS = ["a,0.png,cat,cat,train", "b,1.png,dog,cat,train", "c,2.png,dog,dog,train", "d,3.png,cat,,train"]


def test_labels_that_are_wrong_or_missing_are_set_aside(tmp_path: Path) -> None:
    lines = [*ROWS, "e,4.png,7,cat,train", "f,5.png,,,train", "g,0.png,,dog,test"]
    paths, _ = prepare(tmp_path / "run", **table(tmp_path / "source", lines))
    assert {row.id: row.reason for row in read_quarantine(paths.quarantine)} == {
        "e": "label-out-of-range",
        "f": "missing-label",
    }
    labels = by_id(read_labels(paths.source_labels))
    assert labels["g"] == (1, 1, False, "test")  # a test row may go by its true label
    truth = read_truth(paths.truth)
    assert dict(zip(truth.ids, truth.true_label.tolist(), strict=True)) == {"a": 0, "b": 0, "c": 1, "g": 1}


def test_train_rows_never_go_by_a_true_label_that_nobody_verified(tmp_path: Path) -> None:
    section = table(tmp_path / "source", ["a,0.png,cat,cat,train", "b,1.png,,dog,train", "c,2.png,dog,dog,val"])
    source = Path(section["image_folder"]["path"]) / "labels.csv"
    lines = source.read_text().splitlines()
    source.write_text("\n".join([lines[0] + ",checked", *(line + ",no" for line in lines[1:])]) + "\n")
    section["image_folder"]["verified_column"] = "checked"
    paths, _ = prepare(tmp_path / "run", **section)
    assert [(row.id, row.reason) for row in read_quarantine(paths.quarantine)] == [("b", "missing-label")]


def test_duplicate_ids_are_one_error_that_names_file_and_rows(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"labels\.csv: row 1 and .*labels\.csv: row 4: both have id 'b'"):
        prepare(tmp_path / "run", **table(tmp_path / "source", [*ROWS, "b,4.png,cat,cat,train"]))


def test_drawn_trusted_rows_keep_both_labels(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "e,4.png,,cat,train"])
    paths, metrics = prepare(tmp_path / "run", **section, trusted={"source": "draw", "share": 1.0})
    labels = by_id(read_labels(paths.source_labels))
    assert labels == {
        "a": (0, 0, True, "train"),
        "b": (0, 1, True, "train"),
        "c": (1, 1, True, "train"),
        "d": (0, 0, False, "train"),
        "e": (0, NO_LABEL, True, "train"),
    }
    assert metrics["trusted_per_class"] == {"cat": 3, "dog": 1}


def test_one_trusted_row_at_least_even_when_it_is_the_only_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lnl"), "disabled", False)  # a tool run by another test may have silenced it
    section = table(tmp_path / "source", ROWS)
    paths, metrics = prepare(tmp_path / "run", **section, trusted={"source": "draw", "share": 0.01})
    assert metrics["trusted_per_class"] == {"cat": 1, "dog": 1}
    assert "class 'dog': all its 1 train rows are trusted" in caplog.text
    assert read_labels(paths.source_labels).trusted.sum() == 2


def test_count_is_shared_out_over_the_classes(tmp_path: Path) -> None:
    _, metrics = prepare(tmp_path, trusted={"source": "draw", "count": 23})
    assert list(metrics["trusted_per_class"].values()) == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]


def test_a_class_without_verified_rows_is_one_error(tmp_path: Path) -> None:
    section = table(tmp_path / "source", ["a,0.png,cat,cat,train", "b,1.png,dog,,train"])
    with pytest.raises(
        ConfigError, match=r"no row of 'dog' \(1 of 2 classes\); verify at least one image of each class"
    ):
        prepare(tmp_path / "run", **section, trusted={"source": "draw", "count": 2})
    trusted = {"source": "draw", "count": 2, "allow_empty_classes": True}
    _, metrics = prepare(tmp_path / "run", **section, trusted=trusted)
    assert metrics["trusted_per_class"] == {"cat": 1, "dog": 0}


def test_trusted_rows_of_a_file(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "e,4.png,,,train"])
    file = tmp_path / "trusted.csv"
    file.write_text("name,says\nd,dog\ne,0\n")
    trusted = {"source": "file", "file": str(file), "id_column": "name", "label_column": "says"}
    paths, metrics = prepare(tmp_path / "run", **section, trusted=trusted)
    labels = by_id(read_labels(paths.source_labels))
    assert labels["d"] == (1, 0, True, "train")
    assert labels["e"] == (0, NO_LABEL, True, "train")  # the file is the only one to label it
    assert metrics["trusted"] == 2
    assert metrics["quarantined"] == 0


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("id,label\na,cat\nz,dog\n", ContractError, r"trusted\.csv: row 1: id 'z' is no row of the dataset"),
        ("id,label\na,cat\nc,dog\na,dog\n", ContractError, r"trusted\.csv: id 'a' stands in rows 0 and 2"),
        ("id,label\na,cat\nc,cow\n", ContractError, r"trusted\.csv: row 1 \(id 'c'\): label = 'cow' is no class"),
        (
            "id,label\na,cat\nc,2\n",
            ContractError,
            r"row 1 \(id 'c'\): label = '2' is no class; allowed are 'cat', 'dog'",
        ),
        ("id,label\na,cat\nt,dog\n", ContractError, r"id 't' is in the test split"),
        ("id,label\na,cat\n", ConfigError, r"trusted\.csv: no row of 'dog'"),
        ("id,said\na,cat\n", ContractError, r"has no column 'label'"),
    ],
)
def test_trusted_files_that_do_not_fit(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    section = table(tmp_path / "source", [*ROWS, "t,4.png,dog,dog,test"])
    file = tmp_path / "trusted.csv"
    file.write_text(text)
    with pytest.raises(error, match=message):
        prepare(tmp_path / "run", **section, trusted={"source": "file", "file": str(file)})


def test_trusted_rows_whose_image_is_broken_drop_out(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "e,5.png,cat,cat,train"])
    (tmp_path / "source" / "5.png").write_bytes(b"")
    (tmp_path / "trusted.csv").write_text("id,label\na,cat\nc,dog\ne,cat\n")
    trusted = {"source": "file", "file": str(tmp_path / "trusted.csv")}
    _, metrics = prepare(tmp_path / "run", **section, trusted=trusted)
    assert metrics["trusted_per_class"] == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    "trusted", [{"source": "draw"}, {"source": "draw", "count": 5, "share": 0.1}, {"source": "file"}, {"source": "x"}]
)
def test_trusted_settings_that_contradict(tmp_path: Path, trusted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.trusted"):
        prepare(tmp_path, trusted=trusted)


def test_unknown_dataset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        prepare(tmp_path, dataset="digit")


def test_val_is_drawn_per_class_and_never_from_trusted_rows(tmp_path: Path) -> None:
    paths, metrics = prepare(tmp_path, val_share=0.25, trusted={"source": "draw", "share": 0.5})
    labels = read_labels(paths.source_labels)
    assert metrics["rows"]["val"] == pytest.approx(0.25 * 1438, abs=5)
    per_class = np.bincount(labels.label[labels.split == "val"])
    assert per_class.min() >= 33
    assert not (labels.trusted & (labels.split == "val")).any()


def test_val_of_the_source_is_left_alone(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "e,4.png,dog,dog,val"])
    _, metrics = prepare(tmp_path / "run", **section, val_share=0.5)
    assert metrics["rows"] == {"train": 4, "val": 1, "test": 0}


def test_images_that_stand_in_test_and_train_are_counted(tmp_path: Path) -> None:
    section = table(tmp_path / "source", [*ROWS, "t,0.png,cat,cat,test", "u,5.png,cat,cat,test"])
    _, metrics = prepare(tmp_path / "run", **section)
    assert metrics["test_images_also_in_train_or_val"] == 1


@pytest.mark.skipif(not CIFAR10_N.exists(), reason="needs the CIFAR-10N table, which is not part of the project")
def test_cifar10n_table(tmp_path: Path) -> None:
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    source = pq.read_table(CIFAR10_N)
    pq.write_table(pa.concat_tables([source.slice(0, 900), source.slice(50_000, 100)]), tmp_path / "small.parquet")
    columns = {"id_column": "index", "label_column": "worse_label", "true_label_column": "label"}
    paths, metrics = prepare(
        tmp_path / "run",
        dataset="parquet",
        parquet={"path": str(tmp_path / "small.parquet"), "split_column": "split", "class_names": names, **columns},
        trusted={"source": "draw", "count": 50},
    )
    assert metrics["rows"] == {"train": 900, "val": 0, "test": 100}
    labels, truth = read_labels(paths.source_labels), read_truth(paths.truth)
    assert list(labels.ids[:3]) == ["0", "1", "10"]
    wrong = labels.observed_label != truth.true_label
    assert not wrong[labels.split == "test"].any()
    assert wrong[labels.split == "train"].mean() == pytest.approx(0.402, abs=0.06)
    assert np.array_equal(labels.label[labels.trusted], truth.true_label[labels.trusted])
