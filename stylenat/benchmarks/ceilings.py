"""What the machine that is measured can reach: the ceilings that results are held against."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from ops.dense import linear
from stylenat.benchmarks.timing import CPU, measure
from stylenat.precision import without_tf32


@dataclass(frozen=True)
class Ceilings:
    """The speeds that this machine reached in this run, of products and of copying."""

    float32_flops: float
    bfloat16_flops: float
    copied_bytes: float

    def flops(self, dtype: torch.dtype) -> float:
        return self.float32_flops if dtype == torch.float32 else self.bfloat16_flops


@functools.cache
def measure_ceilings(device: torch.device = CPU) -> Ceilings:
    """FLOP/s of wide matrix products, without TF32; bytes/s of copying, read plus written.

    Products are PyTorch's or ours, whichever is faster: on AMD, PyTorch's float32 ones take twice
    as long. Matrices are 2048 wide on a CPU; on a GPU 4096 in float32, and 8192 in bfloat16. The
    tensor that is copied has 256 MiB on a CPU, and 2 GiB on a GPU. Measured once per process.
    """
    on_gpu = device.type == "cuda"

    def product(dtype: torch.dtype, width: int) -> float:
        a = torch.randn(width, width, device=device).to(dtype)
        ways = (lambda: a @ a, lambda: linear(a, a, None))
        return 2 * width**3 / min(measure(way, repeats=5, device=device).least for way in ways)

    with without_tf32():
        float32_flops = product(torch.float32, 4096 if on_gpu else 2048)
        bfloat16_flops = product(torch.bfloat16, 8192 if on_gpu else 2048)
    source = torch.ones((512 if on_gpu else 64) * 2**20, device=device)
    target = torch.empty_like(source)
    copy = measure(lambda: target.copy_(source), repeats=5, device=device)
    return Ceilings(float32_flops, bfloat16_flops, 2 * 4 * source.numel() / copy.least)
