"""Averages gradients in buckets of several sizes, and compares with one plain all-reduce.

torchrun --nproc-per-node 2 -m tests.training.averaging
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stylenat.distributed import process_group, rank, world_size
from stylenat.training.gradients import Gradients


class Uneven(nn.Module):
    """Layers of very different sizes, one of them frozen, and a last one that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 70, 5, 130, 1)
        self.layers = nn.ModuleList(nn.Linear(width, out) for width, out in pairwise(widths))
        self.unreached = nn.Linear(7, 1, bias=False)
        self.requires_grad_(False)

    def trained(self) -> list[nn.Parameter]:
        frozen = {id(parameter) for parameter in self.layers[1].parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


def losses(module: Uneven, passes: int) -> list[Tensor]:
    """The losses of this rank's images."""
    generator = torch.Generator().manual_seed(rank())
    return [module(torch.randn(4, 3, generator=generator)).square().sum() for _ in range(passes)]


def averaged(passes: int, bucket_bytes: int) -> tuple[list[Tensor], Tensor]:
    """The gradients and their norm as training has them."""
    module = Uneven()
    with Gradients(module.trained(), passes=passes, bucket_bytes=bucket_bytes) as gradients:
        total = torch.zeros(())
        for loss in losses(module, passes):
            gradients.add_of(loss)
            total = total + loss.detach()
        norm = gradients.average(total)
        assert all(p.grad is None for p in module.layers[1].parameters())
        return [p.grad.clone() for p in module.trained() if p.grad is not None], norm


def averaged_at_once(passes: int) -> list[Tensor]:
    """The gradients, copied into one tensor after the passes."""
    module = Uneven()
    for parameter in module.trained():
        parameter.requires_grad_(True)
    for loss in losses(module, passes):
        (loss / passes).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.trained()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(p) for part, p in zip(parts, gradients, strict=True)]


def main() -> None:
    with process_group(torch.device("cpu")):
        assert world_size() == 2
        for passes in (1, 3):
            expected = averaged_at_once(passes)
            for bucket_bytes in (1, 1000, 4000, 2**20):
                gradients, norm = averaged(passes, bucket_bytes)
                assert len(gradients) == len(expected)
                for ours, theirs in zip(gradients, expected, strict=True):
                    assert torch.equal(ours, theirs), (passes, bucket_bytes, ours.shape)
                assert torch.equal(norm, nn.utils.get_total_norm(expected))
        # A loss that is not finite on one rank makes the norm so on both.
        module = Uneven()
        with Gradients(module.trained()) as gradients:
            (loss,) = losses(module, 1)
            gradients.add_of(loss)
            assert gradients.average(loss + (math.inf if rank() else 0)).isnan()


if __name__ == "__main__":
    main()
