"""NATTEN's autotuner: its settings are checked and kept as in NATTEN, and tune nothing."""

from __future__ import annotations

import logging
from typing import Any

import torch

from stylenat.compat.context import are_deterministic_algorithms_enabled, say_once

_logger = logging.getLogger(__name__)


class AutotunerContext:
    """The settings of the autotuner, as class attributes, as in NATTEN."""

    enabled_for_forward: bool = False
    enabled_for_backward: bool = False
    thorough_mode_forward: bool = False
    thorough_mode_backward: bool = False
    warmup_steps_forward: int = 5
    warmup_steps_backward: int = 5
    steps_forward: int = 5
    steps_backward: int = 5

    @staticmethod
    def reset() -> None:
        for direction in ("forward", "backward"):
            setattr(AutotunerContext, f"enabled_for_{direction}", False)
            setattr(AutotunerContext, f"thorough_mode_{direction}", False)
            setattr(AutotunerContext, f"warmup_steps_{direction}", 5)
            setattr(AutotunerContext, f"steps_{direction}", 5)


def use_autotuner(
    forward_pass: bool | None = None,
    backward_pass: bool | None = None,
    thorough_mode_forward: bool | None = None,
    thorough_mode_backward: bool | None = None,
    warmup_steps_forward: int | None = None,
    warmup_steps_backward: int | None = None,
    steps_forward: int | None = None,
    steps_backward: int | None = None,
) -> None:
    """None leaves a setting as it is. Raises ValueError for other types than NATTEN takes, and
    RuntimeError in NATTEN's deterministic mode."""
    passes = (forward_pass, backward_pass)
    if None not in passes and not any(passes):
        AutotunerContext.enabled_for_forward = AutotunerContext.enabled_for_backward = False
        return
    if (forward_pass or backward_pass) and torch.are_deterministic_algorithms_enabled():
        _logger.warning("the autotuner stays off: PyTorch's deterministic mode is on")
        return
    _set("enabled_for_forward", forward_pass, bool)
    _set("enabled_for_backward", backward_pass, bool)
    _set("thorough_mode_forward", thorough_mode_forward, bool)
    _set("thorough_mode_backward", thorough_mode_backward, bool)
    _set("warmup_steps_forward", warmup_steps_forward, int)
    _set("warmup_steps_backward", warmup_steps_backward, int)
    _set("steps_forward", steps_forward, int)
    _set("steps_backward", steps_backward, int)


def _set(name: str, value: Any, kind: type) -> None:
    if value is None:
        return
    if not isinstance(value, kind):
        raise ValueError(f"the autotuner's {name} must be of type {kind.__name__}, not {value!r}")
    if name.startswith("enabled") and value and are_deterministic_algorithms_enabled():
        raise RuntimeError(
            "the autotuner is not deterministic, and NATTEN's deterministic mode is on; call "
            "natten.use_deterministic_algorithms(False) first"
        )
    setattr(AutotunerContext, name, value)
    say_once("use_autotuner")


def enable_autotuner() -> None:
    use_autotuner(True, True)


def disable_autotuner() -> None:
    AutotunerContext.enabled_for_forward = AutotunerContext.enabled_for_backward = False
    AutotunerContext.thorough_mode_forward = AutotunerContext.thorough_mode_backward = False


def is_autotuner_enabled() -> bool:
    return AutotunerContext.enabled_for_forward or AutotunerContext.enabled_for_backward


def is_autotuner_enabled_for_forward() -> bool:
    return AutotunerContext.enabled_for_forward


def is_autotuner_enabled_for_backward() -> bool:
    return AutotunerContext.enabled_for_backward


def is_autotuner_thorough_for_forward() -> bool:
    return AutotunerContext.thorough_mode_forward


def is_autotuner_thorough_for_backward() -> bool:
    return AutotunerContext.thorough_mode_backward
