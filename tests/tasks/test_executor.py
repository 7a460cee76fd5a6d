"""A stage that any machine has done is done nowhere again; what it made can be had by its commit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from tasks.executor import (
    Lock,
    LogLine,
    Machine,
    Progress,
    StageDone,
    StageFailed,
    StageJob,
    close_run,
    fetch_outputs,
    lock_of,
    open_run,
    run_stage_job,
)
from tests.tasks.conftest import Events, Tiny, git, make_tiny

pytestmark = pytest.mark.slow(minutes=1)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclasses.dataclass(frozen=True)
class FirstRun:
    """A finished run, for tests that begin after one. Their runs have other names and, where work is done, settings."""

    tiny: Tiny
    machine: Machine
    done: dict[str, StageDone]

    @property
    def lock(self) -> dict[str, Lock]:
        return {name: one.lock for name, one in self.done.items()}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    folder = tmp_path_factory.mktemp("first-run")
    tiny, machine = make_tiny(folder / "tiny"), Machine(folder / "machine", remote=str(folder / "remote"))
    return FirstRun(tiny, machine, tiny.run(machine, "run-1"))


def test_what_one_machine_has_done_another_restores(first_run: FirstRun, tmp_path: Path) -> None:
    tiny, first, made = first_run.tiny, first_run.machine, first_run.done
    second = Machine(tmp_path / "second", remote=first.remote)
    found = tiny.run(second, "run-2")
    assert [one.how for one in made.values()] == ["run", "run"]
    assert [one.how for one in found.values()] == ["restored", "restored"]
    assert {name: one.lock for name, one in made.items()} == {name: one.lock for name, one in found.items()}
    assert found["two"].metrics == {"steps": 1}
    assert (found["two"].machine, found["two"].seconds > 0) == (second.name, True)
    for machine in (first, second):  # nothing is left but clone, cache and locks
        assert list(machine.worktrees(str(tiny.path)).iterdir()) == []
        assert list((machine.home / "unfinished").iterdir()) == []
        assert list(machine.cache.rglob("*.tmp")) == []


def test_a_clone_of_the_version_pulls_and_runs_nothing(tiny: Tiny, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", remote=str(tmp_path / "remote"))
    revision = tiny.open(machine, "run-1", one="steps: 2")
    lock = {}
    for stage in ("one", "two"):
        lock[stage] = run_stage_job(tiny.job(revision, "run-1", stage, lock), machine, on_progress=Events()).lock
    version = close_run(str(tiny.path), revision, "run-1", lock, "the first version", machine)
    clone = tmp_path / "clone"
    git("clone", "--quiet", str(tiny.path), str(clone), cwd=tmp_path)
    git("checkout", "--quiet", version, cwd=clone)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "remote", "add", "-q", "-d", "far", str(tmp_path / "remote")], cwd=clone, check=True)
    subprocess.run([*dvc, "pull", "-q"], cwd=clone, check=True)
    done = subprocess.run([*dvc, "repro"], cwd=clone, check=True, capture_output=True, text=True)
    assert "Running stage" not in done.stdout
    assert done.stdout.count("didn't change, skipping") == 2
    assert (clone / "data/two/all.txt").read_text() == "0 of 2 1 of 2 2 of 2 "


def test_the_two_commits_of_a_run_can_be_made_again(tiny: Tiny, machine: Machine, tmp_path: Path) -> None:
    repository = str(tiny.path)
    files = {"data/crawl/listing.json": b"[]\n"}  # below an ignored folder
    opened = [
        open_run(repository, "main", "run-1", params="one: {}\n", files=files, machine=one)
        for one in (machine, machine, Machine(tmp_path / "other", remote=""))
    ]
    assert len(set(opened)) == 1
    assert git("show", f"{opened[0]}:data/crawl/listing.json", cwd=tiny.path) == "[]"
    assert lock_of(repository, opened[0], machine) == {}
    lock = {"one": {"cmd": "x", "params": {"params.yaml": {"one": {"rate": 1e-05}}}}}
    closed = [close_run(repository, opened[0], "run-1", lock, "what it is", machine) for _ in range(2)]
    assert closed[0] == closed[1] == git("rev-parse", "runs/run-1", cwd=tiny.path)
    assert lock_of(repository, closed[0], machine) == lock
    assert open_run(repository, "main", "run-1", params="", files={}, machine=machine) == opened[0]
    assert git("rev-parse", "HEAD", cwd=tiny.path) == git("rev-parse", f"{opened[0]}~1", cwd=tiny.path)
    on_top = open_run(repository, closed[0], "run-2", params="one: {}\n", files={}, machine=machine)
    assert git("rev-parse", f"{on_top}~1", cwd=tiny.path) == closed[0]  # a run may start from another's version
    assert close_run(repository, on_top, "run-2", lock, "the next", machine) not in (closed[0], on_top)


def test_names_and_revisions_that_cannot_be_are_refused(tiny: Tiny, machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"\.\./run"):
        open_run(str(tiny.path), "main", "../run", params="", files={}, machine=machine)
    with pytest.raises(StageFailed, match="no commit, branch or tag 'nowhere'"):
        open_run(str(tiny.path), "nowhere", "run", params="", files={}, machine=machine)
    with pytest.raises(StageFailed, match="has no commit"):
        lock_of(str(tiny.path), "0" * 40, machine)


def test_the_previous_files_are_placed_for_the_stage_at_hand(first_run: FirstRun, tmp_path: Path) -> None:
    tiny, old = first_run.tiny, first_run.lock
    elsewhere = Machine(tmp_path / "elsewhere", remote=first_run.machine.remote)
    revision = tiny.open(elsewhere, "run-3", two="steps: 2")
    same, events = tiny.job(revision, "run-3", "one", {}, old), Events()
    done = run_stage_job(same, elsewhere, on_progress=Events())
    assert (done.how, done.lock, done.metrics) == ("unchanged", old["one"], {"steps": 1})
    changed = run_stage_job(tiny.job(revision, "run-3", "two", {"one": done.lock}, old), elsewhere, on_progress=events)
    assert changed.how == "run"
    assert "two: previous ['.lnl/previous/two/all.txt', '.lnl/previous/two/metrics.json']" in events.text


def test_a_stage_whose_inputs_alone_have_changed_is_run_again(first_run: FirstRun) -> None:
    """Its own entry of the version before still fits code and params, and its inputs are not there yet."""
    tiny, machine, old = first_run.tiny, first_run.machine, first_run.lock
    revision = tiny.open(machine, "run-4", one="steps: 3")
    one = run_stage_job(tiny.job(revision, "run-4", "one", {}, old), machine, on_progress=Events())
    two = run_stage_job(tiny.job(revision, "run-4", "two", {"one": one.lock}, old), machine, on_progress=Events())
    assert (one.how, two.how) == ("run", "run")
    made = {out["path"]: out["md5"] for out in one.lock["outs"]}
    read = {dep["path"]: dep["md5"] for dep in two.lock["deps"] if dep["path"] in made}
    assert read
    assert read.items() <= made.items()


def test_a_previous_version_that_is_gone_is_done_without(first_run: FirstRun, tmp_path: Path) -> None:
    """To this machine and its remote the first run's machine is lost."""
    tiny, old = first_run.tiny, first_run.lock
    machine, events = Machine(tmp_path / "machine", remote=str(tmp_path / "remote")), Events()
    revision = tiny.open(machine, "run-5")
    done = run_stage_job(tiny.job(revision, "run-5", "one", {}, old), machine, on_progress=events)
    assert (done.how, done.lock) == ("run", old["one"])
    assert "going on without the previous version" in events.text


