"""Which tensors of a published state dict make which native ones.

Legend: C channels, N heads of a level, P side of a bias table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.resample import BINOMIAL
from stylenat.models.discriminator import Discriminator, DiscriminatorConfig
from stylenat.models.generator import Generator
from stylenat.models.levels import GeneratorConfig, Windows

Shape = tuple[int, ...]

NATIVE_ONLY = ("w_avg", "w_avg_samples")

CONSTANTS = (
    r"layers\.\d+\.upsample\.sin_pos_embed\._float_tensor",
    r"layers\.\d+\.blocks\.\d+\.attn(\.[01])?\.relative_position_index",
    r"layers\.\d+\.blocks\.\d+\.attn_mask[12]",
    r"to_rgbs\.\d+\.upsample\.kernel",
    r"(from_rgbs\.\d+\.downsample|convs\.\d+\.conv2\.0)\.kernel",
    r"(from_rgbs\.\d+\.)?[di]wt\.(ll|lh|hl|hh)",
)
HAAR = {
    "ll": ((0.5, 0.5), (0.5, 0.5)),
    "lh": ((-0.5, -0.5), (0.5, 0.5)),
    "hl": ((-0.5, 0.5), (-0.5, 0.5)),
    "hh": ((0.5, -0.5), (-0.5, 0.5)),
}


@dataclass(frozen=True)
class Source:
    """The official tensors, by name and shape, that make one native tensor, and how they do."""

    shapes: Mapping[str, Shape]
    make: Callable[..., Tensor]


def official_sources(
    network: Generator | Discriminator, official: Collection[str]
) -> dict[str, Source]:
    """The source of every native tensor but w_avg, which no published file has.

    The names in `official` only tell how a block keeps its bias tables: the first StyleNAT had two
    a block, `rpb0` and `rpb1`, also if both halves of the heads saw one neighborhood.
    """
    state = network.state_dict()
    native = {name: tuple(x.shape) for name, x in state.items() if name not in NATIVE_ONLY}
    if isinstance(network, Generator):
        return _generator_sources(network.config, native, official)
    keys = discriminator_keys(network.config)
    return {name: _as_is(key, native[name]) for key, name in keys.items()}


# Generators

RENAMED = (  # applied in order
    (r"^const$", "input.input"),
    (r"^levels\.(\d+)\.to_rgb\.linear\.", r"to_rgbs.\1.conv."),
    (r"^levels\.(\d+)\.to_rgb\.", r"to_rgbs.\1."),
    (r"^levels\.", "layers."),
    (r"\.upsample\.linear\.", ".upsample.reduction."),
)


def _generator_sources(
    config: GeneratorConfig, native: Mapping[str, Shape], official: Collection[str]
) -> dict[str, Source]:
    sources = {}
    for name, shape in native.items():
        path, _, leaf = name.partition(".attention.")
        if leaf.startswith("rpb"):
            block = path.replace("levels.", "layers.", 1)
            if _has_windows(config, name):
                sources[name] = _window_tables(block, shape)
            elif f"{block}.attn.rpb0" in official:
                groups = sum(key.startswith(f"{path}.attention.rpb.") for key in native)
                sources[name] = _first_format_table(block, leaf, shape, groups)
            else:
                sources[name] = _as_is(f"{block}.attn.{leaf}", shape)
        else:
            sources[name] = _plain(config, name, shape)
    return sources


def _has_windows(config: GeneratorConfig, name: str) -> bool:
    """Whether a native tensor belongs to StyleSwin's attention, whose names are its own."""
    return isinstance(config.levels[int(name.split(".")[1])].kind, Windows)


def _plain(config: GeneratorConfig, name: str, shape: Shape) -> Source:
    """A tensor that holds the same numbers in both, in another shape perhaps."""
    if (layer := re.match(r"mapping_network\.layers\.(\d+)\.", name)) is not None:
        # Layer 0 of the official network is its pixel norm.
        return _as_is(f"style.{int(layer[1]) + 1}.{name[layer.end() :]}", shape)
    if ".attention." in name:
        name = name.replace(".attention.", "." if _has_windows(config, name) else ".attn.")
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    if name == "input.input":
        height, width, channels = shape
        official = (1, channels, height, width)
        return Source({name: official}, lambda const: const[0].permute(1, 2, 0))
    if re.fullmatch(r"to_rgbs\.\d+\.bias", name):
        return Source({name: (1, *shape, 1, 1)}, torch.flatten)
    if re.fullmatch(r"to_rgbs\.\d+\.conv\.weight", name):
        return Source({name: (*shape, 1, 1)}, lambda weight: weight.flatten(1))
    return _as_is(name, shape)


