"""All that a training step changes: the networks, their optimizers, and the counts of steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from stylenat.augment.adaptation import AdaptiveState
from stylenat.config import RunConfig, TrainConfig
from stylenat.copies import Later
from stylenat.models import Discriminator, Generator
from stylenat.training.freezing import (
    stop_vectors,
    trained_parameters_d,
    trained_parameters_g,
)
from stylenat.untrusted import misfits

NETWORKS = ("G", "D", "G_ema")
OPTIMIZERS = ("optimizer_g", "optimizer_d")


@dataclass
class TrainingState:
    """The networks after `step` steps, which saw `nimg` real images on all ranks together."""

    G: Generator
    D: Discriminator
    G_ema: Generator
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    step: int = 0
    nimg: int = 0
    ada: AdaptiveState | None = None  # None unless `train.augment` is ada
    # Of the steps since `ada` was brought up to date: step, images, sum of D's signs on all ranks.
    pending_signs: list[tuple[int, int, Later]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """State dicts and plain numbers: all that the next step depends on beside the config."""
        parts = {name: getattr(self, name).state_dict() for name in NETWORKS + OPTIMIZERS}
        assert not self.pending_signs
        adaptive = {} if self.ada is None else {"ada": self.ada.state_dict()}
        return {"step": self.step, "nimg": self.nimg, **parts, **adaptive}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave for the same networks.

        Raises ValueError, which names what is missing, left over or of another shape, before
        anything is changed.
        """
        needed = (*NETWORKS, *OPTIMIZERS, "step", "nimg", *(["ada"] if self.ada else []))
        absent = [name for name in needed if name not in saved]
        if absent:
            raise ValueError(f"the checkpoint has no {', '.join(absent)}")
        adaptive = None if self.ada is None else AdaptiveState.from_state_dict(saved["ada"])
        for name in NETWORKS:
            _check_same_tensors(name, getattr(self, name).state_dict(), saved[name])
        for name, network in zip(OPTIMIZERS, NETWORKS, strict=False):
            _check_same_groups(name, getattr(self, name).state_dict(), saved[name])
            optimizer, state = getattr(self, name), saved[name]["state"]
            _check_moments(name, getattr(self, network), optimizer, state)
        for name in NETWORKS + OPTIMIZERS:
            getattr(self, name).load_state_dict(saved[name])
        self.step, self.nimg = int(saved["step"]), int(saved["nimg"])
        self.ada = adaptive


def new_state(config: RunConfig, device: torch.device) -> TrainingState:
    """Fresh networks, the same on every rank: drawn from `train.seed` on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        G = Generator(config.model.generator)
        D = Discriminator(config.model.discriminator)
    G_ema = copy.deepcopy(G)
    return state_of(G.to(device), D.to(device), G_ema.to(device), config.train)


def state_of(
    G: Generator, D: Discriminator, G_ema: Generator, config: TrainConfig
) -> TrainingState:
    """A state at step 0 around these networks, with new optimizers of all that is not frozen."""
    G.train().requires_grad_(False)
    D.train().requires_grad_(False)
    stop_vectors(D, config)
    G_ema.eval().requires_grad_(False)
    is_fused = next(G.parameters()).is_cuda
    lr_d, betas_d = regularized_adam(config)
    optimizer_g = torch.optim.Adam(
        trained_parameters_g(G, config),
        lr=config.lr_g,
        betas=(config.beta1, config.beta2),
        fused=is_fused,
    )
    optimizer_d = torch.optim.Adam(
        trained_parameters_d(D, config), lr=lr_d, betas=betas_d, fused=is_fused
    )
    adaptive = AdaptiveState() if config.augment == "ada" else None
    return TrainingState(G, D, G_ema, optimizer_g, optimizer_d, ada=adaptive)


def trained(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """The parameters that an optimizer moves: its network's without the frozen ones."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameters_in_words(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """How many parameters a network has, and how many of them are frozen, if some are."""
    count = sum(parameter.numel() for parameter in network.parameters())
    frozen = count - sum(parameter.numel() for parameter in trained(optimizer))
    of_them = f", {frozen / 1e6:.3f} M of them frozen" if frozen else ""
    return f"{count / 1e6:.3f} M parameters{of_them}"


