"""The table of backends: what each can run, how to load it, and which one `auto` takes."""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ops.derivatives import FORWARD_MODE, TRANSFORMED
from ops.neighborhood import impl
from ops.neighborhood.impl.triton.plan import MAX_KERNEL_SIZE
from ops.neighborhood.problem import HeadGroup

VARIABLE = "STYLENAT_ATTENTION"
_DEVICES = {"cuda": "CUDA", "cpu": "the CPU"}


class Attention(Protocol):
    """A backend's function: it takes checked tensors and gives `[B, H, W, heads, head_dim]`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        groups: Sequence[HeadGroup],
        rpb: Sequence[Tensor] | None,
        scale: float,
    ) -> Tensor: ...


# Questions about the process and the machine. torch.compile must take the answers as constants.

Question = TypeVar("Question", bound=Callable[..., object])


def _constant(question: Question) -> Question:
    """Marks a function that torch.compile calls while it traces, in place of tracing it."""
    # torch.compiler.assume_constant_result sets this too, but imports dynamo and inductor.
    question._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return question


@_constant
def _environment(name: str) -> str:
    return os.environ.get(name, "")


@_constant
def _capability(device_index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device_index)


@_constant
def _import(name: str) -> None:
    importlib.import_module(f"ops.neighborhood.impl.{name}")


@_constant
def _missing(name: str) -> str | None:
    _import(name)
    reason: str | None = getattr(impl, name).missing()
    return reason


@_constant
def _warn_once(message: str) -> None:
    _cached_warning(message)


@functools.cache
def _cached_warning(message: str) -> None:
    warnings.warn(message, stacklevel=2)


# The table.


class Problem(Protocol):
    """One call of an operation, as far as a row needs it to say whether it can run it."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device_type(self) -> str: ...
    @property
    def device_index(self) -> int | None: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def largest_kernel_size(self) -> int: ...
    @property
    def needs_grad(self) -> bool: ...
    @property
    def has_tangent(self) -> bool: ...
    @property
    def is_transformed(self) -> bool: ...


@dataclass(frozen=True)
class Row:
    """What a backend of any operation needs, and the calls that it can run.

    `requires` says in words what must be installed. The `missing()` of the implementation
    `checked_by` finds out whether it is. `dtypes` gives for each dtype the least compute capability
    of a GPU. None stands for no limit. If the environment variable `interpreted_by` is 1, the
    kernels run on the CPU as well. With `warns`, one warning says why this machine lacks the
    backend, since `auto` then takes a slower one. `auto` passes over a row that is `only_by_name`.
    """

    name: str
    summary: str
    requires: str = ""
    checked_by: str | None = None
    device_type: str | None = None
    dtypes: Mapping[torch.dtype, int] | None = field(default=None, hash=False)
    max_head_dim: int | None = None
    max_kernel_size: int | None = None
    has_gradient: bool = True
    has_all_derivatives: bool = False
    interpreted_by: str | None = None
    warns: bool = False
    only_by_name: bool = False

    def unsupported(self, problem: Problem) -> str | None:
        """None, or one sentence on why this backend can't run that problem."""
        if self.device_type not in (None, problem.device_type) and not self._interprets(problem):
            return (
                f"it runs on {_DEVICES[self.device_type]} only, "
                f"and the tensors are on {problem.device_type}"
            )
        if self.dtypes is not None and problem.dtype not in self.dtypes:
            return f"it takes {_listed(self.dtypes)}, not {problem.dtype}"
        if problem.needs_grad and not self.has_gradient:
            return "it has no gradient; use torch.no_grad(), or another backend"
        if problem.has_tangent and not self.has_all_derivatives:
            return FORWARD_MODE
        if problem.is_transformed and not self.has_all_derivatives:
            return TRANSFORMED
        if self.max_head_dim is not None and problem.head_dim > self.max_head_dim:
            return f"it takes a head_dim up to {self.max_head_dim}, not {problem.head_dim}"
        kernel_size = problem.largest_kernel_size
        if self.max_kernel_size is not None and kernel_size > self.max_kernel_size:
            return f"it takes a kernel_size up to {self.max_kernel_size}, not {kernel_size}"
        reason = self._missing_here(problem)
        if reason is not None and self.warns:
            _warn_once(f"the {self.name} attention backend is not available: {reason}")
        return reason

    def _interprets(self, problem: Problem) -> bool:
        """Whether the tensors are on the CPU and the GPU kernels are interpreted there."""
        return (
            self.interpreted_by is not None
            and problem.device_type == "cpu"
            and _environment(self.interpreted_by) == "1"
        )

    def _missing_here(self, problem: Problem) -> str | None:
        """What the machine lacks: software, or a GPU that is new enough for the dtype."""
        if self.checked_by is not None and (reason := _missing(self.checked_by)) is not None:
            return reason
        if self.dtypes is None or problem.device_type != "cuda":
            return None
        least = self.dtypes[problem.dtype]
        if least == 0:  # any GPU will do
            return None
        major, minor = _capability(problem.device_index)
        if major >= least:
            return None
        return f"it needs a GPU of compute capability {least}.0, and this one has {major}.{minor}"


