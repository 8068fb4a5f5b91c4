"""What the networks are given, checked before PyTorch's own messages about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ops.checks import check_tensor, kind


def check_input(
    name: str, x: Tensor, parameter: Tensor, network: str, *, may_autocast: bool = False
) -> None:
    """Raises ValueError, naming both and the way out, unless x is a tensor of the network's device
    and dtype; `parameter` is the first that x meets. Autocast, where it may, takes others too."""
    check_tensor(name, x)
    if x.device != parameter.device:
        raise ValueError(
            f"{name} and the {network} must be on one device: {x.device} and {parameter.device}; "
            f"use {name}.to('{parameter.device}')"
        )
    wanted = parameter.dtype
    if x.dtype != wanted and not (may_autocast and _is_autocast(x)):
        cast = f"{name}.float()" if wanted == torch.float32 else f"{name}.to({wanted})"
        raise ValueError(
            f"{name} and the {network} must have one dtype: {x.dtype} and {wanted}; use {cast}"
        )


def _is_autocast(x: Tensor) -> bool:
    """Whether autocast gives x another dtype if it is needed."""
    device_type = x.device.type
    return (
        torch.amp.is_autocast_available(device_type)
        and torch.is_autocast_enabled(device_type)
        and x.is_floating_point()
        and x.dtype != torch.float64
    )


def keep_levels(config: Any, level_class: type) -> None:
    """Raises ValueError unless a config's levels are a tuple or list of its level class; a list
    becomes a tuple."""
    levels, name = config.levels, level_class.__name__
    if not isinstance(levels, (tuple, list)):
        raise ValueError(f"levels must be a tuple of {name}, not {kind(levels)}")
    for index, level in enumerate(levels):
        if not isinstance(level, level_class):
            raise ValueError(f"levels[{index}] must be a {name}, not {kind(level)}: {level!r}")
    object.__setattr__(config, "levels", tuple(levels))
