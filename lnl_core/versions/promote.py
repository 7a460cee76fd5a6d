"""Promotion and its reversal: the gate compares with what is promoted now, and one entry is appended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lnl_core.config import ConfigError
from lnl_core.versions.decision_text import record
from lnl_core.versions.gate import GateDecision, GateSettings
from lnl_core.versions.manifest import Manifest, Promotion
from lnl_core.versions.register import apply_gate
from lnl_core.versions.store import VersionStore, Wanted


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What came of a call for promotion."""

    decision: GateDecision | None = None  # None: it is promoted already, and the gate did not decide
    promotion: Promotion | None = None  # None: the gate refused, or it is promoted already


def gate_decision(store: VersionStore, number: int, settings: GateSettings, against: int | None = None) -> GateDecision:
    """The gate's decision on a version against another one.

    Args:
        against: None: the promoted one; for the promoted one itself the one that it was made after.
    """
    manifest = store.version(number)
    if against is None:
        last = store.last_promotion()
        against = last.version if last else None
        against = manifest.parent if against == number else against
    other = None if against is None else store.version(against)
    return apply_gate(store, number, store.held_out(manifest), store.changes(manifest), other, settings)


def promote(
    store: VersionStore,
    number: int,
    settings: GateSettings,
    *,
    who: str,
    time: datetime,
    force: bool = False,
    reason: str = "",
) -> Promoted:
    """Promote a version if the gate lets it pass, or because a person says so.

    Where another version was promoted while the gate compared, it compares again, with that one.

    Raises:
        ConfigError: no such version, or force without a reason.
    """
    if force and not reason:
        raise ConfigError("--force needs --reason: the history says why a version was promoted against the gate's word")
    while True:
        last = store.last_promotion()
        if last is not None and last.version == number:
            return Promoted()
        decision = gate_decision(store, number, settings, last.version if last else None)
        if not (decision.passes or force):
            return Promoted(decision=decision)
        wanted = Wanted(
            version=number,
            why="person" if force else "gate",
            who=who,
            reason=reason or decision.reason,
            time=time,
            gate_decision=record(decision),
        )
        if done := store.promote(wanted, last):
            return Promoted(decision=decision, promotion=done)


def rollback(store: VersionStore, *, to: int | None, who: str, reason: str, time: datetime) -> Promotion:
    """Promote an earlier version again, without asking the gate.

    Args:
        to: None: the version that was promoted before the present one first was.
    Raises:
        ConfigError: nothing to go back to, no such version, no reason, or it is the promoted one.
    """
    if not reason:
        raise ConfigError("--reason is empty: the history says why a version was taken back")
    while True:
        history = store.promotions()
        if not history:
            raise ConfigError(f"{store.place}: no version has been promoted, so there is nothing to roll back")
        target = to if to is not None else _before(history)
        if target is None:
            raise ConfigError(f"{store.place}: version {history[-1].version} was the first; name another with --to")
        if target == history[-1].version:
            raise ConfigError(f"{store.place}: version {target} is the promoted one already")
        if target not in {entry.version for entry in history}:
            raise ConfigError(
                f"{store.place}: version {target} was never promoted; `lnl promote {target}` asks the gate"
            )
        wanted = Wanted(version=target, why="rollback", who=who, reason=reason, time=time, gate_decision={})
        if done := store.promote(wanted, history[-1]):
            return done


def promoted_manifest(store: VersionStore) -> Manifest | None:
    """The manifest of the promoted version."""
    last = store.last_promotion()
    return store.version(last.version) if last else None


def _before(history: list[Promotion]) -> int | None:
    """What was promoted before the present version was, rollbacks to it not counted."""
    present = history[-1].version
    for entry in reversed(history):
        if entry.version == present and entry.why != "rollback":
            return entry.previous
    return history[-1].previous
