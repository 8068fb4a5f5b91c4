"""`natten.functional`: NATTEN's functions and autograd classes, in every order of arguments it had.

A call tells its dialect by the number and the types of its arguments; calls.py does the work.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from stylenat.compat import calls
from stylenat.compat.calls import refuse
from stylenat.compat.levels import current

_logger = logging.getLogger(__name__)


@functools.cache
def _say_old(name: str) -> None:
    _logger.warning("natten.functional.%s is an old name, which NATTEN 0.17.5 took away", name)


def _warn_if_old(name: str) -> None:
    if current().level.has_context:
        _say_old(name)


def _named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__module__, function.__doc__ = "natten.functional", doc
    return function


# 0.15 and 0.17: na1d_qk(query, key, kernel_size, dilation, ...). In 3-D, 0.15 takes the depth's
# kernel size and dilation apart: (query, key, kernel_size_d, kernel_size, dilation_d, dilation).


def _parted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a 3-D call is 0.15's: four numbers follow the tensors, or their names are there."""
    return "kernel_size_d" in kwargs or "dilation_d" in kwargs or isinstance(_at(args, 2), int)


def _at(args: tuple[Any, ...], place: int) -> Any:
    return args[place] if len(args) > place else None


def _joined(
    call: str, args: tuple[Any, ...], kwargs: dict[str, Any], last: str
) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
    """Kernel size, dilation and additional tokens of a 3-D call in 0.15's order."""
    names = ("kernel_size_d", "kernel_size", "dilation_d", "dilation", last)
    given = dict(zip(names, args, strict=False)) | kwargs
    refuse(call, {name: value for name, value in given.items() if name not in names})
    missing = [name for name in names[:4] if name not in given]
    if missing or len(args) > len(names):
        raise TypeError(f"{call} takes {', '.join(names[:4])} and, if needed, {last}")
    kernel, kernel_d = given["kernel_size"], given["kernel_size_d"]
    dilation, dilation_d = given["dilation"], given["dilation_d"]
    return (kernel_d, kernel, kernel), (dilation_d, dilation, dilation), given.get(last)


def _make_qk(dims: int) -> Callable[..., Tensor]:
    def qk(
        query: Tensor,
        key: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        additional_keys: Tensor | None = None,
        is_causal: Any = False,
        rpb: Tensor | None = None,
        **newer: Any,
    ) -> Tensor:
        refuse(f"na{dims}d_qk", newer)
        more = (kernel_size, dilation, is_causal, rpb, additional_keys)
        return calls.qk(dims, query, key, *more)

    if dims == 3:
        return _either(qk, "na3d_qk", "additional_keys", calls.qk)
    return _named(qk, f"na{dims}d_qk", "Logits of heads-first tensors, `[B, N, *S, K + T]`.")


def _make_av(dims: int) -> Callable[..., Tensor]:
    def av(
        attn: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        additional_values: Tensor | None = None,
        is_causal: Any = False,
        **newer: Any,
    ) -> Tensor:
        refuse(f"na{dims}d_av", newer)
        return calls.av(dims, attn, value, kernel_size, dilation, is_causal, additional_values)

    if dims == 3:
        return _either(av, "na3d_av", "additional_values", calls.av)
    return _named(av, f"na{dims}d_av", "Weighted sums of heads-first values, `[B, N, *S, D]`.")


