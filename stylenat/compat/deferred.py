"""Attention weights that wait, so that qk, softmax and av become one fused operation.

`na2d_qk` returns a tensor that keeps the query, the key and the bias. A softmax over its last axis
and a dropout that drops nothing pass it on, and `na2d_av` then calls the fused operation. Whatever
else looks at it gets the exact weights, computed once, with their gradient.

Shapes: B batch, N heads, H height, W width, D head_dim, K = kernel_size**2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_any, tree_map

from ops.derivatives import is_transformed
from ops.neighborhood import neighborhood_qk
from stylenat.compat.levels import current
from stylenat.compat.source import Source

UNUSED = (
    "the gradient of these attention weights is not computed: they went into the fused operation, "
    "which keeps no weights; install stylenat.compat with deferred=False"
)
MUTATED = (
    "attention weights that were not computed yet can't be changed in place by this operation; "
    "install stylenat.compat with deferred=False"
)


class _Node(torch.autograd.Function):
    """The place of deferred weights in autograd's graph, for what does not ask `DeferredWeights`
    first, such as a torch.autograd.Function of a program's own."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, rpb: Tensor | None, make: Callable[[], Tensor]
    ) -> Tensor:
        weights = make()
        assert isinstance(weights, DeferredWeights)
        ctx.source, ctx.is_softmax = weights.source, weights.is_softmax
        ctx.out_dtype = weights.dtype
        ctx.save_for_backward(query, key, rpb)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given = [x.detach().requires_grad_() for x in ctx.saved_tensors if x is not None]
        source = ctx.source
        with torch.enable_grad():
            out = neighborhood_qk(
                *given[:2],
                kernel_size=source.kernel_size,
                dilation=source.dilation,
                rpb=given[2] if len(given) == 3 else None,
            )
            out = out.softmax(-1, dtype=ctx.out_dtype) if ctx.is_softmax else out
        grads = torch.autograd.grad(out, given, grad)
        return (*grads, *[None] * (4 - len(grads)))


class DeferredWeights(Tensor):
    """`[B, N, H, W, K]` logits, or their softmax, computed when something looks at them."""

    source: Source
    is_softmax: bool
    plain: Tensor | None  # the weights, once they have been looked at
    value: Tensor | None  # the same without autograd, for what runs below it
    is_fused: list[bool]  # shared by logits and their softmax: whether av has fused them

    @staticmethod
    def make(
        source: Source, is_softmax: bool, dtype: torch.dtype, is_fused: list[bool]
    ) -> DeferredWeights:
        query = source.tensors[0]
        weights: DeferredWeights = Tensor._make_wrapper_subclass(
            DeferredWeights,
            (*query.shape[:-1], source.kernel_size**2),
            dtype=dtype,
            device=query.device,
        )
        weights.source, weights.is_softmax, weights.is_fused = source, is_softmax, is_fused
        weights.plain = weights.value = None
        return weights

    def __init__(self) -> None:  # Tensor's would look at the data
        raise TypeError("DeferredWeights.make makes deferred weights")

    def look(self) -> Tensor:
        """The weights as a plain tensor: the same one at every call, with its gradient."""
        if self.plain is None:
            logits = self.source.logits()
            if self.is_softmax:
                with torch.inference_mode(False), torch.set_grad_enabled(self.source.requires_grad):
                    logits = logits.softmax(-1, dtype=self._dtype())
            self.plain = logits
        return self.plain

    def _dtype(self) -> torch.dtype:
        with torch._C.DisableTorchFunctionSubclass():
            return self.dtype

    def _below_autograd(self) -> Tensor:
        if self.plain is not None:
            return self.plain.detach()
        if self.value is None:
            with torch.no_grad():
                logits = self.source.logits().detach()
                self.value = logits.softmax(-1, dtype=self._dtype()) if self.is_softmax else logits
        return self.value

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, DeferredWeights) and first.plain is None:
            if func in _QUESTIONS:
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
            if func in _SOFTMAX and (dtype := _softmax_dtype(first, func, args, kwargs)):
                return _deferred(first.source, True, dtype, first.is_fused)
            if func in _DROPOUT and _drops_nothing(func, args, kwargs):
                return first
        if func in _GRADIENTS and tree_any(_was_fused, (args, kwargs)):
            raise RuntimeError(UNUSED)
        return func(*tree_map(_look, args), **tree_map(_look, kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func._schema.is_mutable:
            raise RuntimeError(MUTATED)
        return func(*tree_map(_value, args), **tree_map(_value, kwargs or {}))


def _look(x: Any) -> Any:
    return x.look() if isinstance(x, DeferredWeights) else x


def _value(x: Any) -> Any:
    return x._below_autograd() if isinstance(x, DeferredWeights) else x


def _was_fused(x: Any) -> bool:
    return isinstance(x, DeferredWeights) and x.is_fused[0]


# What leaves weights deferred.

_PROPERTIES = (
    "shape ndim dtype device layout requires_grad is_cuda is_cpu is_meta is_nested is_sparse "
    "is_quantized itemsize"
)
_METHODS = (
    "size dim ndimension numel nelement element_size is_floating_point is_complex get_device "
    "__len__"
)
_QUESTIONS = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES.split()),
    *(getattr(Tensor, name) for name in _METHODS.split()),
    torch.is_floating_point,
    torch.is_complex,
    torch.numel,
}
_SOFTMAX = {
    F.softmax: ("input", "dim", "_stacklevel", "dtype"),
    torch.softmax: ("input", "dim", "dtype"),
    torch.special.softmax: ("input", "dim", "dtype"),
    Tensor.softmax: ("input", "dim", "dtype"),
}
_DROPOUT = {
    F.dropout: ("input", "p", "training", "inplace"),
    torch.dropout: ("input", "p", "train"),
}
# The fused operation keeps no weights that a gradient could belong to.
_GRADIENTS = {
    Tensor.register_hook,
    Tensor.retain_grad,
    torch.autograd.grad,
    torch.autograd.backward,
}


