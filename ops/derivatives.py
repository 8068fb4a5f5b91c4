"""Which derivatives a call needs beside a plain gradient; only `reference` has them all.

Without these checks, an operation that PyTorch can't look into would give zeros for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

USE_REFERENCE = 'backend="reference" has derivatives of every kind and order'
FORWARD_MODE = f"it has no forward-mode derivatives (torch.func.jvp, jacfwd); {USE_REFERENCE}"
TRANSFORMED = f"it takes no part in torch.func's grad, vjp and jacrev; {USE_REFERENCE}"

Question = TypeVar("Question", bound=Callable[..., object])


def _constant(question: Question) -> Question:
    # torch.compiler.assume_constant_result sets this too, but imports dynamo. With it, dynamo calls
    # the function while it traces, inside the transforms that it traces.
    question._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return question


@_constant
def in_transform(*names: str) -> bool:
    """Whether the call is inside one of these transforms of torch.func: Grad, Jvp, Vmap."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key().name in names for level in stack)


@_constant
def in_dual_level() -> bool:
    """Whether tensors can carry tangents, by torch.func or by torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Whether PyTorch needs to see every step: forward mode, or a transform of torch.func."""
    return in_dual_level() or in_transform("Grad", "Jvp", "Vmap")


def carries_tangent(tensors: Iterable[Tensor]) -> bool:
    """Whether forward-mode differentiation goes through one of these tensors.

    Within transforms of torch.func, and in torch.compile, it counts as if it did.
    """
    if not in_dual_level():
        return False
    if torch.compiler.is_compiling() or in_transform("Grad", "Jvp", "Vmap"):
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def refuse_tangents(*tensors: Tensor) -> None:
    """Called by a gradient. Raises RuntimeError if forward-mode differentiation goes through it."""
    if carries_tangent(tensors):
        raise RuntimeError(f"the gradient of this attention backend can't do that: {FORWARD_MODE}")


def refuse_second_gradient(*_: Any) -> Any:
    """The gradient of a first-order gradient: raises RuntimeError."""
    raise RuntimeError(f"this attention backend has gradients of first order only; {USE_REFERENCE}")


class _Refused(torch.autograd.Function):
    """dx, as a function of x that has no derivative."""

    @staticmethod
    def forward(ctx: Any, dx: Tensor, x: Tensor) -> Tensor:
        return dx.view_as(dx)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return refuse_second_gradient()


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        refuse_tangents(dx, x)
        dx_that_depends_on_x: Tensor = _Refused.apply(dx, x)
        return dx_that_depends_on_x


def first_order(x: Tensor) -> Tensor:
    """x, for an operation whose gradient autograd takes for a constant: refuses a second gradient.

    What torch.compile has compiled refuses it by itself.
    """
    return x if torch.compiler.is_compiling() else _FirstOrder.apply(x)
