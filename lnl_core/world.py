"""Several processes of one training, as torch's launcher starts them; one process is the usual case and needs nothing.

Every process draws the same batches from the same generators and runs its share of each batch through the network;
outputs are gathered, so that losses, splits and mixtures are computed on the whole batch in every process alike, and
gradients are summed. A method is therefore written as for one process, and its result is that of one process with
the same global batch, up to rounding. What is repeated in every process is augmentation and the loss.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

_SHARED: ContextVar[tuple[int, slice] | None] = ContextVar("rows of the batch that run_shared divides", default=None)


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process; 0 writes files."""
    return distributed.get_rank() if world_size() > 1 else 0


@contextmanager
def joined_world(device: torch.device) -> Iterator[int]:
    """Join the processes that the launcher started (environment variable WORLD_SIZE), and leave at the end.

    NCCL between GPUs, gloo between CPUs. Yields the rank.
    """
    if launched() == 1 or distributed.is_initialized():
        yield rank()
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank()
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def launched() -> int:
    """How many processes torch's launcher started this one among; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Is this the process that writes a stage's files? Also true outside a joined world, without a launcher."""
    return os.environ.get("RANK", "0") == "0"


def share_of(batch: int) -> slice:
    """The rows of a global batch that this process takes; sizes differ by one at most."""
    size, number = world_size(), rank()
    bounds = [batch * part // size for part in range(size + 1)]
    return slice(bounds[number], bounds[number + 1])


def rows_of_batch(rows: int) -> tuple[int, slice]:
    """For a layer that draws a number a row (dropout): of how many rows the batch is, and which of them are these."""
    return _SHARED.get() or (rows, slice(0, rows))


def run_shared(module: Callable[..., Any], *inputs: Tensor) -> Any:
    """`module(*inputs)` with each process running its share of the rows; all get the outputs of all rows.

    A batch with fewer rows than processes is run as a whole by each: its gradient is then divided by their number.
    """
    batch = len(inputs[0])
    if world_size() == 1:
        return module(*inputs)
    if batch < 2 * world_size():  # batch normalisation takes no single row
        outputs = module(*inputs)
        return _each(outputs, _divided)
    mine = share_of(batch)
    token = _SHARED.set((batch, mine))
    try:
        outputs = module(*(value[mine] for value in inputs))
    finally:
        _SHARED.reset(token)
    return _each(outputs, lambda value: _gathered(value, batch))


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one message a data type."""
    if world_size() == 1:
        return
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for kind in {parameter.dtype for parameter in held}:
        group = [parameter for parameter in held if parameter.dtype == kind]
        grads = [torch.zeros_like(part) if part.grad is None else part.grad for part in group]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        ends = np.cumsum([grad.numel() for grad in grads])
        for part, end in zip(group, ends, strict=True):
            part.grad = flat[end - part.numel() : end].view_as(part)


def sum_over_world(values: Tensor) -> Tensor:
    """The sum over all processes; its gradient is summed likewise."""
    if world_size() == 1:
        return values
    total: Tensor = _Summed.apply(values)  # type: ignore[no-untyped-call]
    return total


def _divided(value: Tensor) -> Tensor:
    found: Tensor = _Divided.apply(value)  # type: ignore[no-untyped-call]
    return found


def _gathered(value: Tensor, batch: int) -> Tensor:
    found: Tensor = _Gathered.apply(value, batch)  # type: ignore[no-untyped-call]
    return found


def _each(outputs: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(outputs, Tensor):
        return change(outputs)
    return type(outputs)(change(value) for value in outputs)


class _Gathered(torch.autograd.Function):
    """Rows of all processes in order. Each process has the whole loss, so its own rows' gradient needs no message."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, batch: int) -> Tensor:
        ctx.mine = share_of(batch)
        longest = -(-batch // world_size())
        padded = value.new_zeros(longest, *value.shape[1:])
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in range(world_size())]
        distributed.all_gather(parts, padded)
        sizes = [batch * (part + 1) // world_size() - batch * part // world_size() for part in range(world_size())]
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][ctx.mine], None


class _Divided(torch.autograd.Function):
    """The value itself; its gradient is divided by the number of processes, which all have the same one."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        return grads[0] / world_size()


class _Summed(torch.autograd.Function):
    """All-reduce with its adjoint, which is all-reduce."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
