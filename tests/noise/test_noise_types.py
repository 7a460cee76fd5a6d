"""Each noise type against exact counts, a hand-computed case or a slow twin; and what holds for all of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import ContractError, Ids, IntArray, string_ids
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.asymmetric import CIFAR10_MAP, SUPERCLASSES, AsymmetricConfig, target_classes
from lnl_core.noise.instance import noisy_chances
from lnl_core.noise.matrix import MatrixConfig, exact_counts, transition_matrix
from lnl_core.noise.source import NoiseSource

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(sorted(name for group in SUPERCLASSES.values() for name in group))  # numbers are alphabetical


def source_of(label: npt.NDArray[Any], class_names: tuple[str, ...] = CIFAR10, side: int = 4) -> NoiseSource:
    ids = string_ids([f"r{row:05d}" for row in range(len(label))])
    pixels = np.random.default_rng(5).integers(0, 256, (len(label), 1, side, side)).astype(np.uint8)

    def batches() -> Iterator[tuple[Ids, npt.NDArray[np.uint8]]]:
        for start in range(0, len(ids), 300):
            yield ids[start : start + 300], pixels[start : start + 300]

    return NoiseSource(ids=ids, true_label=label.astype(np.int32), class_names=class_names, pixels=batches)


def draw(name: str, source: NoiseSource, seed: int = 0, **settings: Any) -> IntArray:
    entry = NOISE_TYPES.get(name)
    return entry.make(source, parse(entry.config, settings, name), np.random.default_rng(seed))


def balanced(rows: int = 5000, classes: int = 10) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).permutation(np.arange(rows) % classes)


def shares(true: npt.NDArray[Any], noisy: npt.NDArray[Any], classes: int = 10) -> npt.NDArray[np.float64]:
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, noisy), 1)
    result: npt.NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("name", [name for name in NOISE_TYPES.names() if name not in ("human", "none")])
def test_another_seed_draws_others(name: str) -> None:
    settings = {"matrix": tuple(map(tuple, np.full((10, 10), 0.1).tolist()))} if name == "matrix" else {}
    first, other = (draw(name, source_of(balanced(600)), seed, **settings) for seed in (3, 4))
    assert not np.array_equal(first, other)


def test_none_is_the_identity() -> None:
    label = balanced()
    assert np.array_equal(draw("none", source_of(label)), label)


def test_exclusive_symmetric_noise_flips_exactly_the_share() -> None:
    label = balanced()
    noisy = draw("symmetric", source_of(label), rate=0.6, protocol="exclusive")
    assert (noisy != label).sum() == 3000
    off_diagonal = shares(label, noisy)[~np.eye(10, dtype=bool)]
    assert np.abs(off_diagonal - 0.6 / 9).max() < 5 * np.sqrt(0.0667 * 0.933 / 500)


def test_inclusive_symmetric_noise_realises_less_than_it_says() -> None:
    label = balanced()
    rates = [(draw("symmetric", source_of(label), seed, rate=0.9) != label).mean() for seed in range(20)]
    expected = 0.9 * 0.9  # 4,500 rows drawn, each right by chance with 1/10
    assert abs(np.mean(rates) - expected) < 4 * np.sqrt(0.9 * 0.1 * 0.9 / 5000 / 20)


def test_bernoulli_counts_vary_as_a_binomial_does() -> None:
    label = balanced()
    options = {"rate": 0.3, "protocol": "exclusive", "counting": "bernoulli"}
    counts = [(draw("symmetric", source_of(label), seed, **options) != label).sum() for seed in range(40)]
    deviation = np.sqrt(5000 * 0.3 * 0.7)
    assert abs(np.mean(counts) - 1500) < 4 * deviation / np.sqrt(40)
    assert 0.6 * deviation < np.std(counts) < 1.5 * deviation


def test_cifar10_map_flips_the_share_of_each_mapped_class() -> None:
    label = balanced()
    matrix = shares(label, draw("asymmetric", source_of(label), rate=0.4))
    expected = np.eye(10)
    for name, target in CIFAR10_MAP.items():
        expected[CIFAR10.index(name)] *= 0.6
        expected[CIFAR10.index(name), CIFAR10.index(target)] = 0.4
    assert np.allclose(matrix, expected)


def test_all_rows_basis_draws_over_all_and_leaves_unmapped_classes() -> None:
    label = balanced()
    noisy = draw("asymmetric", source_of(label), rate=0.4, basis="all_rows")
    mapped = [CIFAR10.index(name) for name in CIFAR10_MAP]
    assert np.array_equal(noisy[~np.isin(label, mapped)], label[~np.isin(label, mapped)])
    assert abs((noisy != label).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 5000)


def test_cifar10_map_finds_classes_by_name_not_number() -> None:
    shuffled = ("truck", "ship", "cat", "dog", "bird", "airplane", "automobile", "deer", "horse", "frog")
    targets = target_classes(AsymmetricConfig(), shuffled)
    assert {shuffled[k]: shuffled[t] for k, (t,) in targets.items()} == CIFAR10_MAP


def test_superclass_table_is_a_partition_of_100() -> None:
    assert len(SUPERCLASSES) == 20
    assert {len(group) for group in SUPERCLASSES.values()} == {5}
    assert len(set(CIFAR100)) == 100


def test_superclass_next_stays_inside_and_visits_every_class() -> None:
    group_of = {name: number for number, group in enumerate(SUPERCLASSES.values()) for name in group}
    targets = target_classes(AsymmetricConfig(map="superclass-next"), CIFAR100)
    assert sorted(target for (target,) in targets.values()) == list(range(100))
    assert all(group_of[CIFAR100[k]] == group_of[CIFAR100[t]] and k != t for k, (t,) in targets.items())
    assert CIFAR100[targets[CIFAR100.index("beaver")][0]] == "dolphin"
    assert CIFAR100[targets[CIFAR100.index("whale")][0]] == "beaver"


def test_superclass_random_reaches_the_four_others() -> None:
    label = balanced(5000, 100)
    options = {"rate": 1.0, "map": "superclass-random"}
    noisy = draw("asymmetric", source_of(label, CIFAR100), **options)
    otters = {CIFAR100[k] for k in noisy[label == CIFAR100.index("otter")]}
    assert otters == {"beaver", "dolphin", "seal", "whale"}


def test_index_blocks_leave_the_superclass_94_times_in_100() -> None:
    group_of = {name: number for number, group in enumerate(SUPERCLASSES.values()) for name in group}
    targets = target_classes(AsymmetricConfig(map="index-block5"), CIFAR100)
    assert targets[3] == (4,)
    assert targets[4] == (0,)
    assert sum(group_of[CIFAR100[k]] == group_of[CIFAR100[t]] for k, (t,) in targets.items()) == 6


def test_user_map_takes_names_and_numbers() -> None:
    label = balanced()
    noisy = draw("asymmetric", source_of(label), rate=1.0, map="user", user_map={"ship": 0, 3: "dog"})
    expected = np.where(label == 8, 0, np.where(label == 3, 5, label))
    assert np.array_equal(noisy, expected)


@pytest.mark.parametrize(
    ("settings", "names", "message"),
    [
        ({"map": "user", "user_map": {"lorry": "ship"}}, CIFAR10, "'lorry' is no class"),
        ({"map": "cifar10"}, ("a", "b"), "'truck' is no class"),
        ({"map": "superclass-next"}, CIFAR10, "CIFAR-100's 100 class names"),
        ({"map": "index-block5"}, ("a", "b"), "blocks of five"),
        ({"map": "user"}, CIFAR10, "user_map belongs to"),
    ],
)
def test_maps_that_do_not_fit_are_refused(settings: dict[str, Any], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw("asymmetric", source_of(np.array([0, 1]), names), **settings)


def test_pair_noise_flips_to_the_next_class() -> None:
    label = balanced()
    matrix = shares(label, draw("pair", source_of(label), rate=0.45))
    assert np.allclose(matrix, 0.55 * np.eye(10) + 0.45 * np.roll(np.eye(10), 1, axis=1))


def test_matrix_noise_realises_the_matrix_to_the_row() -> None:
    label = balanced(3000, 3)
    wanted = ((0.7, 0.2, 0.1), (0.0, 1.0, 0.0), (0.3, 0.3, 0.4))
    noisy = draw("matrix", source_of(label, ("a", "b", "c")), matrix=wanted)
    assert np.allclose(shares(label, noisy, 3), wanted)
    drawn = draw("matrix", source_of(label, ("a", "b", "c")), matrix=wanted, counting="bernoulli")
    assert not np.allclose(shares(label, drawn, 3), wanted)
    assert np.abs(shares(label, drawn, 3) - wanted).max() < 5 * np.sqrt(0.25 / 1000)


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
def test_largest_remainder_adds_up_and_is_nearest(rows: int) -> None:
    chances = np.array([0.5, 0.26, 0.14, 0.1])
    counts = exact_counts(chances, rows)
    assert counts.sum() == rows
    assert (np.abs(counts - rows * chances) < 1).all()


def test_largest_remainder_by_hand() -> None:
    # 7 rows: 3.5, 1.82, 0.98, 0.7; floors 3, 1, 0, 0; the three rows left go to remainders 0.98, 0.82 and 0.7.
    assert exact_counts(np.array([0.5, 0.26, 0.14, 0.1]), 7).tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("kind", ["csv", "json", "npy"])
def test_matrix_files(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"t.{kind}"
    if kind == "npy":
        np.save(file, np.array([[0.9, 0.1], [0.2, 0.8]]))
    else:
        file.write_text("0.9,0.1\n0.2,0.8\n" if kind == "csv" else "[[0.9, 0.1], [0.2, 0.8]]")
    assert np.allclose(transition_matrix(MatrixConfig(file=str(file)), 2), [[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ((), "must be 2 x 2"),
        (((1.0, 0.0),), "must be 2 x 2"),
        (((1.0, 0.0), (0.5, 0.6)), "row 1 is .* its sum 1.1000"),
        (((1.2, -0.2), (0.0, 1.0)), "row 0 is"),
        (((1.0, 0.0), (1.0,)), "not a matrix of numbers"),
    ],
)
def test_matrices_that_are_none_are_refused(matrix: tuple[tuple[float, ...], ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        transition_matrix(MatrixConfig(matrix=matrix), 2)


def test_missing_matrix_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.csv"):
        transition_matrix(MatrixConfig(file=str(tmp_path / "gone.csv")), 2)


def slow_chances(
    vector: npt.NDArray[Any], label: int, flip: float, projection: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """One row, looped from the paper's algorithm."""
    width, classes = projection.shape
    scores = [sum(float(vector[i]) * float(projection[i, j]) for i in range(width)) for j in range(classes)]
    exps = [np.exp(score) if j != label else 0.0 for j, score in enumerate(scores)]
    return np.array([1 - flip if j == label else flip * exps[j] / sum(exps) for j in range(len(scores))])


