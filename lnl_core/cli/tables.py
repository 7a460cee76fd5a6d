"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """A table with these columns, without a head where none has a name; 160 characters wide in a pipe."""
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*(escape(value) for value in row))
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table, highlight=False)


def print_rows(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """A title and rows of a name and a value."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(escape(key), escape(value))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"[italic]{escape(title)}[/italic]", highlight=False, soft_wrap=True)
    console.print(table, highlight=False)
