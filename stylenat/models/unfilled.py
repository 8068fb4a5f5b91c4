"""Networks without values: shapes and names alone, to be filled from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLED: dict[Any, Callable[..., Any]] = {
    torch.randn: lambda *size, **_: torch.empty(*size),
    torch.zeros: lambda *size, dtype=None, **_: torch.empty(*size, dtype=dtype),
    torch.ones: lambda *size, dtype=None, **_: torch.empty(*size, dtype=dtype),
    torch.full: lambda size, value, dtype=None, **_: torch.empty(
        size, dtype=torch.tensor(value, device="cpu").dtype if dtype is None else dtype
    ),
}
FILLING = {
    *("normal_", "trunc_normal_", "uniform_", "zero_", "zeros_", "ones_", "fill_", "constant_"),
    *("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "mul_", "div_", "copy_"),
}


@contextmanager
def without_values() -> Iterator[None]:
    """Modules that are built inside have tensors on the meta device: shapes, and nothing to store.

    PyTorch's own way, `torch.device("meta")`, runs Python code for each value that a constructor
    draws, and imports its compiler for that: 1.4 s before the first image. Here nothing is drawn.
    """
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Initial values are not computed: filled tensors are empty, and to fill one does nothing."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in FILLED and "device" not in kwargs:
            return FILLED[function](*args, **kwargs)
        filled = args[0] if args else kwargs.get("tensor")
        if isinstance(filled, Tensor) and filled.is_meta:
            name = getattr(function, "__name__", "")
            if name in FILLING or (name in ("div", "mul") and not isinstance(args[1], Tensor)):
                return filled
        return function(*args, **kwargs)