def test_instance_chances_equal_their_slow_twin() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.random((20, 6)).astype(np.float32)
    label = generator.integers(0, 4, 20).astype(np.int32)
    flip = generator.random(20)
    projections = generator.standard_normal((4, 6, 4)).astype(np.float32)
    fast = noisy_chances(vectors, label, flip, projections)
    slow = [slow_chances(vectors[row], label[row], flip[row], projections[label[row]]) for row in range(20)]
    assert np.allclose(fast, slow, atol=1e-6)


def test_instance_noise_has_the_truncated_normal_rate() -> None:
    label = balanced()
    for rate in (0.05, 0.4):
        noisy = draw("instance", source_of(label), rate=rate)
        expected = stats.truncnorm.mean(-rate / 0.1, (1 - rate) / 0.1, rate, 0.1)
        assert abs((noisy != label).mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 5000)


def test_instance_noise_depends_on_the_image_and_not_on_batches_or_shards() -> None:
    source = source_of(balanced())
    batches = list(source.pixels())
    ids, pixels = np.concatenate([ids for ids, _ in batches]), np.concatenate([pixels for _, pixels in batches])
    reversed_rows = NoiseSource(
        ids=source.ids,
        true_label=source.true_label,
        class_names=source.class_names,
        pixels=lambda: iter([(ids[::-1], pixels[::-1])]),
    )
    noisy = draw("instance", source, scaling="raw")
    assert np.array_equal(noisy, draw("instance", reversed_rows, scaling="raw"))
    # Raw pixels make the softmax nearly one-hot: rows of one class and equal pixels get one and the same wrong label.
    same = NoiseSource(
        ids=source.ids,
        true_label=source.true_label,
        class_names=source.class_names,
        pixels=lambda: iter([(ids, np.repeat(pixels[:1], len(ids), axis=0))]),
    )
    wrong = draw("instance", same, scaling="raw")
    of_class = wrong[(source.true_label == 3) & (wrong != 3)]
    assert np.bincount(of_class).max() / len(of_class) > 0.95