def _as_is(name: str, shape: Shape) -> Source:
    return Source({name: shape}, lambda tensor: tensor)


def _window_tables(block: str, shape: Shape) -> Source:
    """StyleSwin's tables: [P^2, N/2] for each half of the heads, of query minus key position."""
    heads, side, _ = shape
    half_tables = [f"{block}.attn.{half}.relative_position_bias_table" for half in (0, 1)]
    return Source(
        dict.fromkeys(half_tables, (side**2, heads // 2)),
        lambda *halves: torch.cat(halves, dim=1).T.reshape(heads, side, side).flip(1, 2),
    )


def _first_format_table(block: str, leaf: str, shape: Shape, groups: int) -> Source:
    """A table for each half of the heads: a group's own, or both parts of a single group's."""
    heads, side, _ = shape
    if groups == 1:
        halves = {
            f"{block}.attn.rpb0": (heads - heads // 2, side, side),
            f"{block}.attn.rpb1": (heads // 2, side, side),
        }
        return Source(halves, lambda *tables: torch.cat(tables))
    return _as_is(f"{block}.attn.{leaf.replace('rpb.', 'rpb')}", shape)


# Discriminators


def discriminator_keys(config: DiscriminatorConfig) -> dict[str, str]:
    """The official name of every tensor in a discriminator's state dict -> its native name.

    One entry for each parameter and each spectral-norm vector; shapes agree. Constants
    (`is_constant`) have no native name.
    """
    biased = {"final_conv.1.bias": "final_conv.bias"}
    weights = {"final_conv.0": "final_conv.conv", "final_linear.0": "hidden"}
    for i in range(len(config.levels)):
        weights[f"from_rgbs.{i}.conv.0"] = f"from_rgbs.{i}.conv"
        biased[f"from_rgbs.{i}.conv.1.bias"] = f"from_rgbs.{i}.bias"
    for i in range(len(config.levels) - 1):
        # The blur is layer 0 of the official conv2, so its convolution is layer 1.
        weights[f"convs.{i}.conv1.0"] = f"blocks.{i}.conv1.conv"
        biased[f"convs.{i}.conv1.1.bias"] = f"blocks.{i}.conv1.bias"
        weights[f"convs.{i}.conv2.1"] = f"blocks.{i}.conv2.conv"
        biased[f"convs.{i}.conv2.2.bias"] = f"blocks.{i}.conv2.bias"

    biased["final_linear.0.bias"] = "hidden.bias"
    if config.spectral_norm:
        biased["final_linear.1.bias"] = "hidden_bias"
    logit = "final_linear.2" if config.spectral_norm else "final_linear.1"
    weights[logit] = "logit"
    biased[f"{logit}.bias"] = "logit.bias"

    keys = biased
    for official, native in weights.items():
        if config.spectral_norm:
            normalised = f"{native}.parametrizations.weight"
            keys[f"{official}.weight_orig"] = f"{normalised}.original"
            keys[f"{official}.weight_u"] = f"{normalised}.0._u"
            keys[f"{official}.weight_v"] = f"{normalised}.0._v"
        else:
            keys[f"{official}.weight"] = f"{native}.weight"
    return keys


# Constants


def is_constant(name: str) -> bool:
    """Whether an official tensor was never learned: a filter, a mask, a table of indices."""
    return any(re.fullmatch(pattern, name) for pattern in CONSTANTS)


def is_expected(name: str, constant: Tensor) -> bool:
    """Whether a constant holds what the native network computes with.

    Filters alone matter: masks and indices follow from shapes, and `_float_tensor` was never set.
    Zeros pass as well: nothing works with such a filter, so it was blanked.
    """
    *_, owner, leaf = name.split(".")
    if leaf == "kernel":
        taps = torch.tensor(BINOMIAL) / sum(BINOMIAL)
        filter_2d = torch.outer(taps, taps) * (4 if owner == "upsample" else 1)
    elif leaf in HAAR:
        sign = -1 if owner == "iwt" and leaf in ("lh", "hl") else 1
        filter_2d = torch.tensor(HAAR[leaf]) * sign
    else:
        return True
    if constant.shape != filter_2d.shape:
        return False
    return torch.allclose(constant.float(), filter_2d) or not constant.any()
