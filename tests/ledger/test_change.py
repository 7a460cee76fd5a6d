"""From purified tables, reviews and reverts to the ledger, and from the ledger to labels."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, Purified, string_ids, write_purified
from lnl_core.ledger.change import Appended, apply_reviewed, commit_purified, revert_run, review_list
from lnl_core.ledger.compare import compare, counts, labels_of
from lnl_core.ledger.export import current_labels, image_paths, link_images, write_labels_table
from lnl_core.ledger.store import Ledger

TIME = datetime(2026, 1, 2, tzinfo=UTC)
NAMES = ("cat", "dog", "eel")


def purified(proposals: str, review: str = "....", method: str = "dmlp") -> Purified:
    """Rows a, b, c, d, all observed as cat; a letter each for the proposal, `r` where it goes to review."""
    label = np.array([[name[0] for name in NAMES].index(letter) for letter in proposals], dtype=np.int32)
    return Purified(
        ids=string_ids(list("abcd")[: len(label)]),
        label=np.zeros(len(label), dtype=np.int32),
        purified_label=label,
        confidence=np.linspace(0.6, 0.9, len(label), dtype=np.float32),
        soft_label=np.eye(3, dtype=np.float32)[label],
        class_names=NAMES,
        about={"method": method, "version": "0.1.0"},
        review=np.array([letter == "r" for letter in review[: len(label)]]),
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.csv"
    path.write_text("id,label\nd,cat\nc,cat\nb,cat\na,cat\n")
    return path


def commit(ledger: Ledger, table: Purified) -> Appended:
    path = ledger.folder.parent / "purified.parquet"
    write_purified(path, table)
    return commit_purified(ledger, path, TIME)


def labels(ledger: Ledger, base: Path) -> str:
    """First letters of the labels of a, b, c, d."""
    return "".join(name[0] for name in current_labels(ledger, base)["label"].to_pylist())


def test_what_is_relabelled_is_appended_and_what_is_for_review_is_not(ledger: Ledger, base: Path) -> None:
    done = commit(ledger, purified("cdde", review="..r."))
    assert done.run is not None
    assert (done.rows, done.run.rows) == (4, 2)
    rows = ledger.changes(done.run).to_pylist()
    assert [(row["id"], row["from"], row["to"], row["route"]) for row in rows] == [
        ("b", "cat", "dog", "relabel"),
        ("d", "cat", "eel", "relabel"),
    ]
    assert rows[0]["confidence"] == pytest.approx(0.7)
    assert (rows[0]["source"], rows[0]["method"], rows[0]["version"]) == ("purify", "dmlp", "0.1.0")
    assert labels(ledger, base) == "cdce"


def test_the_same_table_twice_appends_nothing(ledger: Ledger) -> None:
    assert commit(ledger, purified("cdde")).run is not None
    assert commit(ledger, purified("cdde")).run is None
    assert len(ledger.runs()) == 1


def test_a_later_table_is_what_holds_and_the_first_one_can_come_back(ledger: Ledger, base: Path) -> None:
    commit(ledger, purified("ddcc"))
    second = commit(ledger, purified("ecdc", method="knn"))
    assert second.run is not None
    rows = [(row["id"], row["from"], row["to"], row["route"]) for row in ledger.changes(second.run).to_pylist()]
    assert rows == [("a", "dog", "eel", "relabel"), ("b", "dog", "cat", "keep"), ("c", "cat", "dog", "relabel")]
    assert labels(ledger, base) == "ecdc"
    commit(ledger, purified("ddcc"))
    assert labels(ledger, base) == "ddcc"
    assert [run.name for run in ledger.runs()] == ["000001-dmlp", "000002-knn", "000003-dmlp"]


def test_revert_and_revert_of_the_revert(ledger: Ledger, base: Path) -> None:
    commit(ledger, purified("cdde"))
    revert_run(ledger, "1", TIME)
    assert labels(ledger, base) == "cccc"
    with pytest.raises(ConfigError, match=r"3 of the 3 rows of run 000001-dmlp have been changed.* 'b' by run 000002"):
        revert_run(ledger, "1", TIME)
    done = revert_run(ledger, "2", TIME)
    assert labels(ledger, base) == "cdde"
    assert done.run is not None
    assert done.run.card.about == {"reverts": "000002-revert-1"}
    assert ledger.history("d")["to"].to_pylist() == ["eel", "cat", "eel"]
    revert_run(ledger, "3", TIME)
    assert labels(ledger, base) == "cccc"


def test_rows_changed_since_are_not_reverted_silently(ledger: Ledger, base: Path) -> None:
    commit(ledger, purified("cdde"))
    commit(ledger, purified("cdee", method="knn"))
    with pytest.raises(ConfigError, match=r"1 of the 3 rows .* 'c' by run 000002-knn.*--skip-changed"):
        revert_run(ledger, "1", TIME)
    assert labels(ledger, base) == "cdee"
    revert_run(ledger, "1", TIME, skip_changed=True)
    assert labels(ledger, base) == "ccec"


def test_a_review_closes_the_loop(ledger: Ledger, base: Path, tmp_path: Path) -> None:
    table = purified("cdde", review=".rrr")
    commit(ledger, table)
    listed = review_list(table)
    assert listed["id"].to_pylist() == ["d", "c", "b"]  # the surest first
    assert listed["proposed_label"].to_pylist() == ["eel", "dog", "dog"]
    path = tmp_path / "review.csv"
    write_labels_table(listed.set_column(4, "label", pa.array(["eel", "cat", None])), path)
    with pytest.raises(ConfigError, match="name them with --classes"):
        apply_reviewed(ledger, path, TIME, reviewer="anna")  # no run yet says which classes there are
    done = apply_reviewed(ledger, path, TIME, reviewer="anna", class_names=NAMES)
    assert done.undecided == 1
    assert done.run is not None
    rows = [tuple(row[name] for name in ("id", "from", "to", "route")) for row in ledger.changes(done.run).to_pylist()]
    assert rows == [("c", "cat", "cat", "keep"), ("d", "cat", "eel", "relabel")]
    assert labels(ledger, base) == "ccce"
    assert apply_reviewed(ledger, path, TIME, reviewer="anna").run is None


def test_no_purifier_changes_what_a_person_said(ledger: Ledger, base: Path, tmp_path: Path) -> None:
    path = tmp_path / "said.csv"
    path.write_text("id,label\na,eel\nb,0\n")
    apply_reviewed(ledger, path, TIME, reviewer="anna", class_names=NAMES)
    done = commit(ledger, purified("dddd"))
    assert done.kept_by_person == 2
    assert labels(ledger, base) == "ecdd"
    assert ledger.history("a")["from"].to_pylist() == [None]
    revert_run(ledger, "1", TIME)
    assert labels(ledger, base) == "ccdd"  # back to what it was before the ledger knew it


def test_a_label_that_is_no_class_is_named(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "said.csv"
    path.write_text("id,label\na,eel\nb,catt\n")
    with pytest.raises(ContractError, match="row 1: label 'catt' is no class"):
        apply_reviewed(ledger, path, TIME, reviewer="anna", class_names=NAMES)
    path.write_text("id,label\na,eel\na,cat\n")
    with pytest.raises(ContractError, match="'a' stands in rows 0 and 1"):
        apply_reviewed(ledger, path, TIME, reviewer="anna", class_names=NAMES)
    assert ledger.runs() == []


def test_diff_of_runs_and_of_tables(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger, purified("cdde"))
    commit(ledger, purified("dded", method="knn"))
    compared = compare(labels_of("1", ledger), labels_of("000002-knn", ledger))
    assert compared.to_pydict() == {
        "id": ["a", "b", "c", "d"],
        "first": [None, "dog", "dog", "eel"],
        "second": ["dog", None, "eel", "dog"],
        "kind": ["second only", "first only", "different", "different"],
    }
    write_purified(tmp_path / "one.parquet", purified("cdde", review="...r"))
    write_purified(tmp_path / "two.parquet", purified("cdc"))
    tables = [labels_of(str(tmp_path / name), ledger) for name in ("one.parquet", "two.parquet")]
    assert counts(compare(*tables)) == {"same": 2, "different": 1, "first only": 1, "second only": 0}
    assert tables[0]["label"].to_pylist()[3] == "cat"  # for review: the observed label is the one to use
    with pytest.raises(ConfigError, match=r"three\.parquet: no such file"):
        labels_of(str(tmp_path / "three.parquet"), ledger)


def test_export_as_csv_and_parquet(ledger: Ledger, base: Path, tmp_path: Path) -> None:
    commit(ledger, purified("cdde"))
    table = current_labels(ledger, base)
    write_labels_table(table, tmp_path / "out.csv")
    write_labels_table(table, tmp_path / "out.parquet")
    assert pa_csv.read_csv(tmp_path / "out.csv")["label"].to_pylist() == ["cat", "dog", "dog", "eel"]
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["source"].to_pylist() == ["base", "purify", "purify", "purify"]
    assert found["base_label"].to_pylist() == ["cat"] * 4
    with pytest.raises(ConfigError, match=r"'\.json'; allowed are \.csv and \.parquet"):
        write_labels_table(table, tmp_path / "out.json")


def test_a_base_of_numbers_is_read_by_its_class_names(ledger: Ledger, tmp_path: Path) -> None:
    table = pa.table({"id": list("abcd"), "label": pa.array([2, 0, 0, 0])})
    metadata = {"lnl": '{"class_names": ["cat", "dog", "eel"]}'}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "labels.parquet")
    commit(ledger, purified("cdcc"))
    assert labels(ledger, tmp_path / "labels.parquet") == "edcc"


def test_a_base_that_lacks_an_id_of_the_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger, purified("cdde"))
    (tmp_path / "few.csv").write_text("id,label\na,cat\nb,cat\n")
    with pytest.raises(ContractError, match=r"few\.csv: has no row for id 'c' of the ledger \(2 such ids\)"):
        current_labels(ledger, tmp_path / "few.csv")


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_links_to_images_stand_below_their_class(ledger: Ledger, tmp_path: Path, kind: str) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_text(name)
    (tmp_path / "base.csv").write_text("id,label\ncat/1.png,cat\ncat/2.png,cat\ndog/1.png,dog\n")
    (tmp_path / "said.csv").write_text("id,label\ncat/1.png,dog\n")
    apply_reviewed(ledger, tmp_path / "said.csv", TIME, reviewer="anna", class_names=("cat", "dog"))
    table = current_labels(ledger, tmp_path / "base.csv")
    found = image_paths(table, tmp_path / "images", None, "id", "path")
    out = tmp_path / "links"
    assert link_images(table, found, out, kind) == 3
    linked = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.png")}
    assert linked == {
        "cat/2.png": "cat/2.png",
        "dog/cat%2F1.png": "cat/1.png",  # two images of this class are called 1.png
        "dog/dog%2F1.png": "dog/1.png",
    }
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        link_images(table, found, out, kind)


def test_images_by_a_table_of_paths_and_what_is_missing(ledger: Ledger, base: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / "images" / f"{name}.png").write_text(name)
    table = current_labels(ledger, base)
    paths_csv = tmp_path / "paths.csv"
    paths_csv.write_text("id,path\na,a.png\nb,b.png\nc,c.png\n")
    with pytest.raises(ContractError, match="has no path for id 'd'"):
        image_paths(table, tmp_path / "images", paths_csv, "id", "path")
    paths_csv.write_text("id,path\na,a.png\nb,b.png\nc,c.png\nd,d.png\n")
    with pytest.raises(ContractError, match=r"d\.png: no such image, wanted for id 'd'"):
        image_paths(table, tmp_path / "images", paths_csv, "id", "path")
    (tmp_path / "images" / "d.png").write_text("d")
    found = image_paths(table, tmp_path / "images", paths_csv, "id", "path")
    assert [path.read_text() for path in found] == ["a", "b", "c", "d"]
