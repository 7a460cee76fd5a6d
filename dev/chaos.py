"""The chaos test: one scheduled run on real servers, during which processes are killed at random and S3 goes away.

    python -m dev.chaos --seed 1                       `make chaos`
    python -m dev.chaos --seed 1 --without-prefect     the stage executor alone, driven by a loop; S3 is real

A SeaweedFS, a Prefect server (PostgreSQL where it is installed), a worker for each of the pools cpu and gpu with a home
of its own. A seeded monkey kills stages' processes, dvc, flow runs and whole workers with kill -9 (a supervisor starts
workers again) and takes S3 away. The run must end by itself, with the bytes of an undisturbed run; dev/chaos_checks.py
has what is checked. Exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import yaml

from dev.chaos_checks import Check, check_all
from dev.chaos_driver import Driver, Supervisor, write_job
from dev.chaos_outcome import Event, Outcome
from dev.prefect_server import PrefectServer, Worker
from dev.seaweed import Seaweed
from tasks.base_commit import read_base
from tasks.executor import Lock, Machine, StageJob, open_run, run_stage_job

CHECKOUT = Path(__file__).parents[1]
PRETRAIN_EPOCHS, TRAIN_EPOCHS = 60, 16  # half a minute each on an idle core: long enough to be hit
OVERRIDES = [
    "run.threads=1",
    "run.device=cpu",
    "purify.ipc_ensemble.folds=2",
    "purify.ipc_ensemble.ridge=[0.01, 1.0]",
    "purify.ipc_ensemble.max_steps=16",
]
KINDS = {"stage": 10, "dvc": 6, "flow run": 5, "worker": 3}  # how often each is killed
KINDS_WITHOUT_PREFECT = {"stage": 11, "dvc": 8, "worker": 5}
OUTAGES = 3
OUTAGE_SECONDS = (15.0, 45.0)
PAUSE_SECONDS = (0.3, 6.0)  # between the moment that a victim exists and its end
MOST_HITS = 4  # kills of one stage, fewer than the retries of its task: what is tested is that retries suffice
WORKER_RETURNS = 5.0  # seconds until the supervisor starts it again
RUN_SECONDS = 3000.0
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Monkey:
    """Carries out a seeded list of kills and outages, each as soon as there is something that it can hit."""

    random: random.Random
    server: PrefectServer | Supervisor
    seaweed: Seaweed
    homes: Mapping[str, Path]  # of each pool's worker
    kinds: Mapping[str, int] = field(default_factory=lambda: KINDS)
    plan: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    _strike_at: float | None = None
    _s3_returns: float | None = None
    _workers_return: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = [kind for kind, times in self.kinds.items() for _ in range(times)] + ["outage"] * OUTAGES
        self.random.shuffle(self.plan)

    def step(self) -> None:
        """Do what is due; call it several times a second."""
        now = time.monotonic()
        self._bring_back(now)
        if not self.plan:
            return
        if self._strike_at is None:
            if self._can_strike(self.plan[0]):
                self._strike_at = now + self.random.uniform(*PAUSE_SECONDS)
        elif now >= self._strike_at:
            self._strike_at = None
            self._strike(self.plan[0])

    def finish(self) -> None:
        """Whatever is away comes back."""
        self._bring_back(float("inf"))

    def hits(self, stage: str) -> int:
        return sum(event.stage == stage and event.kind != "outage" for event in self.events)

    def _bring_back(self, now: float) -> None:
        if self._s3_returns is not None and now >= self._s3_returns:
            self.seaweed.start()
            self._s3_returns = None
        for pool, due in list(self._workers_return.items()):
            if now >= due:
                del self._workers_return[pool]
                self.server.worker(pool, environment={"LNL_HOME": str(self.homes[pool])})

    def _can_strike(self, kind: str) -> bool:
        if kind == "outage":
            return self._s3_returns is None and current_stage(self.homes) is not None
        return bool(self._victims(kind))

    def _strike(self, kind: str) -> None:
        """Nothing, where the victim has just ended by itself: the next one is waited for."""
        stage = current_stage(self.homes) or ""
        if kind == "outage":
            if self._s3_returns is not None:
                return
            seconds = self.random.uniform(*OUTAGE_SECONDS)
            self.seaweed.kill()
            self._s3_returns = time.monotonic() + seconds
            self._note(kind, stage, f"S3 away for {seconds:.0f} s")
        else:
            victims = self._victims(kind)
            if not victims:
                return
            self._kill(kind, self.random.choice(victims), stage)
        self.plan.pop(0)

    def _kill(self, kind: str, victim: psutil.Process | Worker | Driver, stage: str) -> None:
        if isinstance(victim, Worker | Driver):
            self._note(kind, stage, f"{victim.name}")
            victim.kill()
            self.server.workers.remove(victim)
            self._workers_return[victim.pool] = time.monotonic() + WORKER_RETURNS
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            said = " ".join(victim.cmdline()[-3:])
            victim.kill()
            self._note(kind, stage, f"pid {victim.pid}: {said[:60]}")

    def _note(self, kind: str, stage: str, what: str) -> None:
        event = Event(time.monotonic() - self.started, kind, stage, what)
        self.events.append(event)
        print(f"{event.seconds:7.1f} s  {kind:9s} {stage:9s} {what}", flush=True)

    def _victims(self, kind: str) -> list[Any]:
        stage = current_stage(self.homes)
        if stage is None or self.hits(stage) >= MOST_HITS:
            return []
        if kind == "worker":
            return [worker for worker in self.server.workers if worker.process.poll() is None]
        below = [process for worker in self.server.workers for process in worker.processes()[1:]]
        return [process for process in below if _is_kind(process, kind)]


def _is_kind(process: psutil.Process, kind: str) -> bool:
    try:
        command = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    if kind == "stage":
        return command[-2:-1] == ["stage"] and command[-3:-2] != [] and command[-3].endswith("lnl")
    if kind == "dvc":
        return command[1:3] == ["-m", "dvc"]
    return command[1:3] == ["-m", "prefect.engine"]


def current_stage(homes: Mapping[str, Path]) -> str | None:
    """The stage whose worktree some process works in."""
    roots = [home.resolve() / "worktrees" for home in homes.values()]
    for process in psutil.process_iter():
        try:
            folder = Path(process.cwd())
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
        for root in roots:
            if folder.is_relative_to(root) and len(folder.relative_to(root).parts) >= 2:
                return folder.relative_to(root).parts[1].rpartition(".")[2]
    return None


def undisturbed(origin: Path, folder: Path, settings: list[str]) -> Lock:
    """The same run without Prefect, S3 and the monkey, on a machine of its own."""
    machine = Machine(folder, remote="")
    base = read_base(str(origin), "main", "params.yaml", settings, machine=machine)
    params = yaml.safe_dump(base.params, sort_keys=False)
    commit = open_run(str(origin), base.commit, "undisturbed", params=params, files={}, machine=machine)
    lock: Lock = {}
    for node in base.nodes:
        upstream = {name: lock[name] for name in node.after}
        job = StageJob(repository=str(origin), revision=commit, run="undisturbed", stage=node.name, lock=upstream)
        lock[node.name] = run_stage_job(job, machine, on_progress=lambda _: None).lock
    return lock


def schedule_run(server: PrefectServer, settings: list[str]) -> str:
    """Give the deployment `scheduled` a schedule that is due in a moment; the id of the run that it makes."""
    [found] = server.post("deployments/filter", {"deployments": {"name": {"any_": ["scheduled"]}}})
    due = datetime.now(UTC) + timedelta(seconds=15)
    schedule = {"interval": timedelta(days=300).total_seconds(), "anchor_date": due.isoformat(), "timezone": "UTC"}
    parameters = {**found["parameters"], "overrides": settings}
    server.post(
        f"deployments/{found['id']}/schedules", [{"schedule": schedule, "active": True, "parameters": parameters}]
    )
    wanted = {
        "deployments": {"name": {"any_": ["scheduled"]}},
        "flow_runs": {"expected_start_time": {"before_": (due + timedelta(seconds=60)).isoformat()}},
    }
    deadline = time.monotonic() + 90
    while not (runs := server.post("flow_runs/filter", wanted)):
        if time.monotonic() > deadline:
            raise RuntimeError("the scheduler made no run")
        time.sleep(0.5)
    return str(runs[0]["id"])


@contextlib.contextmanager
def platform(folder: Path, origin: Path, homes: Mapping[str, Path]) -> Iterator[tuple[PrefectServer, Seaweed]]:
    """Servers, deployments and a worker of each pool, all on loopback and below `folder`."""
    checkout = folder / "checkout"
    _git("clone", "--quiet", str(origin), str(checkout))
    with Seaweed(folder / "s3") as seaweed:
        settings = {
            "LNL_DVC_REMOTE": f"{seaweed.make_bucket('lnl')}/dvc",
            "LNL_REPOSITORY": str(origin),
            "LNL_EXECUTION_LOG": str(folder / "executions.log"),
            "PYTHONPATH": str(checkout),
        }
        postgres = bool(shutil.which("initdb"))
        variables = seaweed.environment | settings
        with PrefectServer(folder / "prefect", checkout=checkout, environment=variables, postgres=postgres) as server:
            server.python("-m", "tasks.setup")
            server.prefect("deploy", "--all")
            for pool, home in homes.items():
                server.worker(pool, environment={"LNL_HOME": str(home)})
            yield server, seaweed


def overrides(work: float) -> list[str]:
    """Settings of the run; `work` scales its length."""
    epochs = {"pretrain.simclr": PRETRAIN_EPOCHS, "train.divide_mix": TRAIN_EPOCHS}
    lengths = {method: max(2, round(work * times)) for method, times in epochs.items()}
    warmup = [f"{method}.warmup_epochs={max(1, times // 4)}" for method, times in lengths.items()]
    return [*OVERRIDES, *(f"{method}.epochs={times}" for method, times in lengths.items()), *warmup]


def disturbed(folder: Path, origin: Path, seed: int, settings: list[str]) -> tuple[Outcome, list[Check]]:
    """The scheduled run with the monkey, and what the checks say while the servers still run."""
    homes = {pool: folder / f"home-{pool}" for pool in ("cpu", "gpu")}
    with platform(folder, origin, homes) as (server, seaweed):
        run = schedule_run(server, settings)
        monkey = Monkey(random.Random(seed), server, seaweed, homes)
        state = _until_final(lambda: _state(server, run), monkey)
        seconds = time.monotonic() - monkey.started
        monkey.finish()
        outcome = Outcome(
            run=run,
            state=state,
            seconds=seconds,
            events=monkey.events,
            attempts=attempts(server, run),
            lock=version_lock(origin, run),
            origin=origin,
            homes=homes,
            executions=executions(folder / "executions.log"),
        )
        yardstick = yaml.safe_load((folder / "undisturbed.yaml").read_text(encoding="utf-8"))
        return outcome, check_all(outcome, yardstick, seaweed)


def disturbed_without_prefect(
    folder: Path, origin: Path, seed: int, settings: list[str]
) -> tuple[Outcome, list[Check]]:
    """The same with the executor alone: a loop in a process that a supervisor starts again."""
    home = folder / "home-driver"
    with Seaweed(folder / "s3") as seaweed:
        os.environ |= seaweed.environment
        machine = Machine(home, remote=f"{seaweed.make_bucket('lnl')}/dvc")
        base = read_base(str(origin), "main", "params.yaml", settings, machine=machine)
        params = yaml.safe_dump(base.params, sort_keys=False)
        job = {"repository": str(origin), "run": "chaos", "home": str(home), "remote": machine.remote}
        job |= {"revision": open_run(str(origin), base.commit, "chaos", params=params, files={}, machine=machine)}
        job |= {"stages": [(node.name, sorted(node.after)) for node in base.nodes]}
        write_job(folder / "driver" / "job.json", job)
        log = folder / "executions.log"
        supervisor = Supervisor(folder / "driver" / "job.json", os.environ | {"LNL_EXECUTION_LOG": str(log)})
        monkey = Monkey(random.Random(seed), supervisor, seaweed, {"driver": home}, KINDS_WITHOUT_PREFECT)
        supervisor.worker("driver")
        state = _until_final(supervisor.state, monkey)
        seconds = time.monotonic() - monkey.started
        monkey.finish()
        outcome = Outcome(
            run="chaos",
            state=state,
            seconds=seconds,
            events=monkey.events,
            attempts=supervisor.attempts(),
            lock=version_lock(origin, "chaos"),
            origin=origin,
            homes={"driver": home},
            executions=executions(log),
        )
        yardstick = yaml.safe_load((folder / "undisturbed.yaml").read_text(encoding="utf-8"))
        return outcome, check_all(outcome, yardstick, seaweed)


def _until_final(state_of: Callable[[], str], monkey: Monkey) -> str:
    deadline, looked = time.monotonic() + RUN_SECONDS, 0.0
    state = ""
    while state not in FINAL and time.monotonic() < deadline:
        monkey.step()
        if time.monotonic() - looked > 2:
            looked = time.monotonic()
            state = state_of()
        time.sleep(0.3)
    return state


def _state(server: PrefectServer, run: str) -> str:
    """CRASHED does not end a run here: an automation takes it up again."""
    state = str(server.get(f"flow_runs/{run}")["state_type"])
    return "" if state == "CRASHED" else state


def attempts(server: PrefectServer, run: str) -> dict[str, int]:
    """How many flow runs each stage needed."""
    counts: dict[str, int] = {}
    for found in server.post("flow_runs/filter", {"limit": 200}):
        if (found["idempotency_key"] or "").startswith(f"{run}:"):
            stage = found["parameters"]["job"]["stage"]
            counts[stage] = counts.get(stage, 0) + 1
    return counts


def version_lock(origin: Path, run: str) -> Lock:
    """dvc.lock of the run's second commit; empty where there is none."""
    shown = subprocess.run(["git", "show", f"runs/{run}:dvc.lock"], cwd=origin, capture_output=True, check=False)
    return yaml.safe_load(shown.stdout)["stages"] if shown.returncode == 0 else {}


