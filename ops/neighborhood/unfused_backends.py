"""The table of what computes the maps of unfused attention; see backends.py for its rules."""

from __future__ import annotations

import importlib
import operator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ops.neighborhood import impl
from ops.neighborhood.backends import Problem, Row, choose_row
from ops.neighborhood.impl.triton.plan import MAX_KERNEL_SIZE
from ops.neighborhood.unfused_problem import UnfusedProblem, Window


class MapsModule(Protocol):
    """A backend's module: checked tensors in, heads first; see unfused_reference.py."""

    def query_key(
        self, x: Tensor, y: Tensor, rpb: Tensor | None, window: Window, fill: float
    ) -> Tensor: ...

    def gather(self, a: Tensor, y: Tensor, window: Window) -> Tensor: ...

    def scatter(self, a: Tensor, x: Tensor, window: Window) -> Tensor: ...

    def bias_gradient(self, da: Tensor, window: Window) -> Tensor: ...


@dataclass(frozen=True)
class UnfusedBackend(Row):
    """One row: the module `ops.neighborhood.impl.MODULE`, and the calls that it can run.

    `axes` are the numbers of axes of space that it takes; None stands for all. Without `causal` it
    has no causal windows.
    """

    module: str = ""
    axes: tuple[int, ...] | None = None
    causal: bool = False

    def unsupported(self, problem: Problem) -> str | None:
        """None, or one sentence on why this backend can't run that problem."""
        assert isinstance(problem, UnfusedProblem)
        axes = len(problem.window.kernel_size)
        if self.axes is not None and axes not in self.axes:
            taken = " and ".join(f"{number}-D" for number in self.axes)
            return f"it takes {taken} maps, not {axes}-D"
        if any(problem.window.is_causal) and not self.causal:
            return "it has no causal windows"
        return super().unsupported(problem)


UNFUSED_BACKENDS: tuple[UnfusedBackend, ...] = (
    UnfusedBackend(
        name="triton",
        summary="a tile's products with its halo, on matrix units",
        requires="Triton, a C compiler and Python.h",
        checked_by="triton",
        module="triton.unfused",
        device_type="cuda",
        dtypes={torch.float32: 8, torch.bfloat16: 8, torch.float16: 8},
        max_head_dim=128,
        max_kernel_size=MAX_KERNEL_SIZE,
        interpreted_by="TRITON_INTERPRET",
        axes=(1, 2),
        warns=True,
    ),
    UnfusedBackend(
        name="cpu",
        summary="C++, vectorised and threaded; sums in float32",
        requires="a C++ compiler",
        checked_by="unfused_cpu",
        module="unfused_cpu",
        device_type="cpu",
        dtypes={torch.float32: 0, torch.bfloat16: 0},
        causal=True,
        warns=True,
    ),
    UnfusedBackend(
        name="reference",
        summary="plain PyTorch; the specification",
        module="unfused_reference",
        has_all_derivatives=True,
        causal=True,
    ),
)


def load_maps(name: str) -> MapsModule:
    """The module of a row; importing it may take long."""
    (row,) = (row for row in UNFUSED_BACKENDS if row.name == name)
    importlib.import_module(f"ops.neighborhood.impl.{row.module}")
    module: MapsModule = operator.attrgetter(row.module)(impl)
    return module


def choose_unfused(problem: UnfusedProblem, requested: str) -> UnfusedBackend:
    """The row that runs `problem`, by the rules of `backends.choose`."""
    return choose_row(UNFUSED_BACKENDS, problem, requested)
