"""Time of the label ledger at a million changes: `python benchmarks/label_ledger.py [ROWS]`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lnl_core.contracts import Purified, string_ids, write_purified
from lnl_core.ledger.change import commit_purified, revert_run
from lnl_core.ledger.store import Ledger

CLASSES = 10


def table(rows: int, runs: int) -> Purified:
    """Every row is changed; ids as of image files, each `runs` with other labels."""
    label = (np.arange(rows) % CLASSES).astype(np.int32)
    purified = ((label + runs) % CLASSES).astype(np.int32)
    return Purified(
        ids=string_ids([f"class_{row % CLASSES}/image_{row:08d}.png" for row in range(rows)]),
        label=label,
        purified_label=purified,
        confidence=np.random.default_rng(runs).random(rows, dtype=np.float32),
        soft_label=np.eye(CLASSES, dtype=np.float32)[purified],
        class_names=tuple(f"class {number}" for number in range(CLASSES)),
        about={"method": "benchmark", "version": "1"},
    )


def timed(what: str, call: Callable[[], object]) -> None:
    start = time.perf_counter()
    call()
    print(f"{what:45s} {time.perf_counter() - start:8.2f} s", flush=True)


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ledger = Ledger(folder / "ledger")
        for number in (1, 2):
            write_purified(folder / f"{number}.parquet", table(rows, number))
            path = folder / f"{number}.parquet"
            timed(
                f"commit {number}: {rows:,} changes", lambda path=path: commit_purified(ledger, path, datetime.now(UTC))
            )
        size = (folder / "ledger" / "part-000001.parquet").stat().st_size
        print(f"{'a part':45s} {size / 1e6:8.2f} MB")
        timed("the same again: nothing", lambda: commit_purified(ledger, folder / "2.parquet", datetime.now(UTC)))
        timed("history of one id, two runs", lambda: ledger.history("class_7/image_00500007.png"))
        timed("list", ledger.runs)
        timed(f"revert {rows:,} changes", lambda: revert_run(ledger, "2", datetime.now(UTC)))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
