"""How exactly networks compute: the dtypes by their names, autocast, and TF32 on GPUs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ops.dense import bfloat16_instructions
from stylenat import choices

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in choices.DTYPES}
# Those that networks are trained in; measurements compare them.
TRAINED = tuple(DTYPES[name] for name in choices.PRECISIONS)


def name_of(dtype: torch.dtype) -> str:
    """The dtype as files and options write it: bfloat16."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Within the block networks compute in `dtype` by autocast; float32 switches it off."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def for_images(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which images are made if `dtype` is asked for: float32 in place of bfloat16 on a
    CPU without instructions for it, since it would take two to three times as long."""
    if device.type == "cpu" and dtype == torch.bfloat16 and bfloat16_instructions() is None:
        return torch.float32
    return dtype


def set_tf32(*, allowed: bool) -> None:
    """Whether float32 products and convolutions on GPUs may round their factors to TF32.

    It holds for the whole process, so it is for training to call, at its start.
    """
    _put(["tf32" if allowed else "ieee"] * len(_switches()))


@contextmanager
def kept_tf32() -> Iterator[None]:
    """What the block sets of TF32 ends with it."""
    before = [switch.fp32_precision for switch in _switches()]
    try:
        yield
    finally:
        _put(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block float32 is float32 throughout, whatever the program has set.

    torch.export works in it too. It reads PyTorch's older switches, which refuse to be read where
    newer ones differ from them.
    """
    with kept_tf32():
        set_tf32(allowed=False)
        yield


def _switches() -> tuple[Any, ...]:
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn


def _put(precisions: Sequence[str]) -> None:
    """Set the switches, the older ones first, so that these can still be read."""
    product, convolution, _ = precisions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are old
        torch.backends.cuda.matmul.allow_tf32 = product == "tf32"
        torch.backends.cudnn.allow_tf32 = convolution == "tf32"
    for switch, precision in zip(_switches(), precisions, strict=True):
        switch.fp32_precision = precision
