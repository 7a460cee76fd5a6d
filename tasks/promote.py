"""A finished run as a version, and the gate's word on it, in Prefect; the logic is in lnl_core/versions.

A version's commit gets the tag version-0007 when it is registered; branch `promoted` moves to it when it is promoted.
The store comes first and git after it: whatever is cut short is finished by the retry.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from lnl_core.config import parse, parse_params
from lnl_core.ledger.store import Ledger
from lnl_core.versions.decision_text import markdown
from lnl_core.versions.gate import GateSettings
from lnl_core.versions.git_marks import BRANCH
from lnl_core.versions.ledger_labels import commit_version
from lnl_core.versions.manifest import Manifest
from lnl_core.versions.promote import promote
from lnl_core.versions.register import NEEDED, RunCard, register
from lnl_core.versions.store import VersionStore
from tasks.commit_files import file_of
from tasks.executor import fetch_outputs, lock_of
from tasks.file_lock import locked
from tasks.git_command import git_with_remote, holding
from tasks.job import StageFailed
from tasks.machine import Machine
from tasks.patient_task import patient_task
from tasks.prefect_log import send_logs_to_prefect
from tasks.run import OpenRun

log = logging.getLogger("lnl")
GateValues = Mapping[str, Any] | None  # settings of the gate, by name


@patient_task("register version")
async def register_version(store: str, run: OpenRun, version: str, gate: GateValues = None) -> int:
    """Add the run, whose last commit is `version`, to the store and tag the commit; returns the version's number."""
    send_logs_to_prefect()
    return await asyncio.to_thread(register_commit, store, run.repository, run.run, version, gate)


async def gate_and_promote(
    store: str, number: int, *, repository: str | None = None, ledger: str | None = None, gate: GateValues = None
) -> State[str]:
    """A state Promoted or NotPromoted, whose message is the gate's reason; a flow may return it."""
    promoted, why = await ask_gate(store, number, repository=repository, ledger=ledger, gate=gate)
    return Completed(name="Promoted" if promoted else "NotPromoted", message=f"version {number}: {why}")


@patient_task("ask the gate")
async def ask_gate(
    store: str, number: int, *, repository: str | None = None, ledger: str | None = None, gate: GateValues = None
) -> tuple[bool, str]:
    """Promote a version unless it loses; the artifact `promotion` (markdown) says why or why not.

    Args:
        repository: where branch `promoted` is moved; None: nowhere.
        ledger: label ledger that gets the labels of a promoted version; None: LNL_LEDGER, else none.
    """
    send_logs_to_prefect()
    folder = ledger or os.environ.get("LNL_LEDGER")
    promoted, why, text = await asyncio.to_thread(promote_commit, store, number, repository, folder, gate)
    await acreate_markdown_artifact(key="promotion", markdown=text, description=f"version {number}: {why}")
    return promoted, why


def register_commit(store: str, repository: str, run: str, version: str, gate: GateValues = None) -> int:
    """As `register_version`; the run's tables are fetched into a folder that is removed again."""
    machine, opened = Machine(), VersionStore.open(store)
    manifest = opened.of_run(run)
    if manifest is None:
        with tempfile.TemporaryDirectory(prefix="lnl-version-") as folder:
            results = fetch_outputs(repository, version, machine, (*NEEDED, "metrics"), Path(folder) / "data")
            manifest = register(opened, results, _card(repository, run, version, machine), _settings(gate))
    log.info("version %d: the gate says: %s", manifest.number, manifest.gate_decision["reason"])
    _push(repository, manifest, f"refs/tags/{manifest.tag}", machine)
    return manifest.number


def promote_commit(
    store: str, number: int, repository: str | None, ledger: str | None, gate: GateValues = None
) -> tuple[bool, str, str]:
    """Is the version promoted, why, and the text for people. Once it is, ledger and git are brought up to it."""
    opened, now = VersionStore.open(store), datetime.now(UTC)
    done = promote(opened, number, _settings(gate), who=f"flow run {flow_run.id}", time=now)
    if done.decision is not None and done.promotion is None:
        return False, done.decision.reason, markdown(done.decision)
    manifest = opened.version(number)
    if ledger:
        commit_version(Ledger(Path(ledger)), manifest, opened.changes(manifest), now)
    if repository and manifest.commit:
        _push(repository, manifest, f"refs/heads/{BRANCH}", Machine())
    if done.decision is None:
        return True, "it is promoted already", f"Version {number} is the promoted one.\n"
    return True, done.decision.reason, markdown(done.decision)


def _card(repository: str, run: str, version: str, machine: Machine) -> RunCard:
    clone = holding(machine, repository, version)
    params = parse_params((file_of(clone, version, "params.yaml") or b"{}").decode(), f"params.yaml of {version}")
    lock = lock_of(repository, version, machine)
    return RunCard(run_id=run, time=datetime.now(UTC), commit=version, params=params, lock=lock)


def _settings(gate: GateValues) -> GateSettings:
    return parse(GateSettings, gate, "gate")


def _push(repository: str, manifest: Manifest, ref: str, machine: Machine) -> None:
    """Set a tag, which never moves, or a branch, which does, in the repository.

    A tag that stands elsewhere belongs to another store of the same repository: the store is what counts, and the
    tag is left where it is.
    """
    assert manifest.commit is not None, "only versions that are commits are pushed"
    clone = holding(machine, repository, manifest.commit)
    moves = ref.startswith("refs/heads/")
    try:
        with locked(machine.clone_lock(repository)):
            git_with_remote("push", "--quiet", "origin", f"{'+' * moves}{manifest.commit}:{ref}", cwd=clone)
    except StageFailed as error:
        if moves or "[rejected]" not in str(error):
            raise
        log.warning("%s of %s is at another commit and stays there: has the repository two stores?", ref, repository)
