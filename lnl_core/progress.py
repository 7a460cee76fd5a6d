"""Progress for whoever watches: a bar on a terminal, a small file for a program, else nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lnl_core.files import write_json

Advance = Callable[..., None]
FILE_VARIABLE = "LNL_PROGRESS_FILE"  # whoever starts a stage may set it to a path of its own
SECONDS_BETWEEN_WRITES = 1.0


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """A bar on stderr; call the yielded function as `advance(steps=1, note="loss 0.31")`.

    Silent where stderr is not a terminal, so logs and pipes stay clean. Where the variable LNL_PROGRESS_FILE names a
    file, it holds {title, done, total, unit} as JSON, written anew at most once a second and when the bar ends.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    report = _progress_file(title, total, unit)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=steps)
            if note is not None:
                bar.update(task, note=note)
            report(steps, False)

        yield advance
        report(0, True)


def _progress_file(title: str, total: int, unit: str) -> Callable[[int, bool], None]:
    """A function of (steps, write now) that keeps the file of LNL_PROGRESS_FILE; does nothing without the variable."""
    if not (name := os.environ.get(FILE_VARIABLE)):
        return lambda _steps, _now: None
    done, written = 0, float("-inf")

    def report(steps: int, now: bool) -> None:
        nonlocal done, written
        done += steps
        if now or time.monotonic() - written >= SECONDS_BETWEEN_WRITES:
            write_json(Path(name), {"title": title, "done": done, "total": total, "unit": unit})
            written = time.monotonic()

    return report
