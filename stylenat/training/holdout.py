"""What D says of real images that no step trains on: `data.holdout`.

While D learns what real images have in common, it takes held-out images for as real as those that
it trains on. Once it knows the training images by heart, its logits of held-out images fall
towards those of generated ones (ADA, arXiv 2006.06676, figure 1). The three are compared at one
moment, since D's logits of all images rise and fall together from step to step.

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
from stylenat.copies import to_device
from stylenat.data import ImageSource, class_labels
from stylenat.data.plan import BatchPlan
from stylenat.precision import DTYPES, autocast
from stylenat.training.augmenting import seen_by_d
from stylenat.training.inputs import step_generator
from stylenat.training.state import TrainingState

MOST_IMAGES = 64  # of each kind that D is asked about; the real ones stay in memory
DRAWS_STREAM = 1  # beside (seed, step), whose own numbers the step has used


class HeldOut:
    """Asks D about training images, held-out images and generated ones, as many of each.

    They are dealt to the ranks as a step's images are. The real images are the same throughout a
    run; of a small set, some come more than once. With `classes`, D is told the class of each, and
    generated images have those of the training images.
    """

    def __init__(
        self, trained: ImageSource, held_out: ImageSource, plan: BatchPlan, classes: int = 0
    ) -> None:
        self.plan = plan
        self.count = max(1, min(MOST_IMAGES, len(held_out)) // plan.batch) * plan.batch
        self.pixels: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        for name, source in (("trained", trained), ("held", held_out)):
            numbers = plan.own_share(range(self.count))
            indices = [source.readable(number * len(source) // self.count) for number in numbers]
            images = np.stack([source.read(index) for index in indices])
            self.pixels[name] = torch.from_numpy(images)
            if classes:
                labels_N = class_labels(source, classes)
                self.labels[name] = torch.from_numpy(labels_N[indices])
        if classes:
            self.labels["generated"] = self.labels["trained"]

    @torch.no_grad()
    def logits(self, state: TrainingState, config: TrainConfig) -> dict[str, Tensor]:
        """D's mean logits of this rank's images of each kind, for statistics; D does not change.

        All three kinds are seen through the same draws of `train.augment`.
        """
        device = state.G.const.device
        generator = step_generator(config.seed, state.step, DRAWS_STREAM)
        draws = self.plan.own_share(torch.rand(self.count, ADA_DRAWS, generator=generator))
        z = self.plan.own_share(torch.randn(self.count, state.G.z_dim, generator=generator))
        sums = dict.fromkeys(("trained", "held", "generated"), torch.zeros((), device=device))
        with unmoved(state.D), autocast(device, DTYPES[config.precision]):
            for part in torch.arange(len(z)).split(self.plan.per_pass):
                images = {
                    name: state.G.from_uint8(to_device(pixels[part], device))
                    for name, pixels in self.pixels.items()
                }
                labels = {name: to_device(of[part], device) for name, of in self.labels.items()}
                z_BZ = to_device(z[part], device)
                images["generated"] = state.G.forward(z_BZ, labels.get("generated"))
                for name, image_B3SS in images.items():
                    seen_B3SS = seen_by_d(image_B3SS, draws[part], state, config)
                    logits_B1 = state.D.forward(seen_B3SS, labels.get(name))
                    sums[name] = sums[name] + logits_B1.float().sum()
        return {f"{name}_logits": total / len(z) for name, total in sums.items()}


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
