"""Two processes that share each batch end where one process with the same global batch ends, for every method."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lnl_core.train import TRAINERS
from tests.train.shared_training import train_all

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("shared_training.py")
# A few small steps: rounding differs between the two, and what selects rows by a threshold would amplify it.
SETTINGS = {
    "cross_entropy": {"epochs": 2, "batch_size": 25, "lr": 0.02, "mixup_alpha": 1.0},
    "divide_mix": {"epochs": 3, "warmup_epochs": 2, "batch_size": 16, "lr": 0.02, "lambda_u": 5},
    "pro_mix": {"epochs": 3, "warmup_epochs": 1, "ramp_epochs": 1, "batch_size": 32, "lr": 0.02},
    "flywheel": {"epochs": 3, "warmup_epochs": 1, "batch_size": 25, "lr": 0.02},
    "elr": {"epochs": 2, "batch_size": 25, "lr": 0.02},
    "elr_plus": {"epochs": 2, "batch_size": 25, "lr": 0.02},
    "ssr": {"epochs": 2, "batch_size": 25, "lr": 0.02},
    "co_teaching": {"epochs": 2, "batch_size": 25, "lr": 0.001},
    "cdr": {"epochs": 2, "batch_size": 25, "lr": 0.02},
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Folders of the weights after one process, this one, and after two."""
    found = {processes: tmp_path_factory.mktemp(f"processes-{processes}") for processes in (1, 2)}
    train_all(found[1], SETTINGS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(SCRIPT), str(found[2]), json.dumps(SETTINGS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return found


def test_every_method_is_compared():
    assert set(SETTINGS) == set(TRAINERS.names())


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_two_processes_end_where_one_does(ends, method):
    one, two = (torch.load(ends[number] / f"{method}.pt", weights_only=True) for number in (1, 2))
    for first, second in zip(one["curve"], two["curve"], strict=True):
        assert first.keys() == second.keys()
        assert all(np.isclose(first[name], second[name], rtol=1e-2, atol=1e-3) for name in first), (first, second)
    for first, second in zip(one["last"], two["last"], strict=True):
        for name, value in first.items():
            assert torch.allclose(value.float(), second[name].float(), rtol=1e-3, atol=1e-4), name
