"""What a stage is, and how one is run: parse, resolve the machine, call, record the metrics, clear the checkpoints."""

from __future__ import annotations

import importlib
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from lnl_core.config import (
    ConfigError,
    ImageSettings,
    ModelSettings,
    Params,
    RunSettings,
    Settings,
    parse,
)
from lnl_core.files import write_json
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.registry import Registry, unknown_name
from lnl_core.runtime import Runtime, resolve
from lnl_core.world import launched, leads

log = logging.getLogger("lnl")
SHARED_SECTIONS: dict[str, type[Settings]] = {"run": RunSettings, "images": ImageSettings, "model": ModelSettings}
Metrics = Mapping[str, Any]
Pool = Literal["cpu", "gpu"]


class Shared(Settings):
    """The three sections that stages share."""

    run: RunSettings = Field(default_factory=RunSettings)
    images: ImageSettings = Field(default_factory=ImageSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage function gets besides its own settings."""

    shared: Shared
    runtime: Runtime
    paths: Layout


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: `run(settings, context)` reads `reads`, writes `writes` (names of Layout) and returns its metrics."""

    name: str
    summary: str
    settings: Callable[[Mapping[str, Any] | None], Settings]  # parses the stage's own section
    run: Callable[[Any, StageContext], Metrics]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    shared: tuple[str, ...]  # shared settings that its result depends on, e.g. "run.seed", "images"
    pool: Pool = "cpu"
    pool_for: Callable[[Any], Pool] | None = None  # where some settings want another pool than `pool`
    figures: tuple[str, ...] = ()  # of `writes`: what `dvc metrics show` prints
    reads_metrics: tuple[str, ...] = ()  # stages whose metrics.json it reads
    shared_by_processes: bool = False  # may torch's launcher start several processes of it?


def stage_named(name: str) -> Stage:
    """The stage called `name`; imports only that stage's module, so that a CPU stage need not load torchvision."""
    if name not in STAGE_NAMES:
        raise ConfigError(unknown_name("stage", name, STAGE_NAMES))
    stage: Stage = importlib.import_module(f"lnl_core.stages.{name}").STAGE
    return stage


def check_params(params: Params) -> None:
    """Parse every section, so that a typo in `report` is found before hours of training.

    Raises:
        ConfigError: every problem found, a line each.
    """
    _check_sections(params, STAGE_NAMES)


def _check_sections(params: Params, stages: Collection[str]) -> None:
    """Check the names of all sections, and what stands in the shared ones and in those of `stages`."""
    problems = []
    known = (*SHARED_SECTIONS, *STAGE_NAMES)
    for section in params:
        try:
            if section not in known:
                raise ConfigError(unknown_name("section", section, known))
            if section in SHARED_SECTIONS:
                parse(SHARED_SECTIONS[section], params[section], section)
            elif section in stages:
                stage_named(section).settings(params[section])
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def shared_settings(params: Params) -> Shared:
    """The shared sections, parsed."""
    return Shared(**{key: params.get(key) or {} for key in SHARED_SECTIONS})


def run_stage(name: str, params: Params, paths: Layout) -> Metrics:
    """Run one stage: files in, files out, `metrics.json` with the stage's namespace and its wall seconds.

    Checks its own section and the shared ones; `check_params` checks them all, and imports all stages to do so.
    """
    stage = stage_named(name)
    if launched() > 1 and not stage.shared_by_processes:
        raise ConfigError(f"stage {name!r} runs in one process; start it without torch's launcher (train can use it)")
    _check_sections(params, (name,))
    shared = shared_settings(params)
    settings = stage.settings(params.get(name))
    context = StageContext(shared=shared, runtime=resolve(shared.run), paths=paths)
    log.info("stage %s: start (device %s)", name, context.runtime.device)
    started = time.perf_counter()
    metrics = dict(stage.run(settings, context))
    metrics["seconds"] = round(time.perf_counter() - started, 3)
    if leads():
        write_json(paths.metrics(name), {name: metrics})
        shutil.rmtree(paths.resume(name), ignore_errors=True)
    log.info("stage %s: done in %.1f s", name, metrics["seconds"])
    return metrics


def section_with_methods(
    section: str, settings: type[Settings], registry: Registry[Any]
) -> Callable[[Mapping[str, Any] | None], Settings]:
    """A parser for sections such as `purify`, which have a sub-section for each registered method.

    Every sub-section that is there is checked (a typo in an unselected method is still a typo). `settings` has a field
    `options: dict[str, Settings]`, which receives the parsed configs by method name: those and the selected one's.
    What is named as `module:function` has the sub-section `function`.
    """
    _, _, field = registry.kind.setting.partition(".")

    def parse_section(values: Mapping[str, Any] | None) -> Settings:
        values = dict(values or {})
        fields = set(settings.model_fields) - {"options"}
        own = {key: value for key, value in values.items() if key in fields}
        chosen = str(own.get(field, settings.model_fields[field].default))
        names = {chosen.rpartition(":")[2]: chosen}  # sub-section -> the method as it is named
        for key in values.keys() - fields - names.keys():
            names[key] = key
        options = {}
        for key, name in sorted(names.items()):
            try:
                config = registry.get(name).config
            except ConfigError as error:
                if key not in values:
                    raise ConfigError(f"{registry.kind.setting} = {name!r}: {error}") from error
                known = [*fields, *registry.names()]
                raise ConfigError(unknown_name(f"setting of section {section}", key, known)) from error
            options[name] = parse(config, values.get(key), f"{section}.{key}")
        return parse(settings, {**own, "options": options}, section)

    return parse_section
