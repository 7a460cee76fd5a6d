"""From S3 each reader gives, byte for byte, what it gives from a folder; a killed run and an outage change nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dev.seaweed import Seaweed
from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, read_quarantine
from lnl_core.s3 import anywhere, delete, seekable, write_bytes
from lnl_core.stages import chain, prepare_dataset
from lnl_core.stages import prepare as stage
from lnl_core.stages.stage import shared_settings
from tests.s3.local_and_s3 import artefacts, digit_files, lay, prepare, send

FILES = digit_files(120)


def class_folders(folder: Path) -> dict[str, Any]:
    lay(folder, FILES | {"3/broken.png": b"none", "3/.hidden.png": b"", "loose.png": b"", "a b/ü%.txt": b"text"})
    return {"dataset": "image_folder", "image_folder": {"path": str(folder)}}


def split_folders(folder: Path) -> dict[str, Any]:
    splits = {name: "test" if number % 5 else "train" for number, name in enumerate(FILES)}
    lay(folder, {f"{splits[name]}/{name}": data for name, data in FILES.items()})
    return {"dataset": "image_folder", "image_folder": {"path": str(folder)}}


def table_and_images(folder: Path) -> dict[str, Any]:
    rows = [f"id-{number},images/{name},{name[0]}" for number, name in enumerate(FILES)]
    missing = ["gone,images/gone.png,3"]
    lay(folder, {f"images/{name}": data for name, data in FILES.items()})
    lay(folder, {"meta/labels.csv": "\n".join(["id,path,label", *rows, *missing]).encode()})
    return {"dataset": "image_folder", "image_folder": {"path": str(folder), "table": "meta/labels.csv"}}


def parquet_shards(folder: Path) -> dict[str, Any]:
    for number in range(3):
        chosen = [name for row, name in enumerate(FILES) if row % 3 == number]
        table = {"id": chosen, "image": [FILES[name] for name in chosen], "label": [int(name[0]) for name in chosen]}
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(table), folder / f"shard-{number}.parquet", row_group_size=17)
    return {"dataset": "parquet", "parquet": {"path": str(folder), "id_column": "id", "label_column": "label"}}


def parquet_paths(folder: Path) -> dict[str, Any]:
    lay(folder, {f"images/{name}": data for name, data in FILES.items()})
    table = {"id": list(FILES), "file": [f"images/{name}" for name in FILES], "label": [int(name[0]) for name in FILES]}
    pq.write_table(pa.table(table), folder / "table.parquet")
    options = {"path": str(folder / "table.parquet"), "id_column": "id", "label_column": "label", "path_column": "file"}
    return {"dataset": "parquet", "parquet": options}


def moved(section: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return yaml.safe_load(yaml.safe_dump(section).replace(old, new))


@pytest.mark.parametrize("make", [class_folders, split_folders, table_and_images, parquet_shards, parquet_paths])
def test_the_same_bytes_as_from_a_folder(make: Callable[[Path], dict[str, Any]], s3: str, tmp_path: Path) -> None:
    section = make(tmp_path / "source") | {"rows_per_shard": 40}
    local, counts = prepare(tmp_path / "local", **section)
    remote_section = moved(section, str(tmp_path / "source"), send(tmp_path / "source", f"{s3}/set"))
    remote, remote_counts = prepare(tmp_path / "remote", **remote_section)
    assert artefacts(remote, quarantine=False) == artefacts(local, quarantine=False)
    assert len(artefacts(remote)) >= 6
    assert remote_counts == counts
    reasons = [[(row.reason, row.id) for row in read_quarantine(paths.quarantine)] for paths in (local, remote)]
    assert reasons[0] == reasons[1]


def test_trusted_labels_on_s3(s3: str, tmp_path: Path) -> None:
    section = class_folders(tmp_path / "source")
    lines = "\n".join(["id,label", *(f"{name},{name[0]}" for name in list(FILES)[:60])])
    (tmp_path / "trusted.csv").write_text(lines)
    write_bytes(f"{s3}/trusted.csv", lines.encode())
    found = []
    for number, file in enumerate((str(tmp_path / "trusted.csv"), f"{s3}/trusted.csv")):
        trusted = {"source": "file", "file": file, "allow_empty_classes": True}
        found.append(artefacts(prepare(tmp_path / str(number), **section, trusted=trusted)[0]))
    assert found[0] == found[1]


def test_a_run_in_a_folder_sees_changed_and_deleted_objects(s3: str, tmp_path: Path) -> None:
    send(lay(tmp_path, FILES), f"{s3}/set")
    first, second = list(FILES)[:2]
    params = {"prepare": {"dataset": "image_folder", "image_folder": {"path": f"{s3}/set"}}}

    def fingerprint() -> str:
        return chain._fingerprint(stage.STAGE, params, shared_settings(params), {})

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    write_bytes(f"{s3}/set/{first}", FILES[first][::-1])  # of the same size
    seen.append(fingerprint())
    delete(f"{s3}/set/{second}")
    seen.append(fingerprint())
    assert len(set(seen)) == 3


def test_nothing_there(s3: str, tmp_path: Path) -> None:
    for dataset, path in (
        ("image_folder", f"{s3}/nothing"),
        ("parquet", f"{s3}/nothing"),
        ("parquet", f"{s3}/no.parquet"),
    ):
        options = {"path": path, "id_column": "id", "label_column": "label"}
        with pytest.raises(ConfigError, match=rf"prepare\.{dataset}\.path = '{path}'"):
            prepare(tmp_path, dataset=dataset, **{dataset: options})
    write_bytes(f"{s3}/no.parquet", b"text")
    with pytest.raises(ContractError, match=r"no\.parquet: not a readable Parquet file"):
        prepare(tmp_path, dataset="parquet", parquet=options)


@pytest.mark.parametrize(("make", "seconds"), [(class_folders, 10.0), (parquet_shards, 2.0)])
def test_server_killed_in_mid_prepare(
    make: Callable[[Path], dict[str, Any]],
    seconds: float,
    s3: str,
    seaweed: Seaweed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("lnl"), "disabled", False)  # a tool run by another test may have silenced it
    caplog.set_level(logging.DEBUG, "lnl")
    section = make(tmp_path / "source") | {"rows_per_shard": 40}
    undisturbed, _ = prepare(tmp_path / "local", **section)
    remote = moved(section, str(tmp_path / "source"), send(tmp_path / "source", f"{s3}/set"))
    middle = _signal_in_the_middle(monkeypatch)
    monkeypatch.setattr(seekable, "READ_AHEAD", 1000)  # so that not all of a small file is there before the kill
    monkeypatch.setattr(anywhere, "STREAM_BYTES", 1000)
    # The server dies with the thread that starts it: so prepare runs in the other one.
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(prepare, tmp_path / "remote", **remote)
        assert middle.wait(60)
        seaweed.kill()
        time.sleep(seconds)
        assert not running.done()
        seaweed.start()
        paths, _ = running.result(120)
    assert artefacts(paths, quarantine=False) == artefacts(undisturbed, quarantine=False)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(f"{s3}/set/" in text and "does not reply" in text for text in warnings)
    assert len(warnings) <= 10  # not one for each of 16 threads
    secret = seaweed.environment["AWS_SECRET_ACCESS_KEY"]
    everything = caplog.text.encode() + b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert secret.encode() not in everything
    assert seaweed.environment["AWS_ACCESS_KEY_ID"].encode() not in everything


def _signal_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set inside the second shard of images; the reading then waits a moment, so that the kill comes first."""
    middle = threading.Event()
    write, shards = prepare_dataset.write_shard, []

    def watched(images: Iterator[Any]) -> Iterator[Any]:
        for number, image in enumerate(images):
            if number == 10 and len(shards) == 2:
                middle.set()
                time.sleep(1)
            yield image

    def write_shard(path: Path, ids: list[str], images: Iterator[Any], name: str) -> Any:
        shards.append(path)
        return write(path, ids, watched(images), name)

    monkeypatch.setattr(prepare_dataset, "write_shard", write_shard)
    return middle
