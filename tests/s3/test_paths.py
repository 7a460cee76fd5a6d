"""s3:// paths: parsed strictly, joined like folders, and silent about what must not be in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnl_core.config import ConfigError
from lnl_core.s3 import S3Path, below, is_s3, locate, parse_s3


def test_bucket_and_key() -> None:
    assert parse_s3("s3://bucket/a/b.parquet") == S3Path("bucket", "a/b.parquet")
    assert parse_s3("s3://bucket/a/") == S3Path("bucket", "a")
    assert parse_s3("s3://bucket") == S3Path("bucket")
    for text in ("s3://bucket", "s3://bucket/a b/ü#1.png"):
        assert str(parse_s3(text)) == text


def test_joins_like_a_folder() -> None:
    root = S3Path("bucket", "crawl")
    assert str(root / "cat/1.png") == "s3://bucket/crawl/cat/1.png"
    assert str(root / "../labels.csv") == "s3://bucket/labels.csv"
    assert str(root / "./1.png") == "s3://bucket/crawl/1.png"
    assert str(root / "../../../1.png") == "s3://bucket/1.png"  # never above the bucket
    assert str(S3Path("bucket") / "1..png") == "s3://bucket/1..png"
    assert (root / "cat/1.tar.gz").suffix == ".gz"
    assert (root / "cat/1.png").parent == root / "cat"


def test_local_or_s3() -> None:
    assert locate("a/b") == Path("a/b")
    assert locate("s3://bucket/a") == S3Path("bucket", "a")
    assert below(S3Path("bucket", "a"), "x.csv") == S3Path("bucket", "a/x.csv")
    assert below(S3Path("bucket", "a"), "/home/x.csv") == Path("/home/x.csv")
    assert below(Path("a"), "s3://bucket/x.csv") == S3Path("bucket", "x.csv")
    assert not is_s3(Path("s3://bucket/a"))


@pytest.mark.parametrize(
    "path",
    [
        "s3://AKIAUSER:hush@bucket/key",
        "s3://AKIAUSER:hu/sh@bucket/key",  # a secret key may hold a slash
        "s3://hush@bucket/key",
        "s3://bucket/key?X-Amz-Signature=hush",
    ],
)
def test_credentials_and_queries_are_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(ConfigError, match=r"docs/s3\.md") as caught:
        parse_s3(path)
    assert "hu" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize("path", ["s3://", "s3:///key", "s3://b/key", "s3://b%20c/key", "http://bucket/key"])
def test_no_bucket(path: str) -> None:
    with pytest.raises(ConfigError, match="write s3://bucket/key"):
        parse_s3(path)
