"""Clothing1M's reader on a small release of the same layout: what it reads, what it sets aside, what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import NO_LABEL, ContractError, QuarantineRow, read_labels
from lnl_core.datasets import DATASETS
from lnl_core.labels.index import Dataset
from lnl_core.layout import Layout
from lnl_core.s3 import exists, upload
from lnl_core.stages.stage import run_stage
from tests.datasets.reading import as_dict, jpeg, write
from tests.datasets.reading import reader as reader_of

NAMES = ["T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Downcoat", "Suit"]
NAMES += ["Shawl", "Dress", "Vest", "Underwear"]
NOISY = {f"images/0/{n % 3}/{n},7.jpg": n % 14 for n in range(28)}  # keys of the release have a comma
BOTH = {f"images/1/0/both{n}.jpg": (n, (n + n % 2) % 14) for n in range(14)}  # verified and noisy label
VERIFIED = {f"images/1/1/clean{n}.jpg": n % 14 for n in range(14)}
VAL = {f"images/2/0/val{n}.jpg": n for n in range(14)}
TEST = {f"images/2/1/test{n}.jpg": n for n in range(14)}
TRAIN = {**{key: right for key, (right, _) in BOTH.items()}, **VERIFIED}


def lines(rows: dict[str, int] | list[str]) -> str:
    pairs = [f"{key} {rows[key]}" for key in rows] if isinstance(rows, dict) else rows
    return "".join(f"{line}\n" for line in pairs)


def release(root: Path, lists: str = "", images: str = "images") -> Path:
    """The authors' release: `lists` is the folder of its text files, `images` the one of its archives."""
    noisy = {**NOISY, **{key: seen for key, (_, seen) in BOTH.items()}}
    for name, content in {
        "category_names_eng.txt": lines(NAMES),
        "noisy_label_kv.txt": lines(noisy),
        "clean_label_kv.txt": lines({**TRAIN, **VAL, **TEST}),
        "noisy_train_key_list.txt": lines(list(NOISY)),
        "clean_train_key_list.txt": lines(list(TRAIN)),
        "clean_val_key_list.txt": lines(list(VAL)),
        "clean_test_key_list.txt": lines(list(TEST)),
    }.items():
        write(root / lists / name, content)
    for number, key in enumerate([*NOISY, *TRAIN, *VAL, *TEST]):
        write(root / images / key.removeprefix("images/"), jpeg(number))
    return root


def reader(root: Path, **settings: Any) -> Dataset:
    return reader_of("clothing1m", path=str(root), **settings)


EXPECTED = {
    **{key: (label, NO_LABEL, False, "train") for key, label in NOISY.items()},
    **{key: (seen, right, True, "train") for key, (right, seen) in BOTH.items()},
    **{key: (NO_LABEL, right, True, "train") for key, right in VERIFIED.items()},
    **{key: (right, right, True, "val") for key, right in VAL.items()},
    **{key: (right, right, True, "test") for key, right in TEST.items()},
}


@pytest.mark.parametrize("lists", ["", "annotations"])
@pytest.mark.parametrize("images", ["images", ""])
def test_the_release_however_it_was_unpacked(tmp_path: Path, lists: str, images: str) -> None:
    dataset = reader(release(tmp_path, lists, images))
    index = dataset.index()
    assert index.class_names == tuple(NAMES)
    assert as_dict(index) == EXPECTED
    assert not index.quarantined
    rows = np.argsort(index.ids)
    got = dict(zip(index.ids[rows], dataset.images(index, rows), strict=True))
    assert got == {key: jpeg(number) for number, key in enumerate([*NOISY, *TRAIN, *VAL, *TEST])}


@pytest.mark.parametrize("noisy_labels", [True, False])
def test_lists_merged_with_their_labels(tmp_path: Path, noisy_labels: bool) -> None:
    """Such lists have lost the noisy labels of clean images; `noisy_label_kv.txt` brings them back."""
    release(tmp_path)
    for name, rows in (("noisy_train", NOISY), ("clean_train", TRAIN), ("clean_val", VAL), ("clean_test", TEST)):
        (tmp_path / f"{name}_key_list.txt").unlink()
        write(tmp_path / "annotations" / f"{name}.txt", lines(rows))
    for name in ("category_names_eng.txt", "noisy_label_kv.txt")[: 1 + noisy_labels]:
        (tmp_path / name).rename(tmp_path / "annotations" / name)
    expected = {
        key: (label if noisy_labels or key not in BOTH else NO_LABEL, *rest) for key, (label, *rest) in EXPECTED.items()
    }
    assert as_dict(reader(tmp_path).index()) == expected


