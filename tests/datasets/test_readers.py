"""The readers: what they read, what they set aside, what they refuse. Fixtures in the real layouts."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, ContractError, QuarantineRow
from tests.datasets.reading import as_dict, images_of, reader, write


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (size, size), value).save(buffer, "PNG")
    return buffer.getvalue()


# digits


def test_digits_are_scikit_learns() -> None:
    dataset = reader("digits")
    index = dataset.index()
    scans = load_digits()
    assert len(index) == 1797
    assert index.ids[7] == "digit-0007"
    assert np.array_equal(index.true_label, scans.target)
    data = next(iter(dataset.images(index, np.array([7]))))
    assert isinstance(data, bytes)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(pixels / 255 - scans.images[7] / 16).max() <= 0.5 / 255 + 1e-9


def test_digits_split_is_stratified_and_follows_from_the_id() -> None:
    index = reader("digits").index()
    test = index.split == "test"
    for digit in range(10):
        assert test[index.true_label == digit].mean() == pytest.approx(0.2, abs=0.003)
    sevens = sorted(
        (hashlib.sha256(name.encode()).hexdigest(), name) for name in index.ids[index.true_label == 7].tolist()
    )
    expected = {name for _, name in sevens[: round(0.2 * len(sevens))]}
    assert set(index.ids[test & (index.true_label == 7)]) == expected


# image folder


def test_class_folders(tmp_path: Path) -> None:
    for number, name in enumerate(["cat/a.png", "cat/deep/b.png", "dog/a.png", ".hidden/x.png", "dog/.DS_Store"]):
        write(tmp_path / name, png(number))
    dataset = reader("image_folder", path=str(tmp_path))
    index = dataset.index()
    assert index.class_names == ("cat", "dog")
    train = (NO_LABEL, False, "train")
    assert as_dict(index) == {"cat/a.png": (0, *train), "cat/deep/b.png": (0, *train), "dog/a.png": (1, *train)}
    assert images_of(dataset, index) == {"cat/a.png": png(0), "cat/deep/b.png": png(1), "dog/a.png": png(2)}
    assert len(dataset.source_files()) == 3


def test_class_folders_below_splits(tmp_path: Path) -> None:
    for name in ["train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "test/cat/4.png", "test/readme.txt"]:
        write(tmp_path / name, png(1))
    index = reader("image_folder", path=str(tmp_path), verified_splits=["test"]).index()
    assert as_dict(index) == {
        "train/cat/1.png": (0, NO_LABEL, False, "train"),
        "train/dog/2.png": (1, NO_LABEL, False, "train"),
        "val/dog/3.png": (1, NO_LABEL, False, "val"),
        "test/cat/4.png": (0, 0, True, "test"),
    }
    assert [(row.path, row.reason) for row in index.quarantined] == [("test/readme.txt", "no-class-folder")]


def test_numbered_class_folders_are_in_numeric_order_and_padded_names_are_names(tmp_path: Path) -> None:
    for name in ["10/a.png", "2/a.png", "1/a.png"]:
        write(tmp_path / "plain" / name, png(1))
        write(tmp_path / "padded" / f"0{name}", png(1))
    assert reader("image_folder", path=str(tmp_path / "plain")).index().class_names == ("1", "2", "10")
    padded = reader("image_folder", path=str(tmp_path / "padded")).index()
    assert padded.class_names == ("01", "010", "02")
    assert sorted(padded.observed_label.tolist()) == [0, 1, 2]


def test_folder_of_an_unlisted_class_is_set_aside(tmp_path: Path) -> None:
    for name in ["cat/a.png", "dog/a.png", "lorry/a.png"]:
        write(tmp_path / name, png(1))
    index = reader("image_folder", path=str(tmp_path), class_names=["dog", "cat"]).index()
    assert as_dict(index)["cat/a.png"][0] == 1
    (row,) = index.quarantined
    assert (row.id, row.reason) == ("lorry/a.png", "label-out-of-range")
    assert "'lorry'" in row.detail


def test_table_beside_a_flat_folder(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.png", png(number))
    (tmp_path / "labels.csv").write_text(
        "id,path,label,split,true\n007,0.png,cat,train,dog\nb,1.png,1,val,\nc,2.png,dog,test,dog\nd,gone.png,dog,train,\n"
        "e,2.png,,train,\nf,2.png,cow,train,\ng,2.png,2,train,\n"
    )
    dataset = reader(
        "image_folder",
        path=str(tmp_path),
        table="labels.csv",
        split_column="split",
        true_label_column="true",
        class_names=["cat", "dog"],
    )
    index = dataset.index()
    assert as_dict(index) == {
        "007": (0, 1, True, "train"),  # an id stays a text
        "b": (1, NO_LABEL, False, "val"),
        "c": (1, 1, True, "test"),
        "d": (1, NO_LABEL, False, "train"),
        "e": (NO_LABEL, NO_LABEL, False, "train"),
    }
    assert [(row.id, row.reason) for row in index.quarantined] == [
        ("f", "label-out-of-range"),
        ("g", "label-out-of-range"),
    ]
    images = images_of(dataset, index)
    assert images["007"] == png(0)
    missing = images["d"]
    assert isinstance(missing, QuarantineRow)
    assert (missing.reason, missing.id) == ("missing-file", "d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,path,label\na,1.png,x\nb,1.png,x\na,2.png,y\n",
            r"labels\.csv: row 0 and .*labels\.csv: row 2: both .*'a'",
        ),
        ("id,path,label\n,1.png,x\n", r"row 0: has no id"),
        ("id,file,label\na,1.png,x\n", r"has no column 'path' \(it has: id, file, label\)"),
        ("id,path,label\na,1.png\n", r"labels\.csv: cannot be read"),
    ],
)
def test_tables_that_cannot_be_used_are_one_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ContractError, match=message):
        reader("image_folder", path=str(tmp_path), table="labels.csv").index()


def test_split_and_verified_columns_are_checked(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,path,label,s,v\na,1.png,x,train,yes\nb,1.png,x,dev,perhaps\n")
    with pytest.raises(ContractError, match=r"row 1: s = 'dev'; allowed are train, val, test"):
        reader("image_folder", path=str(tmp_path), table="labels.csv", split_column="s").index()
    with pytest.raises(ContractError, match=r"row 1: v = 'perhaps'; allowed are true and false"):
        reader("image_folder", path=str(tmp_path), table="labels.csv", verified_column="v").index()


@pytest.mark.parametrize("name", ["image_folder", "parquet", "cifar10", "cifar100"])
def test_missing_paths_are_config_errors(name: str, tmp_path: Path) -> None:
    field = "root" if name.startswith("cifar") else "path"
    for value in ("", str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError, match=rf"prepare\.{name}\.{field}"):
            reader(name, **{field: value}).index()


# parquet


def parquet(path: Path, rows: int = 10, first: int = 0, **columns: Any) -> None:
    table: dict[str, Any] = {
        "id": list(range(first, first + rows)),
        "label": [number % 3 for number in range(rows)],
        "image": [png(first + number) for number in range(rows)],
    }
    pq.write_table(pa.table({**table, **columns}), path, row_group_size=4)


def test_whole_numbers_become_text_ids_and_images_follow_the_id(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", 10)
    parquet(tmp_path / "b.parquet", 15, first=10)
    dataset = reader("parquet", path=str(tmp_path))
    index = dataset.index()
    assert index.class_names == ("0", "1", "2")
    assert sorted(index.ids.tolist())[:4] == ["0", "1", "10", "11"]
    assert images_of(dataset, index) == {str(number): png(number) for number in range(25)}


def test_rows_in_any_order_over_any_calls(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", 200, image=[png(number) for number in range(200)])
    dataset = reader("parquet", path=str(tmp_path / "a.parquet"))
    index = dataset.index()
    rows = np.random.default_rng(0).permutation(200)
    for chunk in np.split(rows, 8):
        assert list(dataset.images(index, chunk)) == [png(int(index.ids[row])) for row in chunk]


def test_one_huge_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lnl_core.datasets import parquet as module

    names = [f"{number:03d}" for number in range(250)]
    table = pa.table({"id": names, "label": [0] * 250, "image": [png(number) for number in range(250)]})
    pq.write_table(table, tmp_path / "a.parquet")
    made = []
    plain = module._GroupReader.__init__

    def counted(self: Any, *args: Any) -> None:
        made.append(1)
        plain(self, *args)

    monkeypatch.setattr(module._GroupReader, "__init__", counted)
    dataset = reader("parquet", path=str(tmp_path / "a.parquet"))
    index = dataset.index()
    for start in range(0, 250, 50):
        rows = np.arange(start, start + 50)
        assert list(dataset.images(index, rows)) == [png(int(row)) for row in rows]
    assert len(made) == 1


def test_paths_structs_and_nulls(tmp_path: Path) -> None:
    write(tmp_path / "pictures" / "x.png", png(5))
    structs = [{"bytes": png(1), "path": None}, {"bytes": None, "path": "pictures/x.png"}, None]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "label": [0, 1, 0], "image": structs}), tmp_path / "t.parquet")
    dataset = reader("parquet", path=str(tmp_path / "t.parquet"))
    images = images_of(dataset, dataset.index())
    assert images["a"] == png(1)
    assert images["b"] == png(5)
    missing = images["c"]
    assert isinstance(missing, QuarantineRow)
    assert missing.reason == "missing-image"
    pq.write_table(pa.table({"id": ["a"], "label": [0], "file": ["x.png"]}), tmp_path / "p.parquet")
    dataset = reader(
        "parquet", path=str(tmp_path / "p.parquet"), path_column="file", image_root=str(tmp_path / "pictures")
    )
    assert images_of(dataset, dataset.index()) == {"a": png(5)}


def test_benchmark_columns(tmp_path: Path) -> None:
    parquet(
        tmp_path / "t.parquet",
        4,
        label=pa.array([1, 2, None, 0], pa.int8()),
        truth=pa.array([1, 0, 2, 0], pa.int8()),
        split=pa.array(["train", "train", "test", "val"]).dictionary_encode(),
        checked=[True, False, False, True],
    )
    index = reader(
        "parquet",
        path=str(tmp_path / "t.parquet"),
        true_label_column="truth",
        split_column="split",
        verified_column="checked",
        class_names=["x", "y", "z"],
    ).index()
    assert as_dict(index) == {
        "0": (1, 1, True, "train"),
        "1": (2, 0, False, "train"),
        "2": (NO_LABEL, 2, False, "test"),
        "3": (0, 0, True, "val"),
    }


def test_repeated_ids_name_both_files(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", 5)
    parquet(tmp_path / "b.parquet", 5, first=4)
    with pytest.raises(ContractError, match=r"a\.parquet: row 4 and .*b\.parquet: row 0: both have id '4'"):
        reader("parquet", path=str(tmp_path)).index()


def test_parquet_files_that_cannot_be_used(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet")
    with pytest.raises(ContractError, match=r"a\.parquet: has no column 'worse'"):
        reader("parquet", path=str(tmp_path / "a.parquet"), label_column="worse").index()
    dataset = reader("parquet", path=str(tmp_path / "a.parquet"), image_column="picture")
    with pytest.raises(ContractError, match=r"a\.parquet: has no column 'picture'"):
        list(dataset.images(dataset.index(), np.arange(2)))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ContractError, match=r"broken\.parquet: not a readable Parquet file"):
        reader("parquet", path=str(tmp_path / "broken.parquet")).index()


# CIFAR


def cifar10(root: Path, rows: int = 4) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6 * rows, 3072)).astype(np.uint8)
    for number, name in enumerate([f"data_batch_{part}" for part in range(1, 6)] + ["test_batch"]):
        of_batch = slice(number * rows, (number + 1) * rows)
        batch = {"data": pixels[of_batch], "labels": [(number + row) % 10 for row in range(rows)]}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return pixels


def clean_labels() -> np.ndarray:
    return np.array([(number + row) % 10 for number in range(5) for row in range(4)])


def test_cifar10_layout(tmp_path: Path) -> None:
    pixels = cifar10(tmp_path)
    dataset = reader("cifar10", root=str(tmp_path))
    index = dataset.index()
    assert (index.split == "train").sum() == 20
    assert (index.split == "test").sum() == 4
    assert as_dict(index)["train-00005"] == (2, 2, True, "train")
    data = images_of(dataset, index)["train-00005"]
    assert isinstance(data, bytes)
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decoded.transpose(2, 0, 1).ravel(), pixels[5])
    assert all(Path(file).exists() for file in dataset.source_files())


@pytest.mark.parametrize(
    ("choice", "key"), [("worse", "worse_label"), ("aggre", "aggre_label"), ("random2", "random_label2")]
)
def test_cifar10n_labels_become_observed(tmp_path: Path, choice: str, key: str) -> None:
    cifar10(tmp_path)
    human = (clean_labels() + 1) % 10
    torch.save({"clean_label": clean_labels(), key: human}, tmp_path / "human.pt")
    index = reader("cifar10", root=str(tmp_path), human_file=str(tmp_path / "human.pt"), human_label=choice).index()
    train = index.split == "train"
    assert np.array_equal(index.observed_label[train], human)
    assert np.array_equal(index.true_label[train], clean_labels())
    assert np.array_equal(index.observed_label[~train], index.true_label[~train])


def test_cifar10n_file_of_another_order_is_refused(tmp_path: Path) -> None:
    cifar10(tmp_path)
    torch.save({"clean_label": clean_labels()[::-1].copy(), "worse_label": clean_labels()}, tmp_path / "human.pt")
    settings = {"root": str(tmp_path), "human_file": str(tmp_path / "human.pt")}
    with pytest.raises(ContractError, match=r"human\.pt: row 0: clean_label = 7, but the archive says 0"):
        reader("cifar10", **settings, human_label="worse").index()
    with pytest.raises(ContractError, match=r"has no label set 'aggre_label' \(it has: clean_label, worse_label\)"):
        reader("cifar10", **settings, human_label="aggre").index()
    with pytest.raises(ConfigError, match=r"needs prepare\.cifar10\.human_file"):
        reader("cifar10", root=str(tmp_path), human_label="worse").index()


def test_cifar100_fine_and_coarse(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, rows in (("train", 6), ("test", 2)):
        batch = {"data": np.zeros((rows, 3072), np.uint8), "fine_labels": [3] * rows, "coarse_labels": [1] * rows}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {"fine_label_names": [f"f{k}" for k in range(100)], "coarse_label_names": [f"c{k}" for k in range(20)]}
    (folder / "meta").write_bytes(pickle.dumps(meta))
    torch.save({"clean_label": np.full(6, 3), "noisy_label": np.arange(6)}, tmp_path / "human.pt")
    fine = reader("cifar100", root=str(tmp_path), human_file=str(tmp_path / "human.pt"), human_label="noisy").index()
    assert len(fine.class_names) == 100
    assert fine.observed_label.tolist() == [0, 1, 2, 3, 4, 5, 3, 3]
    coarse = reader("cifar100", root=str(tmp_path), granularity="coarse").index()
    assert len(coarse.class_names) == 20
    assert set(coarse.true_label.tolist()) == {1}


def test_a_cifar_pickle_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(ContractError, match="data_batch_3: not a CIFAR batch"):
        reader("cifar10", root=str(tmp_path)).index()
    assert not (tmp_path / "ran").exists()


def python_2_batch(data: bytes, labels: list[int]) -> bytes:
    """A pickle as Python 2 wrote it: texts and array contents as byte strings, numpy under its old module names."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K" + bytes([len(data) // 3072]) + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89T" + len(data).to_bytes(4, "little") + data + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def test_a_batch_pickled_by_python_2_is_read(tmp_path: Path) -> None:
    cifar10(tmp_path)
    data = np.random.default_rng(1).integers(0, 256, (4, 3072)).astype(np.uint8)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(python_2_batch(data.tobytes(), [1, 2, 3, 4]))
    dataset = reader("cifar10", root=str(tmp_path))
    index = dataset.index()
    assert index.true_label[index.split == "test"].tolist() == [1, 2, 3, 4]
    image = images_of(dataset, index)["test-00002"]
    assert isinstance(image, bytes)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image))).transpose(2, 0, 1).ravel(), data[2])