def regularized_adam(config: TrainConfig) -> tuple[float, tuple[float, float]]:
    """D's rate and betas, corrected for the penalty's own step after every `r1_every` steps.

    c = r1_every / (r1_every + 1); the rate becomes lr * c, the betas beta ** c (lazy
    regularisation: StyleGAN2, arXiv 1912.04958, appendix B).
    """
    if config.r1_every == 1 or config.r1_gamma == config.r2_gamma == 0:
        return config.lr_d, (config.beta1, config.beta2)
    c = config.r1_every / (config.r1_every + 1)
    return config.lr_d * c, (config.beta1**c, config.beta2**c)


def lr_scale(config: TrainConfig, nimg: int) -> float:
    """The factor of both learning rates after `nimg` images: 1, later falling to 0 at the end."""
    total_nimg = config.total_nimg
    if config.decay_from_kimg is None or nimg < config.decay_from_kimg * 1000:
        return 1.0
    return max(0.0, (total_nimg - nimg) / (total_nimg - config.decay_from_kimg * 1000))


def set_learning_rates(state: TrainingState, config: TrainConfig) -> None:
    """Give both optimizers the rate that the schedule has for `state.nimg`."""
    scale = lr_scale(config, state.nimg)
    lr_d, _ = regularized_adam(config)
    for optimizer, lr in ((state.optimizer_g, config.lr_g), (state.optimizer_d, lr_d)):
        for group in optimizer.param_groups:
            group["lr"] = lr * scale


@torch.no_grad()
def update_average(state: TrainingState, config: TrainConfig, batch: int) -> None:
    """Move G_ema's parameters towards G's, after a step on `batch` images.

    beta = 0.5 ** (batch / half-life), both counted in images.
    """
    halflife_nimg = config.ema_halflife_nimg
    if config.ema_rampup is not None:
        halflife_nimg = min(halflife_nimg, config.ema_rampup * state.nimg)
    beta = 0.5 ** (batch / max(halflife_nimg, 1e-8))
    averages: list[torch.Tensor] = list(state.G_ema.parameters())
    parameters: list[torch.Tensor] = list(state.G.parameters())
    torch._foreach_lerp_(averages, parameters, 1 - beta)


def _check_same_tensors(name: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    odd = misfits(
        {key: value.shape for key, value in own.items()},
        saved,
        no_tensor=[key for key in own if not isinstance(saved.get(key, own[key]), torch.Tensor)],
    )
    if odd:
        kind = "optimizer" if name in OPTIMIZERS else "network"
        raise ValueError(f"the checkpoint's {name} is another {kind}: {odd}")


def _check_same_groups(name: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    kept, expected = (
        [len(group["params"]) for group in state["param_groups"]] for state in (saved, own)
    )
    if kept != expected:
        raise ValueError(f"the checkpoint's {name} has other parameters: {kept}, not {expected}")


def _check_moments(
    name: str,
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    saved: Mapping[int, Any],
) -> None:
    """Check Adam's count and two moments of each parameter; before its first step it has none."""
    moved = {id(parameter) for parameter in trained(optimizer)}
    parameters = {key: p for key, p in network.named_parameters() if id(p) in moved}
    keys = list(parameters)
    own = {
        f"{key}.{what}": torch.empty((), device="meta") if what == "step" else parameter
        for key, parameter in parameters.items()
        for what in ("step", "exp_avg", "exp_avg_sq")
    }
    kept = {
        f"{keys[index] if index < len(keys) else index}.{what}": value
        for index, values in saved.items()
        for what, value in values.items()
    }
    if kept:
        _check_same_tensors(name, own, kept)
