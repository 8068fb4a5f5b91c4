"""What D says of real images that no step trains on: `data.holdout`.

While D learns what real images have in common, it takes held-out images for as real as those that
it trains on. Once it knows the training images by heart, its logits of held-out images fall
towards those of generated ones (ADA, arXiv 2006.06676, figure 1).

Legend: B images of this rank, S their side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from stylenat.augment.draws import ADA_DRAWS
from stylenat.config import TrainConfig
from stylenat.data import ImageSource, class_labels
from stylenat.data.plan import BatchPlan
from stylenat.precision import DTYPES, autocast
from stylenat.training.augmenting import seen_by_d
from stylenat.training.inputs import step_generator
from stylenat.training.state import TrainingState

MOST_IMAGES = 64  # that D is asked about; they stay in memory
DRAWS_STREAM = 1  # beside (seed, step), whose own numbers the step has used


class HeldOut:
    """Some of the held-out images, the same ones throughout a run, dealt as a step's images are.

    With `classes`, D is also told which class each one has.
    """

    def __init__(self, source: ImageSource, plan: BatchPlan, classes: int = 0) -> None:
        self.plan = plan
        batches = max(1, min(MOST_IMAGES, len(source)) // plan.batch)
        self.count = batches * plan.batch  # of all ranks; of a small set some come more than once
        indices = [
            source.readable(number * len(source) // self.count)
            for number in plan.own_share(range(self.count))
        ]
        self.pixels_BHW3 = torch.from_numpy(np.stack([source.read(index) for index in indices]))
        self.labels_B: Tensor | None = None
        if classes:
            self.labels_B = torch.from_numpy(class_labels(source, classes)[indices])

    @torch.no_grad()
    def logits(self, state: TrainingState, config: TrainConfig) -> Tensor:
        """The mean of D's logits of this rank's images, seen as training images are; D stays."""
        device = state.G.const.device
        generator = step_generator(config.seed, state.step, DRAWS_STREAM)
        draws = self.plan.own_share(torch.rand(self.count, ADA_DRAWS, generator=generator))
        per_pass = self.plan.per_pass
        labels = [None] * (len(self.pixels_BHW3) // per_pass)
        if self.labels_B is not None:
            labels = self.labels_B.to(device).split(per_pass)
        logits = []
        with unmoved(state.D), autocast(device, DTYPES[config.precision]):
            for pixels_BHW3, draws_BN, labels_B in zip(
                self.pixels_BHW3.split(per_pass), draws.split(per_pass), labels, strict=True
            ):
                real_B3SS = state.G.from_uint8(pixels_BHW3.to(device))
                seen_B3SS = seen_by_d(real_B3SS, draws_BN, state, config)
                logits.append(state.D.forward(seen_B3SS, labels_B).float())
        return torch.cat(logits).mean()


@contextmanager
def unmoved(network: nn.Module) -> Iterator[None]:
    """Within the block a pass changes nothing in the network: spectral norm takes no step."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
