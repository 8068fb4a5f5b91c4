"""NATTEN's modules, `NeighborhoodAttention1D`, `2D` and `3D`, as each level had them.

Shapes: B batch, S the axes (L, or H W, or D H W), C channels, N heads.
Input and output are `[B, *S, C]`.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.compat import calls
from stylenat.compat.context import is_fused_na_enabled
from stylenat.compat.levels import Level, Settings
from stylenat.compat.utils import check_all_args

_logger = logging.getLogger(__name__)
_REQUIRED = inspect.Parameter.empty
_LAST = {"qkv_bias": True, "qk_scale": None, "attn_drop": 0.0, "proj_drop": 0.0}
_FIRST = {"dim": _REQUIRED, "num_heads": _REQUIRED, "kernel_size": _REQUIRED}


def _arguments(level: Level, dims: int) -> dict[str, Any]:
    """The constructor's arguments in their order, with their defaults."""
    if level.kernel_first:
        first = {"dim": _REQUIRED, "kernel_size": _REQUIRED, "num_heads": _REQUIRED}
        return {**first, **_LAST, "dilation": None}
    if level.has_context:
        new = {"dilation": 1, "is_causal": False, "rel_pos_bias": False}
        return {**_FIRST, **new, **_LAST, "use_experimental_ops": False}
    depth = {"kernel_size_d": None, "dilation": 1, "dilation_d": None}
    return {**_FIRST, **(depth if dims == 3 else {"dilation": 1}), "bias": True, **_LAST}


