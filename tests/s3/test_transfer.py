"""Downloads that outlive kill -9 and an overwritten object; uploads and publishing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev.seaweed import Seaweed
from lnl_core.config import ConfigError
from lnl_core.s3 import ObjectChanged, S3Path, download, publish_folder, read_bytes, read_range, transfer, upload
from lnl_core.s3 import write_bytes as write_object

MB = 2**20
# Is killed by itself when the fifth chunk is about to come.
KILLED_CLIENT = """
import os, signal, sys
from pathlib import Path
from lnl_core.s3 import transfer
fetch, chunks = transfer.read_range, []
def count(path, start, length, etag=""):
    chunks.append(start)
    if len(chunks) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return fetch(path, start, length, etag=etag)
transfer.CHUNK, transfer.read_range = 2**20, count
transfer.download(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the ranges begin that a download asks for, chunks of 1 MB."""
    starts: list[int] = []

    def fetch(path: S3Path, start: int, length: int, *, etag: str) -> bytes:
        starts.append(start)
        return read_range(path, start, length, etag=etag)

    monkeypatch.setattr(transfer, "CHUNK", MB)
    monkeypatch.setattr(transfer, "read_range", fetch)
    return starts


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_killed_download_goes_on_where_it_stopped(s3: str, tmp_path: Path, starts: list[int]) -> None:
    data = os.urandom(8 * MB + 5)
    write_object(f"{s3}/shard", data)
    target = tmp_path / "shard"
    killed = subprocess.run([sys.executable, "-c", KILLED_CLIENT, f"{s3}/shard", str(target)], check=False)
    assert killed.returncode == -9
    assert not target.exists()
    assert len(files(tmp_path)) == 1
    assert download(f"{s3}/shard", target).size == len(data)
    assert target.read_bytes() == data
    assert starts == [number * MB for number in range(4, 9)]
    assert files(tmp_path) == ["shard"]


def test_an_object_that_changed_after_the_kill_starts_anew(s3: str, tmp_path: Path, starts: list[int]) -> None:
    write_object(f"{s3}/shard", os.urandom(6 * MB))
    target = tmp_path / "shard"
    subprocess.run([sys.executable, "-c", KILLED_CLIENT, f"{s3}/shard", str(target)], check=False)
    data = os.urandom(6 * MB)
    write_object(f"{s3}/shard", data)
    download(f"{s3}/shard", target)
    assert target.read_bytes() == data
    assert starts[0] == 0
    assert files(tmp_path) == ["shard"]


def test_an_object_overwritten_in_mid_download_starts_anew(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [os.urandom(3 * MB) for _ in range(6)]
    overwrite_until = 2

    def fetch(path: S3Path, start: int, length: int, *, etag: str) -> bytes:
        nonlocal written
        if start and written < overwrite_until:
            written += 1
            write_object(path, versions[written])
        return read_range(path, start, length, etag=etag)

    monkeypatch.setattr(transfer, "CHUNK", MB)
    monkeypatch.setattr(transfer, "read_range", fetch)
    written = 0
    write_object(f"{s3}/shard", versions[0])
    download(f"{s3}/shard", tmp_path / "shard")
    assert (tmp_path / "shard").read_bytes() == versions[2]
    overwrite_until = 5
    with pytest.raises(ObjectChanged):
        download(f"{s3}/shard", tmp_path / "other")
    assert files(tmp_path) == ["shard"]


def test_large_files_go_up_in_parts(s3: str, tmp_path: Path) -> None:
    data = os.urandom(20 * MB + 1)
    (tmp_path / "big").write_bytes(data)
    upload(tmp_path / "big", f"{s3}/big")
    assert read_bytes(f"{s3}/big") == data
    with pytest.raises(FileNotFoundError):
        upload(tmp_path / "none", f"{s3}/none")


def test_publishes_what_a_reader_of_the_report_wants(s3: str, tmp_path: Path, seaweed: Seaweed) -> None:
    made = ["report/report.html", "evaluate/metrics.json", "evaluate/plots/auroc.csv", "prepare/images/part-0.parquet"]
    for name in [*made, ".lnl/report.json", ".lnl/previous/evaluate/plots/old.csv"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    target = f"{s3}/runs/monday"
    published = publish_folder(tmp_path, target)
    assert published == [f"{target}/{name}" for name in (made[1], made[2], made[0])]  # the page last
    about = seaweed.client().head_object(Bucket=s3.removeprefix("s3://"), Key="runs/monday/report/report.html")
    assert about["ContentType"] == "text/html; charset=utf-8"
    assert read_bytes(published[1]) == b"evaluate/plots/auroc.csv"
    with pytest.raises(ConfigError, match="nothing to publish"):
        publish_folder(tmp_path / "prepare", target)
