"""What this machine can run: its parts, and every attention backend, tried on a small problem."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.build import BuildError, find_compiler
from ops.dense import bfloat16_instructions
from ops.neighborhood import BACKENDS, HeadGroup, neighborhood_attention_2d
from ops.neighborhood.backends import VARIABLE, Backend, choose
from ops.neighborhood.impl import natten, triton
from ops.neighborhood.problem import Problem, describe
from stylenat import __version__
from stylenat.files import cache_folder
from stylenat.machine import DRIVER, first_line, version
from stylenat.precision import TRAINED, name_of

# FFHQ's kernel_size and head_dim, on a small map that has edges, an inside and a partial tile.
SHAPE = (2, 16, 18, 4, 32)
GROUPS = (HeadGroup(2, 7, 1), HeadGroup(2, 7, 2))
NAMES = ("output", "gradient of q", "gradient of k", "gradient of v", "gradient of the bias")
UNKNOWN = "of unknown version"
WIDTH = 200  # of a table that is not shown on a terminal


@dataclass(frozen=True)
class Trial:
    """One backend on one device in one dtype.

    `verdict` is yes, forward only, no, fails or wrong; `reason` says why it is not
    yes. `is_auto` says whether `auto` takes this backend here.
    """

    device: str
    backend: str
    dtype: torch.dtype
    verdict: str
    reason: str
    is_auto: bool


@dataclass(frozen=True)
class Examination:
    """What `examine` found: facts by name, and trials by device, backend and dtype."""

    facts: dict[str, str]
    trials: tuple[Trial, ...]

    @property
    def fault(self) -> str | None:
        """One sentence on a backend that `auto` takes and that fails; None if all work."""
        for trial in self.trials:
            if trial.is_auto and trial.verdict != "yes":
                return (
                    f"attention backend '{trial.backend}', which auto takes on {trial.device} in "
                    f"{name_of(trial.dtype)}, does not work: {trial.reason}; "
                    f"{VARIABLE}=reference is slow and safe"
                )
        return None

    def show(self) -> None:
        """Print facts and trials as tables."""
        # Importing rich draws a number from Python's generator.
        from rich.console import Console
        from rich.table import Table

        width = None if Console().is_terminal else WIDTH
        console = Console(width=width, markup=False, highlight=False)  # a reason may hold brackets
        facts = Table(title="This machine", show_header=False)
        for row in self.facts.items():
            facts.add_row(*row)
        console.print(facts)
        table = Table(title="Attention backends: output and gradients, tried here")
        for column in ("device", "backend", *map(name_of, TRAINED), "why not"):
            table.add_column(column)
        for first in range(0, len(self.trials), len(TRAINED)):
            trials = self.trials[first : first + len(TRAINED)]
            verdicts = (f"{t.verdict}, auto" if t.is_auto else t.verdict for t in trials)
            reasons = dict.fromkeys(trial.reason for trial in trials if trial.reason)
            table.add_row(trials[0].device, trials[0].backend, *verdicts, "; ".join(reasons))
        console.print(table)


def examine() -> Examination:
    """Look at the machine, and run every attention backend on the CPU and on every GPU.

    Output and gradients are compared with the reference's in float64, and may err by twice as much
    as the reference does in the same dtype. Backends that compile on their first call compile now.
    Raises ValueError if STYLENAT_ATTENTION names no backend.
    """
    trials, facts = [], _facts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table says what they say
        for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
            autos = []
            problems = {dtype: _problem(device, dtype) for dtype in TRAINED}
            for problem in problems.values():
                try:
                    autos.append(choose(problem, "auto").name)
                except RuntimeError as error:  # STYLENAT_ATTENTION names one that can't
                    autos.append(str(error))
            facts[f"auto on {device}"] = "; ".join(dict.fromkeys(autos))
            for backend in BACKENDS:
                for (dtype, problem), auto in zip(problems.items(), autos, strict=True):
                    verdict, reason = _try(backend, problem, device)
                    trials.append(
                        Trial(device, backend.name, dtype, verdict, reason, backend.name == auto)
                    )
    return Examination(facts, tuple(trials))


# The trials.


def _inputs(device: str, dtype: torch.dtype, exact_as: torch.dtype) -> list[Tensor]:
    """q, k, v, and each group's bias in float32 or better. Their values are exact in `exact_as`."""
    generator = torch.Generator().manual_seed(0)
    shapes = [SHAPE] * 3 + [group.rpb_shape for group in GROUPS]
    values = [torch.randn(shape, generator=generator).to(exact_as) for shape in shapes]
    bias_dtype = torch.promote_types(dtype, torch.float32)
    return [
        value.to(device, dtype if index < 3 else bias_dtype).requires_grad_()
        for index, value in enumerate(values)
    ]