def test_what_clean_train_is_for(tmp_path: Path) -> None:
    release(tmp_path)
    every = set(EXPECTED)
    assert set(reader(tmp_path, use_clean_train="noisy").index().ids) == every - set(VERIFIED)
    (tmp_path / "clean_train_key_list.txt").unlink()
    assert set(reader(tmp_path, use_clean_train="none").index().ids) == every - set(TRAIN)


def test_a_key_in_several_lists_is_never_trained_on_where_it_tests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release(tmp_path)
    test, val, clean = next(iter(TEST)), next(iter(VAL)), next(iter(BOTH))
    noisy = {**NOISY, **{key: seen for key, (_, seen) in BOTH.items()}, test: 9, val: 9}
    write(tmp_path / "noisy_label_kv.txt", lines(noisy))
    write(tmp_path / "noisy_train_key_list.txt", lines([*NOISY, test, val, clean]))
    write(tmp_path / "clean_val_key_list.txt", lines([*VAL, test]))
    with caplog.at_level(logging.INFO, "lnl"):
        assert as_dict(reader(tmp_path).index()) == EXPECTED  # once each, with the verified label
    said = [record.getMessage() for record in caplog.records]
    for name, owner in (("noisy_train", "clean_test"), ("noisy_train", "clean_val"), ("clean_val", "clean_test")):
        assert f"{tmp_path}/{name}_key_list.txt: 1 keys stand in {owner} too and belong there" in said
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("stand in clean_train" in text for text in said) == 1
    assert not any("stand in clean_train" in text for text in warned)  # a noisy row with a verified label: no leak
    assert said[-1] == "clothing1m: 28 noisy train, 28 clean train (14 with a noisy label too), 14 val, 14 test"


def test_what_is_wrong_with_a_line_is_wrong_with_its_row_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release(tmp_path)
    a, b, c, d, e, f = list(NOISY)[:6]
    noisy = lines({key: label for key, label in NOISY.items() if key not in (a, b)})
    noisy += f"{b}\n{c} 99\n{d} shirt\n"  # c and d stand there with a good label, too
    noisy = noisy.replace(f"{e} {NOISY[e]}\n", f"{e} 14\n{e} 14\n").replace(f"{f} {NOISY[f]}\n", f"{f} -1\n")
    write(tmp_path / "noisy_label_kv.txt", noisy + f"{list(NOISY)[9]} {NOISY[list(NOISY)[9]]}\r\n\n")
    right = {**TRAIN, **VAL, **TEST}
    lost, wrong = next(iter(VAL)), next(iter(TEST))
    write(tmp_path / "clean_label_kv.txt", lines({key: n for key, n in right.items() if key != lost} | {wrong: 14}))
    write(tmp_path / "noisy_train_key_list.txt", lines([*NOISY, *list(NOISY)[:3]]))
    with caplog.at_level(logging.WARNING, "lnl"):
        index = reader(tmp_path).index()
    reasons = {row.id: row.reason for row in index.quarantined}
    assert reasons == {
        a: "missing-label",
        b: "missing-label",
        c: "conflicting-labels",
        d: "conflicting-labels",
        e: "label-out-of-range",
        f: "label-out-of-range",
        lost: "missing-label",
        wrong: "label-out-of-range",
    }
    details = {row.id: row.detail for row in index.quarantined}
    assert details[a] == f"{tmp_path}/noisy_label_kv.txt: has no line for it; add one or drop the row"
    assert "label '14'; allowed are 0 to 13" in details[e]
    assert f"{tmp_path}/noisy_train_key_list.txt: 3 lines repeat a key; it counts once" in caplog.messages
    assert set(as_dict(index)) == set(EXPECTED) - set(reasons)
    assert as_dict(index)[next(iter(BOTH))][0] == NO_LABEL  # its noisy label is gone, the verified one stands