def executions(log: Path) -> list[tuple[float, str]]:
    """(time, stage) of each line that tasks/tied_process.py wrote."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [(float(line.split()[0]), line.split()[1]) for line in lines]


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def report(seed: int, outcome: Outcome, checks: list[Check]) -> str:
    """Tables: what was killed when, what each stage needed, what was checked."""
    lines = [f"seed {seed}: run {outcome.run} {outcome.state or 'did not end'} after {outcome.seconds:.0f} s", ""]
    lines += ["| second | what | during | |", "|---|---|---|---|"]
    lines += [f"| {event.seconds:.0f} | {event.kind} | {event.stage} | {event.what} |" for event in outcome.events]
    lines += ["", "| stage | killed | attempts | command started |", "|---|---|---|---|"]
    for stage, flow_runs in outcome.attempts.items():
        killed = sum(event.stage == stage and event.kind != "outage" for event in outcome.events)
        started = sum(name == stage for _, name in outcome.executions)
        lines.append(f"| {stage} | {killed} | {flow_runs} | {started} |")
    lines += ["", *(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.found}" for check in checks)]
    return "\n".join(lines)


def main() -> None:
    """Run it and print what happened."""
    parser = argparse.ArgumentParser(description="Kills processes and takes S3 away during a scheduled run.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=float, default=1.0, help="scales the epochs; less on a machine that is slow")
    parser.add_argument("--folder", type=Path, help="where everything lies, kept afterwards; else a temporary one")
    parser.add_argument("--without-prefect", action="store_true", help="the stage executor alone")
    parser.add_argument("--write", type=Path, help="also write the tables to this file")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ended from outside, it still stops what it has started
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in [name for name in os.environ if name.startswith(("AWS_", "LNL_", "PREFECT_"))]:
        del os.environ[name]
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lnl-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        origin = folder / "origin.git"
        if not origin.exists():  # a folder of an earlier call: the same commit again
            _git("clone", "--quiet", "--bare", str(CHECKOUT), str(origin))
        started = time.monotonic()
        settings = overrides(given.work)
        if not (folder / "undisturbed.yaml").exists():
            yardstick = undisturbed(origin, folder / "home-undisturbed", settings)
            (folder / "undisturbed.yaml").write_text(yaml.safe_dump(yardstick), encoding="utf-8")
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
        disturb = disturbed_without_prefect if given.without_prefect else disturbed
        outcome, checks = disturb(folder, origin, given.seed, settings)
        text = report(given.seed, outcome, checks)
    print(text)
    if given.write:
        given.write.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if all(check.ok for check in checks) else 1)


if __name__ == "__main__":
    main()
