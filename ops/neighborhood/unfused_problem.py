"""What one call of the unfused pair asks for: a window on each axis, and the rules of its tensors.

Shapes: B batch, N heads, S the axes of space (one to three), D head_dim, K keys of a window, E
additional tokens. Heads come first: `[B, N, *S, D]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from ops.checks import check_tensor, check_whole
from ops.derivatives import carries_tangent, in_transform

MAX_AXES = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """Kernel size, dilation and causality along each axis of space."""

    kernel_size: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]

    @property
    def keys(self) -> int:
        """K, the number of a query's keys."""
        return prod(self.kernel_size)

    def by_axis(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
        """The three tuples, to be zipped."""
        return self.kernel_size, self.dilation, self.is_causal

    def check_fits(self, space: Sequence[int]) -> None:
        """Raises ValueError if the dilated window is larger than an axis."""
        for axis, length in enumerate(space):
            kernel_size, dilation = self.kernel_size[axis], self.dilation[axis]
            if kernel_size * dilation > length:
                raise ValueError(
                    "kernel_size * dilation must not exceed the axis: "
                    f"{kernel_size} * {dilation} = {kernel_size * dilation} > {length} on axis "
                    f"{axis} of {'x'.join(map(str, space))}; lower the dilation or the kernel size"
                )


def read_window(kernel_size: object, dilation: object, is_causal: object, axes: int) -> Window:
    """The window of arguments that are one value for all axes, or one value for each.

    Raises ValueError unless kernel sizes are odd and greater than 1, and dilations at least 1.
    """
    window = Window(
        _each_axis("kernel_size", kernel_size, axes, _as_whole),
        _each_axis("dilation", dilation, axes, _as_whole),
        _each_axis("is_causal", is_causal, axes, _as_bool),
    )
    for size in window.kernel_size:
        if size <= 1 or size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and greater than 1, got {kernel_size}")
    if min(window.dilation) < 1:
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    return window


def _each_axis(
    name: str, value: object, axes: int, read: Callable[[str, object], T]
) -> tuple[T, ...]:
    if not isinstance(value, (tuple, list)):
        return (read(name, value),) * axes
    if len(value) != axes:
        raise ValueError(
            f"{name} must be one value, or one for each axis of space: {value!r} has {len(value)}, "
            f"the tensors have {axes}"
        )
    return tuple(read(name, one) for one in value)


def _as_whole(name: str, value: object) -> int:
    check_whole(name, value)
    return int(value)  # type: ignore[call-overload]


def _as_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False: {value!r}")
    return value


@dataclass(frozen=True)
class UnfusedProblem:
    """One call, as far as a backend needs it to say whether it can run it.

    `head_dim` is that of the features: queries and keys, or values.
    """

    window: Window
    head_dim: int
    dtype: torch.dtype
    device_type: str
    device_index: int | None
    needs_grad: bool
    has_tangent: bool
    is_transformed: bool

    @property
    def largest_kernel_size(self) -> int:
        return max(self.window.kernel_size)


def describe_qk(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    additional_keys: Tensor | None,
    kernel_size: object,
    dilation: object,
    is_causal: object,
) -> UnfusedProblem:
    """Check the first half of attention against every rule and describe it.

    Raises ValueError that names the rule and the values, and NotImplementedError for a causal
    window with rpb.
    """
    _check_features("query", query)
    check_tensor("key", key)
    if key.shape != query.shape:
        raise ValueError(
            f"query and key must have one shape: query {list(query.shape)}, key {list(key.shape)}"
        )
    _check_alike("query", query, "key", key)
    window = read_window(kernel_size, dilation, is_causal, query.ndim - 3)
    window.check_fits(query.shape[2:-1])
    if rpb is not None:
        _check_rpb(query, rpb, window)
    if additional_keys is not None:
        _check_additional("additional_keys", additional_keys, "query", query)
    return _problem(window, query, (query, key, rpb, additional_keys))


def describe_av(
    attn: Tensor,
    value: Tensor,
    additional_values: Tensor | None,
    kernel_size: object,
    dilation: object,
    is_causal: object,
) -> UnfusedProblem:
    """Check the second half of attention against every rule and describe it.

    Raises ValueError that names the rule and the values.
    """
    _check_features("value", value)
    check_tensor("attn", attn)
    window = read_window(kernel_size, dilation, is_causal, value.ndim - 3)
    window.check_fits(value.shape[2:-1])
    extra = 0
    if additional_values is not None:
        _check_additional("additional_values", additional_values, "value", value)
        extra = additional_values.shape[2]
    expected = [*value.shape[:-1], window.keys + extra]
    if list(attn.shape) != expected:
        tokens = f" and {extra} additional values" if extra else ""
        raise ValueError(
            f"attn must be [B, heads, *space, weights] = {expected} for value {list(value.shape)}, "
            f"{window.keys} keys in a window{tokens}, got {list(attn.shape)}"
        )
    _check_alike("value", value, "attn", attn)
    return _problem(window, value, (attn, value, additional_values))


def _problem(window: Window, features: Tensor, optional: Sequence[Tensor | None]) -> UnfusedProblem:
    tensors = [tensor for tensor in optional if tensor is not None]
    return UnfusedProblem(
        window=window,
        head_dim=features.shape[-1],
        dtype=features.dtype,
        device_type=features.device.type,
        device_index=features.device.index,
        needs_grad=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors),
        has_tangent=carries_tangent(tensors),
        is_transformed=in_transform("Grad"),
    )


def _check_features(name: str, tensor: Tensor) -> None:
    check_tensor(name, tensor)
    if not 4 <= tensor.ndim <= 3 + MAX_AXES:
        raise ValueError(
            f"{name} must be [B, heads, *space, head_dim] with one to {MAX_AXES} axes of space, "
            f"got shape {list(tensor.shape)}"
        )
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")


def _check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if other.dtype != tensor.dtype or other.device != tensor.device:
        raise ValueError(
            f"{name} and {other_name} must share dtype and device: {name} {tensor.dtype} on "
            f"{tensor.device}, {other_name} {other.dtype} on {other.device}"
        )


def _check_rpb(query: Tensor, rpb: Tensor, window: Window) -> None:
    check_tensor("rpb", rpb)
    if any(window.is_causal):
        raise NotImplementedError(
            f"a causal window has no relative positional bias: rpb must be None with "
            f"is_causal={window.is_causal}, got a table {list(rpb.shape)}"
        )
    expected = [query.shape[1], *(2 * size - 1 for size in window.kernel_size)]
    if list(rpb.shape) != expected:
        raise ValueError(
            f"rpb must be [heads, 2*kernel_size-1 for each axis] = {expected}, "
            f"got {list(rpb.shape)}"
        )
    if rpb.device != query.device:
        raise ValueError(f"rpb is on {rpb.device}, query on {query.device}; move one of them")
    if not rpb.is_floating_point():
        raise ValueError(f"rpb must be floating point, got {rpb.dtype}")


def _check_additional(name: str, tokens: Tensor, other_name: str, other: Tensor) -> None:
    check_tensor(name, tokens)
    batch, heads, head_dim = other.shape[0], other.shape[1], other.shape[-1]
    if tokens.ndim != 4 or [*tokens.shape[:2], tokens.shape[-1]] != [batch, heads, head_dim]:
        raise ValueError(
            f"{name} must be [B, heads, tokens, head_dim] = [{batch}, {heads}, tokens, {head_dim}] "
            f"as of {other_name}, got {list(tokens.shape)}"
        )
    _check_alike(other_name, other, name, tokens)
