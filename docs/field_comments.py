"""griffe extension: the comment at the end of a field's line is its description in the reference.

A setting or a field of a task is one line of a class, `rate: float = Field(default=0.2, ge=0)  # of each class`. The
comment says shape, unit and reason where the code is read; so the reference shows it, and nobody writes it twice.
"""

from __future__ import annotations

import io
import tokenize
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Gives fields without a docstring their comment as one."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """A field of a class; names of modules are left alone."""
        if attr.docstring is not None or attr.parent is None or not attr.parent.is_class or not attr.lineno:
            return
        lines = attr.lines_collection[attr.filepath][attr.lineno - 1 : attr.endlineno]
        comment = _comment("\n".join(lines).strip())
        if comment or attr.value is not None:  # a setting whose name says it all is shown, too
            attr.docstring = Docstring(comment or "&nbsp;", lineno=attr.lineno, parent=attr)


def _comment(statement: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(statement).readline)
    return " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
