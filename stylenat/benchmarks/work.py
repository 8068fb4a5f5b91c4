"""How many floating-point operations the networks need, counted from shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stylenat.models import Generator, GeneratorConfig, attention


def attention_flop(config: GeneratorConfig) -> int:
    """The two products of the neighborhood attention of one image's forward pass."""
    flop = 0
    for level in config.levels:
        head_dim = level.channels // level.heads
        flop += level.blocks * 4 * level.resolution**2 * head_dim * level.kind.neighborhood_keys
    return flop


def forward_flop(config: GeneratorConfig) -> int:
    """Products and convolutions of one image's forward pass: attention and everything else."""
    with torch.device("meta"):
        generator, z = Generator(config).requires_grad_(False), torch.empty(1, config.z_dim)
    with without_attention():
        return attention_flop(config) + counted_flop(lambda: generator(z))


def counted_flop(run: Callable[[], object]) -> int:
    """FLOP of PyTorch's products and convolutions in `run`, without those of our attention."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def give_back_values(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    """In place of attention: what is left is the cost of everything else."""
    return v.contiguous()


@contextmanager
def attention_replaced(module: ModuleType, function: Callable[..., Tensor]) -> Iterator[None]:
    """Within the block, the networks of this module call `function` for neighborhood attention."""
    real = module.neighborhood_attention_2d
    module.neighborhood_attention_2d = function  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.neighborhood_attention_2d = real  # type: ignore[attr-defined]


def without_attention() -> AbstractContextManager[None]:
    """Within the block the generator's neighborhood attention gives back its values."""
    return attention_replaced(attention, give_back_values)
