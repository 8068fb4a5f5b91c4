"""What a training step is given: images, and the random numbers of that step.

Random numbers are drawn for the whole batch of all ranks, from (seed, step), and each rank takes
its own share (`BatchPlan`). The world size therefore changes nothing: even the groups of D's
minibatch standard deviation are the same.

Legend: B images of this rank, S their side, Z z_dim, N training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stylenat.augment import AUGMENT_DRAWS
from stylenat.augment.draws import ADA_DRAWS
from stylenat.copies import to_device
from stylenat.data import Batch
from stylenat.data.plan import BatchPlan
from stylenat.distributed import share_of


@dataclass(frozen=True)
class StepInputs:
    """What a step needs: real images in the networks' pixel space, latents, random draws.

    With classes, also the labels of the real images and of those to generate, int64 [B].
    """

    real: Tensor  # [B, 3, S, S]
    z_d: Tensor  # [B, Z], D's step
    z_g: Tensor  # [B, Z], G's step
    real_draws: Tensor  # [B, AUGMENT_DRAWS]
    fake_draws: Tensor
    # [B, 3, ADA_DRAWS] on the CPU, of `train.augment`: real, generated for D, generated for G.
    seen_draws: Tensor | None = field(default=None, kw_only=True)
    real_labels: Tensor | None = field(default=None, kw_only=True)
    labels_d: Tensor | None = field(default=None, kw_only=True)
    labels_g: Tensor | None = field(default=None, kw_only=True)
    passes: int = field(default=1, kw_only=True)

    def parts(self) -> Iterator[StepInputs]:
        """The inputs of each pass: equally many images, dealt as they are to the ranks."""
        for index in range(self.passes):
            shares = {
                name: share_of(value, index, self.passes)
                for name, value in vars(self).items()
                if isinstance(value, Tensor)
            }
            yield replace(self, **shares, passes=1)

    def draws_of(self, images: Literal["real", "fake_d", "fake_g"]) -> Tensor | None:
        """[B, ADA_DRAWS]: those that decide how D sees these images."""
        column = ("real", "fake_d", "fake_g").index(images)
        return None if self.seen_draws is None else self.seen_draws[:, column]


@dataclass(frozen=True)
class Labels:
    """The classes of a step's real images, int64 [B], and those of all training images, [N]."""

    real_B: Tensor
    all_N: Tensor


def labels_of(batch: Batch, all_N: Tensor | None) -> Labels | None:
    """The classes of a batch, and those of all training images; None without classes."""
    if all_N is None:
        return None
    assert batch.labels_B is not None
    return Labels(batch.labels_B, all_N)


def step_inputs(
    real: Tensor,
    plan: BatchPlan,
    labels: Labels | None = None,
    *,
    seed: int,
    step: int,
    z_dim: int,
) -> StepInputs:
    """The inputs of step `step` around this rank's real images."""
    assert len(real) == plan.per_rank
    generator = step_generator(seed, step)
    z_d, z_g = (torch.randn(plan.batch, z_dim, generator=generator) for _ in range(2))
    real_draws, fake_draws = (
        torch.rand(plan.batch, AUGMENT_DRAWS, generator=generator) for _ in range(2)
    )

    def own(tensor: Tensor) -> Tensor:
        return to_device(plan.own_share(tensor), real.device)

    # Drawn last, so that what is drawn above is the same with and without augmentation.
    seen_draws = torch.rand(plan.batch, 3, ADA_DRAWS, generator=generator)
    inputs = StepInputs(
        real,
        *map(own, (z_d, z_g, real_draws, fake_draws)),
        seen_draws=plan.own_share(seen_draws),
        passes=plan.passes,
    )
    if labels is None:
        return inputs
    # Generated images have the classes of random training images: each class as often as there.
    drawn = torch.randint(len(labels.all_N), (2, plan.batch), generator=generator)
    labels_d, labels_g = labels.all_N[drawn]
    real_labels = to_device(labels.real_B, real.device)
    return replace(inputs, real_labels=real_labels, labels_d=own(labels_d), labels_g=own(labels_g))


def step_generator(seed: int, step: int, *stream: int) -> torch.Generator:
    """A generator on the CPU whose numbers depend on the seed, the step and the stream."""
    state = np.random.SeedSequence((seed, step, *stream)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
