"""Functions as operations of torch.library, each of which torch.compile sees as one node."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "stylenat"
DISPATCH_KEYS = {"cpu": "CPU", None: "CompositeExplicitAutograd"}


def operation(
    name: str, *, device: str | None = None
) -> Callable[[Callable[..., Any]], torch._ops.OpOverload]:
    """A decorator: `stylenat::name`, computed by the function, on this type of device or on any.

    `torch.library` takes what it returns, for its shapes (`register_fake`) and its gradient
    (`register_autograd`). `torch.library.custom_op` does the same, but its first call imports
    PyTorch's compiler: 1.4 s before the first image of a program that compiles nothing.
    """

    def register(function: Callable[..., Any]) -> torch._ops.OpOverload:
        full_name = f"{NAMESPACE}::{name}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(full_name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(full_name, DISPATCH_KEYS[device], _untraced(function))
        return getattr(getattr(torch.ops, NAMESPACE), name).default

    return register


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which torch.compile leaves alone; it is there only if something imported it."""

    @functools.wraps(function)
    def kernel(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        return _disabled(function)(*args, **kwargs)

    return kernel


@functools.cache
def _disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)
