"""A published checkpoint -> one of our networks, with every tensor accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylenat.config import RunConfig
from stylenat.export import DISCRIMINATOR, GENERATOR, refuse_more_layers
from stylenat.files import user_path
from stylenat.legacy.architecture import discriminator_config, generator_config
from stylenat.legacy.archive import OfficialCheckpoint, official
from stylenat.legacy.tensors import (
    NATIVE_ONLY,
    Source,
    is_constant,
    is_expected,
    official_sources,
)
from stylenat.legacy.training_state import is_training_state, network_of_state
from stylenat.models.discriminator import Discriminator
from stylenat.models.generator import Generator
from stylenat.text import first_line, printable
from stylenat.untrusted import is_plain, load_untrusted, misfits

NETWORKS = ("g_ema", "g", "d")


def convert_checkpoint(
    path: str | Path, *, which: str = "g_ema", config: RunConfig | None = None
) -> Generator | Discriminator:
    """The network `which` (g_ema, g or d) of a published checkpoint, float32, in eval mode.

    `path` may also be a training state, RUN/checkpoints/NIMG.pt. Its architecture is that of
    `config`, or otherwise that of RUN/config.yaml.

    Each field of a published checkpoint's architecture comes from the checkpoint's own args if they
    hold it; otherwise from `config`, cut to the checkpoint's size if it is larger; otherwise from
    the shapes, which do not show dilations. Weights in another floating type become float32. No
    published file has the `w_avg` of truncation, so it is left unknown.

    Raises OSError for a file that cannot be read. Raises ValueError, one sentence that names the
    file, if the file is refused (see `read_official`), if it lacks the network or its architecture,
    or if a tensor is missing, left over, of another shape or type, not finite, or a filter that
    differs from ours.
    """
    if which not in NETWORKS:
        raise ValueError(f"which must be one of {', '.join(NETWORKS)}: {which}")
    path = user_path(path)
    content = load_untrusted(path)
    if is_training_state(content):
        return network_of_state(path, content, which, config)
    checkpoint = official(path, content)
    if which not in checkpoint.state_dicts:
        held = ", ".join(checkpoint.state_dicts)
        raise ValueError(f"{path} holds no {which}: only {held}")
    return _native(checkpoint, which, config)


def convert_all(
    path: str | Path, *, configs: Sequence[RunConfig | None] = (None,)
) -> dict[str, Generator | Discriminator]:
    """Every network that such a file holds, by its name in NETWORKS, as `convert_checkpoint` gives.

    The first of `configs` that fits a network is taken: their order matters for what no tensor
    tells. Raises as `convert_checkpoint` does with the first one if none fits.
    """
    path = user_path(path)
    content = load_untrusted(path)
    if is_training_state(content):
        return {which: network_of_state(path, content, which, None) for which in NETWORKS}
    checkpoint = official(path, content)
    return {which: _first_fit(checkpoint, which, configs) for which in checkpoint.state_dicts}


def _first_fit(
    checkpoint: OfficialCheckpoint, which: str, configs: Sequence[RunConfig | None]
) -> Generator | Discriminator:
    refusals = []
    for config in configs:
        try:
            return _native(checkpoint, which, config)
        except ValueError as error:
            refusals.append(error)
    raise refusals[0]


def _native(
    checkpoint: OfficialCheckpoint, which: str, config: RunConfig | None
) -> Generator | Discriminator:
    try:
        tensors = _without_prefix(checkpoint.state_dicts[which])
        network = _empty_network(which, checkpoint.args, tensors, config)
        sources = official_sources(network, tensors)
        _check(tensors, sources, network)
        return _fill(network, tensors, sources)
    except ValueError as error:
        raise ValueError(printable(f"{checkpoint.path}, {which}: {error}")) from error


def _without_prefix(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names without the `module.` that DistributedDataParallel puts before each of them."""
    if all(name.startswith("module.") for name in state_dict):
        return {name.removeprefix("module."): value for name, value in state_dict.items()}
    return state_dict


def _empty_network(
    which: str, args: Mapping[str, Any], official: Mapping[str, Any], config: RunConfig | None
) -> Generator | Discriminator:
    """The network that the file should hold, on the meta device."""
    shapes = {name: tuple(x.shape) for name, x in official.items() if isinstance(x, Tensor)}
    model = None if config is None else config.model
    try:
        if which == "d":
            found_d = discriminator_config(
                args, shapes, None if model is None else model.discriminator
            )
            refuse_more_layers(DISCRIMINATOR, found_d, len(official))
            with torch.device("meta"):
                return Discriminator(found_d)
        found_g = generator_config(args, shapes, None if model is None else model.generator)
        refuse_more_layers(GENERATOR, found_g, len(official))
        with torch.device("meta"):
            return Generator(found_g)
    except RuntimeError as error:  # there are more elements than an integer counts
        reason = first_line(error)
        raise ValueError(f"its tensors do not make a network: {reason}") from error


def _check(
    official: Mapping[str, Any], sources: Mapping[str, Source], network: Generator | Discriminator
) -> None:
    """Raises ValueError, with names, unless the tensors are exactly those of the network."""
    expected = {name: shape for s in sources.values() for name, shape in s.shapes.items()}
    held = {name: x for name, x in official.items() if name in expected or is_constant(name)}
    plain = {name: x for name, x in held.items() if is_plain(x)}
    weights = {name: x for name, x in plain.items() if name in expected}
    faults = {
        "left_over": [name for name in official if name not in held],
        "no_plain_tensor": [name for name in held if name not in plain],
        "not_floating_point": [
            f"{name} {x.dtype}" for name, x in weights.items() if not x.is_floating_point()
        ],
    }
    odd = misfits(expected, official, **faults)
    # Only now are all tensors as large as the network wants them, and worth reading.
    if not odd:
        not_finite = [name for name, x in weights.items() if not x.isfinite().all()]
        odd = misfits(
            expected,
            official,
            left_over=[],
            not_finite=not_finite,
            unlike_the_published_filter=[
                name for name, x in plain.items() if is_constant(name) and not is_expected(name, x)
            ],
        )
    if odd:
        size = f"{network.config.resolution}x{network.config.resolution}"
        raise ValueError(f"its tensors do not make the network, {size}: {odd}")


def _fill(
    network: Generator | Discriminator, official: Mapping[str, Any], sources: Mapping[str, Source]
) -> Generator | Discriminator:
    """The network with its tensors in memory of their own, apart from the file."""
    state = {}
    for name, source in sources.items():
        made = source.make(*(official[part].detach().float() for part in source.shapes))
        state[name] = made.clone(memory_format=torch.contiguous_format)
    for name, buffer in network.named_buffers():
        if name in NATIVE_ONLY:
            state[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)  # w_avg: unknown
    network.load_state_dict(state, assign=True)
    return network.eval()