def test_missing_images_are_found_when_they_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    release(tmp_path)
    gone = next(iter(NOISY))
    (tmp_path / gone).unlink()
    for key in TRAIN:
        (tmp_path / key).unlink()
    for folder in ("images/1/0", "images/1/1", "images/1"):
        (tmp_path / folder).rmdir()
    dataset = reader(tmp_path)
    with caplog.at_level(logging.WARNING, "lnl"):
        index = dataset.index()
    assert any("no folder 1;" in text for text in caplog.messages)
    rows = np.argsort(index.ids)
    got = dict(zip(index.ids[rows], dataset.images(index, rows), strict=True))
    missing = {key: row for key, row in got.items() if isinstance(row, QuarantineRow)}
    assert set(missing) == {gone, *TRAIN}
    assert {row.reason for row in missing.values()} == {"missing-file"}


def test_a_release_on_s3_is_read_as_one_in_a_folder(tmp_path: Path, s3: str, caplog: pytest.LogCaptureFixture) -> None:
    release(tmp_path, lists="annotations")
    gone = list(TEST)[-1]
    for file in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        if not file.name.startswith(Path(gone).name):
            upload(file, f"{s3}/release/{file.relative_to(tmp_path).as_posix()}")
    entry = DATASETS.get("clothing1m")
    dataset = entry.make(parse(entry.config, {"path": f"{s3}/release"}, "prepare.clothing1m"))
    index = dataset.index()
    assert as_dict(index) == EXPECTED
    assert not caplog.messages
    rows = np.argsort(index.ids)
    there, here = dataset.images(index, rows), reader(tmp_path).images(index, rows)
    different = {key: image for key, image, same in zip(index.ids[rows], there, here, strict=True) if image != same}
    assert list(different) == [gone]
    assert different[gone].reason == "missing-file"
    assert all(exists(file) for file in dataset.source_files())
    with pytest.raises(ConfigError, match="no such folder; correct the path"):
        entry.make(entry.config(path=f"{s3}/nothing")).index()


def test_an_archive_that_is_unpacked_later_changes_the_source_files(tmp_path: Path) -> None:
    files = reader(release(tmp_path)).source_files()
    assert len(files) == len(set(files)) == 7 + 7  # lists and folders: not one a photograph
    assert {str(tmp_path / "images" / "0" / "2"), str(tmp_path / "noisy_label_kv.txt")} < set(files)


def test_the_stage_keeps_the_noisy_label_beside_the_verified_one(tmp_path: Path) -> None:
    release(tmp_path / "release")
    settings = {
        "prepare": {
            "dataset": "clothing1m",
            "clothing1m": {"path": str(tmp_path / "release")},
            "trusted": {"source": "draw", "share": 1.0},
        }
    }
    paths = Layout(tmp_path / "run")
    run_stage("prepare", settings, paths)
    labels = read_labels(paths.source_labels)
    rows = {name: row for row, name in enumerate(labels.ids)}
    assert set(labels.ids[labels.trusted]) == set(TRAIN)
    assert {key: (labels.label[rows[key]], labels.observed_label[rows[key]]) for key in BOTH} == BOTH
    assert {int(labels.observed_label[rows[key]]) for key in VERIFIED} == {NO_LABEL}
    assert {key: labels.label[rows[key]] for key in TEST} == TEST


def test_releases_that_cannot_be_used_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path is not set"):
        DATASETS.get("clothing1m").make(DATASETS.get("clothing1m").config()).index()
    with pytest.raises(ConfigError, match="no such folder"):
        reader(tmp_path / "nowhere").index()
    with pytest.raises(ConfigError, match=r"has noisy_train_key_list\.txt or noisy_train\.txt; unpack"):
        reader(tmp_path).index()
    release(tmp_path)
    (tmp_path / "clean_label_kv.txt").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"clean_label_kv\.txt: No such file"):
        reader(tmp_path).index()
    (tmp_path / "elsewhere").rename(tmp_path / "clean_label_kv.txt")
    write(tmp_path / "category_names_eng.txt", lines([*NAMES, "Shirt"]))
    with pytest.raises(ContractError, match=r"category_names_eng\.txt: 15 names, 14 different ones"):
        reader(tmp_path).index()
    write(tmp_path / "category_names_eng.txt", "T恤\n衬衫\n".encode("gbk"))
    with pytest.raises(ContractError, match=r"category_names_eng\.txt: not UTF-8"):
        reader(tmp_path).index()
    write(tmp_path / "category_names_eng.txt", lines(NAMES))
    (tmp_path / "images").rename(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"has none of the folders 0, 1, 2; unpack the archives there"):
        reader(tmp_path).index()
