"""The development server keeps out who has no keys, keeps its data over kill -9, and dies with its parent."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from dev.seaweed import Seaweed

pytestmark = pytest.mark.server


def test_wrong_keys_and_anonymous_calls_are_refused(s3: str) -> None:
    wrong = boto3.client("s3", aws_access_key_id="AKIAWRONG", aws_secret_access_key="wrong")
    nobody = boto3.client("s3", config=Config(signature_version=UNSIGNED))
    for client in (wrong, nobody):
        with pytest.raises(ClientError) as caught:
            client.list_objects_v2(Bucket=s3.removeprefix("s3://"))
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_misspelt_bucket_is_not_made(s3: str, seaweed: Seaweed) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        seaweed.client().put_object(Bucket=s3.removeprefix("s3://") + "x", Key="a", Body=b"x")


def test_killed_and_started_again_on_the_same_ports_with_all_objects(s3: str, seaweed: Seaweed) -> None:
    bucket, endpoint = s3.removeprefix("s3://"), seaweed.endpoint
    seaweed.client().put_object(Bucket=bucket, Key="a/b", Body=b"kept")
    seaweed.kill()
    assert seaweed.pid is None
    seaweed.start()
    assert seaweed.endpoint == endpoint
    assert seaweed.client().get_object(Bucket=bucket, Key="a/b")["Body"].read() == b"kept"


def test_foreground_server_writes_keys_for_its_user_alone_and_dies_with_its_parent(tmp_path: Path) -> None:
    port = str(next(port for port in range(19000, 19100) if _nobody_listens(port)))
    command = [sys.executable, "-m", "dev.seaweed", "--folder", str(tmp_path), "--bucket", "mine", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "s3://mine" in process.stdout.readline()
        file = tmp_path / "environment.sh"
        assert file.stat().st_mode & 0o777 == 0o600
        secret = file.read_text().split("AWS_SECRET_ACCESS_KEY=")[1].splitlines()[0]
        assert secret not in process.stdout.readline()
        process.kill()
    deadline = time.monotonic() + 10
    while not _nobody_listens(int(port)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _nobody_listens(int(port))


def _nobody_listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
