"""NATTEN's switches: checked as NATTEN checks them, kept and readable; they choose no kernel here.

They tune kernels that this drop-in does not have. `use_fused_na` alone changes what modules
compute, as in NATTEN: with it they leave out the dropout of attention weights.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch

from stylenat.compat.utils import get_device_cc

_logger = logging.getLogger(__name__)


class MemoryUsagePreference(Enum):
    """What `set_memory_usage_preference` keeps."""

    Default = 0
    Strict = 1
    Unrestricted = 2


class NattenContext:
    """The switches of fused attention, as class attributes, as in NATTEN."""

    is_deterministic_mode_enabled: bool = False
    is_fused_na_enabled: bool = False
    is_kv_parallelism_enabled: bool = False
    use_flex_attention: bool = False
    force_flex_attention: bool = False
    training_memory_preference: MemoryUsagePreference = MemoryUsagePreference.Default

    @staticmethod
    def reset() -> None:
        NattenContext.is_deterministic_mode_enabled = False
        NattenContext.is_fused_na_enabled = False
        NattenContext.is_kv_parallelism_enabled = False
        NattenContext.use_flex_attention = False
        NattenContext.force_flex_attention = False
        NattenContext.training_memory_preference = MemoryUsagePreference.Default


@functools.cache
def say_once(name: str) -> None:
    _logger.warning(
        "natten.%s is accepted and tunes nothing: stylenat.compat chooses its own kernels", name
    )


# Fused attention and determinism.


def set_memory_usage_preference(pref: str = "default") -> None:
    preferences = {choice.name.lower(): choice for choice in MemoryUsagePreference}
    if not isinstance(pref, str) or pref not in preferences:
        raise ValueError(f"the memory usage preference must be one of {[*preferences]}: {pref!r}")
    NattenContext.training_memory_preference = preferences[pref]
    if pref != "default":
        say_once("set_memory_usage_preference")


def get_memory_usage_preference() -> MemoryUsagePreference:
    return NattenContext.training_memory_preference


def is_memory_usage_default() -> bool:
    return NattenContext.training_memory_preference == MemoryUsagePreference.Default


def is_memory_usage_strict() -> bool:
    return get_memory_usage_preference() == MemoryUsagePreference.Strict


def is_memory_usage_unrestricted() -> bool:
    return get_memory_usage_preference() == MemoryUsagePreference.Unrestricted


def use_deterministic_algorithms(mode: bool = True) -> None:
    NattenContext.is_deterministic_mode_enabled = mode
    if mode:
        say_once("use_deterministic_algorithms")


def are_deterministic_algorithms_enabled() -> bool:
    return NattenContext.is_deterministic_mode_enabled


def use_kv_parallelism_in_fused_na(mode: bool = True) -> None:
    if mode and torch.are_deterministic_algorithms_enabled():
        _logger.warning("KV parallelism stays off: PyTorch's deterministic mode is on")
        return
    if mode and are_deterministic_algorithms_enabled():
        raise RuntimeError(
            "KV parallelism is not deterministic, and NATTEN's deterministic mode is on; call "
            "natten.use_deterministic_algorithms(False) first"
        )
    NattenContext.is_kv_parallelism_enabled = bool(mode)
    if mode:
        say_once("use_kv_parallelism_in_fused_na")


def is_kv_parallelism_in_fused_na_enabled() -> bool:
    return NattenContext.is_kv_parallelism_enabled


def use_fused_na(
    mode: bool = True,
    kv_parallel: bool = True,
    use_flex_attention: bool = False,
    force_flex_attention: bool = False,
) -> None:
    if not mode:
        NattenContext.use_flex_attention = NattenContext.force_flex_attention = False
        NattenContext.is_fused_na_enabled = NattenContext.is_kv_parallelism_enabled = False
        return
    use_kv_parallelism_in_fused_na(kv_parallel)
    NattenContext.is_fused_na_enabled = True
    NattenContext.use_flex_attention = use_flex_attention
    NattenContext.force_flex_attention = force_flex_attention


def is_fused_na_enabled() -> bool:
    return NattenContext.is_fused_na_enabled


def enable_fused_na() -> None:
    use_fused_na(True)


def disable_fused_na() -> None:
    use_fused_na(False)


def use_flex_attention() -> None:
    use_fused_na(True, use_flex_attention=True)


def force_flex_attention() -> None:
    use_fused_na(True, use_flex_attention=True, force_flex_attention=True)


def should_use_flex_attention() -> bool:
    return NattenContext.use_flex_attention


def should_force_flex_attention() -> bool:
    return NattenContext.force_flex_attention


use_fna = use_fused_na
is_fna_enabled = is_fused_na_enabled


# What the machine has. NATTEN asks for GPUs of these compute capabilities.


def has_cuda() -> bool:
    return torch.cuda.is_available()


def _has(least: int, device_index: Any) -> bool:
    return has_cuda() and get_device_cc(device_index) >= least


def has_half(device_index: Any = None) -> bool:
    return _has(50, device_index)


def has_bfloat(device_index: Any = None) -> bool:
    return _has(80, device_index)


def has_gemm(device_index: Any = None) -> bool:
    return _has(70, device_index)


def has_fused_na(device_index: Any = None) -> bool:
    """True: fused attention runs everywhere here, and code that asks takes its fastest path."""
    return True


def has_tf32_gemm(device_index: Any = None) -> bool:
    return _has(80, device_index)


has_fna = has_fused_na
has_fp32_gemm = has_tf32_gemm
has_fp64_gemm = has_tf32_gemm


# Kernels of unfused attention. NATTEN has them on at first.

_kernels = {"tf32_in_gemm_na": True, "tiled_na": True, "gemm_na": True}


def _switch(name: str) -> tuple[Callable[..., Any], ...]:
    """use(mode=True), is_enabled(), enable() and disable() of one of them."""

    def use(mode: bool = True) -> None:
        _kernels[name] = bool(mode)
        say_once(f"use_{name}")

    def is_enabled() -> bool:
        return _kernels[name]

    def enable() -> bool:
        use(True)
        return is_enabled()

    def disable() -> bool:
        use(False)
        return is_enabled()

    return use, is_enabled, enable, disable


use_tf32_in_gemm_na, is_tf32_in_gemm_na_enabled, enable_tf32, disable_tf32 = _switch(
    "tf32_in_gemm_na"
)
use_tiled_na, is_tiled_na_enabled, enable_tiled_na, disable_tiled_na = _switch("tiled_na")
use_gemm_na, is_gemm_na_enabled, enable_gemm_na, disable_gemm_na = _switch("gemm_na")