def _problem(device: str, dtype: torch.dtype) -> Problem:
    q, k, v, *rpb = _inputs(device, dtype, dtype)
    return describe(q, k, v, GROUPS, rpb)


def _attend(inputs: Sequence[Tensor], backend: str) -> Tensor:
    q, k, v, *rpb = inputs
    return neighborhood_attention_2d(q, k, v, GROUPS, rpb, backend=backend)


def _values(backend: str, device: str, dtype: torch.dtype, exact_as: torch.dtype) -> list[Tensor]:
    """The output and the gradients that NAMES lists, in float64."""
    inputs = _inputs(device, dtype, exact_as)
    out = _attend(inputs, backend)
    weight = torch.linspace(-1, 1, out.numel(), device=device, dtype=exact_as).view(out.shape)
    dq, dk, dv, *drpb = torch.autograd.grad(out, inputs, weight.to(dtype))
    bias = torch.cat([table.flatten() for table in drpb])
    return [value.detach().double() for value in (out, dq, dk, dv, bias)]


def _try(backend: Backend, problem: Problem, device: str) -> tuple[str, str]:
    """The verdict and the reason of a trial."""
    if (reason := backend.unsupported(problem)) is not None:
        return "no", reason
    dtype, ran = problem.dtype, False
    try:
        with torch.no_grad():
            _attend(_inputs(device, dtype, dtype), backend.name)
        ran = True
        got = _values(backend.name, device, dtype, dtype)
    except Exception as error:  # of any kind: compilers and drivers have their own
        first_line = str(error).strip().partition("\n")[0]
        return "forward only" if ran else "fails", f"{type(error).__name__}: {first_line}"
    exact = _values("reference", device, torch.float64, dtype)
    plain = _values("reference", device, dtype, dtype)
    for name, value, truth, reference in zip(NAMES, got, exact, plain, strict=True):
        # As in the tests: twice the reference's own error, or two units in the last place.
        floor = torch.finfo(dtype).eps * truth.abs().max().item()
        allowed = 2 * max((reference - truth).abs().max().item(), floor)
        off = (value - truth).abs().max().item()
        if not off <= allowed:  # true for NaN as well
            return "wrong", f"the {name} is off by {off:.2g}, where {allowed:.2g} is allowed"
    return "yes", ""


# The facts.


def _facts() -> dict[str, str]:
    return {
        "StyleNAT": __version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "CUDA": torch.version.cuda or "none: this PyTorch was built without",
        "NVIDIA driver": _said(lambda: first_line(*DRIVER)),
        **_gpus(),
        "CPU": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} logical cores, {torch.get_num_threads()} threads in use",
        "bfloat16 on the CPU": _bfloat16(),
        "C++ compiler": _said(find_compiler),
        "Triton": triton.missing() or version("triton") or UNKNOWN,
        "NATTEN": natten.missing() or f"{version('natten') or UNKNOWN} with libnatten",
        "programs for NATTEN before 0.20": _old_natten(),
        "cache of compiled libraries": _said(lambda: str(cache_folder())),
        VARIABLE: os.environ.get(VARIABLE) or "not set",
    }


def _bfloat16() -> str:
    instructions = bfloat16_instructions()
    if instructions is None:
        return "no instructions for it: images are made in float32 instead, which is faster"
    return f"instructions: {instructions}"


def _gpus() -> dict[str, str]:
    gpus = {}
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        gpus[f"GPU {index}"] = (
            f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, "
            f"compute capability {gpu.major}.{gpu.minor}"
        )
    return gpus or {"GPU": "none that PyTorch sees"}


def _said(find: Callable[[], str]) -> str:
    """What is found; otherwise the sentence that says why not."""
    try:
        return find()
    except (OSError, BuildError) as error:
        return str(error)


def _old_natten() -> str:
    found = version("natten")
    there = f"natten {found} is installed" if found else "no natten is installed"
    return f"{there}; python -m stylenat.compat SCRIPT stands in for 0.14 to 0.17"
