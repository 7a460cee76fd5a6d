"""The strict settings loader: YAML and `-S section.key=value` in, frozen typed settings out.

`params.yaml` has one section a stage and three that stages share (`run`, `images`, `model`). A component's own
settings class stands beside the component; this module knows only how to parse and how to complain. The checking
is pydantic's; what is ours is the message: it names the key, the value, what is allowed and the nearest valid key.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lnl_core.renamed import new_setting, new_value

S = TypeVar("S", bound="Settings")
Params = dict[str, Any]
OVERLAY_FILES = ("noise", "methods", "starts")  # in lnl_core/presets; every other file there is a whole preset


class ConfigError(ValueError):
    """A setting that cannot be used. The message names the key, the value and the mend."""


class Settings(BaseModel):
    """Base of every settings class: frozen, no unknown keys, defaults checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ModeSettings(Settings):
    """Settings with a field `mode`; `modes` has what each mode sets of the fields that the user leaves out."""

    modes: ClassVar[Mapping[str, Mapping[str, Any]]]

    @model_validator(mode="before")
    @classmethod
    def _fill_from_mode(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        usual = cls.model_fields["mode"].default
        filled = cls.modes.get(
            str(values.get("mode", usual)), cls.modes[usual]
        )  # a wrong mode is one complaint, not ten
        return {**filled, **values}


class RaySettings(Settings):
    """Section `run.ray`: where `execution: ray` runs its tasks, a task a shard."""

    address: str = ""  # host:port of a cluster that this machine is a node of; empty: Ray is started here for the stage
    workers: int = Field(default=0, ge=0)  # tasks at a time; 0: as many as the cluster has room for
    cpus_per_task: float = Field(default=1, gt=0)  # and so many threads where run.threads is 0
    gpus_per_task: float = Field(default=0, ge=0)  # for encoding; 0.5: two tasks share a GPU


class RunSettings(Settings):
    """Section `run`: what every stage shares and no result should depend on, save `seed` and `precision`."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")  # auto: cuda where there is one
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # autocast type of training and encoding
    threads: int = Field(default=0, ge=0)  # torch threads; 0: as many as the process may use
    image_memory_mb: int = Field(default=8192, ge=1)  # decoded images above this live in a memory-mapped file
    image_disk_mb: int = Field(default=131072, ge=1)  # and above this stay encoded: training decodes batch by batch
    execution: Literal["local", "ray"] = "local"  # where shards are encoded and purified; ray: the extra of that name
    ray: RaySettings = Field(default_factory=RaySettings)


class ImageSettings(Settings):
    """Section `images`: how encoded images become tensors, the same in every stage."""

    size: int = Field(default=32, ge=4, le=1024)  # pixels a side after resize and centre crop
    channels: Literal[1, 3] = 3
    flip: bool = True  # may augmentation mirror? False for digits and text, where a mirror image is no member


class ModelSettings(Settings):
    """Section `model`: the network that SimCLR pretrains and the training methods start from."""

    arch: str = "resnet18"  # resnet18/34/50, preact_resnet18, cnn9, small_cnn, or timm:NAME
    stem: Literal["cifar", "imagenet"] = "cifar"  # cifar: 3x3 stride 1, no max-pool; worth ten points at 32 px
    width: int = Field(default=64, ge=1, le=1024)  # channels of the first stage
    weights: str = ""  # a state dict on disk to start from (.safetensors, .pth); none: drawn from the seed
    weights_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")  # of that file: checked where set


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read a params file and apply `section.key=value` overrides (values are YAML).

    Raises:
        ConfigError: no such file, not YAML, not a mapping of sections, or an override without `=`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the params file ({error.strerror})") from error
    return apply_overrides(parse_params(text, str(path)), overrides)


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Settings that are merged into a preset: `settings` maps `any`, `cifar10` or `cifar10+sym90` to what is merged."""

    name: str
    kind: str  # the file that has it: noise, methods or starts
    about: str
    extends: str  # another overlay, merged before this one; empty: none
    settings: Mapping[str, Params]

    @property
    def presets(self) -> list[str]:
        """The presets that it has settings for; `any` among them: for all."""
        return list(dict.fromkeys(key.split("+")[0] for key in self.settings))


def load_preset(name: str, overrides: Sequence[str] = ()) -> Params:
    """A params file that ships in `lnl_core/presets`, with overlays merged into it in order: `cifar10+sym80+ssr`.

    Raises:
        ConfigError: an unknown part, two noises or two methods, or an overlay that says nothing about this preset.
    """
    base, *parts = name.split("+")
    if base not in preset_names():
        raise ConfigError(f"unknown preset {base!r}{nearest(base, preset_names())}")
    params = parse_params(_preset_text(base), f"preset {base}")
    for overlay in _chosen_overlays(name, parts):
        params = _with_overlay(params, overlay, name)
    if parts:
        params = _merged(params, {"report": {"title": name}})
    return apply_overrides(params, overrides)


def preset_text(name: str) -> str:
    """The preset as a params file: a whole one as it is written, with overlays the merged settings."""
    params = load_preset(name)  # an unknown part gets its nearest
    if "+" not in name:
        return _preset_text(name)
    return f"# {name}\n{yaml.safe_dump(params, sort_keys=False, default_flow_style=None, width=110)}"


def preset_names() -> list[str]:
    """Names of the whole presets, sorted."""
    files = resources.files("lnl_core").joinpath("presets").iterdir()
    names = {file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")}
    return sorted(names - set(OVERLAY_FILES))


def load_overlays() -> dict[str, Overlay]:
    """All overlays by name, in the order of their files."""
    found: dict[str, Overlay] = {}
    for kind in OVERLAY_FILES:
        for name, parts in parse_params(_preset_text(kind), f"overlays {kind}").items():
            assert name not in found, f"overlay {name!r} stands twice"
            settings = {key: value for key, value in parts.items() if key not in ("about", "extends")}
            extends = parts.get("extends", "")
            found[name] = Overlay(name=name, kind=kind, about=parts["about"], extends=extends, settings=settings)
    return found


def _preset_text(name: str) -> str:
    return resources.files("lnl_core").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


def _chosen_overlays(preset: str, parts: Sequence[str]) -> list[Overlay]:
    """The overlays that `preset` names, each after the one that it extends."""
    known = load_overlays() if parts else {}
    for number, part in enumerate(parts):
        if part not in known:
            raise ConfigError(f"preset {preset!r}: unknown overlay {part!r}{nearest(part, list(known))}")
        kind = known[part].kind
        same = [other for other in parts[:number] if known[other].kind == kind != "starts"]
        if same:
            raise ConfigError(f"preset {preset!r}: {same[0]!r} and {part!r} are both {kind}; name one")
    return [known[name] for part in parts for name in (known[part].extends, part) if name]


def _with_overlay(params: Params, overlay: Overlay, preset: str) -> Params:
    """`params` with what the overlay says of this preset: every key all of whose names occur in it, in order."""
    base, *parts = preset.split("+")
    here = {"any", base, *parts}
    fitting = [settings for key, settings in overlay.settings.items() if here.issuperset(key.split("+"))]
    if not fitting and not overlay.extends:
        raise ConfigError(
            f"preset {preset!r}: overlay {overlay.name!r} says nothing about {base}; it is for "
            f"{', '.join(overlay.presets)}"
        )
    for settings in fitting:
        params = _merged(params, settings)
    return params


def _merged(params: Params, changes: Params) -> Params:
    """A copy of `params` with `changes` in it; mappings are merged, everything else is replaced."""
    result = dict(params)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else copy.deepcopy(value)
    return result


def apply_overrides(params: Params, overrides: Sequence[str]) -> Params:
    """A copy of `params` with each `section.key[.key]=value` set; unknown keys are found when sections are parsed."""
    params = copy.deepcopy(params)
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.strip().split(".")
        if not equals or len(parts) < 2 or not all(parts):
            raise ConfigError(f"override {override!r}: write it as section.key=value, e.g. run.seed=1")
        section = params
        for part in parts[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
        section[parts[-1]] = _yaml_value(value, override)
    return params


def parse(settings: type[S], values: Mapping[str, Any] | None, where: str) -> S:
    """Parse one section (`where` is its name in messages, e.g. `purify.ipc_ensemble`).

    Raises:
        ConfigError: every problem of the section, a line each.
    """
    try:
        return settings.model_validate(dict(values or {}))
    except ValidationError as error:
        lines = [_explain(settings, problem, where) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def parse_params(text: str, where: str) -> Params:
    """A params file's text; `where` is what messages call it.

    Raises:
        ConfigError: not YAML, or not a mapping of sections.
    """
    try:
        params = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({error})") from error
    if not isinstance(params, dict) or not all(isinstance(value, dict | None) for value in params.values()):
        raise ConfigError(f"{where}: must map section names to settings, e.g. 'run: {{seed: 0}}'")
    return {name: section or {} for name, section in params.items()}


def _yaml_value(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error


def _explain(settings: type[Settings], problem: Any, where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join([where, *path])
    if problem["type"] != "extra_forbidden":
        new = new_value(key, problem["input"])
        return f"{key} = {problem['input']!r}: {f'is now written {new!r}' if new else problem['msg']}"
    if new := new_setting(key):
        return f"{key}: this setting is called {new} now"
    known = sorted(_fields_at(settings, path[:-1]))
    return f"{key}: unknown setting{nearest(path[-1], known)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'dmlp'? (known: dmlp, ...)`: the end of every message about an unknown name."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(known)})"


def _fields_at(settings: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = settings.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        settings = inner
    return list(settings.model_fields)
