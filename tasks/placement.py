"""Where the stages of a run run: in the flow's own process, or in a work pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lnl_core.config import ConfigError, Params
from lnl_core.layout import STAGE_NAMES
from lnl_core.registry import unknown_name
from lnl_core.stages.stage import stage_named
from tasks.graph import StageNode

INLINE = "inline"
POOLS = "pools"
Placement = str | Mapping[str, str]


def place(placement: Placement, nodes: Sequence[StageNode], params: Params) -> dict[str, str]:
    """For each stage INLINE or the name of its pool.

    Args:
        placement: "inline": all in the flow's process; "pools": each stage in the pool that it wants; or a mapping of
            stages to pools, and then what it does not name is inline.

    Raises:
        ConfigError: another word, or a stage that does not exist.
    """
    if isinstance(placement, str):
        if placement not in (INLINE, POOLS):
            raise ConfigError(
                f"placement = {placement!r}: say {INLINE!r}, {POOLS!r} or what runs where, e.g. {{'train': 'gpu'}}"
            )
        return {node.name: INLINE if placement == INLINE else wanted_pool(node, params) for node in nodes}
    names = [node.name for node in nodes]
    for stage in placement:
        if stage not in names:
            raise ConfigError(f"placement: {unknown_name('stage', stage, names)}")
    return {name: placement.get(name, INLINE) for name in names}


def wanted_pool(node: StageNode, params: Params) -> str:
    """`meta.pool` of dvc.yaml, unless the stage's settings ask for another: EMLC on images purifies on a GPU."""
    if node.name not in STAGE_NAMES:
        return node.pool  # a user's own stage
    stage = stage_named(node.name)
    if stage.pool_for is None:
        return node.pool
    return stage.pool_for(stage.settings(params.get(node.name)))
