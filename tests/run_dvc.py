"""DVC as tests call it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def run_dvc(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """Run dvc in `folder` and return what it prints; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
