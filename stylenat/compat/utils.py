"""NATTEN's helpers: checks of arguments, and what its own tests ask before they run.

Shapes: B batch, N heads, D head_dim, T additional tokens.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Checks of arguments. NATTEN raises ValueError for a wrong type or length.


def create_dim_from_int(na_dim: int, value: int) -> tuple[int, ...]:
    return (value,) * na_dim


def create_causal_arg_from_bool(na_dim: int, value: bool) -> tuple[bool, ...]:
    return (value,) * na_dim


def _per_axis(name: str, na_dim: int, value: Any, kind: type) -> tuple[Any, ...]:
    """One value or one per axis, as a tuple."""
    if isinstance(value, kind):
        return (value,) * na_dim
    is_row = isinstance(value, (tuple, list)) and len(value) == na_dim
    if is_row and all(isinstance(number, kind) for number in value):
        return tuple(value)
    raise ValueError(
        f"{name} must be one {kind.__name__} or a tuple of {na_dim}, one for each axis: {value!r}"
    )


def check_input_size_arg(na_dim: int, input_size: Any) -> tuple[int, ...]:
    return _per_axis("input_size", na_dim, input_size, int)


def check_kernel_size_arg(na_dim: int, kernel_size: Any) -> tuple[int, ...]:
    return _per_axis("kernel_size", na_dim, kernel_size, int)


def check_dilation_arg(na_dim: int, dilation: Any) -> tuple[int, ...]:
    return _per_axis("dilation", na_dim, 1 if dilation is None else dilation, int)


def check_causal_arg(na_dim: int, is_causal: Any) -> tuple[bool, ...]:
    return _per_axis("is_causal", na_dim, False if is_causal is None else is_causal, bool)


def check_all_args(
    na_dim: int, kernel_size: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    return (
        check_kernel_size_arg(na_dim, kernel_size),
        check_dilation_arg(na_dim, dilation),
        check_causal_arg(na_dim, is_causal),
    )


def check_tiling_config(na_dim: int, tiling_config: Any) -> Any:
    """The tile shapes of queries and keys. They choose no kernel here."""
    if not _are_shapes(na_dim, tiling_config, 2):
        raise ValueError(f"a tiling is a pair of tuples of {na_dim} numbers: {tiling_config!r}")
    return tiling_config


def check_backward_tiling_config(na_dim: int, tiling_config: Any) -> Any:
    """Three tile shapes and a switch. They choose no kernel here."""
    is_tuple = isinstance(tiling_config, tuple) and len(tiling_config) == 4
    if not is_tuple or not _are_shapes(na_dim, tiling_config[:3], 3):
        raise ValueError(f"a backward tiling is three tuples and a bool: {tiling_config!r}")
    if not isinstance(tiling_config[3], bool):
        raise ValueError(f"the last part of a backward tiling is a bool: {tiling_config[3]!r}")
    return tiling_config


def _are_shapes(na_dim: int, value: Any, count: int) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == count
        and all(isinstance(shape, (tuple, list)) and len(shape) == na_dim for shape in value)
    )


def get_num_na_weights(kernel_size: Any) -> int:
    if not isinstance(kernel_size, tuple):
        raise ValueError(f"kernel_size must be a tuple, not {kernel_size!r}")
    return math.prod(kernel_size)


def make_attn_tensor_from_input(input_tensor: Tensor, attention_dim: int) -> Tensor:
    """An uninitialised tensor for that many weights of each query."""
    return torch.empty(
        (*input_tensor.shape[:-1], attention_dim),
        dtype=input_tensor.dtype,
        device=input_tensor.device,
        requires_grad=input_tensor.requires_grad,
    )


def check_additional_keys(query: Tensor, additional_keys: Tensor | None) -> int:
    """T, the number of additional keys `[B, N, T, D]`; raises ValueError where they don't fit."""
    if additional_keys is None:
        return 0
    batch, heads, head_dim = query.shape[0], query.shape[1], query.shape[-1]
    _check_additional("keys", additional_keys, batch, heads, head_dim)
    return additional_keys.shape[2]


def check_additional_values(
    attn: Tensor, additional_values: Tensor | None, value: Tensor, expected_attn_weights: int
) -> int:
    """T, the number of additional values; raises ValueError unless there is a weight for each."""
    tokens = 0
    if additional_values is not None:
        batch, heads, head_dim = attn.shape[0], attn.shape[1], value.shape[-1]
        _check_additional("values", additional_values, batch, heads, head_dim)
        tokens = additional_values.shape[2]
    if attn.shape[-1] != expected_attn_weights + tokens:
        raise ValueError(
            f"attn must hold {expected_attn_weights} weights of the window and {tokens} of "
            f"additional tokens for each query, not {attn.shape[-1]}"
        )
    return tokens


def _check_additional(name: str, tokens: Tensor, batch: int, heads: int, head_dim: int) -> None:
    shape = tuple(tokens.shape)
    if tokens.ndim != 4 or (*shape[:2], shape[3]) != (batch, heads, head_dim):
        raise ValueError(
            f"additional {name} must be [batch, heads, tokens, head_dim] = "
            f"[{batch}, {heads}, any, {head_dim}], not {list(shape)}"
        )


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """NATTEN's operations run in the dtype that they are given."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def compute_delta(out: Tensor, d_out: Tensor, delta: Tensor, *_: Any) -> None:
    """`delta = (out * d_out).sum(-1)`, in place: a step of the gradient of fused attention."""
    delta.copy_((out.to(delta.dtype) * d_out.to(delta.dtype)).sum(-1).view_as(delta))


# The machine, and logs.


def get_device_cc(device_index: Any = None) -> int:
    """The compute capability of a GPU: 80 for 8.0."""
    major, minor = torch.cuda.get_device_capability(device_index)
    return major * 10 + minor


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


# What NATTEN's tests ask before they run.


def _skip(reason: Callable[[], str | None]) -> Callable[[], Callable[..., Any]]:
    """A maker of decorators of unittest's methods, which are skipped where there is a reason."""

    def make() -> Callable[..., Any]:
        def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(test)
            def run(self: Any, *args: Any, **kwargs: Any) -> Any:
                if (sentence := reason()) is not None:
                    self.skipTest(sentence)
                return test(self, *args, **kwargs)

            return run

        return decorate

    return make


def _without_cuda() -> str | None:
    return None if torch.cuda.is_available() else "needs CUDA, and PyTorch sees no GPU"


def _without_new_gpu() -> str | None:
    if (sentence := _without_cuda()) is not None:
        return sentence
    return None if get_device_cc() >= 80 else "needs a GPU of compute capability 8.0"


def _without_fvcore() -> str | None:
    return None if importlib.util.find_spec("fvcore") else "needs fvcore, which is not installed"


def _never() -> str | None:
    return None


skip_if_cuda_is_not_supported = _skip(_without_cuda)
skip_if_gemm_is_not_supported = _skip(_without_cuda)
skip_if_fna_is_not_supported = _skip(_without_cuda)
skip_if_gemm_does_not_support_double_precision = _skip(_without_new_gpu)
skip_if_nested_is_not_supported = _skip(_never)
skip_if_experimental_ops_are_not_supported = _skip(_never)
skip_if_fvcore_is_not_available = _skip(_without_fvcore)
skip_if_triton_is_not_supported = _skip(_without_cuda)
skip_if_torch_compile_is_not_supported = _skip(_without_cuda)
skip_if_torch_flop_count_is_not_supported = _skip(_never)


def fna_supports_additional_kv(head_dim: int, device_index: Any = None) -> bool:
    """True: additional tokens need no other library here, and no particular head_dim."""
    return True
