"""Progress bars that are quiet when nobody watches: on a terminal rich draws them, elsewhere nothing is printed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]


@contextlib.contextmanager
def progress_bar(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """A bar on stderr; call the yielded function as `advance(steps=1, note="loss 0.31")`.

    Silent where stderr is not a terminal, so logs and pipes stay clean.
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
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            bar.update(task, advance=steps)
            if note is not None:
                bar.update(task, note=note)

        yield advance
