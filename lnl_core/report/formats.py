"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

NONE = "—"
UNBROKEN = "\u00a0"  # a space that never breaks: a number and its unit stay on one line


def percent(share: float | int | None, digits: int = 1) -> str:
    """0.9731 as `97.3 %`, with a space that does not break; a dash for None."""
    return NONE if share is None else f"{100 * share:.{digits}f}{UNBROKEN}%"


def score(value: float | int | None) -> str:
    """0.99731 as `0.997`; a dash for None."""
    return NONE if value is None else f"{value:.3f}"


def count(value: float | int | None) -> str:
    """12345 as `12,345`."""
    return NONE if value is None else f"{value:,.0f}"


def duration(seconds: float | int | None) -> str:
    """0.42 s, 12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def sentence(words: str) -> str:
    """With a capital first letter (the others stay as they are) and a full stop."""
    return f"{words[:1].upper()}{words[1:]}."


def plain(value: Any) -> str:
    """Any setting or metric as a short text."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or NONE
    return str(value)