def test_human_labels_join_on_id(tmp_path: Path) -> None:
    source = source_of(np.array([0, 1, 2]))
    file = tmp_path / "labels.csv"
    file.write_text("name,said\nr00002,truck\nelsewhere,0\nr00000,5\nr00001,bird\n")
    noisy = draw("human", source, file=str(file), id_column="name", label_column="said")
    assert noisy.tolist() == [5, 2, 9]


def test_human_labels_of_a_pt_file_are_numbered(tmp_path: Path) -> None:
    file = tmp_path / "human.pt"
    torch.save({"worse_label": np.array([4, 5, 6])}, file)
    noisy = draw("human", source_of(np.zeros(3)), file=str(file), label_column="worse_label", id_format="r{:05d}")
    assert noisy.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\nr00000,1\n", "no row for id 'r00001'"),
        ("id,label\nr00000,1\nr00000,2\nr00001,1\n", "id 'r00000' stands in rows 0 and 1"),
        ("id,label\nr00000,1\nr00001,lorry\n", "'r00001': label = 'lorry' is no class"),
        ("id,said\nr00000,1\n", "has no column 'label'"),
    ],
)
def test_human_files_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(ContractError, match=message):
        draw("human", source_of(np.array([0, 1])), file=str(file))


def test_a_pt_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"worse_label": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ContractError, match=r"evil\.pt"):
        draw("human", source_of(np.array([0])), file=str(tmp_path / "evil.pt"), label_column="worse_label")
    assert not (tmp_path / "ran").exists()
