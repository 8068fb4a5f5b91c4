"""What D sees of images, and how ADA's probability follows what D says of the real ones.

With `train.augment`, D sees every image, real or generated, through the same augmentation: in its
own step, in its gradient penalty's and in G's. The images are taken from the networks' pixel space
to RGB in [-1, 1] for it, and back.

Legend: B images of this rank, S their side, N draws.
"""

from __future__ import annotations

import logging

from torch import Tensor

from stylenat.augment import AUGMENT_DRAWS, ada, diffaugment
from stylenat.augment.adaptation import (
    SPEED_KIMG,
    SPEED_KIMG_FROM_A_MODEL,
    Adaptation,
    update,
)
from stylenat.config import TrainConfig
from stylenat.copies import Later, to_device
from stylenat.distributed import all_reduce_sum_
from stylenat.models.pixels import from_rgb, to_rgb
from stylenat.training.state import TrainingState

UNFLIPPED = 0.75  # a draw of DiffAugment's flip that flips nothing: data.mirror decides that

log = logging.getLogger(__name__)


def seen_by_d(
    image_B3SS: Tensor, draws_BN: Tensor | None, state: TrainingState, config: TrainConfig
) -> Tensor:
    """The images as D sees them; the images themselves without `train.augment`."""
    if config.augment == "none":
        return image_B3SS
    assert draws_BN is not None
    space = state.G.config.pixel_space
    rgb = to_rgb(image_B3SS, space)
    if config.augment == "ada":
        assert state.ada is not None
        rgb = ada.augment(rgb, draws_BN, p=state.ada.p, transforms=config.ada.transforms)
    else:
        draws_B8 = draws_BN[:, :AUGMENT_DRAWS].clone()
        draws_B8[:, 0] = UNFLIPPED
        rgb = diffaugment.augment(rgb, to_device(draws_B8, rgb.device))
    return from_rgb(rgb, space)


def sum_of_signs(real_logits: Tensor) -> Tensor:
    """The sum of sign(D(real)) of this rank, an integer on the device; NaN counts as 0."""
    return real_logits.detach().float().nan_to_num().sign().long().sum()


def record_signs(state: TrainingState, config: TrainConfig, signs: Tensor, count: int) -> None:
    """Take in what D said of the `count` real images of all ranks in the step that ends.

    A collective of all ranks. The process waits for no device: `adapt` does, when p is adjusted.
    Their copy begins here, so that `adapt` waits for D's step and not for G's too.
    """
    state.pending_signs.append((state.step + 1, count, Later(all_reduce_sum_(signs))))


def adapt(state: TrainingState, config: TrainConfig) -> None:
    """Adjust p after a whole step, if ADA is on and that is due."""
    if state.step % settings_of(config).every == 0:
        settle_signs(state, config)


def settle_signs(state: TrainingState, config: TrainConfig) -> None:
    """Bring `state.ada` up to date with all signs recorded; p is adjusted if that is due."""
    for step, count, signs in state.pending_signs:
        assert state.ada is not None
        before, settings = state.ada, settings_of(config)
        state.ada = update(before, settings, sign_sum=int(signs.read()), count=count, step=step)
        if state.ada.p_max_reached and not before.p_max_reached:
            log.warning(
                "ADA has reached train.ada.p_max, %g: D knows the training images by heart, and "
                "stronger augmentations would show in generated images; more data would help",
                settings.p_max,
            )
    state.pending_signs.clear()


def settings_of(config: TrainConfig) -> Adaptation:
    section = config.ada
    usual = SPEED_KIMG if config.init_from is None else SPEED_KIMG_FROM_A_MODEL
    speed_kimg = usual if section.speed_kimg is None else section.speed_kimg
    return Adaptation(target=section.target, speed_kimg=speed_kimg, p_max=section.p_max)


def ada_statistics(state: TrainingState) -> dict[str, float]:
    """p, and the mean sign that it was last adjusted by, for stats.jsonl."""
    if state.ada is None:
        return {}
    mean_sign = {} if state.ada.r is None else {"ada_r": state.ada.r}
    return {"ada_p": state.ada.p, **mean_sign}
