"""What a version is made of: each file and folder with the MD5 by which DVC knows its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lnl_core.layout import Layout
from lnl_core.versions.manifest import Artefact


def artefacts_of_lock(lock: Mapping[str, Any], root: str = "data") -> dict[str, Artefact]:
    """The outs in the `stages` of a dvc.lock, by their path below `root`."""
    outs = {out["path"]: out for entry in lock.values() for out in entry.get("outs", [])}
    return {
        path.removeprefix(f"{root}/"): Artefact(md5=out.get("md5"), size=out.get("size"), files=out.get("nfiles"))
        for path, out in sorted(outs.items())
    }


def artefacts_of_folder(paths: Layout) -> dict[str, Artefact]:
    """What the stages left in the root of a run, by path; reads all of it but images and features."""
    large = (paths.images, paths.features)  # gigabytes: DVC hashes them where it runs, else they are only counted
    found = sorted(path for path in paths.root.glob("*/*") if not path.parent.name.startswith("."))
    return {path.relative_to(paths.root).as_posix(): _artefact(path, read=path not in large) for path in found}


def _artefact(path: Path, *, read: bool) -> Artefact:
    if not path.is_dir():
        return Artefact(md5=_md5(path), size=path.stat().st_size)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    return Artefact(md5=_folder_md5(path, files) if read else None, size=size, files=len(files))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _folder_md5(path: Path, files: list[Path]) -> str:
    """As DVC 3 does: of a JSON list of the files' hashes and names, sorted by name."""
    listed = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    listed.sort(key=lambda entry: entry["relpath"])
    text = json.dumps(listed, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
