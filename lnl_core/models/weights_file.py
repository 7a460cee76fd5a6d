"""State dicts from files that somebody else wrote: read without running code, and loaded without a gap."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lnl_core.config import ConfigError
from lnl_core.files import file_sha256


def load_weights(network: nn.Module, path: Path, key: str, architecture: str) -> list[str]:
    """Fill `network`; returns the names in the file that it has no place for (a removed classifier's, as a rule).

    Args:
        key: the setting that names the file, and `architecture` the one that names the network, for messages.

    Raises:
        ConfigError: the file cannot be read, a weight is missing, or one has another shape.
    """
    state = read_weights(path, key)
    needed = network.state_dict()
    missing = [name for name in needed if name not in state]
    misfit = [name for name in needed if name in state and state[name].shape != needed[name].shape]
    if missing or misfit:
        name, what = (missing[0], "is missing") if missing else (misfit[0], f"is {tuple(state[misfit[0]].shape)}")
        raise ConfigError(
            f"{key} = {str(path)!r}: {name} {what} ({len(missing)} missing, {len(misfit)} of another shape, "
            f"of {len(needed)}); these weights are of another architecture than {architecture}"
        )
    network.load_state_dict({name: state[name] for name in needed})
    return [name for name in state if name not in needed]


def read_weights(path: Path, key: str) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from .pth/.pt/.bin by torch's loader that runs no code.

    A checkpoint that holds it under `state_dict` or `model` is looked into.

    Raises:
        ConfigError: no such file, not readable as such, or no state dict.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{key} = {str(path)!r}: cannot be read as a state dict ({error})") from error
    for inner in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(inner), dict):
            state = state[inner]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{key} = {str(path)!r}: holds no state dict of names and tensors")
    return dict(state)


def weights_file_sha256(path: Path, key: str) -> str:
    """sha256 of a file in hex.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return file_sha256(path)
    except OSError as error:
        raise ConfigError(f"{key} = {str(path)!r}: cannot be read ({error.strerror})") from error
