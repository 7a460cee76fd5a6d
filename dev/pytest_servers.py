"""Fixtures with real servers, for all tests (tests/conftest.py loads them). Each test process starts its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from dev.seaweed import Seaweed


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """A running S3 server. A test that stops it starts it again."""
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server
        server.kill()  # a second instead of ten, and nobody wants its data


@pytest.fixture
def s3(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://BUCKET of a new, empty bucket; the environment points at the server and holds its keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # the developer's own
        monkeypatch.setenv(name, os.devnull)
    return seaweed.make_bucket(f"test-{uuid.uuid4().hex[:12]}")
