"""What a version is made of: each file and folder with the MD5 by which DVC knows its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lnl_core.stages.layout import Layout
from lnl_core.stages.stage import STAGE_NAMES, stage_named
from lnl_core.versions.manifest import Artefact

TOO_LARGE = ("images", "features")  # gigabytes: hashed by DVC where it runs, else only counted


def artefacts_of_lock(lock: Mapping[str, Any]) -> dict[str, Artefact]:
    """The outs of every stage in the `stages` of a dvc.lock, by their name in Layout."""
    outs = {out["path"]: out for entry in lock.values() for out in entry.get("outs", [])}
    named = {str(path): name for name, path in _outputs(Layout(Path("data")))}
    return {
        named.get(path, path): Artefact(path=path, md5=out.get("md5"), size=out.get("size"), files=out.get("nfiles"))
        for path, out in sorted(outs.items())
    }


def artefacts_of_folder(paths: Layout) -> dict[str, Artefact]:
    """The outs of every stage that lie below the root of a run; reads all but images and features."""
    return {
        name: _artefact(path, str(path.relative_to(paths.root)), read=name not in TOO_LARGE)
        for name, path in _outputs(paths)
        if path.exists()
    }


def _outputs(paths: Layout) -> Iterator[tuple[str, Path]]:
    for stage in STAGE_NAMES:
        for name in stage_named(stage).writes:
            yield name, getattr(paths, name)
        yield f"{stage} metrics", paths.metrics(stage)


def _artefact(path: Path, name: str, *, read: bool) -> Artefact:
    if not path.is_dir():
        return Artefact(path=name, md5=_md5(path), size=path.stat().st_size)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    return Artefact(path=name, md5=_folder_md5(path, files) if read else None, size=size, files=len(files))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folder_md5(path: Path, files: list[Path]) -> str:
    """As DVC 3 does: of a JSON list of the files' hashes and names, sorted by name."""
    listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(listed, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
