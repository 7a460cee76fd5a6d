"""The boto3 client: one a process and environment, endpoint and credentials from the usual AWS chain."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import urlsplit

from lnl_core.config import ConfigError

THREADS = 16  # requests at a time: hides 50 ms of latency behind images of 100 kB on a line of 1 GB/s
CONNECT_SECONDS, READ_SECONDS = 10, 30  # without a response, without a byte; then the request is tried again
# botocore's own attempts know throttling and redirects, and end within seconds; `attempts.py` goes on after them.
ATTEMPTS = 3


def client() -> Any:
    """The S3 client of this process; another one after a fork or a change of the environment.

    Raises:
        ConfigError: AWS_ENDPOINT_URL is no URL.
    """
    found = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(os.getpid(), hash(found))


def endpoint(s3: Any) -> str:
    """Scheme, host and port for messages; whatever else the URL holds is left out."""
    url = urlsplit(s3.meta.endpoint_url)
    return f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")


@functools.lru_cache(maxsize=4)
def _client(process: int, environment: int) -> Any:
    del process, environment  # part of the key: connections must not be shared after a fork
    import boto3  # 0.2 s, for users of S3 alone
    from botocore.config import Config

    _check_endpoint()
    # A session of its own: boto3's default one would keep the credentials of an environment before.
    return boto3.Session().client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=2 * THREADS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            tcp_keepalive=True,
        ),
    )


def _check_endpoint() -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        url = urlsplit(os.environ.get(name, "http://unset"))
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
            raise ConfigError(f"{name}: must be http(s)://host[:port], without credentials (docs/s3.md)")
