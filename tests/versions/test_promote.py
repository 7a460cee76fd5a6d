"""Promotion, refusal and rollback, and what becomes of the label ledger and of git."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from lnl_core.config import ConfigError
from lnl_core.layout import Layout
from lnl_core.ledger.change import apply_reviewed
from lnl_core.ledger.store import Ledger
from lnl_core.versions.gate import GateSettings
from lnl_core.versions.git_marks import mark_promoted, tag_version
from lnl_core.versions.label_changes import difference
from lnl_core.versions.ledger_labels import commit_version
from lnl_core.versions.promote import Promoted, gate_decision, promote, rollback
from lnl_core.versions.register import RunCard, register
from lnl_core.versions.store import VersionStore
from tests.versions.conftest import TIME

Make = Callable[..., Layout]
Add = Callable[..., int]
ANNA = {"who": "anna", "time": TIME}


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore.open(str(tmp_path / "store"))


@pytest.fixture
def add(store: VersionStore, make_run: Make) -> Add:
    """`add(labels={...}, wrong=n)` registers the next run."""

    def register_next(**wishes: object) -> int:
        name = f"run{len(store.versions())}"
        return register(store, make_run(name, **wishes), RunCard(run_id=name, time=TIME), GateSettings()).number

    return register_next


def ask(store: VersionStore, number: int, **changes: object) -> Promoted:
    return promote(store, number, GateSettings(), **ANNA, **changes)  # type: ignore[arg-type]


def promoted(store: VersionStore) -> int | None:
    last = store.last_promotion()
    return last.version if last else None


def test_first_better_and_worse(store: VersionStore, add: Add) -> None:
    add(wrong=30)
    add(wrong=20)
    add(wrong=80)
    assert ask(store, 1).promotion is not None
    assert ask(store, 2).promotion is not None
    refused = ask(store, 3)
    assert refused.promotion is None
    assert refused.decision is not None
    assert refused.decision.outcome == "refuse"
    assert promoted(store) == 2
    history = store.promotions()
    assert [(entry.version, entry.previous, entry.why, entry.who) for entry in history] == [
        (1, None, "gate", "anna"),
        (2, 1, "gate", "anna"),
    ]
    assert store.version(3).parent is None  # registered before anything was promoted


def test_a_person_may_overrule_the_gate_with_a_reason(store: VersionStore, add: Add) -> None:
    add(wrong=30)
    add(wrong=80)
    ask(store, 1)
    with pytest.raises(ConfigError, match="--force needs --reason"):
        ask(store, 2, force=True)
    done = ask(store, 2, force=True, reason="the eels were wrong before")
    assert done.promotion is not None
    assert (done.promotion.why, done.promotion.reason) == ("person", "the eels were wrong before")
    assert done.promotion.gate_decision["outcome"] == "refuse"


def test_called_twice_it_is_promoted_once(store: VersionStore, add: Add) -> None:
    add()
    assert ask(store, 1).promotion is not None
    assert ask(store, 1) == Promoted()
    assert len(store.promotions()) == 1


def test_without_held_out_rows_nothing_replaces_the_promoted_version(store: VersionStore, add: Add) -> None:
    add(rows=0)
    add(rows=0)
    assert ask(store, 1).promotion is not None
    refused = ask(store, 2)
    assert refused.promotion is None
    assert refused.decision is not None
    assert refused.decision.outcome == "undecided"
    settings = GateSettings(undecided="promote")
    assert promote(store, 2, settings, **ANNA).promotion is not None  # type: ignore[arg-type]


def test_the_gate_compares_with_any_version(store: VersionStore, add: Add) -> None:
    add(wrong=10)
    add(wrong=12)
    add(wrong=14)
    ask(store, 1)
    ask(store, 2)
    ask(store, 3)
    assert gate_decision(store, 3, GateSettings(), against=1).comparisons[0].lost == 4
    assert gate_decision(store, 2, GateSettings()).against == 3
    assert gate_decision(store, 3, GateSettings()).against is None  # its parent: nothing was promoted when it was made


def test_rollback_goes_to_what_was_promoted_before(store: VersionStore, add: Add) -> None:
    for _ in range(3):
        ask(store, add())
    back = rollback(store, to=None, reason="socks", **ANNA)  # type: ignore[arg-type]
    assert (back.version, back.previous, back.why, back.reason) == (2, 3, "rollback", "socks")
    assert rollback(store, to=None, reason="more socks", **ANNA).version == 1  # type: ignore[arg-type]
    assert rollback(store, to=3, reason="no socks", **ANNA).version == 3  # type: ignore[arg-type]
    assert rollback(store, to=None, reason="socks", **ANNA).version == 2  # type: ignore[arg-type]
    assert len(store.promotions()) == 7


@pytest.mark.parametrize(
    ("to", "reason", "message"),
    [
        (None, "x", "version 1 was the first"),
        (1, "x", "is the promoted one already"),
        (2, "x", "was never promoted"),
        (1, "", "--reason is empty"),
    ],
)
def test_rollbacks_that_are_refused(store: VersionStore, add: Add, to: int | None, reason: str, message: str) -> None:
    ask(store, add())
    add()
    with pytest.raises(ConfigError, match=message):
        rollback(store, to=to, reason=reason, **ANNA)  # type: ignore[arg-type]


def test_nothing_to_roll_back(store: VersionStore) -> None:
    with pytest.raises(ConfigError, match="nothing to roll back"):
        rollback(store, to=None, reason="x", **ANNA)  # type: ignore[arg-type]


def follow(store: VersionStore, ledger: Ledger, number: int, *, back: bool = False) -> tuple[int, int]:
    """Rows appended, and rows that a person keeps."""
    manifest = store.version(number)
    done = commit_version(ledger, manifest, store.changes(manifest), TIME, rollback=back)
    return (done.run.rows if done.run else 0), done.kept_by_person


def current(ledger: Ledger) -> dict[str, str | None]:
    return {row["id"]: row["to"] for row in ledger.latest().to_pylist()}


def test_the_ledger_follows_promotions_and_rollbacks(store: VersionStore, add: Add, tmp_path: Path) -> None:
    """Version 2 changes other rows than version 1: what it does not change goes back to the observed label."""
    add(labels={"row-00": "dog", "row-01": "eel"})
    add(labels={"row-01": "cat", "row-02": "cat"})
    ledger = Ledger(tmp_path / "ledger")
    assert follow(store, ledger, 1) == (2, 0)
    assert current(ledger) == {"row-00": "dog", "row-01": "eel"}
    assert follow(store, ledger, 2) == (3, 0)
    assert current(ledger) == {"row-00": None, "row-01": "cat", "row-02": "cat"}
    assert follow(store, ledger, 2) == (0, 0)
    assert follow(store, ledger, 1, back=True) == (3, 0)
    assert current(ledger) == {"row-00": "dog", "row-01": "eel", "row-02": None}
    runs = ledger.runs()
    assert [(run.card.source, run.card.method) for run in runs] == [
        ("purify", "version-0001"),
        ("purify", "version-0002"),
        ("revert", "version-0001"),
    ]
    row = ledger.history("row-01").to_pylist()[1]
    assert (row["from"], row["to"], row["confidence"]) == ("eel", "cat", pytest.approx(0.8))


def test_a_persons_word_stands_and_trusted_rows_are_left_alone(store: VersionStore, add: Add, tmp_path: Path) -> None:
    add(labels={"row-00": "dog", "row-01": "eel"})
    add()
    ledger = Ledger(tmp_path / "ledger")
    follow(store, ledger, 1)
    (tmp_path / "review.csv").write_text("id,label\nrow-00,eel\nt1,dog\n")
    apply_reviewed(ledger, tmp_path / "review.csv", TIME, reviewer="anna")
    assert follow(store, ledger, 2) == (1, 1)  # row-01 goes back; row-00 is a person's; t1 is trusted
    assert current(ledger) == {"row-00": "eel", "row-01": None, "t1": "dog"}
    assert follow(store, ledger, 1, back=True) == (1, 1)
    assert current(ledger) == {"row-00": "eel", "row-01": "eel", "t1": "dog"}


def test_difference_counts_rows_whose_label_is_another(store: VersionStore, add: Add) -> None:
    add(labels={"row-00": "dog", "row-01": "eel"})
    add(labels={"row-01": "eel", "row-02": "cat"})
    first, second = (store.changes(manifest) for manifest in store.versions())
    assert difference(second, first) == {"changed": 2, "changed_before": 2, "different": 2}
    assert difference(first, first)["different"] == 0


def test_a_row_that_was_confirmed_by_a_person_is_no_difference(store: VersionStore, add: Add) -> None:
    """Trusted in one version, unchanged in the other: the same label."""
    add()
    with_trusted = store.changes(store.version(1))
    confirmed = pa.array([row != "t0" for row in with_trusted["id"].to_pylist()])
    assert difference(with_trusted, with_trusted.filter(confirmed))["different"] == 1  # t0 was seen as a dog
    assert difference(with_trusted.filter(confirmed), with_trusted.slice(0, 0))["different"] == 0


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_tags_stay_and_the_branch_moves(tmp_path: Path, store: VersionStore, add: Add) -> None:
    git(tmp_path, "init", "--quiet", "repository")
    repository = tmp_path / "repository"
    commits = []
    for number in (1, 2):
        git(repository, "commit", "--quiet", "--allow-empty", "--message", str(number))
        commits.append(git(repository, "rev-parse", "HEAD"))
        add()
    one, two = (store.version(n).model_copy(update={"commit": commit}) for n, commit in enumerate(commits, start=1))
    mark_promoted(repository, one)
    mark_promoted(repository, two)
    mark_promoted(repository, one)  # a rollback
    assert git(repository, "rev-parse", "promoted") == commits[0]
    assert [git(repository, "rev-parse", f"version-000{n}") for n in (1, 2)] == commits
    with pytest.raises(ConfigError, match="tags do not move"):
        tag_version(repository, one.model_copy(update={"commit": commits[1]}))
    with pytest.raises(ConfigError, match="has no commit 0000"):
        mark_promoted(repository, one.model_copy(update={"commit": "0" * 40}))
    with pytest.raises(ConfigError, match="it was made in a folder"):
        mark_promoted(repository, store.version(1))
