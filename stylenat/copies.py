"""Copies between the host and a GPU for which the process does not wait.

A plain copy makes the process wait until the GPU has done all that it was given before. The GPU
then has nothing to do until the process has given it more. On a CPU nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on `device`, in `dtype` if that is given.

    From the host to a GPU it goes by pinned memory: a GPU can only fetch from there by itself.
    """
    tensor = tensor.to(dtype or tensor.dtype)  # first, since a copy that converts waits
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Later:
    """The values of a tensor, which are copied to the host now and read later.

    The tensor must not change in between. A tensor on the CPU is not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Tensor:
        """The values, on the CPU. Waits for what the GPU had to do before the copy, and no more."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
