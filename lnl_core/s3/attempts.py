"""One request after another until one succeeds: waits out an outage with exponential backoff and jitter.

tenacity keeps the time. botocore's own retries end after seconds and do not cover the reading of a body, where
most of the time goes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential
from tenacity.stop import stop_base

from lnl_core.config import ConfigError
from lnl_core.s3.client import client, endpoint
from lnl_core.s3.errors import FAILED, code, explained, may_pass
from lnl_core.s3.paths import S3Path

T = TypeVar("T")
log = logging.getLogger("lnl")
PATIENCE_SECONDS = 180.0  # twice the 90 s that a server may take to come back from a restart or a failover
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds; drawn evenly below it, so that threads do not come back together
_WARN_EVERY = 5.0  # seconds between warnings of all threads together


def persist(path: S3Path, call: Callable[[Any], T]) -> T:
    """`call(client)`, again and again for `LNL_S3_PATIENCE` seconds (180) after its first failure that may pass.

    Args:
        path: what it is about, for messages.
        call: does all over again what it does; reads a response's body to the end.

    Raises:
        ConfigError, ContractError: what went wrong and the mend (see `errors.py`).
    """
    retrying = Retrying(
        retry=retry_if_exception(may_pass),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
        stop=_SinceFirstFailure(_patience()),
        before_sleep=lambda state: _warn(path, state),
        reraise=True,
    )
    try:
        return retrying(lambda: call(client()))
    except FAILED as error:
        raise explained(error, path, _endpoint()) from None  # boto3's text may repeat what was signed


class _SinceFirstFailure(stop_base):
    """tenacity's own clock starts with the first attempt, which may rightly have taken minutes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def __call__(self, retry_state: RetryCallState) -> bool:
        del retry_state
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now >= self._until


def _patience() -> float:
    text = os.environ.get("LNL_S3_PATIENCE", str(PATIENCE_SECONDS))
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"LNL_S3_PATIENCE = {text!r}: must be a number of seconds") from None


def _endpoint() -> str:
    try:
        return endpoint(client())
    except FAILED:  # no client can be made, which is what went wrong
        return "S3"


class _Warnings:
    """Of all threads that wait, one says so; the others at level debug."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = -_WARN_EVERY

    def level(self) -> int:
        with self._lock:
            if time.monotonic() - self._last < _WARN_EVERY:
                return logging.DEBUG
            self._last = time.monotonic()
            return logging.WARNING


_warnings = _Warnings()


def _warn(path: S3Path, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    text = "%s: %s does not reply (%s); attempt %d in %.1f s, for %.0f s in all"
    wait = state.next_action.sleep if state.next_action else 0.0
    reason = code(error) if error else ""
    log.log(_warnings.level(), text, path, _endpoint(), reason, state.attempt_number + 1, wait, _patience())
