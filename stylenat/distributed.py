"""Everything that knows about ranks. In a process that torchrun did not start there is one, 0."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process among all, 0 to world_size() - 1."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _is_joined() else 1


def is_main() -> bool:
    """Whether this is the rank that writes files and prints."""
    return rank() == 0


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def pick_device(name: str = "auto") -> torch.device:
    """`auto`: this rank's GPU where there is one, else the CPU; `cuda` is this rank's GPU too.

    Raises ValueError for a device that PyTorch does not know or that is not there.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}': auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        index = local_rank if device.index is None else device.index
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            raise ValueError(f"there is no device cuda:{index}: PyTorch sees {count} GPUs")
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise ValueError(f"the device must be auto, cpu, cuda or cuda:N: {name}")
    return device


@contextmanager
def process_group(device: torch.device, *, timeout_seconds: float = 1800) -> Iterator[None]:
    """Join the processes that torchrun started (NCCL for GPUs, gloo for CPUs); leave at the end.

    In any other process, and within another such block, nothing happens.
    """
    if not is_launched() or _is_joined():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
        # A rank that leaves while another still receives from it can abort both.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if _is_joined():
        dist.barrier()


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Replace the tensor, on every rank, by its sum over the ranks."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_mean_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, on every rank, by its mean over the ranks: one call for all of them."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Every rank's tensor, in the order of the ranks; shapes may differ in the first dimension."""
    if world_size() == 1:
        return [tensor]
    lengths = [
        torch.zeros((), dtype=torch.int64, device=tensor.device) for _ in range(world_size())
    ]
    dist.all_gather(lengths, torch.tensor(len(tensor), device=tensor.device))
    longest = max(int(length) for length in lengths)
    padded = tensor.new_zeros(longest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return [part[: int(length)] for part, length in zip(gathered, lengths, strict=True)]


def from_main(value: Any = None) -> Any:
    """Rank 0's value, a small picklable object, on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the block, then the others: what it fetches or caches, they find."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()
