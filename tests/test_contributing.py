"""The examples in docs/add-a-method.md work as they stand there, and are short."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

from lnl_core.contract_tests import test_noise_types as noise_tests
from lnl_core.contract_tests import test_purifier_bad_input as bad_input_tests
from lnl_core.contract_tests import test_purifiers as purifier_tests
from lnl_core.contracts import string_ids
from lnl_core.datasets import DATASETS
from lnl_core.noise import NOISE_TYPES
from lnl_core.noise.source import NoiseSource
from lnl_core.purify import PURIFIERS
from lnl_core.purify.task import PurifyTask

GUIDE = Path(__file__).parents[1] / "docs" / "add-a-method.md"
MOST_LINES = 60


class Rows:
    """Features in memory, streamed in two batches."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features.astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.features.shape
        return rows, width

    def batches(self) -> Iterator[tuple[slice, np.ndarray]]:
        half = len(self.features) // 2
        for rows in (slice(0, half), slice(half, len(self.features))):
            yield rows, self.features[rows]


def examples() -> dict[str, str]:
    """The files that the page shows, by path; a block begins with `# path`."""
    return dict(re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL))


def test_every_example_is_short_and_tried() -> None:
    assert [Path(path).name for path in examples()] == ["class_mean.py", "swap.py", "npz.py"]  # the tests below
    for path, text in examples().items():
        assert len(text.splitlines()) <= MOST_LINES, path


def load_example(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the code block that begins with `# path` as the module that it would be."""
    module = types.ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(examples()[path], path, "exec"), module.__dict__)


@pytest.fixture(autouse=True)
def registries_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (DATASETS, NOISE_TYPES, PURIFIERS):
        registry.names()  # loads it
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_purifier(monkeypatch: pytest.MonkeyPatch) -> None:
    load_example("lnl_core/purify/class_mean.py", monkeypatch)
    features, label = shuffle(*load_digits(return_X_y=True), random_state=0)  # in order, writers stand together
    entry = PURIFIERS.get("class_mean")
    task = PurifyTask(
        noisy=Rows(features[200:]),
        observed=np.zeros(len(label) - 200, dtype=np.int32),
        trusted=features[:200].astype(np.float32),
        trusted_label=label[:200].astype(np.int32),
        trusted_observed=label[:200].astype(np.int32),
        classes=10,
    )
    found = entry.make(task, entry.config(), np.random.default_rng(0))
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(found.posterior.argmax(axis=1) == label[200:]) > 0.8
    purifier_tests.test_never_worse_than_observed_and_finite("class_mean", 6, 0.0)
    purifier_tests.test_never_worse_than_observed_and_finite("class_mean", 6, 0.5)
    purifier_tests.test_same_seed_same_labels("class_mean")
    bad_input_tests.test_no_trusted_rows("class_mean")
    bad_input_tests.test_a_class_that_no_trusted_row_has("class_mean", "a class without trusted rows")
    bad_input_tests.test_one_observed_class_of_several("class_mean")


def test_noise_type(monkeypatch: pytest.MonkeyPatch) -> None:
    load_example("lnl_core/noise/swap.py", monkeypatch)
    entry = NOISE_TYPES.get("swap")
    true_label = np.array([0] * 10 + [1] * 20 + [2] * 5, dtype=np.int32)
    source = NoiseSource(
        ids=string_ids([f"{row:02d}" for row in range(35)]),
        true_label=true_label,
        class_names=("3", "8", "5"),
        pixels=lambda: iter(()),
    )
    noisy = entry.make(source, entry.config(rate=0.2), np.random.default_rng(0))
    changed = noisy != true_label
    assert [int(changed[true_label == number].sum()) for number in range(3)] == [2, 4, 0]
    noise_tests.test_every_type_is_deterministic_pure_and_in_range("swap")


def test_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_example("lnl_core/datasets/npz.py", monkeypatch)
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", images=digits.images.astype(np.uint8) * 15, labels=digits.target)
    entry = DATASETS.get("npz")
    dataset = entry.make(entry.config(path=tmp_path / "digits.npz", class_names=tuple("0123456789")))
    index = dataset.index()
    assert index.observed_label[:4].tolist() == digits.target[:4].tolist()
    first, second = dataset.images(index, np.array([5, 2]))
    assert first != second
    assert isinstance(first, bytes)
    assert first.startswith(b"\x89PNG")
