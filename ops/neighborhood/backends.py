"""The table of backends: what each can run, how to load it, and which one `auto` takes.

The order of the table is the order in which `auto` tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ops.neighborhood.problem import HeadGroup, Problem


class Attention(Protocol):
    """A backend's entry: checked tensors in, `[B, H, W, heads, head_dim]` out."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        groups: Sequence[HeadGroup],
        rpb: Sequence[Tensor] | None,
        scale: float,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Backend:
    """One row; `unsupported(problem)` is None, or one sentence on why it can't run that problem."""

    name: str
    summary: str
    unsupported: Callable[[Problem], str | None]
    load: Callable[[], Attention]


def _cpu_unsupported(problem: Problem) -> str | None:
    if problem.device_type != "cpu":
        return f"it runs on the CPU only, and the tensors are on {problem.device_type}"
    if problem.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, not {problem.dtype}"
    from ops.neighborhood.impl import cpu

    return cpu.build_problem()


def _load_cpu() -> Attention:
    from ops.neighborhood.impl import cpu

    return cpu.attention


def _reference_unsupported(problem: Problem) -> str | None:
    return None


def _load_reference() -> Attention:
    from ops.neighborhood.impl import reference

    return reference.attention


BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="cpu",
        summary="C++, vectorised and threaded; float32 and bfloat16; first-order gradients",
        unsupported=_cpu_unsupported,
        load=_load_cpu,
    ),
    Backend(
        name="reference",
        summary="plain PyTorch on any device; any dtype; gradients of any order",
        unsupported=_reference_unsupported,
        load=_load_reference,
    ),
)


def backend_names() -> tuple[str, ...]:
    """What `backend=` accepts: `auto` and every row of the table."""
    return ("auto", *(backend.name for backend in BACKENDS))


def choose(problem: Problem, requested: str) -> Backend:
    """The row that runs `problem`. `auto` takes the first that can; a name never falls back.

    Raises ValueError for an unknown name, RuntimeError where the named backend can't run it.
    """
    if requested == "auto":
        for backend in BACKENDS:
            if backend.unsupported(problem) is None:
                return backend
        raise RuntimeError("no attention backend can run this call")  # reference always can
    for backend in BACKENDS:
        if backend.name == requested:
            reason = backend.unsupported(problem)
            if reason is not None:
                raise RuntimeError(f"attention backend '{requested}' can't run this call: {reason}")
            return backend
    raise ValueError(
        f"unknown attention backend '{requested}'; choose one of {', '.join(backend_names())}"
    )
