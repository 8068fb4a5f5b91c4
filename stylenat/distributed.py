"""Everything that knows about ranks. A process that torchrun did not start is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stylenat.copies import Later
from stylenat.ending import hurry, seconds_from

T = TypeVar("T")
Items = TypeVar("Items", range, Sequence[int], Tensor)

# How long ranks wait for each other: at first, when they load, compile and measure data, and in
# every later step (see `step_timeout_seconds`).
START_TIMEOUT_SECONDS = 1800.0
STEP_TIMEOUT_SECONDS = 100.0

_leaves_alone = False


def rank() -> int:
    """The number of this process among all, 0 to world_size() - 1."""
    return dist.get_rank() if _is_joined() else 0


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _is_joined() else 1


def is_main() -> bool:
    """Whether this is the rank that writes files and prints."""
    return rank() == 0


def share_of(items: Items, rank: int, world_size: int) -> Items:
    """The items that this rank takes of all: those at rank, rank + world_size, ..."""
    assert 0 <= rank < world_size
    return items[rank::world_size]


def own_share(items: Items) -> Items:
    """The items that this process takes of all."""
    return share_of(items, rank(), world_size())


def interleaved(shares: Sequence[Tensor]) -> Tensor:
    """All items in their own order, from every rank's share: it undoes `share_of`."""
    items = shares[0].new_empty(sum(len(share) for share in shares), *shares[0].shape[1:])
    for rank, share in enumerate(shares):
        share_of(items, rank, len(shares)).copy_(share)
    return items


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def pick_device(name: str = "auto") -> torch.device:
    """The device that is meant: `cuda` is this rank's GPU; `auto` is too, or the CPU without one.

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
def process_group(
    device: torch.device, *, timeout_seconds: float = START_TIMEOUT_SECONDS
) -> Iterator[None]:
    """Within the block, the processes that torchrun started work together (by NCCL or gloo).

    A rank that waits longer for another raises OSError, as all functions here that wait. In any
    other process, and within another such block, nothing happens.
    """
    global _leaves_alone
    if not is_launched() or _is_joined():
        yield
        return
    _leaves_alone = False
    # Imported later, as torch._dynamo does, its functions would hold the group as the default of an
    # argument: leaving would not end gloo's threads, and one that is busy aborts a process that
    # exits.
    import torch.distributed.nn.functional

    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _naming_lost_ranks():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if device.type == "cuda" else None,
        )
    try:
        yield
        if not _leaves_alone:
            # A rank that leaves while another still receives from it can abort both.
            barrier()
    except BaseException:
        hurry()
        raise
    finally:
        dist.destroy_process_group()


def leave_alone() -> None:
    """Let this rank end without waiting for the others, which may be in the middle of a step."""
    global _leaves_alone
    _leaves_alone = True


@contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    """Within the block, an error of waiting for other ranks becomes an OSError, one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        name = f"rank {os.environ.get('RANK', '0')}"
        raise OSError(
            f"{name} lost the others: one has ended, or kept them waiting too long ({reason})"
        ) from error


def step_timeout_seconds() -> float:
    """How long a rank may keep the others waiting within a step: $STYLENAT_STEP_TIMEOUT, or 100 s.

    Raises ValueError if that is not a positive number.
    """
    return seconds_from("STYLENAT_STEP_TIMEOUT", STEP_TIMEOUT_SECONDS)


def set_timeout(seconds: float) -> None:
    """Set how long ranks wait for each other from here on. All ranks must call it together."""
    if world_size() > 1:
        # The public one is missing in the oldest PyTorch that is supported.
        change = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        change(timedelta(seconds=seconds))


def barrier() -> None:
    """Wait for all ranks."""
    if _is_joined():
        with _naming_lost_ranks():
            dist.barrier()


class Largest:
    """The largest of all ranks' numbers, asked for now and read later, when nobody must wait.

    Every rank asks, and reads, in the same order as its other collectives.
    """

    def __init__(self, number: int, device: torch.device) -> None:
        self.is_on_gpu = device.type == "cuda"
        numbers = torch.full((), number, device=device)  # `torch.tensor` would copy, and wait
        with _naming_lost_ranks():
            self.work = dist.all_reduce(numbers, dist.ReduceOp.MAX, async_op=True)
            if self.is_on_gpu:
                self.work.wait()  # the device's stream waits, not this process
        self.number = Later(numbers)  # on a CPU the same memory, to which the answer will come

    def read(self) -> int:
        with _naming_lost_ranks():
            if not self.is_on_gpu:
                self.work.wait()
            return int(self.number.read())


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """Replace the tensor, on every rank, by its sum over the ranks."""
    if world_size() > 1:
        with _naming_lost_ranks():
            dist.all_reduce(tensor)
    return tensor


class Mean:
    """Replaces a tensor, on every rank, by its mean over the ranks: begun now, there after `wait`.

    Every rank begins the same ones in the same order.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        with _naming_lost_ranks():
            self.work = dist.all_reduce(tensor, async_op=True)

    def wait(self) -> None:
        """On a GPU the device's stream waits, and not this process."""
        with _naming_lost_ranks():
            self.work.wait()
        self.tensor /= world_size()


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Every rank's tensor, in the order of the ranks; shapes may differ in the first dimension."""
    if world_size() == 1:
        return [tensor]
    lengths = [
        torch.zeros((), dtype=torch.int64, device=tensor.device) for _ in range(world_size())
    ]
    with _naming_lost_ranks():
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
    with _naming_lost_ranks():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, on every rank, by rank 0's; shapes must agree."""
    if world_size() > 1:
        with _naming_lost_ranks():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def run_on_main(action: Callable[[], T]) -> T:
    """What `action` returns on rank 0, a small picklable object, on every rank.

    A ValueError or OSError of it is raised on every rank: none waits for one that has given up.
    """
    if world_size() == 1:
        return action()
    result: tuple[Any, Exception | None] = (None, None)
    if is_main():
        try:
            result = action(), None
        except (ValueError, OSError) as error:
            result = None, error
    value, refusal = from_main(result)
    if refusal is not None:
        barrier()  # so that nobody still receives from a rank that leaves
        raise refusal
    return value


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the block before the others, which find what it has fetched or cached."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()
