"""The three optimizer steps: D's, its gradient penalty's and G's.

Each of them takes the gradient over this rank's images, averages it over the ranks, and steps. It
returns means of losses over this rank's images. They stay on the device, so that nothing waits for
them. `grad_norm_*` is the norm of the averaged gradient before clipping. It is the same on all
ranks; it is finite if the loss and the gradient of every rank are, and only then the step is taken.

D's spectral-norm vectors step with every pass, even if the optimizer's step is not taken. They
depend on D's weights alone, so that neither images nor losses can spoil them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from stylenat.augment import augment
from stylenat.config import TrainConfig
from stylenat.distributed import world_size
from stylenat.losses import (
    consistency_loss,
    gradient_penalty,
    logistic_d_loss,
    logistic_g_loss,
    relativistic_d_loss,
    relativistic_g_loss,
)
from stylenat.precision import DTYPES, autocast
from stylenat.training.augmenting import record_signs, seen_by_d, sum_of_signs
from stylenat.training.gradients import Gradients
from stylenat.training.inputs import StepInputs
from stylenat.training.state import TrainingState, trained

Augment = Callable[[Tensor, Tensor], Tensor]
Losses = dict[str, Tensor]


def d_step(
    state: TrainingState, inputs: StepInputs, config: TrainConfig, *, augment: Augment = augment
) -> Losses:
    """D's step: the adversarial loss, and consistency under `augment(images, draws)`."""
    begin(config)
    D, totals = state.D, Totals()
    signs = torch.zeros((), dtype=torch.int64, device=inputs.real.device)
    with Gradients(trained(state.optimizer_d), passes=inputs.passes) as gradients:
        for part in inputs.parts():
            with autocast(part.real.device, DTYPES[config.precision]):
                losses = d_losses(state, part, config, augment)
            signs += losses.pop("real_signs")
            loss = sum_of(losses[name] for name in ("loss_d", "loss_consistency") if name in losses)
            if has_penalty(config) and config.r1_every == 1:
                penalties = penalty_losses(state, part, config)
                loss = loss + weighted_penalty(penalties, config)
                losses |= penalties
            gradients.add_of(loss)
            totals.add(losses, loss)
        grad_norm = gradients.average(totals.loss)
        if config.grad_clip_d is not None:
            nn.utils.clip_grads_with_norm_(D.parameters(), config.grad_clip_d, grad_norm)
        step_if_finite(state.optimizer_d, grad_norm)
    if config.augment == "ada":
        record_signs(state, config, signs, len(inputs.real) * world_size())
    return {**totals.means(), "grad_norm_d": grad_norm}


def d_losses(
    state: TrainingState, part: StepInputs, config: TrainConfig, augment: Augment
) -> Losses:
    """D's losses. The order of its passes matters, since each one steps its spectral norm."""
    with torch.no_grad():
        fake = seen_by_d(state.G(part.z_d, part.labels_d), part.draws_of("fake_d"), state, config)
        real = seen_by_d(part.real, part.draws_of("real"), state, config)
    fake_logits = state.D(fake, part.labels_d)
    real_logits = state.D(real, part.real_labels)
    d_loss = logistic_d_loss if config.loss == "logistic" else relativistic_d_loss
    losses = {"loss_d": d_loss(real_logits.float(), fake_logits.float())}
    if config.consistency is not None:
        fake_again = state.D(augment(fake, part.fake_draws), part.labels_d)
        real_again = state.D(augment(real, part.real_draws), part.real_labels)
        fake_loss = consistency_loss(fake_logits.float(), fake_again.float())
        real_loss = consistency_loss(real_logits.float(), real_again.float())
        weights = config.consistency
        losses["loss_consistency"] = (
            weights.fake_weight * fake_loss + weights.real_weight * real_loss
        )
    losses["real_logits"] = real_logits.detach().float().mean()
    is_relative = config.loss == "relativistic"
    judged = real_logits - fake_logits if is_relative else real_logits
    losses["real_signs"] = sum_of_signs(judged)
    losses["fake_logits"] = fake_logits.detach().float().mean()
    return losses