def test_runs_at_once_share_the_cache_and_do_not_mix(tiny: Tiny, machine: Machine) -> None:
    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(tiny.run, machine, f"run-{number}", one="steps: 3", two=f"steps: {1 + number % 2}")
            for number in range(3)
        ]
        done = [one.result() for one in running]
    assert done[0]["one"].lock == done[1]["one"].lock == done[2]["one"].lock
    assert [one["two"].metrics["steps"] for one in done] == [1, 2, 1]
    assert done[0]["two"].lock == done[2]["two"].lock != done[1]["two"].lock


def test_two_attempts_at_one_stage_of_a_run_take_turns(tiny: Tiny, machine: Machine) -> None:
    revision = tiny.open(machine, "run-1", one="steps: 5")
    job = tiny.job(revision, "run-1", "one", {})
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: run_stage_job(job, machine, on_progress=Events()), range(2)))
    assert sorted(one.how for one in done) == ["restored", "run"]


def test_the_stage_runs_the_code_of_its_worktree(tiny: Tiny, machine: Machine) -> None:
    package = tiny.path / "lnl_core"
    package.mkdir()
    (package / "__init__.py").write_text("WHOSE = 'the code of this commit'\n", encoding="utf-8")
    code = "import lnl_core, sys; print(lnl_core.WHOSE, file=sys.stderr)\n"
    (tiny.path / "stage.py").write_text(code + (tiny.path / "stage.py").read_text(), encoding="utf-8")
    git("add", "--all", cwd=tiny.path)
    git("commit", "--quiet", "--message", "a package of its own", cwd=tiny.path)
    events = Events()
    run_stage_job(tiny.job(tiny.open(machine, "run-1"), "run-1", "one", {}), machine, on_progress=events)
    assert "the code of this commit" in events.text