def _either(
    one: Callable[..., Tensor], name: str, last: str, call: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """A 3-D function in 0.17's order of arguments or in 0.15's."""

    @functools.wraps(one)
    def function(first: Tensor, second: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not _parted(args, kwargs):
            return one(first, second, *args, **kwargs)
        kernel, dilation, extra = _joined(name, args, kwargs, last)
        return call(3, first, second, kernel, dilation, **{last: extra})

    @functools.wraps(one)
    def by_name(*args: Any, **kwargs: Any) -> Tensor:
        names = ("query", "key") if last == "additional_keys" else ("attn", "value")
        tensors = [kwargs.pop(name) for name in names[len(args) :]]
        return function(*args, *tensors, **kwargs)

    return _named(by_name, name, "In 3-D: the arguments of NATTEN 0.17, or those of 0.15.")


def _make_biased(dims: int, name: str) -> Callable[..., Tensor]:
    """`na2d_qk_with_bias` of 0.15, and `natten3dqkrpb`, which has the same order."""

    def biased(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if name.startswith("natten"):
            _warn_if_old(name)
        word = "rpb" if "rpb" in kwargs else "bias"
        bias, *rest = (kwargs.pop(word), *args) if word in kwargs else args
        if dims == 3 and _parted(tuple(rest), kwargs):
            kernel, dilation, extra = _joined(name, tuple(rest), kwargs, "additional_keys")
            return calls.qk(3, query, key, kernel, dilation, False, bias, extra)
        return _plain_biased(dims, name, query, key, bias, *rest, **kwargs)

    return _named(biased, name, "Logits with a relative positional bias.")


def _plain_biased(
    dims: int,
    name: str,
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: Any,
    dilation: Any,
    additional_keys: Tensor | None = None,
    **newer: Any,
) -> Tensor:
    refuse(name, newer)
    return calls.qk(dims, query, key, kernel_size, dilation, False, bias, additional_keys)


na1d_qk, na2d_qk, na3d_qk = (_make_qk(dims) for dims in (1, 2, 3))
na1d_av, na2d_av, na3d_av = (_make_av(dims) for dims in (1, 2, 3))
na1d_qk_with_bias = _make_biased(1, "na1d_qk_with_bias")
na2d_qk_with_bias = _make_biased(2, "na2d_qk_with_bias")
na3d_qk_with_bias = _make_biased(3, "na3d_qk_with_bias")
natten3dqkrpb = _make_biased(3, "natten3dqkrpb")


# 0.14: natten2dqkrpb(query, key, rpb, kernel_size, dilation); before 0.14.5 without the kernel
# size, which is then that of the bias, or of the weights.


def _make_old_qkrpb(dims: int) -> Callable[..., Tensor]:
    name = f"natten{dims}dqkrpb"

    def qkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        _warn_if_old(name)
        names: tuple[str, ...] = ("kernel_size", "dilation")
        if len(args) + len(kwargs) == 1 and "kernel_size" not in kwargs:
            names = ("dilation",)
        given = _named_or_refused(name, names, args, kwargs)
        if "kernel_size" not in given:
            if rpb is None:
                raise TypeError(f"{name} needs kernel_size where there is no bias to take it from")
            given["kernel_size"] = (rpb.shape[-1] + 1) // 2
        return calls.qk(dims, query, key, given["kernel_size"], given["dilation"], False, rpb)

    return _named(qkrpb, name, "Logits with a relative positional bias, or None for none.")


def _make_old_qk(dims: int) -> Callable[..., Tensor]:
    def qk(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _warn_if_old(f"natten{dims}dqk")
        function: Callable[..., Tensor] = globals()[f"na{dims}d_qk"]
        return function(query, key, *args, **kwargs)

    return _named(qk, f"natten{dims}dqk", "Logits without a bias.")


def _make_old_av(dims: int) -> Callable[..., Tensor]:
    name = f"natten{dims}dav"

    def av(attn: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        _warn_if_old(name)
        if len(args) + len(kwargs) == 1 and dims < 3 and "kernel_size" not in kwargs:
            given = _named_or_refused(name, ("dilation",), args, kwargs)
            kernel_size = round(attn.shape[-1] ** (1 / dims))
            return calls.av(dims, attn, value, kernel_size, given["dilation"])
        function: Callable[..., Tensor] = globals()[f"na{dims}d_av"]
        return function(attn, value, *args, **kwargs)

    return _named(av, name, "Weighted sums of values.")


def _named_or_refused(
    call: str, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    given = dict(zip(names, args, strict=False)) | kwargs
    refuse(call, {name: value for name, value in given.items() if name not in names})
    if len(args) > len(names) or len(given) < len(names):
        raise TypeError(f"{call} takes {', '.join(names)} after its tensors")
    return given


natten1dqkrpb, natten2dqkrpb = _make_old_qkrpb(1), _make_old_qkrpb(2)
natten1dqk, natten2dqk, natten3dqk = (_make_old_qk(dims) for dims in (1, 2, 3))
natten1dav, natten2dav, natten3dav = (_make_old_av(dims) for dims in (1, 2, 3))


# Fused: na2d(query, key, value, kernel_size, ...), heads last, scaled.


def _make_fused(dims: int, name: str) -> Callable[..., Tensor]:
    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        is_causal: Any = False,
        rpb: Tensor | None = None,
        scale: float | None = None,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        xformers_kwargs: dict[str, Any] | None = None,
        **newer: Any,
    ) -> Tensor:
        refuse(name, newer)
        if xformers_kwargs:
            raise NotImplementedError(f"{name} calls no xformers: leave out xformers_kwargs")
        more = (kernel_size, dilation, is_causal, rpb, scale, additional_keys, additional_values)
        return calls.fused(dims, query, key, value, *more)

    return _named(fused, name, "Neighborhood attention of heads-last tensors, `[B, *S, N, D]`.")


def _make_flex(dims: int) -> Callable[..., Tensor]:
    def flex(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: Any,
        dilation: Any = 1,
        is_causal: Any = False,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        xformers_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        more = (None, None, additional_keys, additional_values, xformers_kwargs)
        function: Callable[..., Tensor] = globals()[f"na{dims}d"]
        return function(query, key, value, kernel_size, dilation, is_causal, *more)

    return _named(flex, f"flex_na{dims}d", "The same as the fused function, without a bias.")


na1d, na2d, na3d = (_make_fused(dims, f"na{dims}d") for dims in (1, 2, 3))
flex_na1d, flex_na2d, flex_na3d = (_make_flex(dims) for dims in (1, 2, 3))
