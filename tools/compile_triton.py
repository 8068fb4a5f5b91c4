"""Compiles every kernel for a GPU architecture where no GPU is, and reads what each one takes.

`python -m tools.compile_triton [FILE.json]` does that for sm_80 and sm_90. It prints one line for
each kernel, and writes them to the file. It exits with 1 if a kernel of SMOOTH spills registers.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ops.neighborhood.problem import HeadGroup
from ops.neighborhood.unfused_problem import Window

SIDE = 64
# (dtype, head_dim, kernel_size) that must not spill: those of the published models, and near ones.
SMOOTH = (
    (torch.bfloat16, 8, 7),
    (torch.bfloat16, 16, 7),
    (torch.bfloat16, 32, 7),
    (torch.bfloat16, 32, 13),
    (torch.bfloat16, 64, 7),
    (torch.bfloat16, 64, 13),
    (torch.bfloat16, 128, 7),
    (torch.float16, 32, 7),
)
# The rest: float32 is multiplied on scalar units, from registers.
OTHERS = (
    (torch.float32, 32, 7),
    (torch.float32, 64, 7),
    (torch.float32, 128, 7),
)


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes: 32-bit registers a thread, bytes spilled a thread, shared bytes."""

    kernel: str
    architecture: int
    dtype: str
    head_dim: int
    kernel_size: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    num_warps: int


def compile_kernels(
    architecture: int, dtype: torch.dtype, head_dim: int, kernel_size: int
) -> list[Kernel]:
    """Compile what a forward and a backward pass launch: two groups, bias and its gradient."""
    from ops.neighborhood.impl.triton import launch

    groups = (HeadGroup(2, kernel_size), HeadGroup(2, kernel_size, SIDE // 16))
    q, k, v = torch.zeros(1, SIDE, SIDE, 3, 4, head_dim, dtype=dtype).unbind(3)
    rpb = [torch.zeros(group.rpb_shape, requires_grad=True) for group in groups]
    with _only_compiling(architecture) as compiled:
        out = launch.attention(q.requires_grad_(), k, v, groups, rpb, 1.0)
        out.sum().backward()
    return [_described(kernel, architecture, dtype, head_dim, kernel_size) for kernel in compiled]


def compile_unfused_kernels(
    architecture: int, dtype: torch.dtype, head_dim: int, kernel_size: int
) -> list[Kernel]:
    """Compile the four maps of unfused attention in 2-D, with a bias."""
    from ops.neighborhood.impl.triton import unfused

    window = Window((kernel_size,) * 2, (SIDE // 16,) * 2, (False,) * 2)
    q, k, v = torch.zeros(3, 1, 2, SIDE, SIDE, head_dim, dtype=dtype)
    rpb = torch.zeros(2, 2 * kernel_size - 1, 2 * kernel_size - 1)
    with _only_compiling(architecture) as compiled:
        attn = unfused.query_key(q, k, rpb, window, 0.0)
        unfused.gather(attn, v, window)
        unfused.scatter(attn, v, window)
        unfused.bias_gradient(attn, window)
    return [_described(kernel, architecture, dtype, head_dim, kernel_size) for kernel in compiled]


def _described(
    kernel: Any, architecture: int, dtype: torch.dtype, head_dim: int, kernel_size: int
) -> Kernel:
    return Kernel(
        kernel.metadata.name,
        architecture,
        str(dtype).removeprefix("torch."),
        head_dim,
        kernel_size,
        *_resources(kernel.asm["cubin"]),
        kernel.metadata.shared,
        kernel.metadata.num_warps,
    )


@contextmanager
def _only_compiling(architecture: int) -> Iterator[list[Any]]:
    """Within the block a launch compiles for `architecture`, and adds what it made to the list."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Absent:
        """A GPU, as far as the compiler asks."""

        def get_current_device(self) -> int:
            return architecture  # each has its own compiled kernels

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", architecture, 32)

    compiled: list[Any] = []
    launch = JITFunction.run

    def compile_only(function: JITFunction, *args: Any, **kwargs: Any) -> None:
        compiled.append(launch(function, *args, **{**kwargs, "warmup": True}))

    before = driver._active
    driver.set_active(Absent())
    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = launch
        driver._active = before


def _resources(binary: bytes) -> tuple[int, int]:
    """Registers and local (spilled) bytes of a thread, as cuobjdump reports them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return int(numbers["REG"]), int(numbers["STACK"]) + int(numbers["LOCAL"])


def main() -> None:
    """See the head of this file."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("TRITON_INTERPRET=1 interprets the kernels; unset it to compile them")
    rows, spilling = [], 0
    for architecture in (80, 90):
        for case in SMOOTH + OTHERS:
            for kernel in (
                *compile_kernels(architecture, *case),
                *compile_unfused_kernels(architecture, *case),
            ):
                rows.append(asdict(kernel))
                spilling += case in SMOOTH and kernel.spilled_bytes > 0
                sys.stdout.write("  ".join(f"{k} {v}" for k, v in rows[-1].items()) + "\n")
                sys.stdout.flush()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")
    if spilling:
        raise SystemExit(f"{spilling} kernels spill registers that must not")


if __name__ == "__main__":
    main()