def test_files_of_a_version_are_fetched_by_name(first_run: FirstRun, tmp_path: Path) -> None:
    tiny, machine = first_run.tiny, first_run.machine
    revision = tiny.open(machine, "run-6")
    version = close_run(str(tiny.path), revision, "run-6", {"one": first_run.lock["one"]}, "half a run", machine)
    elsewhere = Machine(tmp_path / "elsewhere", remote=machine.remote)
    found = fetch_outputs(str(tiny.path), version, elsewhere, ["metrics", "report"], tmp_path / "files")
    assert found.read_metrics("one") == {"steps": 1}
    assert set(files_below(tmp_path / "files")) == {"one/metrics.json"}
    with pytest.raises(ConfigError, match="there are metrics, images"):
        fetch_outputs(str(tiny.path), version, machine, ["weights"], tmp_path / "files")


def test_a_stage_says_what_it_does_and_how_far_it_is(tiny: Tiny, machine: Machine) -> None:
    say = "import sys; sys.path.append({0!r})\nfrom lnl_core.progress import progress_bar\nimport time\n"
    say += "with progress_bar('counting', 3, 'rows') as advance:\n    for _ in range(3): advance(); time.sleep(0.5)\n"
    code = say.format(str(Path(__file__).parents[2])) + (tiny.path / "stage.py").read_text()
    (tiny.path / "stage.py").write_text(code, encoding="utf-8")
    git("commit", "--quiet", "--all", "--message", "with progress", cwd=tiny.path)
    events = Events()
    run_stage_job(tiny.job(tiny.open(machine, "run-1"), "run-1", "one", {}), machine, on_progress=events)
    progress = [event for event in events.seen if isinstance(event, Progress)]
    assert progress[0].done < 3
    assert progress[-1] == Progress("counting", 3, 3, "rows")
    assert LogLine("one: from step 0") in events.seen


@pytest.mark.parametrize(("code", "error"), [(2, ConfigError), (3, ContractError), (1, StageFailed)])
def test_the_stages_own_error_comes_back(tiny: Tiny, machine: Machine, code: int, error: type[Exception]) -> None:
    graph = (tiny.path / "dvc.yaml").read_text().replace("python stage.py one", "lnl stage one")
    (tiny.path / "dvc.yaml").write_text(graph, encoding="utf-8")
    package = tiny.path / "lnl_core"  # `lnl` finds the worktree's package first
    for folder in (package, package / "cli"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    fails = f"import sys\ndef main():\n    sys.stderr.write('purify.method: no such method\\n')\n    sys.exit({code})\n"
    (package / "cli" / "app.py").write_text(fails, encoding="utf-8")
    git("add", "--all", cwd=tiny.path)
    git("commit", "--quiet", "--message", "a stage that fails", cwd=tiny.path)
    with pytest.raises(error, match="no such method"):
        run_stage_job(tiny.job(tiny.open(machine, "run-1"), "run-1", "one", {}), machine, on_progress=Events())


def test_jobs_and_results_travel_as_json(first_run: FirstRun) -> None:
    job = first_run.tiny.job("0" * 40, "run-1", "two", {"one": first_run.lock["one"]})
    assert StageJob(**json.loads(json.dumps(dataclasses.asdict(job)))) == job


def test_passwords_do_not_reach_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t/value")
    with pytest.raises(StageFailed) as caught:
        lock_of("file://user:pa55word@localhost/s3cr3t/value/nowhere.git", "0" * 40, Machine(tmp_path, remote=""))
    assert "nowhere.git" in str(caught.value)
    assert "pa55word" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
