"""A function over many items on a bounded pool of threads, with the results in order."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from lnl_core.s3.client import THREADS

A = TypeVar("A")
R = TypeVar("R")


def in_order(function: Callable[[A], R], items: Iterable[A], threads: int = THREADS) -> Iterator[R]:
    """`function` of each item. Holds at most twice as many results as there are threads; `items` is read as needed."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="s3")
    waiting: collections.deque[Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