def penalty_step(state: TrainingState, inputs: StepInputs, config: TrainConfig) -> Losses:
    """D's gradient penalty as a step of its own, which counts for `r1_every` steps."""
    begin(config)
    totals = Totals()
    with Gradients(trained(state.optimizer_d), passes=inputs.passes) as gradients:
        for part in inputs.parts():
            penalties = penalty_losses(state, part, config)
            loss = config.r1_every * weighted_penalty(penalties, config)
            gradients.add_of(loss)
            totals.add(penalties, loss)
        grad_norm = gradients.average(totals.loss)
        step_if_finite(state.optimizer_d, grad_norm)
    return {**totals.means(), "grad_norm_penalty": grad_norm}


def has_penalty(config: TrainConfig) -> bool:
    return config.r1_gamma > 0 or config.r2_gamma > 0


def penalty_losses(state: TrainingState, part: StepInputs, config: TrainConfig) -> Losses:
    """R1 and R2 without their weights, in float32."""
    penalties = {}

    def augmented_d(images: Literal["real", "fake_d"]) -> Callable[[Tensor], Tensor]:
        # D uncompiled: torch.compile has no second derivative
        draws = part.draws_of(images)
        labels = part.real_labels if images == "real" else part.labels_d
        return lambda image: state.D.forward(seen_by_d(image, draws, state, config), labels)

    if config.r1_gamma > 0:
        penalties["r1"] = gradient_penalty(augmented_d("real"), part.real)
    if config.r2_gamma > 0:
        with torch.no_grad(), autocast(part.real.device, DTYPES[config.precision]):
            fake = state.G(part.z_d, part.labels_d)
        penalties["r2"] = gradient_penalty(augmented_d("fake_d"), fake)
    return penalties


def weighted_penalty(penalties: Losses, config: TrainConfig) -> Tensor:
    gammas = {"r1": config.r1_gamma, "r2": config.r2_gamma}
    return sum_of(gammas[name] / 2 * penalty for name, penalty in penalties.items())


def g_step(state: TrainingState, inputs: StepInputs, config: TrainConfig) -> Losses:
    """G's step. Of D, only the vectors of its spectral norm change."""
    begin(config)
    totals = Totals()
    with Gradients(trained(state.optimizer_g), passes=inputs.passes) as gradients:
        for part in inputs.parts():
            with autocast(part.real.device, DTYPES[config.precision]):
                loss = g_loss(state, part, config)
            gradients.add_of(loss)
            totals.add({"loss_g": loss}, loss)
        grad_norm = gradients.average(totals.loss)
        step_if_finite(state.optimizer_g, grad_norm)
    return {**totals.means(), "grad_norm_g": grad_norm}


def g_loss(state: TrainingState, part: StepInputs, config: TrainConfig) -> Tensor:
    """G's loss, through D."""
    generated = state.G(part.z_g, part.labels_g)
    fake = seen_by_d(generated, part.draws_of("fake_g"), state, config)
    fake_logits = state.D(fake, part.labels_g).float()
    if config.loss == "logistic":
        return logistic_g_loss(fake_logits)
    real = seen_by_d(part.real, part.draws_of("real"), state, config)
    return relativistic_g_loss(state.D(real, part.real_labels).float(), fake_logits)


def begin(config: TrainConfig) -> None:
    """Tell CUDA graphs that what they have computed before may be overwritten from now on.

    A step leaves nothing of theirs: it takes means of losses, and drops its gradients.
    """
    if config.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()


def step_if_finite(optimizer: torch.optim.Optimizer, grad_norm: Tensor) -> None:
    """Step if the norm is finite; otherwise neither parameters nor moments change.

    On a GPU the fused optimizer reads the flag there, and the process does not wait for it.
    """
    if optimizer.defaults.get("fused"):
        # The attribute by which gradient scaling tells the optimizer to skip a step.
        optimizer.found_inf = (~grad_norm.isfinite()).float()  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif grad_norm.isfinite():
        optimizer.step()


def sum_of(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()


class Totals:
    """Means of losses over the passes, and the sum of the losses that gradients are taken of."""

    def __init__(self) -> None:
        self.sums: Losses = {}
        self.loss = torch.zeros(())
        self.count = 0

    def add(self, losses: Losses, loss: Tensor) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.loss = self.loss + loss.detach()
        self.count += 1

    def means(self) -> Losses:
        return {name: total / self.count for name, total in self.sums.items()}
