"""What network a published checkpoint holds.

Each field comes from the checkpoint's own args if they hold it, else from the user's config,
else from the tensors' shapes. Afterwards every shape is compared with what was found. Dilations
leave no trace in a shape: they must be in the args or in the config.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from stylenat.models.discriminator import DiscriminatorConfig, DiscriminatorLevel
from stylenat.models.levels import (
    AttentionKind,
    GeneratorConfig,
    LevelConfig,
    Windows,
    deal_heads,
)
from stylenat.text import shown
from stylenat.untrusted import fields

Shapes = Mapping[str, tuple[int, ...]]

# Channels at 4x4, 8x8, ... 1024x1024; from 64x64 on, of channel multiplier 1.
BASE_CHANNELS = (512, 512, 512, 512, 256, 128, 64, 32, 16)
FIRST_MULTIPLIED = 4
HEAD_DIM = 32
MIN_HEADS = 4
STYLE_DIM = 512
WINDOW_SIZE = 8
WINDOW_TABLE = "relative_position_bias_table"
MAX_INTEGER = 2**16


class Settings:
    """The checkpoint's args as far as they concern one network, by the names of StyleNAT's configs.

    Sections are looked into, and StyleSwin's flat names too: `args["runs"]["generator"]`,
    `args["generator"]`, `args["G_channel_multiplier"]`. A field that is absent or null is None.
    """

    def __init__(self, args: Mapping[str, Any], network: str) -> None:
        runs, prefix = fields(args.get("runs")), f"{network[0].upper()}_"
        self.values: dict[str, Any] = {}
        for section in (args, runs, fields(args.get(network)), fields(runs.get(network))):
            self.values |= section
            self.values |= {
                name.removeprefix(prefix): value
                for name, value in section.items()
                if name.startswith(prefix)
            }

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def integer(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and not (type(value) is int and 0 < value <= MAX_INTEGER):
            raise self._fault(name, f"must be an integer from 1 to {MAX_INTEGER}")
        return value

    def number(self, name: str) -> float | None:
        value = self.values.get(name)
        if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):
            raise self._fault(name, "must be a finite number, not negative")
        return None if value is None else float(value)

    def flag(self, name: str) -> bool | None:
        value = self.values.get(name)
        if value is not None and type(value) is not bool:
            raise self._fault(name, "must be true or false")
        return value

    def lists(self, name: str, levels: int) -> list[list[int]] | None:
        """One list of integers per level; the file may hold more levels than the network has."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) < levels:
            raise self._fault(name, "must hold a list for every level")
        per_level = [x if isinstance(x, (list, tuple)) else [x] for x in value[:levels]]
        if not all(type(x) is int for entries in per_level for x in entries):
            raise self._fault(name, "must hold integers")
        return [list(entries) for entries in per_level]

    def block_type(self) -> str | None:
        value = self.values.get("block_type")
        if value is None:
            return None
        if not isinstance(value, str) or value.lower() not in ("nat", "swin"):
            raise self._fault("block_type", "must be nat or swin, the published networks' kinds")
        return value.lower()

    def _fault(self, name: str, rule: str) -> ValueError:
        return ValueError(f"the checkpoint's args.{name} {rule}: {shown(self.values[name])}")


# Generators


def generator_config(
    args: Mapping[str, Any], shapes: Shapes, config: GeneratorConfig | None
) -> GeneratorConfig:
    """The generator that a state dict with these `shapes` holds; `config` fills what args lack.

    Raises ValueError if a field has no source, is malformed, or makes no network.
    """
    settings = Settings(args, "generator")
    count = _count_levels(settings, shapes, r"layers\.(\d+)\.", smallest=4)
    values = _fields_of_shapes(shapes) if config is None else dict(vars(config))
    found = {
        "style_dim": settings.integer("style_dim"),
        "mapping_layers": settings.integer("n_mlp"),
        "mapping_lr_multiplier": settings.number("lr_mlp"),
        "mlp_ratio": settings.number("mlp_ratio"),
        "qkv_bias": settings.flag("qkv_bias"),
    }
    values |= {name: value for name, value in found.items() if value is not None}
    if "qk_scale" in settings:
        # The published code takes 0 for none, as it takes null.
        values["qk_scale"] = settings.number("qk_scale") or None
    values["z_dim"] = values["style_dim"]
    values["levels"] = tuple(_level(settings, shapes, config, index) for index in range(count))
    return GeneratorConfig(**values)


def _fields_of_shapes(shapes: Shapes) -> dict[str, Any]:
    """Fields of a GeneratorConfig, read from the tensors; the rest as published."""
    hidden = _side(shapes, "layers.0.blocks.0.mlp.fc1.weight", 0, 4 * BASE_CHANNELS[0])
    channels = _side(shapes, "layers.0.blocks.0.mlp.fc1.weight", 1, BASE_CHANNELS[0])
    return {
        "style_dim": _side(shapes, "style.1.weight", 0, STYLE_DIM),
        "mapping_layers": sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in shapes),
        "mlp_ratio": hidden / channels,
        "qkv_bias": any(name.endswith("qkv.bias") for name in shapes),
    }


