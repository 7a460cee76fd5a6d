"""`lnl run`: the stages in order in a folder, without git, DVC or Prefect; what is up to date is not done again.

Each stage leaves a stamp below `.lnl/`: a hash of its settings, of the shared settings it depends on, of the code, of
the stages it reads from and, for `prepare`, of the names, sizes and times (on S3: ETags) of the source files; and the
sizes and times of the files it wrote. A stage whose stamp still fits is skipped.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lnl_core
from lnl_core.catalogue import registry
from lnl_core.config import ConfigError, Params
from lnl_core.datasets import DATASETS
from lnl_core.files import read_json, write_json
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.plugins import source_of
from lnl_core.registry import KINDS, unknown_name
from lnl_core.s3 import states
from lnl_core.stages.stage import Metrics, Shared, Stage, run_stage, shared_settings, stage_named

OnProgress = Callable[[str, str, Metrics | None], None]  # (stage, "start" | "done" | "skipped", metrics when done)


def run_chain(
    params: Params,
    paths: Layout,
    *,
    first: str = STAGE_NAMES[0],
    last: str = STAGE_NAMES[-1],
    force: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> list[str]:
    """Run the stages from `first` to `last`; returns the names of those that really ran.

    Args:
        force: run them even if they are up to date.
        on_progress: called at the start and the end of each stage.
    """
    ran = []
    shared = shared_settings(params)
    fingerprints: dict[str, str] = {}
    for name in STAGE_NAMES:
        stage = stage_named(name)
        before = {maker: fingerprints[maker] for maker in _upstream(stage)}
        fingerprints[name] = _fingerprint(stage, params, shared, before)
        if name not in _between(first, last):
            continue
        if not force and _up_to_date(stage, fingerprints[name], paths):
            on_progress(name, "skipped", None)
            continue
        on_progress(name, "start", None)
        _stamp(name, paths).unlink(missing_ok=True)
        metrics = run_stage(name, params, paths)
        write_json(_stamp(name, paths), {"fingerprint": fingerprints[name], "files": _state(_outputs(stage, paths))})
        ran.append(name)
        on_progress(name, "done", metrics)
    return ran


def _between(first: str, last: str) -> tuple[str, ...]:
    for name in (first, last):
        if name not in STAGE_NAMES:
            raise ConfigError(unknown_name("stage", name, STAGE_NAMES))
    chosen = STAGE_NAMES[STAGE_NAMES.index(first) : STAGE_NAMES.index(last) + 1]
    if not chosen:
        raise ConfigError(f"stage {first!r} comes after {last!r}; the order is {' -> '.join(STAGE_NAMES)}")
    return chosen


def _upstream(stage: Stage) -> list[str]:
    """The stages whose files or metrics this one reads."""
    makers = [name for name in STAGE_NAMES if set(stage_named(name).writes) & set(stage.reads)]
    return sorted({*makers, *stage.reads_metrics})


def _fingerprint(stage: Stage, params: Params, shared: Shared, before: dict[str, str]) -> str:
    settings = stage.settings(params.get(stage.name))
    what = {
        "settings": settings.model_dump(mode="json"),
        "shared": {key: _look_up(shared, key) for key in stage.shared},
        "before": before,
        "code": _code_fingerprint(),
        **_plugin(stage, settings),
        "source": list(states(_source_files(settings))) if stage.name == "prepare" else None,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _plugin(stage: Stage, settings: Any) -> dict[str, str]:
    """The source of the selected method, where it is not one of the package: an edited one may change the result."""
    for kind in KINDS:
        section, _, field = kind.setting.partition(".")
        if section == stage.name:
            made = registry(kind).get(getattr(settings, field)).make
            if not made.__module__.startswith(f"{kind.package}."):
                return {"plugin": source_of(made)}
    return {}


def _source_files(settings: Any) -> list[str]:
    dataset = DATASETS.get(settings.dataset).make(settings.options[settings.dataset])
    trusted = settings.trusted.file
    return [*dataset.source_files(), *([trusted] if trusted else [])]


def _look_up(shared: Shared, key: str) -> Any:
    value: Any = shared.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


@functools.cache
def _code_fingerprint() -> str:
    """Of every module of the package: an edited or upgraded one may change any result."""
    digest = hashlib.sha256()
    for file in sorted(Path(lnl_core.__path__[0]).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _outputs(stage: Stage, paths: Layout) -> list[Path]:
    return [getattr(paths, name) for name in stage.writes] + [paths.metrics(stage.name)]


def _state(outputs: Sequence[Path]) -> dict[str, list[int]]:
    """Size and time of change of every file; a folder counts as what it holds."""
    files: dict[str, list[int]] = {}
    for output in outputs:
        for file in sorted(output.rglob("*")) if output.is_dir() else [output]:
            if file.is_file():
                status = file.stat()
                files[str(file)] = [status.st_size, status.st_mtime_ns]
    return files


def _up_to_date(stage: Stage, fingerprint: str, paths: Layout) -> bool:
    stamp = _stamp(stage.name, paths)
    outputs = _outputs(stage, paths)
    if not stamp.exists() or not all(output.exists() for output in outputs):
        return False
    return bool(read_json(stamp) == {"fingerprint": fingerprint, "files": _state(outputs)})


def _stamp(name: str, paths: Layout) -> Path:
    return paths.root / ".lnl" / f"{name}.json"
