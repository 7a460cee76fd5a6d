"""The commands `lnl versions`, `lnl promote` and `lnl rollback`. Heavy imports wait until needed."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from lnl_core.cli.tables import print_table
from lnl_core.config import ConfigError, apply_overrides, load_params, parse

if TYPE_CHECKING:
    from lnl_core.versions.gate import GateSettings
    from lnl_core.versions.manifest import Manifest
    from lnl_core.versions.store import VersionStore


class ListByDefault(TyperGroup):
    """`lnl versions` is `lnl versions list`, with its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if known else ["list", *args])


app = typer.Typer(
    help="The versions of a cleaned set: what each was, and which one is promoted.",
    cls=ListByDefault,
    rich_markup_mode="rich",
)
Where = Annotated[str, typer.Option("--store", envvar="LNL_VERSIONS", help="Folder or s3://bucket/prefix.")]
LedgerFolder = Annotated[
    Path | None, typer.Option("--ledger", envvar="LNL_LEDGER", help="Label ledger that follows the promoted version.")
]
Repository = Annotated[
    Path | None, typer.Option(help="Git repository in which tag version-N and branch promoted are set.")
]
Set = Annotated[
    list[str] | None, typer.Option("-S", "--set", metavar="KEY=VALUE", help="A setting of the gate; repeatable.")
]
Reason = Annotated[str, typer.Option(help="Why; stands in the history.")]
DEFAULT = "versions"


@app.command("list")
def list_versions(store: Where = DEFAULT) -> None:
    """List the versions, oldest first; * is the promoted one.   [dim]lnl versions --store s3://bucket/versions[/dim]"""
    opened = _open(store)
    last = opened.last_promotion()
    columns = ("", "version", "made", "rows", "trusted", "changed", "churn", "probe", "model", "gate", "against")
    rows = [_line(manifest, last.version if last else None) for manifest in opened.versions()]
    if not rows:
        typer.echo(f"{store}: no versions yet; `lnl versions add --root RUN` registers a finished run")
        return
    print_table(columns, rows)


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="The version.")],
    store: Where = DEFAULT,
    against: Annotated[int | None, typer.Option(help="Hold it against this version, not the promoted one.")] = None,
    override: Set = None,
) -> None:
    """What a version was, what the gate says of it now, and when it was promoted.   [dim]lnl versions show 7[/dim]"""
    from lnl_core.versions.decision_text import markdown
    from lnl_core.versions.promote import gate_decision

    opened = _open(store)
    manifest = opened.version(number)
    print_table(("", ""), _described(manifest))
    history = [
        (_time(entry.time), entry.why, entry.who, entry.reason)
        for entry in opened.promotions()
        if entry.version == number
    ]
    if history:
        print_table(("promoted", "why", "who", "reason"), history)
    typer.echo(markdown(gate_decision(opened, number, _settings(override), against)))


@app.command()
def add(
    root: Annotated[Path, typer.Option(help="Folder of a finished run, of `lnl run` or `lnl reclean`.")] = Path("run"),
    store: Where = DEFAULT,
    run: Annotated[str, typer.Option(help="Name of the run; by default a hash of what it made.")] = "",
    params: Annotated[Path | None, typer.Option(help="The params file it was made with.")] = None,
    commit: Annotated[str, typer.Option(help="Commit that the run is, in a git repository.")] = "",
    override: Set = None,
) -> None:
    """Register a finished run as the next version; nothing is promoted.   [dim]lnl versions add --root run[/dim]"""
    from lnl_core.layout import Layout
    from lnl_core.versions.register import RunCard, register, run_name

    if not root.is_dir():
        raise ConfigError(f"--root {root}: no such folder; name the folder of a run")
    card = RunCard(
        run_id=run or run_name(Layout(root)),
        time=_now(),
        commit=commit or None,
        params=load_params(params) if params else None,
    )
    manifest = register(_open(store), Layout(root), card, _settings(override))
    typer.echo(f"version {manifest.number}: run {manifest.run_id}; the gate: {manifest.gate_decision['reason']}")


def promote(
    number: Annotated[int, typer.Argument(metavar="N", help="The version.")],
    store: Where = DEFAULT,
    force: Annotated[bool, typer.Option("--force", help="Promote it whatever the gate says.")] = False,
    reason: Reason = "",
    ledger: LedgerFolder = None,
    repository: Repository = None,
    override: Set = None,
) -> None:
    """Promote a version if it does not lose against the promoted one; see docs/versions.md for the rule.

    Called again for the promoted version, it brings ledger and git up to it.   [dim]lnl promote 7[/dim]
    """
    from lnl_core.versions.decision_text import markdown
    from lnl_core.versions.promote import promote as ask

    opened = _open(store)
    done = ask(opened, number, _settings(override), who=_who(), time=_now(), force=force, reason=reason)
    if done.decision is None:
        typer.echo(f"version {number} is the promoted one")
    else:
        typer.echo(markdown(done.decision))
        if done.promotion is None:
            raise ConfigError(f"version {number} is not promoted; --force --reason '...' promotes it all the same")
    _follow(opened, opened.version(number), ledger, repository, rollback=False)


