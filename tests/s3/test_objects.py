"""Listing, reading and writing objects on a real server, and what is said where that cannot be done."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dev.seaweed import Seaweed
from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.s3 import (
    NoSuchObject,
    ObjectChanged,
    Unreachable,
    delete,
    exists,
    in_order,
    list_objects,
    look_up,
    objects,
    open_s3,
    put_new,
    read_bytes,
    read_range,
    states,
    write_bytes,
)


def test_lists_a_prefix_as_a_folder_page_by_page(s3: str, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAGE", 10)
    names = [f"crawl/{number:04d}.png" for number in range(45)] + ["crawl/new/a ü+%.png", "crawl-b/1.png", "c"]
    list(in_order(lambda name: write_bytes(f"{s3}/{name}", name.encode()), names))
    seaweed.client().put_object(Bucket=s3.removeprefix("s3://"), Key="crawl/empty/", Body=b"")  # a folder mark
    found = sorted(list_objects(f"{s3}/crawl"))
    assert [one.path.key for one in found] == names[:46]
    assert found[3].size == len("crawl/0003.png")
    assert found[3] == look_up(f"{s3}/crawl/0003.png")
    assert [one.path.key for one in list_objects(f"{s3}/crawl/", recursive=False)] == names[:45]
    assert len(list(list_objects(s3))) == len(names)
    assert list(list_objects(f"{s3}/nothing")) == []


def test_writes_reads_deletes(s3: str) -> None:
    path = f"{s3}/a/b"
    assert not exists(path)
    write_bytes(path, b"0123456789")
    assert read_bytes(path) == b"0123456789"
    assert read_bytes(path, at_most=10) == b"0123456789"
    with pytest.raises(ContractError, match="10 bytes, at most 9"):
        read_bytes(path, at_most=9)
    etag = look_up(path).etag
    assert read_range(path, 3, 4, etag=etag) == b"3456"
    assert read_range(path, 3, 0) == b""
    write_bytes(path, b"abcdefghij")
    with pytest.raises(ObjectChanged, match="was overwritten"):
        read_range(path, 3, 4, etag=etag)
    delete(path)
    delete(path)
    with pytest.raises(NoSuchObject, match="a/b: no such object"):
        read_bytes(path)


def test_of_many_that_put_new_at_once_one_succeeds(s3: str) -> None:
    start = threading.Barrier(8)

    def put(number: int) -> bool:
        start.wait()
        return put_new(f"{s3}/manifest", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert sum(won) == 1
    assert read_bytes(f"{s3}/manifest") == b"%d" % won.index(True)


def test_seekable_file_reads_like_a_local_one(s3: str) -> None:
    data = bytes(range(256)) * 40_000  # more than the read-ahead
    write_bytes(f"{s3}/file", data)
    file = open_s3(f"{s3}/file")
    for start, length in ((0, 10), (9_999_990, 10), (5_000_000, 6_000_000), (100, 4_194_304), (10_240_000, 5), (7, 0)):
        file.seek(start)
        assert file.read(length) == data[start : start + length]
    assert file.seek(-3, 2) == len(data) - 3
    assert file.read() == data[-3:]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": range(100_000)}), sink, row_group_size=1000)
    write_bytes(f"{s3}/table.parquet", sink.getvalue().to_pybytes())
    reader = pq.ParquetFile(open_s3(f"{s3}/table.parquet"))
    assert reader.read_row_group(57)["number"].to_pylist() == list(range(57_000, 58_000))


def test_an_object_overwritten_between_two_ranges_is_noticed_even_by_pyarrow(s3: str) -> None:
    def table(first: int) -> bytes:
        sink = pa.BufferOutputStream()
        values = pa.array(range(first, first + 2_000_000))
        pq.write_table(pa.table({"number": values}), sink, compression="none", use_dictionary=False)
        return sink.getvalue().to_pybytes()

    write_bytes(f"{s3}/table.parquet", table(0))
    reader = pq.ParquetFile(open_s3(f"{s3}/table.parquet"))
    write_bytes(f"{s3}/table.parquet", table(7))
    with pytest.raises(ObjectChanged):
        reader.read()


def test_states_of_files_and_objects(s3: str, tmp_path: Path) -> None:
    names = [f"{s3}/a/{number}" for number in range(5)] + [f"{s3}/b", f"{s3}/gone"]
    for name in names[:-1]:
        write_bytes(name, name.encode())
    local = tmp_path / "file"
    local.write_bytes(b"12")
    before = list(states([*names, str(local), str(tmp_path / "gone")]))
    assert [(name, size) for name, size, _ in before] == [(str(local), 2), *((name, len(name)) for name in names[:-1])]
    write_bytes(names[2], b"x" * len(names[2]))  # as many bytes as before
    after = list(states([*names, str(local)]))
    assert [new[0] for old, new in zip(before, after, strict=True) if old != new] == [names[2]]


def test_every_refusal_names_the_path_and_the_mend_but_no_key(
    s3: str, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = f"{s3}/a", []

    def refused(match: str, what: str = path) -> None:
        for call in (read_bytes, look_up, lambda place: list(list_objects(place)), lambda place: put_new(place, b"x")):
            with pytest.raises(ConfigError) as caught:
                call(what)
            said.append(str(caught.value))
        assert match in said[-1]
        assert all(what in text for text in said[-4:])

    refused("has no bucket 'no-such-bucket'; make it", "s3://no-such-bucket/a")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        refused("refuses access (SignatureDoesNotMatch); check the credentials")
        patch.setenv("AWS_ACCESS_KEY_ID", "wrong-id")
        refused("refuses access (InvalidAccessKeyId)")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        refused("no complete credentials (PartialCredentialsError); set AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_ACCESS_KEY_ID")
        refused("no complete credentials (NoCredentialsError)")
        patch.setenv("AWS_PROFILE", "nobody")
        refused("no complete credentials (ProfileNotFound)")
    with monkeypatch.context() as patch, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else replies there
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        patch.setenv("LNL_S3_PATIENCE", "0")
        refused("does not reply (EndpointConnectionError); check AWS_ENDPOINT_URL")
        with pytest.raises(Unreachable):
            read_bytes(path)
        patch.setenv("AWS_ENDPOINT_URL", "http://me:hush@127.0.0.1")
        with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL: must be") as caught:
            read_bytes(path)
        said.append(str(caught.value))
    secrets = [*seaweed.environment.values(), "wrong-secret", "wrong-id", "hush"]
    keys = [secret for secret in secrets if not secret.startswith(("http", "us-", "true"))]
    assert not [text for text in said if any(key in text for key in keys)]
