"""Checkpoints as the published code writes them, with the golden weights.

`official_generator` and `official_discriminator` give a network's whole state dict, its constants
included; `new_format` and `first_format` put state dicts into a file's layout.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from tests.golden_values import golden_arrays, golden_json, golden_randn

LEVELS = 9
GENERATOR_ARGS = {
    "n_mlp": 8,
    "block_type": "nat",
    "style_dim": 512,
    "lr": 0.0002,
    "channel_multiplier": 2,
    "mlp_ratio": 4,
    "use_checkpoint": False,
    "lr_mlp": 0.01,
    "enable_full_resolution": 8,
    "min_heads": 4,
    "qkv_bias": True,
    "qk_scale": None,
    "proj_drop": 0.0,
    "attn_drop": 0.0,
    "kernels": [[3]] + [[7]] * (LEVELS - 1),
    "dilations": [[1], [1]] + [[1, 2**i] for i in range(1, LEVELS - 1)],
    "reg_every": None,
    "params": 0,
}
DISCRIMINATOR_ARGS = {
    "lr": 0.0002,
    "channel_multiplier": 2,
    "blur_kernel": [1, 3, 3, 1],
    "sn": True,
    "ssd": False,
    "reg_every": 16,
    "params": 0,
}


def official_generator(name: str) -> dict[str, Tensor]:
    """The state dict of a golden generator, in the published code's order."""
    case = golden_json("generators")[name]
    weights = {
        key: golden_randn(parameter["shape"], f"G/{name}/{key}", parameter["std"])
        for key, parameter in case["params"].items()
    }
    return {
        key: weights[key] if key in weights else constant(key, case["buffers"][key])
        for key in case["state_dict_keys"]
    }


def official_discriminator(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """The state dict of a golden discriminator, and its official logits."""
    case = golden_json("discriminators")[name]
    tensors = {
        key: golden_randn(parameter["shape"], f"D/{name}/{key}", parameter["std"])
        for key, parameter in case["params"].items()
    }
    tensors |= golden_arrays(f"discriminator_{name}")
    logits = tensors.pop("logits")
    state = {
        key: tensors[key] if key in tensors else constant(key) for key in case["state_dict_keys"]
    }
    return state, logits


def constant(key: str, shape: list[int] | None = None) -> Tensor:
    """A buffer that was never learned."""
    *_, owner, leaf = key.split(".")
    if leaf == "kernel":
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        return 4 * kernel if owner == "upsample" else kernel
    if leaf in ("ll", "lh", "hl", "hh"):
        low, high = torch.tensor([[1.0, 1.0]]) / 2**0.5, torch.tensor([[-1.0, 1.0]]) / 2**0.5
        filters = {"ll": low.T * low, "lh": high.T * low, "hl": low.T * high, "hh": high.T * high}
        return -filters[leaf] if owner == "iwt" and leaf in ("lh", "hl") else filters[leaf]
    assert shape is not None
    if leaf == "relative_position_index":
        return torch.arange(shape[0] * shape[1]).view(shape)
    # Masks hold 0 and -100, and _float_tensor whatever was in memory: nobody reads them.
    return torch.full(shape, float("nan"))


def new_format(
    *,
    size: int,
    g_ema: dict[str, Tensor] | None = None,
    d: dict[str, Tensor] | None = None,
    generator_args: dict[str, Any] | None = None,
    discriminator_args: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The layout of the released training code: plain args in sections."""
    state_dicts = {"g": {}, "d": d or {}, "g_ema": g_ema or {}}
    runs = {
        "size": size,
        "generator": GENERATOR_ARGS | (generator_args or {}),
        "discriminator": DISCRIMINATOR_ARGS | (discriminator_args or {}),
        "training": {"iter": 1_000_000, "batch": 8},
    }
    return {
        "args": {"type": "train", "device": "cuda:0", "misc": {"seed": 7}, "runs": runs},
        "state_dicts": state_dicts,
        "optim_dicts": {"g_optim": {"state": {}, "param_groups": [{"lr": 5e-5}]}, "d_optim": {}},
        "lr_dicts": {"G_lr": 5e-5, "D_lr": 2e-4},
        "eval_info": {"fid @ 0.80M imgs": 2.5},
    }


def first_format(
    *, g_ema: dict[str, Tensor] | None = None, d: dict[str, Tensor] | None = None, **args: Any
) -> dict[str, Any]:
    """The layout of the released FFHQ files and of StyleSwin's: flat args in a Namespace."""
    namespace = argparse.Namespace(path="/data/ffhq", batch=4, distributed=True, **args)
    return {
        "g": {},
        "d": d or {},
        "g_ema": g_ema or {},
        "g_optim": {"state": {}, "param_groups": [{"lr": 5e-5, "betas": (0.0, 0.99)}]},
        "d_optim": {"state": {}, "param_groups": []},
        "args": namespace,
    }
