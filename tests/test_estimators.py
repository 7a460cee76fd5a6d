"""scikit-learn-style estimators: every form of input gives the same labels, and scikit-learn's conventions hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

import lnl_core.estimators
from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, string_ids
from lnl_core.estimators import Purifier
from lnl_core.estimators.named import NamedEstimator, class_name, estimator_names, named_estimator
from lnl_core.features.shards import ShardKey, write_shard
from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask

NAMES = PURIFIERS.names()
CLASSES = ("four", "one", "three", "two", "zero")  # sorted, as classes_ are
ROWS, TRUSTED = 300, 60
FAST = {"eac_steps": 50, "max_steps": 64, "transforms": ("standardise",), "ridge": (0.01, 0.1, 1.0)}
FOUR = [2, 5, 2, 9]
REPOSITORY = Path(__file__).parents[1]


class Digits:
    """300 scans of five classes, 40 % wrong labels; rows 240 and on are trusted."""

    def __init__(self) -> None:
        data = load_digits(n_class=5)
        rng = np.random.default_rng(1)
        rows = rng.permutation(len(data.target))[:ROWS]
        self.true = np.array(CLASSES)[data.target[rows]]
        self.features = data.data[rows].astype(np.float32)
        wrong = (data.target[rows] + rng.integers(1, 5, ROWS)) % 5
        self.observed = np.where(rng.random(ROWS) < 0.4, np.array(CLASSES)[wrong], self.true)
        self.rows = np.arange(ROWS - TRUSTED, ROWS)
        self.trusted = (self.rows, self.true[self.rows])
        self.ids = [f"scan {row * 7 % ROWS:03d}" for row in range(ROWS)]  # not in the order of the rows


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def ensemble(**settings: object) -> NamedEstimator:
    return named_estimator("ipc_ensemble")(**{**FAST, **settings})


@pytest.fixture(scope="module")
def fitted(digits: Digits) -> NamedEstimator:
    return ensemble().fit(digits.features, digits.observed, trusted=digits.trusted)


def test_labels_get_better_and_trusted_rows_keep_theirs(digits: Digits, fitted: NamedEstimator) -> None:
    noisy = slice(0, ROWS - TRUSTED)
    assert (digits.observed[noisy] == digits.true[noisy]).mean() < 0.65
    assert (fitted.labels_[noisy] == digits.true[noisy]).mean() > 0.85
    assert np.array_equal(fitted.labels_[digits.rows], digits.true[digits.rows])
    assert (fitted.confidence_[digits.rows] == 1).all()
    assert np.array_equal(fitted.changed_, fitted.labels_ != digits.observed)
    assert tuple(fitted.classes_) == CLASSES
    assert fitted.soft_labels_.shape == (ROWS, 5)
    np.testing.assert_allclose(fitted.soft_labels_.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(fitted.classes_[fitted.soft_labels_.argmax(axis=1)], fitted.labels_)
    assert fitted.n_features_in_ == 64
    assert fitted.metrics_["method"] == "ipc_ensemble"
    assert set(fitted.route_[fitted.changed_]) <= {"relabel"}


def test_the_labels_are_those_of_purify(digits: Digits, fitted: NamedEstimator) -> None:
    noisy = np.arange(ROWS - TRUSTED)
    columns = {"true": digits.true, "observed": digits.observed}
    numbers = {name: np.searchsorted(CLASSES, labels).astype(np.int32) for name, labels in columns.items()}
    task = PurifyTask(
        noisy=MappedRows(values=digits.features, rows=noisy),
        observed=numbers["observed"][noisy],
        trusted=digits.features[digits.rows],
        trusted_label=numbers["true"][digits.rows],
        trusted_observed=numbers["observed"][digits.rows],
        classes=5,
    )
    config = PURIFIERS.get("ipc_ensemble").config(**FAST)
    expected, _ = purify("ipc_ensemble", config, task, string_ids([str(row) for row in noisy]), CLASSES, 0)
    np.testing.assert_array_equal(fitted.soft_labels_[noisy], expected.soft_label)
    np.testing.assert_array_equal(fitted.confidence_[noisy], expected.confidence)


def test_every_form_of_array_labels_and_trusted_set_gives_the_same(digits: Digits, fitted: NamedEstimator) -> None:
    mask = np.isin(np.arange(ROWS), digits.rows)
    verified = digits.true[digits.rows]
    shuffled = np.random.default_rng(0).permutation(TRUSTED)
    by_row = dict(zip(digits.rows.tolist(), verified, strict=True))
    forms = [
        (torch.from_numpy(digits.features), list(digits.observed), (mask, verified)),
        (digits.features.tolist(), digits.observed.astype(object), by_row),
        (digits.features.astype(np.float64), digits.observed, (digits.rows.tolist(), list(verified))),
    ]
    for features, labels, trusted in forms:
        found = ensemble().fit(features, labels, trusted)
        np.testing.assert_array_equal(found.soft_labels_, fitted.soft_labels_)
    other_order = ensemble().fit(digits.features, digits.observed, (digits.rows[shuffled], verified[shuffled]))
    assert (other_order.labels_ == fitted.labels_).mean() > 0.95  # rows get other folds
    assert np.array_equal(other_order.labels_[digits.rows], verified)


def test_trusted_rows_of_their_own_are_as_rows_without_observed_label(digits: Digits) -> None:
    noisy, verified = slice(0, ROWS - TRUSTED), digits.true[digits.rows]
    own = ensemble().fit(digits.features[noisy], digits.observed[noisy], (digits.features[digits.rows], verified))
    unlabelled = digits.observed.astype(object)
    unlabelled[digits.rows] = None
    among = ensemble().fit(digits.features, unlabelled, digits.trusted)
    assert own.labels_.shape == (ROWS - TRUSTED,)
    np.testing.assert_array_equal(own.soft_labels_, among.soft_labels_[noisy])
    assert not among.changed_[digits.rows].any()


def test_a_table_and_a_cache_on_disk_are_joined_on_id(digits: Digits, fitted: NamedEstimator, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    table = {"id": [digits.ids[row] for row in order], "feature": list(digits.features[order])}
    pq.write_table(pa.table(table), tmp_path / "features.parquet")
    ascending = np.argsort(digits.ids)
    (tmp_path / "cache").mkdir()
    ids = string_ids([digits.ids[row] for row in ascending])
    key = ShardKey(fingerprint="pixels", dtype="float32", source="digits")
    write_shard(tmp_path / "cache" / "part-00000.parquet", iter([(ids, digits.features[ascending])]), key)
    names = [digits.ids[row] for row in digits.rows]
    labels, trusted = dict(zip(digits.ids, digits.observed, strict=True)), (names, digits.true[digits.rows])
    lines = [f"{name},{label}" for name, label in labels.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *lines]) + "\n", encoding="utf-8")
    forms = [
        (tmp_path / "features.parquet", labels),
        (str(tmp_path / "cache"), (digits.ids, digits.observed)),
        (tmp_path / "cache", tmp_path / "labels.csv"),
    ]
    found = [ensemble().fit(features, given, trusted) for features, given in forms]
    for one in found:
        assert list(one.ids_) == digits.ids  # the order of the labels, whatever that of the features
        assert one.n_features_in_ == 64
        assert np.array_equal(one.labels_[digits.rows], digits.true[digits.rows])
        np.testing.assert_array_equal(one.soft_labels_, found[0].soft_labels_)
        assert (one.labels_ == fitted.labels_).mean() > 0.95  # the same rows, streamed in another order
        assert one.predict_proba(digits.features[:3]).shape == (3, 5)


def test_new_rows_are_predicted_by_a_head_on_the_purified_labels(fitted: NamedEstimator) -> None:
    data = load_digits(n_class=5)
    probabilities = fitted.predict_proba(data.data)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    true = np.array(CLASSES)[data.target]
    assert fitted.score(data.data, true) > 0.85
    assert np.array_equal(fitted.predict(data.data), fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.predict_proba() is fitted.soft_labels_
    assert np.array_equal(fitted.predict(), fitted.labels_)
    assert np.array_equal(fitted.predict_proba(torch.from_numpy(data.data)), probabilities)
    with pytest.raises(ValueError, match="64 features"):
        fitted.predict(data.data[:, 1:])
    with pytest.raises(NotFittedError):
        ensemble().predict(data.data)


def test_without_a_head_new_rows_are_refused(digits: Digits) -> None:
    found = Purifier("none", head_rows=0).fit(digits.features, digits.observed)
    assert np.array_equal(found.predict(), digits.observed)
    with pytest.raises(ConfigError, match="head_rows = 0"):
        found.predict(digits.features)
    few = Purifier("none", head_rows=40).fit(digits.features, digits.observed)
    assert few.predict_proba(digits.features).shape == (ROWS, 5)


@pytest.mark.parametrize("labels", [FOUR * 75, np.array(FOUR * 75, dtype=float), torch.tensor(FOUR * 75)])
def test_numbers_stay_numbers(digits: Digits, labels: object) -> None:
    found = Purifier("none").fit(digits.features, labels)
    assert found.classes_.tolist() == [2, 5, 9]
    assert found.labels_.dtype.kind == "i"
    assert found.labels_[:4].tolist() == [2, 5, 2, 9]
    assert Purifier("none").fit(digits.features, labels, classes=range(10)).soft_labels_.shape == (ROWS, 10)


@pytest.mark.parametrize(
    ("labels", "trusted", "classes", "message"),
    [
        ([0, 1] * 149, None, None, "298 labels for 300 rows"),
        ([0, 1] * 149 + [0, -1], None, None, "row 299 .* has no label and is not trusted"),
        ([0, 1] * 149 + [0, 7], None, range(3), "labels: row 299: label 7 is no class .* allowed are 0, 1, 2"),
        ([0, 1] * 150, ([300], [0]), None, "row 300 of 300 rows of features; allowed are 0 to 299"),
        ([0, 1] * 150, ([-1], [0]), None, "row -1 of 300"),
        ([0, 1] * 150, ([4, 4], [0, 1]), None, "row 4 stands twice"),
        ([0, 1] * 150, ([4, 5], [0]), None, "2 rows and 1 labels"),
        ([0, 1] * 150, ([4], [-1]), None, "entry 0 has no label"),
        ([0, 1] * 150, [1, 2, 3], None, "give trusted="),
        ([0, 1] * 150, (["a"], [0]), None, "give trusted="),
        ([0, 1] * 150, (np.array([True]), [0]), None, "a mask of 1 rows for 300"),
        ([0, 1] * 150, (np.ones((2, 3)), [0, 1]), None, "features are 3 wide, `features` 64"),
        ([0, 1] * 150, ([4], ["cat"]), None, "trusted are names and labels are numbers"),
    ],
)
def test_bad_input_is_named(digits: Digits, labels: object, trusted: object, classes: object, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Purifier("none").fit(digits.features, labels, trusted, classes=classes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named(digits: Digits, value: float) -> None:
    features = digits.features.copy()
    features[17, 3] = value
    with pytest.raises(ContractError, match="id '17' holds NaN or infinity"):
        ensemble().fit(features, digits.observed, digits.trusted)


def test_paths_need_labels_by_id(digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    pq.write_table(pa.table({"id": digits.ids, "feature": list(digits.features)}), path)
    with pytest.raises(ContractError, match="joined on id"):
        Purifier("none").fit(path, list(digits.observed))
    with pytest.raises(ContractError, match="has no row for id 'x'"):
        Purifier("none").fit(path, {"x": "one", **dict(zip(digits.ids, digits.observed, strict=True))})
    with pytest.raises(ContractError, match="id 'scan 000' stands in rows 0 and 1"):
        Purifier("none").fit(path, (["scan 000", "scan 000"], ["one", "two"]))
    features = [None if row == 3 else list(one) for row, one in enumerate(digits.features.tolist())]
    pq.write_table(pa.table({"id": digits.ids, "feature": features}), path)
    with pytest.raises(ContractError, match=f"id {digits.ids[3]!r} is missing or holds NaN"):
        Purifier("none").fit(path, dict(zip(digits.ids, digits.observed, strict=True)))


@pytest.mark.parametrize("name", NAMES)
def test_every_purifier_has_an_estimator_with_its_settings(name: str) -> None:
    entry = PURIFIERS.get(name)
    [spelled] = [one for one, method in estimator_names().items() if method == name]
    made = getattr(lnl_core.estimators, spelled)()
    assert spelled.lower().rstrip("_") == name.replace("_", "")
    assert spelled in dir(lnl_core.estimators)
    assert type(made) is named_estimator(name)
    assert is_classifier(made)
    assert made.get_params().keys() == {*entry.config.model_fields, "random_state", "head_rows"}
    assert made._method() == (name, entry.config())
    assert entry.summary[1:] in (type(made).__doc__ or "")
    assert Purifier(name)._method() == (name, entry.config())
    with pytest.raises(TypeError, match="has no parameter 'nonsense'"):
        type(made)(nonsense=1)


@pytest.mark.parametrize("name", NAMES)
def test_conventions_of_scikit_learn(name: str) -> None:
    for check in (
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_parameters_default_constructible,
    ):
        check(class_name(name, PURIFIERS.get(name).config.__name__), named_estimator(name)())


def departures(_: Purifier) -> dict[str, str]:
    return {
        "check_fit_score_takes_y": "fit takes `features` and `labels`, named for what they are",
        "check_classifiers_classes": "-1 says that there is no label, as in sklearn.semi_supervised",
        "check_do_not_raise_errors_in_init_or_set_params": "in tests, and only there, argument types are checked",
    }


@estimator_checks.parametrize_with_checks([Purifier("none")], expected_failed_checks=departures)
def test_all_checks_of_scikit_learn_without_a_trusted_set(estimator: Purifier, check: object) -> None:
    check(estimator)  # type: ignore[operator]


def test_settings_are_checked_by_fit(digits: Digits) -> None:
    for made in (ensemble(folds=1), Purifier("ipc_ensemble", settings={"folds": 1})):
        with pytest.raises(ConfigError, match=r"ipc_ensemble\.folds = 1"):
            made.fit(digits.features, digits.observed, digits.trusted)
    with pytest.raises(ConfigError, match="unknown purifier 'dmpl'; did you mean 'dmlp'"):
        Purifier("dmpl").fit(digits.features, digits.observed)
    with pytest.raises(ConfigError, match="random_state = -1"):
        Purifier("none", random_state=-1).fit(digits.features, digits.observed)
    with pytest.raises(ValueError, match="Invalid parameter 'fold'"):
        ensemble().set_params(fold=3)
    with pytest.raises(AttributeError, match="did you mean 'DMLP'"):
        lnl_core.estimators.DMPL  # noqa: B018


def test_copies_carry_settings_and_labels(digits: Digits, fitted: NamedEstimator) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(digits.features), fitted.predict_proba(digits.features))
    copy = clone(fitted.set_params(random_state=0))
    assert repr(copy) == repr(fitted)
    assert "eac_steps=50" in repr(copy)
    assert not hasattr(copy, "labels_")
    assert copy.set_params(folds=4).folds == 4


@pytest.mark.parametrize(
    ("method", "config", "expected"),
    [("two_em", "TwoEMConfig", "TwoEM"), ("none", "NoneConfig", "None_"), ("my_way", "Options", "MyWay")],
)
def test_class_names_are_spelled_as_the_settings_are(method: str, config: str, expected: str) -> None:
    assert class_name(method, config) == expected


def example(page: str) -> str:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    [block] = [part.split("```")[0] for part in text.split("```python\n")[1:] if "lnl_core.estimators" in part]
    return block


def test_the_example_works() -> None:
    """The same three lines in README.md and on the estimators' page."""
    block = example("README.md")
    assert block == example("docs/estimators.md")
    assert len([line for line in block.splitlines() if line.strip()]) == 3
    data = load_digits()
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.target)) < 0.4
    labels = np.where(wrong, (data.target + rng.integers(1, 10, len(data.target))) % 10, data.target)
    rows = np.arange(150)
    names = {"features": data.data, "labels": labels, "rows": rows, "verified": data.target[rows], "new": data.data[:5]}
    exec(compile(block, "README.md", "exec"), names)
    assert (names["purifier"].labels_ == data.target).mean() > 0.85