def _bound(
    names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Arguments by name; None if there are others, such as `out`."""
    bound = {**dict(zip(names, args, strict=False)), **kwargs}
    return bound if set(bound) <= set(names) and len(args) <= len(names) else None


def _softmax_dtype(
    logits: DeferredWeights, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> torch.dtype | None:
    """The dtype of a softmax over the last axis; None if it is another one."""
    bound = _bound(_SOFTMAX[func], args, kwargs)
    if logits.is_softmax or bound is None or bound.get("dim") not in (-1, logits.ndim - 1):
        return None
    dtype, device = bound.get("dtype"), logits.device
    if dtype is None and torch.is_autocast_enabled(device.type):  # which may want float32
        return torch.empty((0, 1), dtype=logits.dtype, device=device).softmax(-1).dtype
    return logits.dtype if dtype in (None, logits.dtype) else None


def _drops_nothing(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    bound = _bound(_DROPOUT[func], args, kwargs)
    if bound is None:
        return False
    p, training = bound.get("p", 0.5), bound.get("training", bound.get("train", True))
    return p == 0 or (not training and 0 <= p <= 1)  # another p is an error, which PyTorch raises


# The two ends.


def _deferred(source: Source, is_softmax: bool, dtype: torch.dtype, is_fused: list[bool]) -> Tensor:
    def make() -> DeferredWeights:
        return DeferredWeights.make(source, is_softmax, dtype, is_fused)

    if not source.requires_grad:
        return make()
    with torch.enable_grad():
        weights: Tensor = _Node.apply(*source.tensors, source.rpb, make)
    return weights


def defer(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> Tensor | None:
    """The logits of a checked call without causal axes and additional tokens; None where they
    can't wait: tensors that PyTorch looks into, or windows that are not square."""
    is_square = len(kernel_size) == 2 and len({*kernel_size}) == len({*dilation}) == 1
    tensors = (query, key) if rpb is None else (query, key, rpb)
    if not (current().deferred and is_square and query.is_floating_point()) or is_watched():
        return None
    if any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors):
        return None
    try:
        source = Source(query, key, rpb, kernel_size[0], dilation[0])
    except RuntimeError:  # memory that PyTorch can't copy on write
        return None
    return _deferred(source, False, query.dtype, [False])


def looked_at(x: Tensor) -> Tensor:
    """A plain tensor."""
    plain: Tensor = _look(x)
    return plain


def is_watched() -> bool:
    """Whether PyTorch needs to see every step: a compiler, a tracer, a transform, a counter."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or is_transformed()
    )


def attend(
    weights: Tensor, value: Tensor, kernel_size: Sequence[int], dilation: Sequence[int]
) -> Tensor | None:
    """What `av` gives, from weights that nothing has looked at; None if they are others."""
    if not isinstance(weights, DeferredWeights) or weights.plain is not None or is_watched():
        return None
    source = weights.source
    query = source.tensors[0]
    if not weights.is_softmax or type(value) not in (Tensor, torch.nn.Parameter):
        return None
    if {*kernel_size} != {source.kernel_size} or {*dilation} != {source.dilation}:
        return None
    if (value.shape, value.dtype, value.device) != (query.shape, query.dtype, query.device):
        return None
    if not source.is_unchanged() and source.requires_grad:
        return None
    weights.is_fused[0] = True
    return source.attend(value)
