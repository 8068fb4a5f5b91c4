"""NATTEN's autograd classes, which programs call by `apply`, in every order of arguments they had.

What PyTorch records are the operation's own classes, which have the names of NATTEN 0.15.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from stylenat.compat import calls
from stylenat.compat.functional import natten1dav, natten1dqkrpb, natten2dav, natten2dqkrpb


def _class(name: str, apply: Callable[..., Tensor]) -> type:
    return type(name, (), {"apply": staticmethod(apply), "__module__": "natten.functional"})


def _make_apply_qk(dims: int) -> Callable[..., Tensor]:
    def apply(
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        additional_key: Tensor | None,
        kernel_size: Any,
        dilation: Any,
        is_causal: Any = False,
    ) -> Tensor:
        return calls.qk(dims, query, key, kernel_size, dilation, is_causal, bias, additional_key)

    return apply


def _make_apply_av(dims: int) -> Callable[..., Tensor]:
    def apply(
        attn: Tensor,
        value: Tensor,
        additional_value: Tensor | None,
        kernel_size: Any,
        dilation: Any,
        is_causal: Any = False,
    ) -> Tensor:
        return calls.av(dims, attn, value, kernel_size, dilation, is_causal, additional_value)

    return apply


def _make_apply_fused(dims: int) -> Callable[..., Tensor]:
    def apply(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        kernel_size: Any,
        dilation: Any,
        is_causal: Any,
        scale: float,
        *tilings: Any,
    ) -> Tensor:
        more = (kernel_size, dilation, is_causal, bias, scale)
        return calls.fused(dims, query, key, value, *more)

    return apply


for _dims in (1, 2, 3):
    _name = f"NeighborhoodAttention{_dims}D"
    globals()[f"{_name}QKAutogradFunction"] = _class(
        f"{_name}QKAutogradFunction", _make_apply_qk(_dims)
    )
    globals()[f"{_name}AVAutogradFunction"] = _class(
        f"{_name}AVAutogradFunction", _make_apply_av(_dims)
    )
    globals()[f"Fused{_name}"] = _class(f"Fused{_name}", _make_apply_fused(_dims))
NATTEN1DQKRPBFunction = _class("NATTEN1DQKRPBFunction", natten1dqkrpb)
NATTEN2DQKRPBFunction = _class("NATTEN2DQKRPBFunction", natten2dqkrpb)
NATTEN1DAVFunction = _class("NATTEN1DAVFunction", natten1dav)
NATTEN2DAVFunction = _class("NATTEN2DAVFunction", natten2dav)
