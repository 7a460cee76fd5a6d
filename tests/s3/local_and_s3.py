"""A small image set on disk and the same on S3, and what `prepare` makes of either."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.layout import Layout
from lnl_core.runtime import resolve
from lnl_core.s3 import in_order, upload
from lnl_core.stages.prepare import STAGE
from lnl_core.stages.stage import Shared, StageContext


def digit_files(count: int) -> dict[str, bytes]:
    """CLASS/NUMBER.png -> encoded bytes of scikit-learn's first digits."""
    digits = load_digits()
    pairs = zip(digits.images[:count], digits.target[:count], strict=True)
    return {f"{label}/{row:04d}.png": _png(pixels) for row, (pixels, label) in enumerate(pairs)}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def send(folder: Path, prefix: str) -> str:
    """All files of `folder`, to the same names below `prefix`."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    for _ in in_order(lambda name: upload(folder / name, f"{prefix}/{name}"), names):
        pass
    return prefix


def prepare(root: Path, **section: Any) -> tuple[Layout, dict[str, Any]]:
    shared = Shared.model_validate({"run": {"seed": 0}})
    context = StageContext(shared=shared, runtime=resolve(shared.run), paths=Layout(root))
    return context.paths, dict(STAGE.run(STAGE.settings(section), context))


def artefacts(paths: Layout, *, quarantine: bool = True) -> dict[str, str]:
    """SHA-256 of every file that prepare wrote; the quarantine names paths, which differ between places."""
    found = [file for file in sorted(paths.root.joinpath("prepare").rglob("*")) if file.is_file()]
    found = [file for file in found if quarantine or file != paths.quarantine]
    return {file.relative_to(paths.root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((pixels * 15).astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()
