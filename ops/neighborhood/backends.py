"""The table of backends: what each can run, how to load it, and which one `auto` takes."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ops.neighborhood.derivatives import FORWARD_MODE, TRANSFORMED
from ops.neighborhood.problem import HeadGroup, Problem

VARIABLE = "STYLENAT_ATTENTION"
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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


# What the process and the machine are. torch.compile must take the answers for constants.

Question = TypeVar("Question", bound=Callable[..., object])


def _constant(question: Question) -> Question:
    """Marks what torch.compile calls while it traces, rather than traces."""
    # What torch.compiler.assume_constant_result sets; it would import dynamo and inductor here.
    question._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return question


@_constant
def _environment(name: str) -> str:
    return os.environ.get(name, "")


@_constant
def _capability(device_index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device_index)


@_constant
def _triton_missing() -> str | None:
    from ops.neighborhood.impl import triton

    return triton.missing()


@_constant
def _natten_missing() -> str | None:
    from ops.neighborhood.impl import natten

    return natten.missing()


@_constant
def _warn_once(message: str) -> None:
    _cached_warning(message)


@functools.cache
def _cached_warning(message: str) -> None:
    warnings.warn(message, stacklevel=2)


# The rows.


def _underivable(problem: Problem) -> str | None:
    """What every backend but the reference asks of a call."""
    if problem.has_tangent:
        return FORWARD_MODE
    return TRANSFORMED if problem.is_transformed else None


def _gpu_unsupported(problem: Problem) -> str | None:
    """What every backend for GPUs asks of a call."""
    if problem.device_type != "cuda":
        return f"it runs on CUDA only, and the tensors are on {problem.device_type}"
    if problem.dtype not in _GPU_DTYPES:
        return f"it takes float32, bfloat16 and float16, not {problem.dtype}"
    return _underivable(problem)


def _too_old(problem: Problem, least: int) -> str | None:
    """Why the GPU of a CUDA problem won't do where it takes compute capability `least`.0."""
    major, minor = _capability(problem.device_index)
    if major < least:
        return f"it needs a GPU of compute capability {least}.0, and this one has {major}.{minor}"
    return None


def _triton_unsupported(problem: Problem) -> str | None:
    interpreted = problem.device_type == "cpu" and _environment("TRITON_INTERPRET") == "1"
    if not interpreted and (reason := _gpu_unsupported(problem)) is not None:
        return reason
    if problem.dtype not in _GPU_DTYPES:
        return f"it takes float32, bfloat16 and float16, not {problem.dtype}"
    if (reason := _underivable(problem)) is not None:
        return reason
    from ops.neighborhood.impl import triton

    if problem.head_dim > 128:
        return f"it takes a head_dim up to 128, not {problem.head_dim}"
    kernel_size = max(group.kernel_size for group in problem.groups)
    if kernel_size > triton.MAX_KERNEL_SIZE:
        return f"it takes a kernel_size up to {triton.MAX_KERNEL_SIZE}, not {kernel_size}"
    reason = _triton_missing()
    if reason is None and not interpreted:
        reason = _too_old(problem, 8)
    if reason is not None:
        _warn_once(f"the triton attention backend is not available: {reason}")
    return reason


def _load_triton() -> Attention:
    from ops.neighborhood.impl import triton

    return triton.attention


def _natten_unsupported(problem: Problem) -> str | None:
    reason = _gpu_unsupported(problem) or _natten_missing()
    if reason is None and problem.dtype == torch.bfloat16:
        reason = _too_old(problem, 8)
    return reason


def _load_natten() -> Attention:
    from ops.neighborhood.impl import natten

    return natten.attention


def _flex_unsupported(problem: Problem) -> str | None:
    if (reason := _gpu_unsupported(problem)) is not None:
        return reason
    if problem.head_dim > 256:
        return f"it takes a head_dim up to 256, not {problem.head_dim}"
    # torch.compile writes Triton.
    return _triton_missing() or _too_old(problem, 8 if problem.dtype == torch.bfloat16 else 7)


def _load_flex() -> Attention:
    from ops.neighborhood.impl import flex

    return flex.attention


def _cpu_unsupported(problem: Problem) -> str | None:
    if problem.device_type != "cpu":
        return f"it runs on the CPU only, and the tensors are on {problem.device_type}"
    if problem.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, not {problem.dtype}"
    if (reason := _underivable(problem)) is not None:
        return reason
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
        name="triton",
        summary="one launch for all groups, softmax and bias fused; first-order gradients",
        unsupported=_triton_unsupported,
        load=_load_triton,
    ),
    Backend(
        name="natten",
        summary="NATTEN's kernels, the bias in extra features; first-order gradients",
        unsupported=_natten_unsupported,
        load=_load_natten,
    ),
    Backend(
        name="flex",
        summary="PyTorch's FlexAttention, compiled; first-order gradients",
        unsupported=_flex_unsupported,
        load=_load_flex,
    ),
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


# The choice.


def auto_order(problem: Problem) -> tuple[str, ...]:
    """The backends that `auto` tries, best first; the last can run any problem.

    For CUDA a prior: no GPU has been measured. Triton's interpreter is for tests, so that on the
    CPU `triton` runs only where it is asked for.
    """
    if problem.device_type == "cuda":
        return ("triton", "natten", "flex", "reference")
    return ("cpu", "reference")


def choose(problem: Problem, requested: str) -> Backend:
    """The row that runs `problem`. `auto` takes the first that can; a name never falls back.

    The environment variable STYLENAT_ATTENTION stands in for `auto`; torch.compile reads it when it
    traces. Raises ValueError for an unknown name, RuntimeError where the named backend can't run
    the problem.
    """
    source = ""
    if requested == "auto":
        requested = _environment(VARIABLE) or "auto"
        source = f" (from {VARIABLE})"
    rows = {backend.name: backend for backend in BACKENDS}
    if requested == "auto":
        for name in auto_order(problem):
            if rows[name].unsupported(problem) is None:
                return rows[name]
        raise AssertionError("reference runs any problem")
    if not isinstance(requested, str) or requested not in rows:
        raise ValueError(
            f"unknown attention backend '{requested}'{source}; "
            f"choose one of {', '.join(backend_names())}"
        )
    if (reason := rows[requested].unsupported(problem)) is not None:
        raise RuntimeError(f"attention backend '{requested}'{source} can't run this call: {reason}")
    return rows[requested]
