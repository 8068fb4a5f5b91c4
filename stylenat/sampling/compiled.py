"""A generator's synthesis network through torch.compile, and on GPUs through CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from stylenat.models import Generator

# For up to eight images of 256x256, launching kernels costs more than a graph's fixed buffers. For
# more, the work hides the launches.
GRAPH_PIXELS = 8 * 256**2


def compile_synthesis(generator: Generator) -> None:
    """Let this generator's `synthesis` run compiled from now on.

    The first call with a batch size compiles, for seconds to minutes. A batch that is smaller than
    the largest so far is filled up to that, so that the last of many batches compiles nothing.
    Small batches on a GPU run as CUDA graphs. Images equal the uncompiled ones up to rounding, and
    have no gradient.
    """
    generator.synthesis = CompiledSynthesis(generator)  # type: ignore[method-assign]


class CompiledSynthesis:
    """Images of ws, as `Generator.synthesis` gives them."""

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
        if ws_BLS.ndim != 3 or count == 0:  # `synthesis` refuses it, or gives no images
            return self.eager(ws_BLS)
        self.largest = max(self.largest, count)
        missing = self.largest - count
        if missing:
            ws_BLS = torch.cat([ws_BLS, ws_BLS[-1:].expand(missing, -1, -1)])
        if ws_BLS.is_cuda and self.largest * self.pixels <= GRAPH_PIXELS:
            # The graph's next run overwrites this result.
            return self.graphed(ws_BLS.contiguous())[:count].clone()
        return self.plain(ws_BLS.contiguous())[:count]
