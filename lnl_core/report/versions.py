"""What made this report: versions, machine, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from lnl_core import __version__


def versions(device: torch.device, folder: Path) -> list[tuple[str, str]]:
    """(what, which) pairs."""
    packages = [(name, version(name)) for name in ("torchvision", "lightly", "scikit-learn", "numpy", "pyarrow")]
    return [
        ("lnl", __version__),
        ("Python", platform.python_version()),
        ("torch", torch.__version__),
        *packages,
        ("platform", platform.platform()),
        ("device", _device(device)),
        ("commit", git_commit(folder) or "not in a git repository"),
    ]


def git_commit(folder: Path) -> str | None:
    """The commit that `folder` stands on, with a mark where files differ from it; None outside a repository."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return None  # a machine without git
    return done.stdout.strip() if done.returncode == 0 else None


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
