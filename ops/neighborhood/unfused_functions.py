"""The autograd functions of unfused attention, under the names that NATTEN 0.15 to 0.17 gave them.

FLOP counters find a call by the name of its function (`prim::PythonOp.NAME` in a traced graph), and
some users' code calls `.apply` itself, hence names and order of arguments.

Shapes: B batch, N heads, S the axes of space, D head_dim, K keys of a window, E additional tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor

from ops.neighborhood.unfused_backends import choose_unfused
from ops.neighborhood.unfused_maps import Maps
from ops.neighborhood.unfused_problem import describe_av, describe_qk

_UNUSED = (None, None, None, None)  # the gradients of kernel, dilation, is_causal and maps


def weights_of_keys(
    maps: Maps, query: Tensor, key: Tensor, rpb: Tensor | None, additional_keys: Tensor | None
) -> Tensor:
    """`[B, N, *S, K + E]`: the window's products, then those with additional keys."""
    attn = maps.query_key(query, key, rpb, -inf)
    if additional_keys is None:
        return attn
    return torch.cat([attn, _times(query, additional_keys.mT)], dim=-1)


def sum_of_values(
    maps: Maps, attn: Tensor, value: Tensor, additional_values: Tensor | None
) -> Tensor:
    """`[B, N, *S, D]`: the weighted sum of the window's values and of the additional ones."""
    if additional_values is None:
        return maps.gather(attn, value)
    near, far = _split(maps, attn)
    return maps.gather(near, value) + _times(far, additional_values)


def _split(maps: Maps, attn: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of the window, and of the additional tokens."""
    keys = maps.window.keys
    return attn[..., :keys], attn[..., keys:]


def _times(x: Tensor, tokens: Tensor) -> Tensor:
    """`[B, N, *S, C]` times `[B, N, C, D]`."""
    return (x.flatten(2, -2) @ tokens).unflatten(2, x.shape[2:-1])


def _summed_times(x: Tensor, y: Tensor) -> Tensor:
    """`[B, N, *S, C]` and `[B, N, *S, D]` to `[B, N, C, D]`."""
    return x.flatten(2, -2).mT @ y.flatten(2, -2)


def _check_axes(name: str, features: Tensor, axes: int) -> None:
    if features.ndim != axes + 3:
        raise ValueError(
            f"the {axes}-D function needs {name} [B, heads, *space, head_dim] of {axes + 3} "
            f"dimensions, got shape {list(features.shape)}"
        )


class _QK(torch.autograd.Function):
    @staticmethod
    def backward(ctx: Any, dattn: Tensor) -> tuple[Tensor | None, ...]:
        query, key, additional_keys = ctx.saved_tensors
        maps: Maps = ctx.maps
        needs_query, needs_key, needs_bias, needs_additional, *_ = ctx.needs_input_grad
        near, far = _split(maps, dattn)
        dquery = maps.gather(near, key) if needs_query else None
        if dquery is not None and additional_keys is not None:
            dquery = dquery + _times(far, additional_keys)
        dkey = maps.scatter(near, query) if needs_key else None
        dbias = maps.bias_gradient(near).to(ctx.bias_dtype) if needs_bias else None
        dadditional = _summed_times(far, query) if needs_additional else None
        return dquery, dkey, dbias, dadditional, *_UNUSED


def _apply_qk(
    ctx: Any,
    axes: int,
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    additional_key: Tensor | None,
    kernel: object,
    dilation: object,
    is_causal: object = False,
    maps: Maps | None = None,
) -> Tensor:
    """Forward of the qk functions; without `maps`, the call is checked and a backend chosen."""
    if maps is None:
        problem = describe_qk(query, key, bias, additional_key, kernel, dilation, is_causal)
        maps = Maps(problem.window, choose_unfused(problem, "auto").name)
    _check_axes("query", query, axes)
    ctx.maps = maps
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(query, key, additional_key)
    return weights_of_keys(maps, query, key, bias, additional_key)


class _AV(torch.autograd.Function):
    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        attn, value, additional_values = ctx.saved_tensors
        maps: Maps = ctx.maps
        needs_attn, needs_value, needs_additional, *_ = ctx.needs_input_grad
        near, far = _split(maps, attn)
        dattn = maps.query_key(dout, value, None, 0.0) if needs_attn else None
        if dattn is not None and additional_values is not None:
            dattn = torch.cat([dattn, _times(dout, additional_values.mT)], dim=-1)
        dvalue = maps.scatter(near, dout) if needs_value else None
        dadditional = _summed_times(far, dout) if needs_additional else None
        return dattn, dvalue, dadditional, *_UNUSED


def _apply_av(
    ctx: Any,
    axes: int,
    attn: Tensor,
    value: Tensor,
    additional_value: Tensor | None,
    kernel: object,
    dilation: object,
    is_causal: object = False,
    maps: Maps | None = None,
) -> Tensor:
    """Forward of the av functions; without `maps`, the call is checked and a backend chosen."""
    if maps is None:
        problem = describe_av(attn, value, additional_value, kernel, dilation, is_causal)
        maps = Maps(problem.window, choose_unfused(problem, "auto").name)
    _check_axes("value", value, axes)
    ctx.maps = maps
    ctx.save_for_backward(attn, value, additional_value)
    return sum_of_values(maps, attn, value, additional_value)


def _function(base: type, call: str, axes: int, apply: Callable[..., Tensor]) -> Any:
    """The class of this many axes, with NATTEN's name, by which FLOP counters know it."""

    def forward(ctx: Any, *inputs: Any) -> Tensor:
        return apply(ctx, axes, *inputs)

    name = f"NeighborhoodAttention{axes}D{call}AutogradFunction"
    first = "query, key, bias, additional_key" if call == "QK" else "attn, value, additional_value"
    doc = f"`.apply({first}, kernel, dilation, is_causal=False)` in {axes}-D."
    return type(
        name, (base,), {"forward": staticmethod(forward), "__doc__": doc, "__module__": __name__}
    )


QK_FUNCTIONS = {axes: _function(_QK, "QK", axes, _apply_qk) for axes in (1, 2, 3)}
AV_FUNCTIONS = {axes: _function(_AV, "AV", axes, _apply_av) for axes in (1, 2, 3)}

NeighborhoodAttention1DQKAutogradFunction = QK_FUNCTIONS[1]
NeighborhoodAttention2DQKAutogradFunction = QK_FUNCTIONS[2]
NeighborhoodAttention3DQKAutogradFunction = QK_FUNCTIONS[3]
NeighborhoodAttention1DAVAutogradFunction = AV_FUNCTIONS[1]
NeighborhoodAttention2DAVAutogradFunction = AV_FUNCTIONS[2]
NeighborhoodAttention3DAVAutogradFunction = AV_FUNCTIONS[3]
