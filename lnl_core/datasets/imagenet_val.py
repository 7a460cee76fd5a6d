"""The ILSVRC 2012 validation images of given synsets: in a folder a synset, or flat as in the authors' archive.

The flat layout needs the true labels: Kaggle's LOC_val_solution.csv, or the development kit's
ILSVRC2012_validation_ground_truth.txt with meta.mat. The kit numbers its classes in an order of its own, so its numbers
mean nothing without meta.mat.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import scipy.io
from scipy.io.matlab import MatReadError

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError

_IMAGES = ("", "val", "ILSVRC2012_img_val", "ILSVRC/Data/CLS-LOC/val")
_LABELS = ("", "data", "ILSVRC2012_devkit_t12/data", "ILSVRC2012_devkit_t12")
_CSV, _TRUTH, _META = "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


def val_images(root: Path, synsets: Sequence[str], setting: str) -> list[tuple[Path, int]]:
    """Path and number in `synsets` of each validation image of these synsets, sorted by file name.

    Args:
        setting: what names `root`, for messages.

    Raises:
        ConfigError: no images there, a synset's folder is missing, or flat images without labels.
        ContractError: a file of labels that cannot be read.
    """
    folders = [root / name for name in _IMAGES if (root / name).is_dir()]
    for folder in folders:
        if any((folder / synset).is_dir() for synset in synsets):
            return sorted(_class_folders(folder, synsets, setting), key=lambda image: image[0].name)
    for folder in folders:
        if next(folder.glob("ILSVRC2012_val_*"), None) is not None:
            numbers = {synset: number for number, synset in enumerate(synsets)}
            labels = _flat_labels(root, folder, setting)
            return [(folder / f"{name}.JPEG", numbers[synset]) for name, synset in labels if synset in numbers]
    raise ConfigError(
        f"{setting} = {str(root)!r}: has neither folders such as {synsets[0]} nor files ILSVRC2012_val_*.JPEG, in it "
        f"or in its {', '.join(_IMAGES[1:])}; unpack ILSVRC2012_img_val.tar there"
    )


def _class_folders(folder: Path, synsets: Sequence[str], setting: str) -> Iterator[tuple[Path, int]]:
    for number, synset in enumerate(synsets):
        if not (folder / synset).is_dir():
            raise ConfigError(
                f"{setting}: {folder} has no folder {synset}; sort the validation images into all synsets"
            )
        yield from ((path, number) for path in (folder / synset).iterdir() if not path.name.startswith("."))


def _flat_labels(root: Path, folder: Path, setting: str) -> list[tuple[str, str]]:
    """Name without extension and synset of all images."""
    places = [top / name for top in (root, folder.parent) for name in _LABELS]
    for place in places:
        if (place / _CSV).is_file():
            return _kaggle_labels(place / _CSV)
        if (place / _TRUTH).is_file() and (place / _META).is_file():
            return _kit_labels(place / _TRUTH, place / _META)
    raise ConfigError(
        f"{setting}: the images in {folder} are not sorted into synsets, and {root} has no {_CSV} and no {_TRUTH} with "
        f"{_META}; put the labels there"
    )


def _kaggle_labels(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in csv.DictReader(file)]
        except (KeyError, IndexError, AttributeError, UnicodeDecodeError) as error:
            raise ContractError(f"{path}: not ImageId,PredictionString ({error!r}); fetch it again") from error
    return sorted(rows)


def _kit_labels(truth: Path, meta: Path) -> list[tuple[str, str]]:
    try:
        synsets = scipy.io.loadmat(str(meta), squeeze_me=True, variable_names=["synsets"])["synsets"]
        by_number = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in truth.read_text(encoding="utf-8").split()]
        return [(f"ILSVRC2012_val_{row:08d}", by_number[number]) for row, number in enumerate(numbers, start=1)]
    except (MatReadError, ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise ContractError(f"{truth} and {meta}: cannot be read ({error!r}); unpack the kit again") from error