def rollback(
    store: Where = DEFAULT,
    to: Annotated[int | None, typer.Option(help="The version; by default the one promoted before this one.")] = None,
    reason: Reason = "",
    ledger: LedgerFolder = None,
    repository: Repository = None,
) -> None:
    """Promote an earlier version again. Nothing is lost.

    [dim]lnl rollback --reason "shoes became socks"[/dim]
    """
    from lnl_core.versions.promote import rollback as take_back

    opened = _open(store)
    done = take_back(opened, to=to, who=_who(), reason=reason, time=_now())
    typer.echo(f"version {done.version} is promoted again, in place of version {done.previous}")
    _follow(opened, opened.version(done.version), ledger, repository, rollback=True)


def _follow(
    store: VersionStore, manifest: Manifest, ledger: Path | None, repository: Path | None, *, rollback: bool
) -> None:
    """Ledger and git come after the history's entry: a kill in between is mended by the same command again."""
    if ledger is not None:
        from lnl_core.ledger.store import Ledger
        from lnl_core.versions.ledger_labels import commit_version

        done = commit_version(Ledger(ledger), manifest, store.changes(manifest), _now(), rollback=rollback)
        rows = done.run.rows if done.run else 0
        kept = f"{done.kept_by_person:,} rows keep the label that a person gave them"
        typer.echo(f"{ledger}: {rows:,} labels appended; {kept}")
    if repository is not None:
        from lnl_core.versions.git_marks import BRANCH, mark_promoted

        mark_promoted(repository, manifest)
        typer.echo(f"{repository}: tag {manifest.tag}, branch {BRANCH}")


def _line(manifest: Manifest, promoted: int | None) -> tuple[str, ...]:
    churn = manifest.churn.get("different")
    return (
        "*" if manifest.number == promoted else "",
        str(manifest.number),
        _time(manifest.created),
        f"{manifest.rows['train']:,}",
        f"{manifest.rows['trusted']:,}+{manifest.rows['held_out']:,}",
        f"{manifest.labels_changed:,}",
        "-" if churn is None else f"{churn:,}",
        _accuracy(manifest, "probe"),
        _accuracy(manifest, "model"),
        str(manifest.gate_decision.get("outcome", "-")),
        str(manifest.parent or "-"),
    )


def _described(manifest: Manifest) -> list[tuple[str, str]]:
    rows = ", ".join(f"{name} {count:,}" for name, count in manifest.rows.items())
    about = [
        ("version", str(manifest.number)),
        ("run", manifest.run_id),
        ("commit", manifest.commit or "-"),
        ("made", f"{_time(manifest.created)} by lnl {manifest.package}"),
        ("parent", str(manifest.parent or "-")),
        ("rows", rows),
        ("labels changed", f"{manifest.labels_changed:,}"),
        ("probe, model", f"{_accuracy(manifest, 'probe')}, {_accuracy(manifest, 'model')}"),
        ("sha256 of params", manifest.params_sha256 or "-"),
        ("sha256 of the crawl's listing", manifest.listing_sha256 or "-"),
    ]
    return about + [(name, _artefact(found)) for name, found in manifest.artefacts.items()]


def _artefact(found: Any) -> str:
    size = "" if found.size is None else f", {found.size:,} bytes"
    files = "" if found.files is None else f" in {found.files:,} files"
    return f"{found.md5 or 'not hashed'}{size}{files}"


def _accuracy(manifest: Manifest, classifier: str) -> str:
    scores = manifest.held_out.get(classifier)
    return "-" if scores is None else f"{scores['accuracy']:.1%}"


def _open(where: str) -> VersionStore:
    from lnl_core.versions.store import VersionStore

    return VersionStore.open(where)


def _settings(override: list[str] | None) -> GateSettings:
    from lnl_core.versions.gate import GateSettings

    values = apply_overrides({"gate": {}}, [f"gate.{item}" for item in override or []])
    return parse(GateSettings, values["gate"], "gate")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"  # a container whose user has no name


def _now() -> datetime:
    return datetime.now(UTC)


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M")
