"""The three calls that every dialect of NATTEN comes down to: qk, av, and both in one.

Shapes: B batch, N heads, S the axes (L, or H W, or D H W), D head_dim, K weights of the window,
T additional tokens. Unfused tensors are heads first, `[B, N, *S, D]`; fused ones heads last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ops.neighborhood import (
    HeadGroup,
    neighborhood_attention_2d,
    neighborhood_av,
    neighborhood_qk,
)
from stylenat.compat import deferred
from stylenat.compat.levels import current
from stylenat.compat.utils import (
    check_additional_keys,
    check_additional_values,
    check_all_args,
    without_autocast,
)

NEWER = {
    "stride", "backend", "return_lse", "attention_kwargs", "torch_compile", "q_tile_shape",
    "kv_tile_shape", "backward_q_tile_shape", "backward_kv_tile_shape", "backward_kv_splits",
    "backward_use_pt_reduction", "run_persistent_kernel", "kernel_schedule", "embed_dim",
}  # fmt: skip


def refuse(call: str, more: dict[str, Any]) -> None:
    """Raises TypeError for arguments that NATTEN before 0.20 does not have."""
    for name in more:
        if name in NEWER:
            raise TypeError(
                f"{call} has no argument {name!r}: it belongs to NATTEN 0.20 and later, and "
                "stylenat.compat stands for earlier ones; run this program without it"
            )
        raise TypeError(f"{call} got an unexpected keyword argument {name!r}")


# Checks. NATTEN raises RuntimeError for shapes and sizes, ValueError for types.


def _check_tensors(dims: int, first: tuple[str, Tensor], other: tuple[str, Tensor]) -> None:
    (name, x), (other_name, y) = first, other
    if x.ndim != dims + 3:
        raise RuntimeError(
            f"{name} must have {dims + 3} axes in {dims}-D neighborhood attention, not {x.ndim}: "
            f"shape {tuple(x.shape)}"
        )
    if x.shape[:-1] != y.shape[:-1]:
        raise RuntimeError(
            f"{name} and {other_name} must have one shape up to their last axis: "
            f"{tuple(x.shape)}, {tuple(y.shape)}"
        )
    if x.device != y.device:
        raise RuntimeError(f"{name} is on {x.device}, {other_name} on {y.device}")


def _check_window(
    axes: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], *, takes_even: bool = False
) -> None:
    for length, size, step in zip(axes, kernel, dilation, strict=True):
        if size <= 1 or (size % 2 == 0 and not takes_even):
            rule = "greater than 1" if takes_even else "odd and greater than 1"
            raise RuntimeError(f"kernel_size must be {rule}, not {size}")
        if step < 1:
            raise RuntimeError(f"dilation must be at least 1, not {step}")
        if size * step > length:
            raise RuntimeError(
                f"kernel_size * dilation must not exceed the input's axes: {size} * {step} > "
                f"{length} in {tuple(axes)}; NATTEN up to 0.15 padded such maps in its modules "
                "(python -m stylenat.compat --pad)"
            )


def _check_bias(rpb: Tensor | None, heads: int, kernel: Sequence[int], causal: bool) -> None:
    if rpb is None:
        return
    if causal:
        raise NotImplementedError(
            "a relative positional bias has no meaning with causal axes: leave out rpb or is_causal"
        )
    expected = (heads, *(2 * size - 1 for size in kernel))
    if tuple(rpb.shape) != expected:
        raise RuntimeError(f"rpb must be {list(expected)}, not {list(rpb.shape)}")


def _cast(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    """NATTEN 0.14 casts what it is given under autocast; later ones do not."""
    for x in tensors:
        if x is not None and not current().level.has_3d and x.is_floating_point():
            kind = x.device.type
            if torch.is_autocast_enabled(kind):
                x = x.to(torch.get_autocast_dtype(kind))
        yield x


# Unfused.


def qk(
    dims: int,
    query: Tensor,
    key: Tensor,
    kernel_size: Any,
    dilation: Any,
    is_causal: Any = False,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """Logits `[B, N, *S, K + T]`; they wait where they can (deferred.py)."""
    if query.is_nested or key.is_nested:
        more = (kernel_size, dilation, is_causal, rpb)
        rows = _rows(query, key, additional_keys)
        return _nested(qk(dims, q, k, *more, extra) for q, k, extra in rows)
    kernel, steps, causal = check_all_args(dims, kernel_size, dilation, is_causal)
    query, key, rpb, additional_keys = _cast(query, key, rpb, additional_keys)  # type: ignore[assignment]
    _check_tensors(dims, ("query", query), ("key", key))
    if query.shape != key.shape or query.dtype != key.dtype:
        raise RuntimeError(
            f"query and key must have one shape and dtype: {tuple(query.shape)} {query.dtype}, "
            f"{tuple(key.shape)} {key.dtype}"
        )
    _check_window(query.shape[2:-1], kernel, steps)
    _check_bias(rpb, query.shape[1], kernel, any(causal))
    check_additional_keys(query, additional_keys)
    rpb = None if rpb is None else rpb.to(key.dtype)
    if not any(causal) and additional_keys is None:
        weights = deferred.defer(query, key, rpb, kernel, steps)
        if weights is not None:
            return weights
    with without_autocast(query):
        return neighborhood_qk(
            query,
            key,
            kernel_size=kernel,
            dilation=steps,
            is_causal=causal,
            rpb=rpb,
            additional_keys=additional_keys,
        )


def av(
    dims: int,
    attn: Tensor,
    value: Tensor,
    kernel_size: Any,
    dilation: Any,
    is_causal: Any = False,
    additional_values: Tensor | None = None,
) -> Tensor:
    """`[B, N, *S, D]`: values weighted by `attn`, `[B, N, *S, K + T]`."""
    if attn.is_nested or value.is_nested:
        more = (kernel_size, dilation, is_causal)
        rows = _rows(attn, value, additional_values)
        return _nested(av(dims, a, v, *more, extra) for a, v, extra in rows)
    kernel, steps, causal = check_all_args(dims, kernel_size, dilation, is_causal)
    value, additional_values = _cast(value, additional_values)  # type: ignore[assignment]
    _check_tensors(dims, ("attn", attn), ("value", value))
    _check_window(value.shape[2:-1], kernel, steps)
    check_additional_values(attn, additional_values, value, math.prod(kernel))
    if not any(causal) and additional_values is None:
        out = deferred.attend(attn, value, kernel, steps)
        if out is not None:
            return out
    attn = attn.to(value.dtype)
    with without_autocast(value):
        return neighborhood_av(
            attn,
            value,
            kernel_size=kernel,
            dilation=steps,
            is_causal=causal,
            additional_values=additional_values,
        )


def _rows(x: Tensor, y: Tensor, extra: Tensor | None) -> Iterator[tuple[Any, Any, Any]]:
    """The elements of nested tensors, one by one."""
    if not (x.is_nested and y.is_nested):
        raise ValueError("nested tensors need one another: both must be nested, or none")
    xs, ys = x.unbind(), y.unbind()
    extras = [None] * len(xs) if extra is None else extra.unbind()
    return zip(xs, ys, extras, strict=True)


def _nested(outputs: Iterator[Tensor]) -> Tensor:
    plain = [deferred.looked_at(out) for out in outputs]
    return torch.nested.as_nested_tensor(plain)


# Fused.


def fused(
    dims: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Any,
    dilation: Any,
    is_causal: Any = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
) -> Tensor:
    """`[B, *S, N, D]` of heads-last tensors: softmax(scale * q.k + rpb) v."""
    kernel, steps, causal = check_all_args(dims, kernel_size, dilation, is_causal)
    _check_tensors(dims, ("query", query), ("key", key))
    for name, x in (("key", key), ("value", value)):
        if x.shape != query.shape or x.dtype != query.dtype or x.device != query.device:
            raise ValueError(
                f"query and {name} must have one shape, dtype and device: {tuple(query.shape)} "
                f"{query.dtype} on {query.device}, {tuple(x.shape)} {x.dtype} on {x.device}"
            )
    if (additional_keys is None) != (additional_values is None):
        raise ValueError("additional_keys and additional_values are given together, or not at all")
    _check_window(query.shape[1:-2], kernel, steps, takes_even=rpb is None)
    _check_bias(rpb, query.shape[-2], kernel, any(causal))
    scale = scale or query.shape[-1] ** -0.5
    rpb = None if rpb is None else rpb.to(key.dtype)
    is_square = dims == 2 and len({*kernel}) == len({*steps}) == 1 and not any(causal)
    is_odd = all(size % 2 for size in kernel)
    if is_square and is_odd and additional_keys is None and not _is_traced():
        group = HeadGroup(query.shape[-2], kernel[0], steps[0])
        tables = None if rpb is None else [rpb]
        with without_autocast(query):
            return neighborhood_attention_2d(query, key, value, [group], tables, scale=scale)
    q, k, v = (x.movedim(-2, 1) for x in (query, key, value))
    if is_odd:
        extra = [
            x if x is None else x.transpose(1, 2) for x in (additional_keys, additional_values)
        ]
        logits = qk(dims, q * scale, k, kernel, steps, causal, rpb, extra[0])
        out = av(dims, logits.softmax(-1), v, kernel, steps, causal, extra[1])
    elif additional_keys is not None:
        raise NotImplementedError(f"additional tokens need odd kernel sizes, not {kernel}")
    else:
        out = _even(q * scale, k, v, kernel, steps, causal)
    return out.movedim(1, -2)


def _is_traced() -> bool:
    """Whether torch.jit traces: counters of operations then look for the unfused ones."""
    return torch._C._get_tracing_state() is not None


def _even(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: Sequence[int],
    dilation: Sequence[int],
    causal: Sequence[bool],
) -> Tensor:
    """Heads-first attention over windows with an even side: K copies of the keys, and slow."""
    axes = q.shape[2:-1]
    keys = torch.zeros((1, 1), dtype=torch.int64, device=q.device)  # flat index, [tokens, K]
    there = torch.ones((1, 1), dtype=torch.bool, device=q.device)
    for length, size, step, is_causal in zip(axes, kernel, dilation, causal, strict=True):
        along, is_key = _window(length, size, step, is_causal, q.device)
        keys = (keys[:, None, :, None] * length + along[:, None]).flatten(2).flatten(0, 1)
        there = (there[:, None, :, None] & is_key[:, None]).flatten(2).flatten(0, 1)
    q, k, v = (x.flatten(2, -2) for x in (q, k, v))
    logits = (q.unsqueeze(-2) * k[:, :, keys]).sum(-1).masked_fill(~there, -math.inf)
    out = (logits.softmax(-1).unsqueeze(-1) * v[:, :, keys]).sum(-2)
    return out.unflatten(2, axes)


def _window(
    length: int, size: int, step: int, is_causal: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Along one axis, `[length, size]`: the keys of each pixel, and whether there is such a key."""
    pixel = torch.arange(length, device=device)
    position, residue = pixel // step, pixel % step
    last = (length - 1 - residue) // step  # position of its dilation group's last pixel
    if is_causal:
        start = (position - size + 1).clamp(min=0)
    else:
        start = torch.minimum((position - size // 2).clamp(min=0), last + 1 - size)
    keys = start[:, None] + torch.arange(size, device=device)
    is_key = keys <= (position if is_causal else last)[:, None]
    return keys.minimum(last[:, None]) * step + residue[:, None], is_key
