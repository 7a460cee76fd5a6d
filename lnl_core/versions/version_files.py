"""Where a store of versions lies: a folder or a prefix on S3. Files are created and read, never overwritten."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Protocol, runtime_checkable

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.s3.objects import list_objects, put_new, read_bytes
from lnl_core.s3.paths import S3Path, is_s3, parse_s3


@runtime_checkable
class VersionFiles(Protocol):
    """Names are relative and have one slash: `versions/000007.json`."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Create the file as a whole; False, and nothing written, where the name is taken. Of two at once one wins."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file."""
        ...

    def names(self, folder: str) -> list[str]:
        """The files of one folder, sorted; empty where there is no such folder."""
        ...


class FolderFiles:
    """A folder on a file system with hard links; it need not exist before the first file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--store {folder}: is a file; name a folder or s3://bucket/prefix")

    def __str__(self) -> str:
        return str(self.folder)

    def put_new(self, name: str, data: bytes) -> bool:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with hidden.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _link(hidden, path)
        except FileExistsError:
            return False
        finally:
            hidden.unlink(missing_ok=True)
        _to_disk(path.parent)
        return True

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise ContractError(f"{self.folder / name}: no such file; restore the store from a backup") from error

    def names(self, folder: str) -> list[str]:
        found = (self.folder / folder).glob("*") if (self.folder / folder).is_dir() else []
        return sorted(f"{folder}/{path.name}" for path in found if not path.name.startswith("."))


class S3Files:
    """A prefix on S3; the server must know conditional writes (docs/s3.md)."""

    def __init__(self, root: S3Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def put_new(self, name: str, data: bytes) -> bool:
        return put_new(self.root / name, data)

    def read(self, name: str) -> bytes:
        return read_bytes(self.root / name)

    def names(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{found.path.name}" for found in list_objects(self.root / folder, recursive=False))


def open_version_files(where: str) -> VersionFiles:
    """The version files at a folder or at s3://bucket/prefix."""
    return S3Files(parse_s3(where)) if is_s3(where) else FolderFiles(Path(where))


def _link(hidden: Path, path: Path) -> None:
    """Give the file its name; unlike a rename this fails where the name exists."""
    try:
        os.link(hidden, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        raise ConfigError(
            f"--store {path.parents[1]}: the file system makes no hard links ({error.strerror}), without which two "
            "writers could overwrite each other; keep the store on a local disk or at s3://bucket/prefix"
        ) from error


def _to_disk(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
