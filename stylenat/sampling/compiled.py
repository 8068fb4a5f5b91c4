"""A generator's synthesis network through torch.compile, and on GPUs through CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.models import Generator

# Up to eight images of 256x256 at once launching kernels costs more than a graph's fixed buffers;
# above that the launches hide behind the work.
GRAPH_PIXELS = 8 * 256**2


def compile_synthesis(generator: Generator) -> None:
    """Let this generator's `synthesis` run compiled from now on.

    The first call of a batch compiles, for seconds to minutes. A smaller batch than the largest so
    far is filled up to it, so that the last one of many compiles nothing. Small batches on a GPU
    run as CUDA graphs. Images equal the eager ones to rounding. There is no gradient through them.
    """
    generator.synthesis = CompiledSynthesis(generator)  # type: ignore[method-assign]


class CompiledSynthesis:
    """Images of ws, as `Generator.synthesis`."""

    def __init__(self, generator: Generator) -> None:
        self.eager = generator.synthesis
        self.pixels = generator.resolution**2
        # Dynamic shapes would give slower kernels, and no CUDA graphs.
        self.plain = torch.compile(self.eager, dynamic=False)
        self.graphed = torch.compile(self.eager, dynamic=False, mode="reduce-overhead")
        self.largest = 0

    @torch.no_grad()
    def __call__(self, ws_BLS: Tensor) -> Tensor:
        count = len(ws_BLS)
        if ws_BLS.ndim != 3 or count == 0:  # for `synthesis` to refuse, or to give nothing
            return self.eager(ws_BLS)
        self.largest = max(self.largest, count)
        missing = self.largest - count
        if missing:
            ws_BLS = torch.cat([ws_BLS, ws_BLS[-1:].expand(missing, -1, -1)])
        if ws_BLS.is_cuda and self.largest * self.pixels <= GRAPH_PIXELS:
            # A graph's next run overwrites what this one gave.
            return self.graphed(ws_BLS.contiguous())[:count].clone()
        return self.plain(ws_BLS.contiguous())[:count]