def _level(
    settings: Settings, shapes: Shapes, config: GeneratorConfig | None, index: int
) -> LevelConfig:
    resolution, given = 4 * 2**index, None
    if config is not None:
        given = next((x for x in config.levels if x.resolution == resolution), None)
        if given is None:
            raise ValueError(
                f"the config ends at {config.resolution}x{config.resolution}, the checkpoint has "
                f"a level {resolution}x{resolution}"
            )
    multiplier, min_heads = settings.integer("channel_multiplier"), settings.integer("min_heads")
    if multiplier is not None:
        channels = _published_channels(resolution, multiplier)
    elif given is not None:
        channels = given.channels
    else:
        rows = f"layers.{index}.blocks.0.norm1.style.weight"
        channels = _side(shapes, rows, 0, 2 * _published_channels(resolution, 2)) // 2
    if min_heads is not None:
        heads = max(channels // HEAD_DIM, min_heads)
    elif given is not None:
        heads = given.heads
    else:
        heads = _heads_of_tables(shapes, index) or max(channels // HEAD_DIM, MIN_HEADS)
    attention = _attention(settings, shapes, given, resolution, heads)
    return LevelConfig(resolution, channels, heads, attention)


def _attention(
    settings: Settings, shapes: Shapes, given: LevelConfig | None, resolution: int, heads: int
) -> AttentionKind:
    is_swin = any(name.endswith(WINDOW_TABLE) for name in shapes)
    if (settings.block_type() or ("swin" if is_swin else "nat")) == "swin":
        return _windows(settings, shapes, given, resolution)
    if resolution == 4:
        return "global"
    index = int(math.log2(resolution)) - 2
    kernels = settings.lists("kernels", index + 1)
    dilations = settings.lists("dilations", index + 1)
    if kernels is not None and dilations is not None:
        return deal_heads(heads, kernels[index], dilations[index])
    if given is None:
        raise ValueError(
            "the checkpoint's args do not hold kernels and dilations, and shapes do not tell "
            "dilations: pass the model's config (--config ffhq256, say)"
        )
    return given.attention


def _windows(
    settings: Settings, shapes: Shapes, given: LevelConfig | None, resolution: int
) -> Windows:
    full = settings.integer("enable_full_resolution")
    if full is not None:
        # The published code rounds to a power of two, and cuts windows larger than the map.
        is_full = resolution <= 2 ** int(math.log2(full))
        return Windows(resolution if is_full else min(WINDOW_SIZE, resolution))
    if given is not None and isinstance(given.attention, Windows):
        return given.attention
    index = int(math.log2(resolution)) - 2
    table = f"layers.{index}.blocks.0.attn.0.{WINDOW_TABLE}"
    default = (2 * min(WINDOW_SIZE, resolution) - 1) ** 2
    return Windows((math.isqrt(_side(shapes, table, 0, default)) + 1) // 2)


def _heads_of_tables(shapes: Shapes, index: int) -> int:
    """The heads of a level's first block: all its tables' together."""
    attention = f"layers.{index}.blocks.0.attn."
    tables = {name.removeprefix(attention): shape for name, shape in shapes.items()}
    return sum(
        shape[1 if leaf.endswith(WINDOW_TABLE) else 0]
        for leaf, shape in tables.items()
        if re.fullmatch(rf"rpb\.?\d*|[01]\.{WINDOW_TABLE}", leaf) and len(shape) > 1
    )


# Discriminators


def discriminator_config(
    args: Mapping[str, Any], shapes: Shapes, config: DiscriminatorConfig | None
) -> DiscriminatorConfig:
    """The discriminator that a state dict with these `shapes` holds.

    A config for images of another size says nothing of the widths, since the first level has the
    width that the published table gives for the image's own side. Raises ValueError as above.
    """
    settings = Settings(args, "discriminator")
    count = _count_levels(settings, shapes, r"from_rgbs\.(\d+)\.", smallest=8)
    sides = [4 * 2**index for index in range(count)]
    multiplier = settings.integer("channel_multiplier")
    if multiplier is not None:
        widths = [_published_channels(side, multiplier) for side in [*sides[:-1], 2 * sides[-1]]]
    elif config is not None and len(config.levels) == count:
        widths = [level.channels for level in config.levels]
    else:
        biases = [f"from_rgbs.{index}.conv.1.bias" for index in reversed(range(count))]
        widths = [_side(shapes, bias, 0, BASE_CHANNELS[0]) for bias in biases]
    spectral = settings.flag("sn")
    if spectral is None:
        normalised = any(name.endswith(".weight_orig") for name in shapes)
        spectral = normalised if config is None else config.spectral_norm
    levels = tuple(map(DiscriminatorLevel, sides, widths))
    return dataclasses.replace(
        config or DiscriminatorConfig(levels), levels=levels, spectral_norm=spectral
    )


# Both


def _count_levels(settings: Settings, shapes: Shapes, pattern: str, *, smallest: int) -> int:
    """How many levels the tensors' names tell of; the smallest network of one makes `smallest`."""
    matches = (re.match(pattern, name) for name in shapes)
    count = len({match[1] for match in matches if match is not None})
    largest = 4 * 2 ** (len(BASE_CHANNELS) - 1)
    if not 1 <= count <= math.log2(largest // smallest) + 1:
        raise ValueError(
            f"the published networks are for {smallest}x{smallest} to {largest}x{largest}: the "
            f"checkpoint holds {count} levels"
        )
    resolution, size = smallest * 2 ** (count - 1), settings.integer("size")
    if size is not None and size != resolution:
        raise ValueError(
            f"the checkpoint's args.size is {size}, but its {count} levels make images of "
            f"{resolution}x{resolution}"
        )
    return count


def _published_channels(resolution: int, multiplier: int) -> int:
    index = int(math.log2(resolution)) - 2
    return BASE_CHANNELS[index] * (multiplier if index >= FIRST_MULTIPLIED else 1)


def _side(shapes: Shapes, name: str, axis: int, default: int) -> int:
    """A side of a tensor; the published one if it is missing, which is reported later."""
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) and shape[axis] else default