@dataclass(frozen=True)
class Backend(Row):
    """One row: the module `ops.neighborhood.impl.NAME`, and the calls that it can run."""

    def load(self) -> Attention:
        """The implementation's function; importing it may take long."""
        _import(self.name)
        attention: Attention = getattr(impl, self.name).attention
        return attention


def _listed(dtypes: Mapping[torch.dtype, int]) -> str:
    """float32, bfloat16 and float16."""
    *first, last = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return f"{', '.join(first)} and {last}"


# `auto` takes the first row that can run a call. For CUDA the order is a guess, since no GPU has
# been measured.
BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="triton",
        summary="one launch for all groups, softmax and bias fused",
        requires="Triton, a C compiler and Python.h",
        checked_by="triton",
        device_type="cuda",
        dtypes={torch.float32: 8, torch.bfloat16: 8, torch.float16: 8},
        max_head_dim=128,
        max_kernel_size=MAX_KERNEL_SIZE,
        interpreted_by="TRITON_INTERPRET",
        warns=True,
    ),
    Backend(
        name="natten",
        summary="NATTEN's kernels, the bias in extra features",
        requires="NATTEN with libnatten",
        checked_by="natten",
        device_type="cuda",
        dtypes={torch.float32: 0, torch.bfloat16: 8, torch.float16: 0},
    ),
    Backend(
        name="flex",
        summary="PyTorch's FlexAttention, compiled",
        requires="Triton, a C compiler and Python.h",
        checked_by="triton",  # torch.compile writes Triton
        device_type="cuda",
        dtypes={torch.float32: 7, torch.bfloat16: 8, torch.float16: 7},
        max_head_dim=256,
    ),
    Backend(
        name="cpu",
        summary="C++, vectorised and threaded; sums in float32",
        requires="a C++ compiler",
        checked_by="cpu",
        device_type="cpu",
        dtypes={torch.float32: 0, torch.bfloat16: 0},
        warns=True,
    ),
    Backend(
        name="portable",
        summary="plain PyTorch in few large operations, for export",
        dtypes={torch.float32: 0, torch.bfloat16: 0, torch.float16: 0},
        has_gradient=False,
        only_by_name=True,
    ),
    Backend(
        name="reference",
        summary="plain PyTorch; the specification",
        has_all_derivatives=True,
    ),
)


def backend_names() -> tuple[str, ...]:
    """What `backend=` accepts: `auto` and every row of the table."""
    return ("auto", *(backend.name for backend in BACKENDS))


def check_backend_name(name: object, source: str = "") -> None:
    """Raises ValueError, with the place that the name came from, if no row has it."""
    if not isinstance(name, str) or name not in backend_names():
        raise ValueError(
            f"unknown attention backend '{name}'{source}; "
            f"choose one of {', '.join(backend_names())}"
        )


# The choice.


AnyRow = TypeVar("AnyRow", bound=Row)


def auto_order(problem: Problem) -> tuple[Backend, ...]:
    """The rows that `auto` tries, best first; the last can run any problem."""
    return _of_device(BACKENDS, problem)


def _of_device(rows: tuple[AnyRow, ...], problem: Problem) -> tuple[AnyRow, ...]:
    """The rows of the tensors' device. Triton's interpreter is for tests, so that on the CPU
    `triton` runs only if it is asked for by name."""
    return tuple(
        row
        for row in rows
        if row.device_type in (None, problem.device_type) and not row.only_by_name
    )


def choose(problem: Problem, requested: str) -> Backend:
    """The row that runs `problem`. `auto` takes the first that can; a name never falls back.

    The environment variable STYLENAT_ATTENTION stands in for `auto`; torch.compile reads it when it
    traces. Raises ValueError for an unknown name, and RuntimeError if the named backend can't run
    the problem.
    """
    return choose_row(BACKENDS, problem, requested)


def choose_row(rows: tuple[AnyRow, ...], problem: Problem, requested: str) -> AnyRow:
    """`choose` among the rows of another table, which names no backend that BACKENDS does not."""
    source = ""
    if requested == "auto":
        requested = _environment(VARIABLE) or "auto"
        source = f" (from {VARIABLE})"
    if requested == "auto":
        for row in _of_device(rows, problem):
            if row.unsupported(problem) is None:
                return row
        raise AssertionError("reference runs any problem")
    check_backend_name(requested, source)
    named = {row.name: row for row in rows}
    if requested not in named:
        reason: str | None = f"it is none of {', '.join(named)}, which this operation has"
    else:
        reason = named[requested].unsupported(problem)
    if reason is not None:
        raise RuntimeError(f"attention backend '{requested}'{source} can't run this call: {reason}")
    return named[requested]
