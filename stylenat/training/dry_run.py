"""`stylenat train --dry-run`: what a run would do and need, found without training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from stylenat.augment import AUGMENT_DRAWS, augment
from stylenat.config import RunConfig, TrainConfig, to_dict
from stylenat.distributed import run_on_main
from stylenat.models import Discriminator, Generator
from stylenat.precision import DTYPES, autocast
from stylenat.training.classes import with_class_names
from stylenat.training.gradients import trainable
from stylenat.training.inputs import StepInputs
from stylenat.training.start import described, open_training_images, plan_of
from stylenat.training.state import TrainingState, state_of, trained
from stylenat.training.steps import d_losses, g_loss, penalty_losses
from stylenat.training.transfer import plan_transfer


def describe_run(config: RunConfig) -> str:
    """The resolved config, the data, parameters, images per step, and the memory needed.

    Raises the same ValueError or OSError as the start of training would.
    """
    plan = plan_of(config)
    images = open_training_images(config)
    config = with_class_names(config, images.all)
    train = config.train
    transfer = run_on_main(lambda: transfer_lines(config))
    with FakeTensorMode():
        state = fake_state(config)
        counts, moved = (
            [sum(p.numel() for p in parameters) for parameters in pair]
            for pair in (
                (state.G.parameters(), state.D.parameters()),
                (trained(state.optimizer_g), trained(state.optimizer_d)),
            )
        )
        fixed = state_bytes(*counts, *moved)
        activations = activation_bytes(state, train, plan.per_pass)
    settings = yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=100)
    return "\n".join(
        (
            settings,
            *(f"data     {sentence}" for sentence in described(images)),
            f"G, D     {counts[0] / 1e6:.3f} M, {counts[1] / 1e6:.3f} M parameters"
            + frozen_part(*counts, *moved),
            f"a step   {plan.batch} images: {plan.world_size} x {plan.passes} x {plan.per_pass} "
            "(ranks, parts one after another, images at once)",
            f"the run  {-(-train.total_nimg // plan.batch):,} steps, {train.total_kimg:g} kimg",
            f"memory   about {(fixed + activations) / 1e9:.2f} GB a rank: {fixed / 1e9:.2f} for "
            f"networks, gradients and Adam, {activations / 1e9:.2f} for activations "
            f"({activations / plan.per_pass / 1e9:.3f} an image)",
            *(f"init     {line}" for line in transfer),
        )
    )


def transfer_lines(config: RunConfig) -> tuple[str, ...]:
    """What a new run would take from `train.init_from`."""
    transfer = plan_transfer(config)
    return () if transfer is None else transfer.report


def fake_state(config: RunConfig) -> TrainingState:
    """The state that training starts from. Within a FakeTensorMode it takes no memory."""
    G, D = Generator(config.model.generator), Discriminator(config.model.discriminator)
    return state_of(G, D, Generator(config.model.generator), config.train)


def frozen_part(count_g: int, count_d: int, trained_g: int, trained_d: int) -> str:
    """How many parameters are frozen, in words; nothing if none are."""
    frozen_g, frozen_d = count_g - trained_g, count_d - trained_d
    if frozen_g == frozen_d == 0:
        return ""
    return f"; frozen of them {frozen_g / 1e6:.3f} M, {frozen_d / 1e6:.3f} M"


def state_bytes(count_g: int, count_d: int, trained_g: int, trained_d: int) -> int:
    """G, D, G_ema, and of what trains the larger gradient and two moments each, in float32."""
    moments = 2 * (trained_g + trained_d)
    return 4 * (2 * count_g + count_d + max(trained_g, trained_d) + moments)


def activation_bytes(state: TrainingState, config: TrainConfig, batch: int) -> int:
    """What a step keeps of `batch` images for its backward pass: the most of the three steps.

    It is counted on tensors without memory: call this within a FakeTensorMode.
    """
    side = state.G.resolution
    labels = torch.zeros(batch, dtype=torch.int64) if state.G.config.classes else None
    part = StepInputs(
        real=torch.empty(batch, 3, side, side),
        z_d=torch.empty(batch, state.G.z_dim),
        z_g=torch.empty(batch, state.G.z_dim),
        real_draws=torch.empty(batch, AUGMENT_DRAWS),
        fake_draws=torch.empty(batch, AUGMENT_DRAWS),
        real_labels=labels,
        labels_d=labels,
        labels_g=labels,
    )

    def d_pass() -> object:
        with autocast(part.real.device, DTYPES[config.precision]):
            return d_losses(state, part, config, augment)

    def g_pass() -> object:
        with autocast(part.real.device, DTYPES[config.precision]):
            return g_loss(state, part, config)

    # The augmentation's own tensors are left out: they depend on what it draws.
    config = replace(config, augment="none")
    with trainable(trained(state.optimizer_d)):
        of_d = max(kept_bytes(d_pass), kept_bytes(lambda: penalty_losses(state, part, config)))
    with trainable(trained(state.optimizer_g)):
        return max(of_d, kept_bytes(g_pass) + recomputed_bytes(state.G, config, batch))


def recomputed_bytes(G: Generator, config: TrainConfig, batch: int) -> int:
    """The most that a block keeps while it is run again; 0 without activation checkpointing."""
    if not G.config.activation_checkpointing:
        return 0
    w = torch.empty(batch, G.config.style_dim, requires_grad=True)
    most = 0
    for settings, level in zip(G.config.levels, G.levels, strict=True):
        side, block = settings.resolution, level.get_submodule("blocks.0")
        x = torch.empty(batch, side, side, settings.channels, requires_grad=True)
        with autocast(w.device, DTYPES[config.precision]):
            most = max(most, kept_bytes(functools.partial(block, x, w)))
    return most


def kept_bytes(forward: Callable[[], object]) -> int:
    """The bytes of all tensors that autograd keeps for the backward pass of `forward`."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del result
    return total
