"""What one step sees: this rank's images, and random numbers that depend on the step alone.

Legend: B images of this rank, Z z_dim.

Random numbers are drawn for the whole batch of all ranks, from (seed, step), and each rank takes
its own samples: i = rank, rank + world_size, ... The world size therefore changes nothing. The
stride keeps D's minibatch standard deviation over the same groups as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stylenat.augment import AUGMENT_DRAWS
from stylenat.distributed import rank, world_size


@dataclass(frozen=True)
class StepInputs:
    """Real images [B, 3, S, S] in the networks' pixel space, latents, the augmentation's draws."""

    real: Tensor
    z_d: Tensor  # [B, Z], D's step
    z_g: Tensor  # [B, Z], G's step
    real_draws: Tensor  # [B, AUGMENT_DRAWS]
    fake_draws: Tensor

    def __len__(self) -> int:
        return len(self.real)

    def parts(self, batch_gpu: int | None) -> Iterator[StepInputs]:
        """The inputs in equal parts of at most `batch_gpu` images, strided as the ranks are."""
        count = 1 if batch_gpu is None else -(-len(self) // batch_gpu)
        tensors = (self.real, self.z_d, self.z_g, self.real_draws, self.fake_draws)
        for first in range(count):
            yield StepInputs(*(tensor[first::count] for tensor in tensors))


def step_inputs(real: Tensor, *, seed: int, step: int, z_dim: int) -> StepInputs:
    """The inputs of step `step` around this rank's real images."""
    batch = len(real) * world_size()
    generator = step_generator(seed, step)
    z_d, z_g = (torch.randn(batch, z_dim, generator=generator) for _ in range(2))
    real_draws, fake_draws = (
        torch.rand(batch, AUGMENT_DRAWS, generator=generator) for _ in range(2)
    )
    mine = (
        tensor[rank() :: world_size()].to(real.device, non_blocking=True)
        for tensor in (z_d, z_g, real_draws, fake_draws)
    )
    return StepInputs(real, *mine)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator on the CPU whose numbers depend on the seed and the step."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
