"""A run's report on S3, for a browser: pages, plots and metrics with the content types that it needs."""

from __future__ import annotations

import fnmatch
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from lnl_core.config import ConfigError
from lnl_core.s3.in_order import in_order
from lnl_core.s3.paths import S3Path, parse_s3
from lnl_core.s3.transfer import upload

# What a reader of a report wants; patterns over paths relative to the folder, in which * also crosses slashes.
REPORT_FILES = ("report.html", "*/report.html", "*metrics.json", "*plots/*.csv", "*plots/*.json")
_TEXT = {".html": "text/html", ".csv": "text/csv", ".json": "application/json", ".md": "text/markdown"}


def publish_folder(local: Path, target: str | S3Path, only: Sequence[str] = REPORT_FILES) -> list[str]:
    """Send the files of `local` that fit one of the patterns `only` to the prefix `target`; returns where they are now.

    Pages go last, so that whoever opens a new page finds what it belongs to. Hidden folders are passed over.

    Raises:
        ConfigError: no file fits, or S3 refuses.
    """
    place = parse_s3(target)
    names = sorted(_visible(local), key=lambda name: (name.endswith(".html"), name))
    names = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in only)]
    if not names:
        raise ConfigError(f"{local}: nothing to publish (looked for {', '.join(only)}); name the folder of a run")
    pages = [name for name in names if name.endswith(".html")]
    for group in (names[: len(names) - len(pages)], pages):
        for _ in in_order(lambda name: upload(local / name, place / name, content_type=_content_type(name)), group):
            pass
    return [str(place / name) for name in names]


def _visible(folder: Path) -> list[str]:
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]


def _content_type(name: str) -> str:
    text = _TEXT.get(Path(name).suffix)
    return f"{text}; charset=utf-8" if text else mimetypes.guess_type(name)[0] or "application/octet-stream"
