"""The graph of stages as dvc.yaml has it: the flow has none of its own."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage of dvc.yaml. `after` are the stages whose outputs it reads; `pool` is where it wants to run."""

    name: str
    after: frozenset[str]
    pool: str


def read_graph(dvc_yaml: Path) -> tuple[StageNode, ...]:
    """`parse_graph` of a file."""
    return parse_graph(dvc_yaml.read_text(encoding="utf-8"), str(dvc_yaml))


def parse_graph(text: str, source: str) -> tuple[StageNode, ...]:
    """The stages of a dvc.yaml in an order in which each comes after those it reads from.

    Raises:
        ValueError: there are no stages, or they read each other's outputs in a circle; the message names `source`.
    """
    stages: dict[str, Any] = (yaml.safe_load(text) or {}).get("stages") or {}
    if not stages:
        raise ValueError(f"{source}: no stages; the flow runs the stages of this file")
    maker = {path: name for name, stage in stages.items() for path in _outputs(stage)}
    after = {name: sorted(_makers(stage, maker)) for name, stage in stages.items()}  # sorted: one order in each process
    try:
        order = tuple(TopologicalSorter(after).static_order())
    except CycleError as error:
        raise ValueError(f"{source}: stages read each other in a circle: {' -> '.join(error.args[1])}") from error
    return tuple(
        StageNode(name=name, after=frozenset(after[name]), pool=stages[name].get("meta", {}).get("pool", "cpu"))
        for name in order
    )


def _outputs(stage: dict[str, Any]) -> list[str]:
    """Paths of outs, metrics and plots; each is a path or a mapping of one path to its options."""
    entries = [entry for key in ("outs", "metrics", "plots") for entry in stage.get(key, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _makers(stage: dict[str, Any], maker: dict[str, str]) -> set[str]:
    return {maker[path] for path in stage.get("deps", []) if path in maker}
