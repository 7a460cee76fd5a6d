"""Labels as people write them, names or numbers, to class numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lnl_core.contracts import NO_LABEL, IntArray

UNKNOWN_LABEL = -2  # something is written there, but it is no class


def class_numbers(raw: Sequence[object], class_names: Sequence[str]) -> IntArray:
    """Class numbers [n] of labels given as class names or as numbers 0..K-1 (names alone, where the names are numbers).

    `NO_LABEL` where nothing is written (null, NaN, an empty text), `UNKNOWN_LABEL` where it is no class.
    """
    by_name = {name: number for number, name in enumerate(class_names)}
    numbered = not all(_is_number(name) for name in class_names)  # else a number is a name, and nothing but a name
    return np.array([_class_number(value, by_name, numbered) for value in raw], dtype=np.int32)


def names_from(*columns: Iterable[object]) -> tuple[str, ...]:
    """Class names from the labels that occur: numbers in numeric order, else texts in alphabetical order."""
    texts = {text for column in columns for value in column if (text := label_text(value))}
    if texts and all(_is_number(text) for text in texts):
        return tuple(str(number) for number in sorted(map(int, texts)) if number >= 0)
    return tuple(sorted(texts))


def label_text(value: object) -> str:
    """A label as text: 3, 3.0 and "3" are the same label; empty where nothing is written."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return str(value).strip()


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and str(int(text)) == text  # 007 is a name


def _class_number(value: object, by_name: dict[str, int], numbered: bool) -> int:
    text = label_text(value)
    if not text:
        return NO_LABEL
    if text in by_name:
        return by_name[text]
    if numbered and text.isdecimal() and int(text) < len(by_name):
        return int(text)
    return UNKNOWN_LABEL
