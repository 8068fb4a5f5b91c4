"""A network out of a training state, RUN/checkpoints/NIMG.pt, with the run's own configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stylenat import __version__
from stylenat.config import RunConfig, load_config
from stylenat.export import DISCRIMINATOR, GENERATOR, build_network
from stylenat.layout import RunPaths
from stylenat.models.discriminator import Discriminator
from stylenat.models.generator import Generator
from stylenat.text import printable, shown
from stylenat.untrusted import fields, is_plain

FORMAT = 1  # of the checkpoints that training writes
NAMES = {"g_ema": "G_ema", "g": "G", "d": "D"}


def is_training_state(content: object) -> bool:
    """Whether this is what StyleNAT's training writes, of whatever version."""
    return {"format", *NAMES.values()} <= fields(content).keys()


def network_of_state(
    path: Path, content: object, which: str, config: RunConfig | None
) -> Generator | Discriminator:
    """The network `which` (g_ema, g or d) in float32, in eval mode; its memory is its own.

    Built by `config`, otherwise by the config.yaml of the run that the file lies in. Raises
    ValueError, one sentence that names the file, if there is none or it is another network's.
    """
    state = fields(content)
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {shown(state['format'])}, and this StyleNAT, "
            f"{__version__}, reads {FORMAT}"
        )
    if config is None:
        config = _config_of_run(path)
    tensors = fields(state[NAMES[which]])
    odd = [name for name, value in tensors.items() if not is_plain(value)]
    if odd:
        raise ValueError(printable(f"{path}, {NAMES[which]}: {odd[0]} is no plain tensor"))
    own: dict[str, Tensor] = {name: value.detach().clone() for name, value in tensors.items()}
    kind, model = (
        (DISCRIMINATOR, config.model.discriminator)
        if which == "d"
        else (GENERATOR, config.model.generator)
    )
    try:
        network = build_network(kind, model, own)
    except ValueError as error:
        raise ValueError(printable(f"{path}, {NAMES[which]}: {error}")) from error
    assert isinstance(network, (Generator, Discriminator))
    return network.to(torch.float32).eval()


def _config_of_run(path: Path) -> RunConfig:
    file = RunPaths(path.absolute().parent.parent).config
    if not file.is_file():
        raise ValueError(
            f"{path} is a training state, which does not say what its networks are: leave it in "
            "its run, RUN/checkpoints beside RUN/config.yaml, or give a snapshot of RUN/snapshots"
        )
    return load_config(file)
