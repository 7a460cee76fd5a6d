"""Noise by any transition matrix T: a row of true class i gets label j with chance T[i, j]."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from lnl_core.config import ConfigError
from lnl_core.contracts import IntArray
from lnl_core.files import read_json
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import Counting, NoiseConfig, NoiseSource

Matrix = npt.NDArray[np.float64]
_SUM_TOLERANCE = 1e-3  # of a row's sum; matrices rounded to four digits pass, and are scaled to sum to one


class MatrixConfig(NoiseConfig):
    """The matrix itself, or a file that holds it; rows are true classes, columns noisy ones."""

    matrix: tuple[tuple[float, ...], ...] = ()
    file: str = ""  # .csv without a header, .json (a list of rows), or .npy
    counting: Counting = "exact"  # exact: each class's counts are its shares, rounded by largest remainder

    @model_validator(mode="after")
    def _one_source(self) -> MatrixConfig:
        if self.matrix and self.file:
            raise ValueError("give either matrix or file, not both")
        return self


@NOISE_TYPES.register(
    "matrix", config=MatrixConfig, summary="any row-stochastic transition matrix, inline or from a file"
)
def matrix(source: NoiseSource, config: MatrixConfig, generator: np.random.Generator) -> IntArray:
    """Noisy labels [n]."""
    chances = transition_matrix(config, len(source.class_names))
    noisy = source.true_label.copy()
    for number, row in enumerate(chances):
        members = np.flatnonzero(source.true_label == number)
        if config.counting == "exact":
            noisy[generator.permutation(members)] = np.repeat(np.arange(len(row)), exact_counts(row, len(members)))
        else:
            noisy[members] = generator.choice(len(row), size=len(members), p=row)
    return noisy


def transition_matrix(config: MatrixConfig, classes: int) -> Matrix:
    """The checked matrix [K, K], rows scaled to sum to one exactly.

    Raises:
        ConfigError: no matrix, an unreadable file, another shape than K x K, or a row that is no distribution.
    """
    where = f"inject.matrix.file = {config.file!r}" if config.file else "inject.matrix.matrix"
    chances = _read(Path(config.file), where) if config.file else _as_array(config.matrix, where)
    if chances.shape != (classes, classes):
        raise ConfigError(f"{where}: has shape {chances.shape}, must be {classes} x {classes}, one row a true class")
    sums = chances.sum(axis=1)
    bad = np.flatnonzero(~np.isfinite(sums) | (np.abs(sums - 1) > _SUM_TOLERANCE) | (chances < 0).any(axis=1))
    if len(bad):
        row = int(bad[0])
        shown = np.round(chances[row], 4).tolist()
        raise ConfigError(f"{where}: row {row} is {shown}, its sum {sums[row]:.4f}; a row is never negative, sum 1")
    scaled: Matrix = chances / sums[:, None]
    return scaled


def exact_counts(chances: Matrix, rows: int) -> npt.NDArray[np.int64]:
    """Whole counts [K] nearest to `rows * chances` that add up to `rows`, by largest remainder."""
    wanted = rows * chances
    counts = np.floor(wanted + 1e-9).astype(np.int64)
    rest = np.argsort(counts - wanted, kind="stable")[: rows - counts.sum()]
    counts[rest] += 1
    return counts


def _read(path: Path, where: str) -> Matrix:
    try:
        if path.suffix == ".npy":
            return _as_array(np.load(path, allow_pickle=False), where)
        if path.suffix == ".json":
            return _as_array(read_json(path), where)
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                return _as_array([row for row in csv.reader(file) if row], where)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}; correct the path") from error
    raise ConfigError(f"{where}: extension {path.suffix!r}; allowed are .csv, .json and .npy")


def _as_array(rows: object, where: str) -> Matrix:
    try:
        return np.asarray(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{where}: not a matrix of numbers ({error}); write K rows of K numbers, no header"
        ) from error
