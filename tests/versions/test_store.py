"""The store: two writers at once, a crash between two files, damage, and all of it on a real S3 server too."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.layout import Layout
from lnl_core.versions.gate import GateSettings
from lnl_core.versions.promote import promote
from lnl_core.versions.register import RunCard, register
from lnl_core.versions.store import VersionStore
from lnl_core.versions.version_files import FolderFiles, open_version_files
from tests.versions.conftest import TIME

Make = Callable[..., Layout]


@pytest.fixture(params=["folder", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is not there yet, in a folder and at a prefix of a new bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('s3')}/project/versions"


def add(store: VersionStore, paths: Layout, run: str) -> int:
    return register(store, paths, RunCard(run_id=run, time=TIME), GateSettings()).number


def files_of(where: str) -> dict[str, bytes]:
    files = open_version_files(where)
    names = [name for folder in ("versions", "promotions", "files") for name in files.names(folder)]
    return {name: files.read(name) for name in names}


def test_a_version_comes_back_as_it_went_in(where: str, make_run: Make) -> None:
    store = VersionStore.open(where)
    assert store.versions() == []
    assert store.last_promotion() is None
    assert add(store, make_run("a", labels={"row-00": "dog"}), "run a") == 1
    (found,) = VersionStore.open(where).versions()
    assert (found.run_id, found.created, found.parent, found.tag) == ("run a", TIME, None, "version-0001")
    assert found.rows == {"train": 16, "val": 300, "test": 0, "trusted": 4, "held_out": 300}
    assert found.labels_changed == 1
    assert found.held_out["probe"]["right"] == 270
    assert found.churn == {"flips": 3, "flip_share": 0.25}
    assert found.gate_decision["outcome"] == "first"
    assert len(store.held_out(found)) == 300
    changed = store.changes(found).to_pylist()
    assert [(row["id"], row["from"], row["to"], row["route"]) for row in changed] == [
        ("row-00", "cat", "dog", "relabel"),
        ("t0", "dog", "cat", "trusted"),
        ("t1", "cat", "cat", "trusted"),
        ("t2", "cat", "cat", "trusted"),
        ("t3", "cat", "cat", "trusted"),
    ]


def test_the_same_run_is_one_version(where: str, make_run: Make) -> None:
    store, paths = VersionStore.open(where), make_run("a")
    assert [add(store, paths, "run a"), add(store, paths, "run a"), add(store, paths, "run b")] == [1, 1, 2]
    assert len(store.versions()) == 2


def test_writers_at_once_get_different_numbers(where: str, make_run: Make) -> None:
    """Four at once, each with a store of its own, as on four machines."""
    paths = [make_run(f"run{number}", labels={f"row-{number:02d}": "eel"}) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        numbers = pool.map(lambda item: add(VersionStore.open(where), item[1], f"run {item[0]}"), enumerate(paths))
        assert sorted(numbers) == [1, 2, 3, 4]
    assert {found.run_id for found in VersionStore.open(where).versions()} == {f"run {n}" for n in range(4)}


def test_promotions_at_once_are_one_after_the_other(where: str, make_run: Make) -> None:
    store = VersionStore.open(where)
    for name in ("a", "b", "c"):
        add(store, make_run(name), name)
    with ThreadPoolExecutor(3) as pool:
        done = pool.map(
            lambda number: promote(VersionStore.open(where), number, GateSettings(), who="x", time=TIME), (1, 2, 3)
        )
        assert all(one.promotion is not None for one in done)
    history = store.promotions()
    assert [entry.number for entry in history] == [1, 2, 3]
    assert [entry.previous for entry in history] == [None, history[0].version, history[1].version]
    assert history[-1].gate_decision["against"] == history[1].version  # compared again with what was promoted meanwhile


def test_nothing_is_ever_overwritten_or_removed(where: str, make_run: Make) -> None:
    store = VersionStore.open(where)
    before: dict[str, bytes] = {}
    for number, name in enumerate(("a", "b", "c"), start=1):
        add(store, make_run(name, labels={"row-00": "dog"} if number > 1 else {}), name)
        promote(store, number, GateSettings(), who="x", time=TIME)
        now = files_of(where)
        assert before.items() <= now.items()
        before = now
    assert len([name for name in before if name.startswith("files/")]) == 3  # the same content is one file


def _add_and_die(where: str, root: Path, stop_after: int) -> None:
    """Register a run; kill -9 of this very process after so many files."""
    import signal

    written = 0
    real = FolderFiles.put_new

    def put(self: FolderFiles, name: str, data: bytes) -> bool:
        nonlocal written
        if written == stop_after:
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return real(self, name, data)

    FolderFiles.put_new = put  # type: ignore[method-assign]
    store = VersionStore.open(where)
    number = add(store, Layout(root), "killed")
    promote(store, number, GateSettings(), who="x", time=TIME)


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_kill_between_two_files_leaves_a_whole_store(tmp_path: Path, make_run: Make, stop_after: int) -> None:
    """After the held-out table, the changes, the manifest: what was promoted stays, and the same call finishes it."""
    where = str(tmp_path / "store")
    store = VersionStore.open(where)
    add(store, make_run("a"), "a")
    promote(store, 1, GateSettings(), who="x", time=TIME)
    paths = make_run("b", labels={"row-03": "dog"}, wrong=20)
    process = multiprocessing.get_context("fork").Process(target=_add_and_die, args=(where, paths.root, stop_after))
    process.start()
    process.join()
    assert process.exitcode == -9
    last = store.last_promotion()
    assert last is not None
    assert last.version == 1
    assert [found.number for found in store.versions()] == ([1, 2] if stop_after == 3 else [1])
    assert add(store, paths, "killed") == 2
    assert promote(store, 2, GateSettings(), who="x", time=TIME).promotion is not None
    assert [entry.version for entry in store.promotions()] == [1, 2]


def test_damage_is_named(tmp_path: Path, make_run: Make) -> None:
    where = tmp_path / "store"
    store = VersionStore.open(str(where))
    add(store, make_run("a"), "a")
    manifest = store.version(1)
    file = where / manifest.files["held_out"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ContractError, match=r"files/[0-9a-f]{64}\.parquet: damaged"):
        store.held_out(manifest)
    (where / "versions" / "000001.json").write_text('{"format": 9}')
    with pytest.raises(ContractError, match="format 9, this lnl reads 1"):
        store.versions()
    (where / "versions" / "000001.json").write_text('{"format": 1}')
    with pytest.raises(ContractError, match="not a record of a version store"):
        store.versions()
    (where / "versions" / "note.txt").write_text("mine")
    with pytest.raises(ContractError, match=r"note\.txt: not a file of a version store"):
        store.versions()


def test_what_is_not_there_is_named(tmp_path: Path, make_run: Make) -> None:
    store = VersionStore.open(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="no version 3; it has no versions yet"):
        store.version(3)
    add(store, make_run("a"), "a")
    with pytest.raises(ConfigError, match="no version 3; it has versions 1 to 1"):
        store.version(3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; name a folder or s3://"):
        VersionStore.open(str(tmp_path / "file"))
    paths = make_run("b")
    paths.purified.unlink()
    with pytest.raises(ConfigError, match=r"purified\.parquet: no such file; a version is a run"):
        add(store, paths, "b")


def test_files_are_named_by_their_content(tmp_path: Path, make_run: Make) -> None:
    where = tmp_path / "store"
    add(VersionStore.open(str(where)), make_run("a"), "a")
    for path in (where / "files").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_a_file_system_without_hard_links_is_named(
    tmp_path: Path, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ConfigError, match="makes no hard links"):
        add(VersionStore.open(str(tmp_path / "store")), make_run("a"), "a")
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