def _bind(level: Level, dims: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments by name. Whether there is a bias may go by either name."""
    defaults = _arguments(level, dims)
    call = f"NeighborhoodAttention{dims}D"
    given = dict(zip(defaults, args, strict=False)) | kwargs
    if len(args) > len(defaults) or set(list(defaults)[: len(args)]) & set(kwargs):
        raise TypeError(f"{call} takes each of {', '.join(defaults)} once")
    if level.name == "0.14" and len(args) >= 3 and _is_kernel_first(*args[:3]):
        order = ("dim", "kernel_size", "num_heads", *_LAST, "dilation")
        given = dict(zip(order, args, strict=False)) | kwargs
    names = {"bias", "rel_pos_bias"} | set(defaults)
    calls.refuse(call, {name: value for name, value in given.items() if name not in names})
    missing = [n for n, d in defaults.items() if d is _REQUIRED and n not in given]
    if missing:
        raise TypeError(f"{call} needs {', '.join(missing)}")
    biases = [given.pop(name) for name in ("bias", "rel_pos_bias") if name in given]
    if len({*map(bool, biases)}) > 1:
        raise TypeError(f"{call}'s bias and rel_pos_bias are two names of one argument")
    return {**defaults, **given, "has_bias": bool(biases[0]) if biases else level.has_bias}


def _is_kernel_first(dim: Any, second: Any, third: Any) -> bool:
    """Whether three numbers can only be meant in the order that 0.14.5 changed: (dim, kernel size,
    heads). Heads divide the channels, and kernel sizes are odd."""

    def fits(heads: Any, kernel_size: Any) -> bool:
        return dim % heads == 0 and kernel_size % 2 == 1 and kernel_size > 1

    return fits(third, second) and not fits(second, third)


class NeighborhoodAttention(nn.Module):
    """What the modules of all levels share; `module_class` makes them."""

    dims: int
    settings: Settings
    rpb: nn.Parameter | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        given = _bind(self.settings.level, self.dims, args, kwargs)
        dim, heads = given["dim"], given["num_heads"]
        self._set_window(given)
        kernel, _, causal = self._window((math.inf,) * self.dims)
        if given["has_bias"] and any(causal):
            raise NotImplementedError(
                "a relative positional bias has no meaning with causal axes: leave out one of them"
            )
        self.num_heads = heads
        self.head_dim = dim // heads
        self.scale = given["qk_scale"] or self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=given["qkv_bias"])
        if given["has_bias"]:
            self.rpb = nn.Parameter(torch.zeros(heads, *(2 * size - 1 for size in kernel)))
            nn.init.trunc_normal_(self.rpb, std=0.02, mean=0.0, a=-2.0, b=2.0)
        else:
            self.register_parameter("rpb", None)
        self.attn_drop_rate = given["attn_drop"]
        self.attn_drop = nn.Dropout(given["attn_drop"])
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(given["proj_drop"])
        self.use_experimental_ops = given.get("use_experimental_ops", False)

    def _set_window(self, given: dict[str, Any]) -> None:
        """kernel_size, dilation and is_causal as attributes, in the form that the level has."""
        kernel, dilation = given["kernel_size"], given["dilation"]
        self.kernel_size: Any = kernel
        self.dilation: Any = 1 if dilation is None else dilation
        if self.settings.level.has_context:
            window = check_all_args(self.dims, kernel, dilation, given["is_causal"])
            self.kernel_size, self.dilation, self.is_causal = window
        elif self.dims == 3:
            self.kernel_size_d = given["kernel_size_d"] or kernel
            self.dilation_d = given["dilation_d"] or self.dilation

    def _window(
        self, axes: tuple[float, ...]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
        """Kernel size, dilation and causality for each axis. Before 0.14.5 a dilation may be a
        word: as much as the map allows."""
        kernel, dilation = self.kernel_size, self.dilation
        if isinstance(dilation, str):
            least = min(axes)
            dilation = 1 if least == math.inf else max(int(least) // kernel, 1)
        if hasattr(self, "kernel_size_d"):
            kernel = (self.kernel_size_d, kernel, kernel)
            dilation = (self.dilation_d, dilation, dilation)
        return check_all_args(self.dims, kernel, dilation, getattr(self, "is_causal", False))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.dims + 2:
            raise ValueError(
                f"{type(self).__name__} takes a tensor of {self.dims + 2} axes, [B, *S, C], not "
                f"{x.ndim}: shape {tuple(x.shape)}"
            )
        axes = x.shape[1:-1]
        window = self._window(tuple(axes))
        if self.settings.pads:
            x = self._padded(x, *window[:2])
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # [B, *S, 3, N, D]
        q, k, v = qkv.unbind(-3)
        if self._keeps_no_weights():
            out = calls.fused(self.dims, q, k, v, *window, self.rpb, self.scale)
        else:
            out = self._unfused(q, k, v, window)
        out = out.flatten(-2)
        for axis, length in enumerate(axes, start=1):
            out = out.narrow(axis, 0, length)
        return self.proj_drop(self.proj(out))

    def _padded(self, x: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
        """With zeros after its last row and column, up to the window's size. They are keys like
        others, with what `qkv` makes of zeros."""
        spans = [size * step for size, step in zip(kernel, dilation, strict=True)]
        more = [max(0, span - length) for span, length in zip(spans, x.shape[1:-1], strict=True)]
        if not any(more):
            return x
        return F.pad(x, [0, 0, *(n for count in reversed(more) for n in (0, count))])

    def _keeps_no_weights(self) -> bool:
        """Whether nothing stands between the softmax and the sum: no dropout that drops, and none
        that a program watches or has put another module in place of."""
        if is_fused_na_enabled():
            if self.attn_drop_rate > 0:
                _say_not_dropped()
            return True
        if self.use_experimental_ops:
            raise NotImplementedError(
                "use_experimental_ops is for fused attention: call natten.use_fused_na() first"
            )
        drop = self.attn_drop
        is_watched = drop._forward_hooks or drop._forward_pre_hooks
        return type(drop) is nn.Dropout and not is_watched and not (drop.training and drop.p > 0)

    def _unfused(self, q: Tensor, k: Tensor, v: Tensor, window: tuple[Any, ...]) -> Tensor:
        q, k, v = (x.movedim(-2, 1) for x in (q, k, v))
        kernel, dilation, causal = window
        attn = calls.qk(self.dims, q * self.scale, k, kernel, dilation, causal, self.rpb)
        attn = self.attn_drop(attn.softmax(-1))
        return calls.av(self.dims, attn, v, kernel, dilation, causal).movedim(1, -2)

    def extra_repr(self) -> str:
        kernel, dilation, causal = self._window((math.inf,) * self.dims)
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, kernel_size={kernel}, "
            f"dilation={self.dilation if isinstance(self.dilation, str) else dilation}, "
            f"is_causal={causal}, has_bias={self.rpb is not None}"
        )


@functools.cache
def _say_not_dropped() -> None:
    _logger.error("attn_drop has no effect while natten.use_fused_na() is on, as in NATTEN")


@functools.cache
def module_class(name: str, chosen: Settings) -> type[NeighborhoodAttention]:
    """`NeighborhoodAttention2D` and its like, as they are with these settings."""
    if name == "NeighborhoodAttention":  # of 0.14.4
        return module_class("NeighborhoodAttention2D", chosen)
    dims = int(name[-2])
    home = f"natten.na{dims}d" if chosen.level.has_context else f"natten.natten{dims}d"
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter(argument, kind, default=default)
            for argument, default in _arguments(chosen.level, dims).items()
        ]
    )
    own = {
        "dims": dims,
        "settings": chosen,
        "__module__": home,
        "__doc__": f"{dims}-D neighborhood attention, as in NATTEN {chosen.level.version}.",
        "__signature__": signature,
    }
    return type(name, (NeighborhoodAttention,), own)
