"""A Prefect server and its workers on loopback, for development, tests and the chaos test.

`python -m dev.prefect_server --worker local` runs a server and workers in the foreground. The database is SQLite;
`--postgres` starts a PostgreSQL of its own (initdb and pg_ctl must be on the PATH), which is what a server with
a schedule and several workers wants. 4 s and 250 MB for the server, 2 s and 100 MB for a worker.

Everything is started from Python, in a session of its own: a worker that a shell starts in the background ignores
SIGTERM for good. Start it from a thread that lives as long as the server is needed; what is started here dies with
that thread.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).parents[1]
START_SECONDS, STOP_SECONDS = 90.0, 20.0  # 4 s on an idle machine, the first time 8 s
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, for nothing may be loaded between fork and exec


class PrefectServer:
    """`with PrefectServer(folder) as server:`; `.environment` is what a client needs.

    Args:
        folder: database, logs and Prefect's own files; kept between starts.
        checkout: where commands and workers run; its prefect.toml and prefect.yaml count.
        environment: variables for clients and workers beside Prefect's, e.g. those of an S3 server.
        postgres: a PostgreSQL in `folder` instead of SQLite.
    """

    def __init__(
        self,
        folder: Path,
        *,
        checkout: Path = CHECKOUT,
        environment: Mapping[str, str] | None = None,
        postgres: bool = False,
        port: int | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.checkout = checkout
        self.workers: list[Worker] = []
        self.log = self.folder / "server.log"
        self._port = port or _free_port()
        self._extra = dict(environment or {})
        self._postgres = Postgres(self.folder / "postgres") if postgres else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, where the pages are; the API is below /api."""
        return f"http://{HOST}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """This process's variables without its own PREFECT_ ones, and what a client of this server needs."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        return {
            **own,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # for lnl and dvc
            **self._extra,
        }

    @property
    def pid(self) -> int | None:
        """Of the running server; None where it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> PrefectServer:
        """Start, on the data and port of the last start where there was one, and wait until the API replies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._postgres:
            self._postgres.start()
        arguments = ("server", "start", "--host", HOST, "--port", str(self._port))
        self._process = _spawn(arguments, self.folder, self._server_environment(), self.log)
        _wait(self._healthy, START_SECONDS, lambda: f"no Prefect server at {self.url}: {_tail(self.log)}")
        return self

    def stop(self) -> None:
        """Workers first, then the server and its database."""
        while self.workers:
            self.workers.pop().stop()
        self.stop_server()
        if self._postgres:
            self._postgres.stop()

    def stop_server(self) -> None:
        """The server alone: its workers stay and have nobody to talk to; `start` brings it back."""
        _stop(self._process)

    def kill_server(self) -> None:
        """kill -9 of the server; `start` brings it back with what it had written."""
        _kill(self._process)

    def restart(self, down_seconds: float = 0.0) -> None:
        """kill -9, `down_seconds` of silence, and a start on the same database."""
        self.kill_server()
        time.sleep(down_seconds)
        self.start()

    def worker(self, pool: str, *, environment: Mapping[str, str] | None = None) -> Worker:
        """Start a process worker of `pool` as if on a machine of its own, and wait until the server knows it."""
        number = sum(worker.pool == pool for worker in self.workers)
        name = f"{pool}-{number}"
        home = {"PREFECT_HOME": str(self.folder / f"home-{name}"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        variables = self.environment | home | dict(environment or {})
        log = self.folder / f"worker-{name}-{len(self.workers)}.log"
        arguments = ("worker", "start", "--pool", pool, "--name", name, "--type", "process")
        worker = Worker(pool=pool, name=name, log=log, process=_spawn(arguments, self.checkout, variables, log))
        self.workers.append(worker)
        _wait(lambda: self._is_online(worker), START_SECONDS, lambda: f"no worker {name}: {_tail(log)}")
        return worker

    def python(self, *arguments: str, timeout: float = 120) -> str:
        """Run `python ARGUMENTS` in the checkout as a client of this server; its output.

        Raises:
            RuntimeError: it failed; the message has what it said.
        """
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}\n{_tail(self.log)}")
        return done.stdout

    def prefect(self, *arguments: str, timeout: float = 120) -> str:
        """Run `prefect ARGUMENTS` in the checkout as a client of this server; its output."""
        return self.python("-m", "prefect", "--no-prompt", *arguments, timeout=timeout)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the REST API replies, e.g. `post("flow_runs/filter", {"limit": 5})`."""
        return self._ask(path, json.dumps(body or {}).encode())

    def get(self, path: str) -> Any:
        """What the REST API replies."""
        return self._ask(path, None)

    def __enter__(self) -> PrefectServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _server_environment(self) -> dict[str, str]:
        services = {
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # 60 by default: too long to wait for in a test
            # A lease that only the server's memory knows is a GPU that stays taken after a restart.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        database = {"PREFECT_API_DATABASE_CONNECTION_URL": self._postgres.url} if self._postgres else {}
        return {**self.environment, **services, **database}

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}/api/{path}", data=body, headers=headers), timeout=30
        ) as reply:
            return json.load(reply)

    def _healthy(self) -> bool:
        if not self.pid:
            raise RuntimeError(f"the Prefect server has ended: {_tail(self.log)}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return bool(self.get("health"))
        return False

    def _is_online(self, worker: Worker) -> bool:
        if worker.process.poll() is not None:
            raise RuntimeError(f"worker {worker.name} has ended: {_tail(worker.log)}")
        with contextlib.suppress(urllib.error.HTTPError):  # the pool may not exist yet
            known = self.post(f"work_pools/{worker.pool}/workers/filter")
            return any(found["name"] == worker.name and found["status"] == "ONLINE" for found in known)
        return False


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A running worker; its flow runs are its child processes."""

    pool: str
    name: str
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """SIGTERM to the worker, SIGKILL to what is left of it and its flow runs."""
        left = self.processes()
        _stop(self.process)
        _kill_each(left)

    def kill(self) -> None:
        """The machine is lost: kill -9 of the worker and of everything that it started, at once."""
        _kill_each(self.processes())
        self.process.wait()

    def kill_alone(self) -> None:
        """kill -9 of the worker; its flow runs live on."""
        self.process.kill()
        self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """The worker and everything below it."""
        if self.process.poll() is not None:
            return []
        worker = psutil.Process(self.process.pid)
        return [worker, *worker.children(recursive=True)]


class Postgres:
    """A PostgreSQL on a free port of loopback, without a password: for a machine that nobody else uses."""

    def __init__(self, folder: Path) -> None:
        self._port = _free_port()
        # PostgreSQL refuses to run as root; Debian's package brings the user `postgres`, who may not see root's folders
        self._user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="lnl-postgres-")) if self._user else folder

    @property
    def url(self) -> str:
        """What PREFECT_API_DATABASE_CONNECTION_URL wants."""
        return f"postgresql+asyncpg://prefect@{HOST}:{self._port}/postgres"

    def start(self) -> None:
        """Make the cluster where there is none, and start it where it does not run."""
        if not (self.folder / "PG_VERSION").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._user:
                shutil.chown(self.folder, self._user)
            self._run("initdb", "-D", ".", "--username=prefect", "--auth=trust", "--no-sync", "--encoding=UTF8")
        if not (self.folder / "postmaster.pid").exists():
            options = f"-p {self._port} -h {HOST} -k {self.folder} -c fsync=off"
            self._run("pg_ctl", "-D", ".", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", ".", "-w", "-m", "fast", "stop")
        if self._user:
            shutil.rmtree(self.folder)

    def _run(self, *command: str) -> None:
        if not shutil.which(command[0]):
            raise RuntimeError(f"no program {command[0]!r} on the PATH: install PostgreSQL, or leave out postgres")
        subprocess.run(command, cwd=self.folder, user=self._user, check=True, stdout=subprocess.DEVNULL)


def _spawn(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("ab") as opened:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=opened,
            stderr=opened,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  (one call into a library that is loaded already)
        )


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process and process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    _kill(process)


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _kill_each(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _wait(true: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(message())
        time.sleep(0.2)


def _tail(log: Path) -> str:
    return f"the end of {log}:\n{log.read_text(encoding='utf-8')[-3000:]}" if log.exists() else f"no {log}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def main() -> None:
    """Run in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description="A local Prefect server with workers, until interrupted.")
    parser.add_argument("--folder", type=Path, default=Path(".prefect"), help="database and logs; kept between calls")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL instead of SQLite")
    parser.add_argument("--worker", action="append", default=[], metavar="POOL", help="a process worker; repeatable")
    given = parser.parse_args()
    with _until_interrupted() as stop, PrefectServer(given.folder, postgres=given.postgres, port=given.port) as server:
        server.python("-m", "tasks.setup")
        server.prefect("deploy", "--all")
        for pool in given.worker:
            server.worker(pool)
        print(f"Prefect at {server.url}; in another shell:  export PREFECT_API_URL={server.url}/api", flush=True)
        while not stop.wait(1) and server.pid:
            pass


if __name__ == "__main__":
    main()
