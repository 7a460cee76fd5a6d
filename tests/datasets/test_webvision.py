"""WebVision's reader on a small release of the same layout, tested on its own images and on ImageNet's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import NO_LABEL, ContractError, QuarantineRow
from lnl_core.datasets import DATASETS
from lnl_core.labels.index import Dataset, Index
from lnl_core.s3 import upload
from tests.datasets.reading import as_dict, images_of, jpeg, write
from tests.datasets.reading import reader as reader_of

SYNSETS = [
    "n01440764 tench, Tinca tinca",
    "n01443537 goldfish, Carassius auratus",
    "n02012849 crane",
    "n03126707 crane",
]
WNIDS = [line.split()[0] for line in SYNSETS]
QUERIES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4}  # two queries for the first synset; synsets count from 1
GOOGLE = {f"google/q{query:04d}/g{query}{n}.jpg": synset - 1 for query, synset in QUERIES.items() for n in range(2)}
FLICKR = {f"flickr/q{query:04d}/f{query}.jpg": synset - 1 for query, synset in QUERIES.items()}
VAL = {f"val00000{n}.jpg": n for n in range(4)}
IMAGENET = {f"ILSVRC2012_val_{n + 1:08d}": WNIDS[n % 4] for n in range(8)}


def listed(rows: dict[str, int]) -> str:
    return "".join(f"{key} {label}\n" for key, label in rows.items())


def release(root: Path, train: str = "", val: str = "val_images_256") -> Path:
    write(root / "info" / "synsets.txt", "\n".join(SYNSETS))
    write(
        root / "info" / "queries_synsets_map.txt", "".join(f"{query} {number}\n" for query, number in QUERIES.items())
    )
    write(root / "info" / "train_filelist_google.txt", listed(GOOGLE))
    write(root / "info" / "train_filelist_flickr.txt", listed(FLICKR))
    write(root / "info" / "val_filelist.txt", listed(VAL))
    for number, key in enumerate([*GOOGLE, *FLICKR]):
        write(root / train / key, jpeg(number))
    for number, key in enumerate(VAL):
        write(root / val / key, jpeg(100 + number))
    return root


def reader(root: Path, **settings: Any) -> Dataset:
    return reader_of("webvision", **{"path": str(root), "classes": 2, **settings})


def expected(train: dict[str, int], test: dict[str, int], classes: int) -> dict[str, tuple[int, int, bool, str]]:
    rows = {key: (label, NO_LABEL, False, "train") for key, label in train.items() if label < classes}
    return rows | {key: (label, label, True, "test") for key, label in test.items() if label < classes}


@pytest.mark.parametrize(("train", "val"), [("", "val_images_256"), ("train", "val")])
def test_the_first_classes_of_google(tmp_path: Path, train: str, val: str) -> None:
    dataset = reader(release(tmp_path, train, val))
    index = dataset.index()
    test = {f"val/{key}": label for key, label in VAL.items()}
    assert index.class_names == ("n01440764 tench", "n01443537 goldfish")
    assert as_dict(index) == expected(GOOGLE, test, 2)
    assert not index.quarantined
    got = images_of(dataset, index)
    assert got["google/q0003/g31.jpg"] == jpeg(5)
    assert got["val/val000001.jpg"] == jpeg(101)
    assert not any(isinstance(image, QuarantineRow) for image in got.values())


def test_all_classes_of_both_sources(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lnl"):
        index = reader(release(tmp_path), classes=4, sources=["google", "flickr"]).index()
    assert as_dict(index) == expected(GOOGLE | FLICKR, {f"val/{key}": label for key, label in VAL.items()}, 4)
    assert index.class_names[2:] == ("n02012849 crane", "n03126707 crane")  # one word, two synsets
    assert caplog.messages == ["webvision: 15 train, 4 test, 4 classes"]


def imagenet(root: Path, layout: str) -> Path:
    """The validation images in one of the layouts that people have."""
    for number, (name, wnid) in enumerate(IMAGENET.items()):
        folder = {"synsets": f"val/{wnid}", "kaggle": "ILSVRC/Data/CLS-LOC/val", "kit": "", "unlabelled": "val"}[layout]
        write(root / folder / f"{name}.JPEG", jpeg(200 + number))
    if layout == "kaggle":
        rows = [f"{name},{wnid} 85 1 499 272 \n" for name, wnid in reversed(IMAGENET.items())]
        write(root / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(rows))
    if layout == "kit":
        numbers = {wnid: 40 - number for number, wnid in enumerate(WNIDS)}  # the kit's order is its own
        truth = "".join(f"{numbers[wnid]}\n" for wnid in IMAGENET.values())
        write(root / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt", truth)
        kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
        synsets = np.array([(number, wnid, "a, b") for wnid, number in numbers.items()], dtype=kinds)
        scipy.io.savemat(root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat", {"synsets": synsets})
    return root


@pytest.mark.parametrize("layout", ["synsets", "kaggle", "kit"])
def test_imagenets_validation_images_of_the_same_synsets(tmp_path: Path, layout: str) -> None:
    release(tmp_path / "webvision", val="nowhere")
    root = imagenet(tmp_path / "imagenet", layout)
    dataset = reader(tmp_path / "webvision", test="imagenet", imagenet=str(root))
    index = dataset.index()
    test = {f"imagenet/{name}.JPEG": WNIDS.index(wnid) for name, wnid in IMAGENET.items()}
    assert as_dict(index) == expected(GOOGLE, test, 2)
    got = images_of(dataset, index)
    assert got["imagenet/ILSVRC2012_val_00000006.JPEG"] == jpeg(205)
    assert not any(isinstance(image, QuarantineRow) for image in got.values())


def test_imagenet_images_that_cannot_be_used(tmp_path: Path) -> None:
    release(tmp_path)

    def index(root: Path) -> Index:
        return reader(tmp_path, test="imagenet", imagenet=str(root)).index()

    with pytest.raises(ConfigError, match="test 'imagenet' needs imagenet"):
        reader(tmp_path, test="imagenet")
    with pytest.raises(ConfigError, match="neither folders such as n01440764 nor files"):
        index(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no LOC_val_solution\.csv and no ILSVRC2012_validation_ground_truth\.txt"):
        index(imagenet(tmp_path / "flat", "unlabelled"))
    root = imagenet(tmp_path / "sorted", "synsets")
    (root / "val" / WNIDS[1]).rename(root / "val" / "goldfish")
    with pytest.raises(ConfigError, match=f"has no folder {WNIDS[1]}"):
        index(root)
    root = imagenet(tmp_path / "kaggle", "kaggle")
    write(root / "LOC_val_solution.csv", "name,label\na,b\n")
    with pytest.raises(ContractError, match=r"LOC_val_solution\.csv: not ImageId,PredictionString"):
        index(root)
    root = imagenet(tmp_path / "kit", "kit")
    write(root / "ILSVRC2012_devkit_t12" / "data" / "meta.mat", b"no matrix")
    with pytest.raises(ContractError, match=r"meta\.mat: cannot be read"):
        index(root)


def test_bad_lines_and_missing_images_are_set_aside(tmp_path: Path) -> None:
    release(tmp_path)
    key = next(iter(GOOGLE))
    (tmp_path / key).unlink()
    more = "google/q0001/a.jpg\ngoogle/q0001/b.jpg 1000\ngoogle/q0003/g30.jpg 0\nelsewhere/c.jpg 1\n"
    write(tmp_path / "info" / "train_filelist_google.txt", listed(GOOGLE) + more)
    dataset = reader(tmp_path)
    index = dataset.index()
    assert {row.id: row.reason for row in index.quarantined} == {
        "google/q0001/a.jpg": "missing-label",
        "google/q0001/b.jpg": "label-out-of-range",
        "google/q0003/g30.jpg": "conflicting-labels",
    }
    got = images_of(dataset, index)
    missing = {name: row.reason for name, row in got.items() if isinstance(row, QuarantineRow)}
    assert missing == {key: "missing-file", "elsewhere/c.jpg": "missing-file"}


def test_a_release_on_s3_with_imagenet_on_disk(tmp_path: Path, s3: str) -> None:
    for file in sorted(path for path in release(tmp_path / "webvision").rglob("*") if path.is_file()):
        upload(file, f"{s3}/webvision/{file.relative_to(tmp_path / 'webvision').as_posix()}")
    root = imagenet(tmp_path / "imagenet", "synsets")
    entry = DATASETS.get("webvision")
    settings = {"path": f"{s3}/webvision", "classes": 2}
    for more in ({}, {"test": "imagenet", "imagenet": str(root)}):
        dataset = entry.make(parse(entry.config, settings | more, "prepare.webvision"))
        local = reader(tmp_path / "webvision", **more)
        index = dataset.index()
        assert as_dict(index) == as_dict(local.index())
        assert images_of(dataset, index) == images_of(local, index)


def test_lists_of_another_release_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    release(tmp_path)
    with caplog.at_level(logging.WARNING, "lnl"):
        reader(tmp_path).index()
        assert not caplog.messages
        write(tmp_path / "info" / "queries_synsets_map.txt", "1 1\n2 1\n3 3\n4 2\n5 4\n")
        reader(tmp_path).index()
    assert "4 of 10 labels are not those of" in caplog.text


def test_releases_that_cannot_be_used_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="path is not set"):
        DATASETS.get("webvision").make(DATASETS.get("webvision").config()).index()
    with pytest.raises(ConfigError, match="has no folder info; unpack"):
        reader(tmp_path).index()
    release(tmp_path)
    with pytest.raises(ContractError, match=r"synsets\.txt: 4 synsets, prepare\.webvision\.classes = 50"):
        reader(tmp_path, classes=50).index()
    (tmp_path / "flickr").rename(tmp_path / "flikr")
    with pytest.raises(ConfigError, match=r"no folder .*flickr, .*train/flickr; unpack"):
        reader(tmp_path, sources=["flickr"]).index()
    (tmp_path / "info" / "val_filelist.txt").unlink()
    with pytest.raises(ConfigError, match=r"val_filelist\.txt: No such file"):
        reader(tmp_path).index()


def test_source_files_are_lists_and_folders(tmp_path: Path) -> None:
    files = reader(release(tmp_path)).source_files()
    assert {str(tmp_path / "google" / "q0003"), str(tmp_path / "val_images_256")} < set(files)
    assert len(files) == len(set(files)) == 3 + 3 + 1  # of the chosen classes
    assert all(Path(file).exists() for file in files)
