"""Models as safetensors files, each with the configuration that builds it.

The file's metadata: `stylenat_format` (this layout's version), `kind` (such as generator), `config`
(JSON, as `to_dict` gives it), `stylenat_version` (what wrote it, for people).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from ops.checks import kind as kind_of
from stylenat import __version__
from stylenat.config import from_dict, to_dict
from stylenat.files import naming, replacing, user_path
from stylenat.models.discriminator import Discriminator, DiscriminatorConfig
from stylenat.models.generator import Generator
from stylenat.models.levels import GeneratorConfig
from stylenat.models.unfilled import without_values
from stylenat.text import first_line, printable
from stylenat.untrusted import misfits

FORMAT = 1
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Kind:
    """A kind of network that files hold: its name, the classes of the network and of its
    configuration, and how many layers a configuration describes."""

    name: str
    network: type[nn.Module]
    config: type[Any]
    layers: Callable[[Any], int]


GENERATOR = Kind(
    "generator", Generator, GeneratorConfig, lambda config: config.mapping_layers + config.num_ws
)
DISCRIMINATOR = Kind(
    "discriminator", Discriminator, DiscriminatorConfig, lambda config: len(config.levels)
)


def save_generator(generator: Generator, path: str | Path) -> None:
    """Write a generator, w_avg included, in the dtype that it has; `path` is replaced atomically.

    Raises OSError if the file cannot be written.
    """
    save_network(GENERATOR, generator, path)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """The generator that `save_generator` wrote, in eval mode, in the dtype that the file holds.

    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    one that is damaged, that is no StyleNAT generator, or whose tensors are not its network's.
    """
    generator: Generator = load_network(GENERATOR, path, device)
    return generator


def save_discriminator(discriminator: Discriminator, path: str | Path) -> None:
    """Write a discriminator, spectral-norm vectors included; as `save_generator`."""
    save_network(DISCRIMINATOR, discriminator, path)


def load_discriminator(path: str | Path, device: str | torch.device = "cpu") -> Discriminator:
    """The discriminator that `save_discriminator` wrote, in eval mode; as `load_generator`."""
    discriminator: Discriminator = load_network(DISCRIMINATOR, path, device)
    return discriminator


def save_network(kind: Kind, network: nn.Module, path: str | Path) -> None:
    """Write a network of this kind; as `save_generator`."""
    network = getattr(network, "_orig_mod", network)  # what torch.compile wrapped
    if not isinstance(network, kind.network):
        help_ = "; give its .module" if hasattr(network, "module") else ""
        raise ValueError(f"a {kind.name} must be saved as such, not {kind_of(network)}{help_}")
    tensors = {name: x.detach().cpu().contiguous() for name, x in network.state_dict().items()}
    metadata = {
        "stylenat_format": str(FORMAT),
        "stylenat_version": __version__,
        "kind": kind.name,
        "config": json.dumps(to_dict(network.config)),
    }
    with replacing(user_path(path)) as temporary:
        temporary.write_bytes(safetensors_bytes(tensors, metadata))


def load_network(kind: Kind, path: str | Path, device: str | torch.device = "cpu") -> Any:
    """The network of this kind in a file of ours; as `load_generator`."""
    path, device = user_path(path), as_device(device)
    try:
        # safetensors does not name a missing file or a folder well.
        with naming(path), path.open("rb"), safe_open(path, framework="pt") as file:
            names = list(file.keys())
            config = _config(kind, file.metadata() or {}, len(names))
            # safetensors maps the file; the network gets memory of its own.
            tensors = {name: file.get_tensor(name).clone() for name in names}
        return build_network(kind, config, tensors).to(device).eval()
    except SafetensorError as error:
        sentence = f"{path} is damaged, or no safetensors file: {error}"
        raise ValueError(printable(sentence)) from error
    except ValueError as error:
        raise ValueError(printable(f"{path}: {error}")) from error


def as_device(device: str | torch.device) -> torch.device:
    """The device of that name. Raises ValueError if PyTorch knows no such device."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"unknown device {device!r}: use cpu, cuda or cuda:0, for example"
        ) from error


def _config(kind: Kind, metadata: Mapping[str, str], tensor_count: int) -> Any:
    """The configuration in a file's metadata, checked before anything is built from it."""
    if "stylenat_format" not in metadata:
        raise ValueError("not a StyleNAT model: the metadata has no stylenat_format")
    if metadata["stylenat_format"] != str(FORMAT):
        raise ValueError(
            f"the file has format {metadata['stylenat_format']}, and this StyleNAT, {__version__}, "
            f"reads {FORMAT}: update StyleNAT"
        )
    if metadata.get("kind") != kind.name:
        raise ValueError(f"the file holds a {metadata.get('kind')}, not a {kind.name}")
    try:
        data = json.loads(metadata.get("config", ""))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the config in its metadata is not JSON: {error}") from error
    config = from_dict(kind.config, data, kind.name)
    refuse_more_layers(kind, config, tensor_count)
    return config


def refuse_more_layers(kind: Kind, config: Any, tensor_count: int) -> None:
    """Raises ValueError for a network of more layers than the file that should hold it has tensors.

    It would take minutes to build a million layers, only to find that they are missing.
    """
    layers = kind.layers(config)
    if layers > tensor_count:
        raise ValueError(f"its config has {layers} layers, but it holds {tensor_count} tensors")


def build_network(kind: Kind, config: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network around these tensors, which become its own. Raises ValueError, naming names,
    unless they are the network's to the last one."""
    try:
        with without_values():
            network = kind.network(config)
    except RuntimeError as error:
        raise ValueError(f"its config makes no network: {first_line(error)}") from error
    expected = network.state_dict()
    odd = misfits(
        {name: tensor.shape for name, tensor in expected.items()},
        tensors,
        of_another_type=[
            f"{name} {tensor.dtype} instead of {expected[name].dtype}"
            for name, tensor in tensors.items()
            if name in expected and not _is_same_kind(tensor, expected[name])
        ],
    )
    if odd:
        raise ValueError(f"its tensors are not its network's: {odd}")
    network.load_state_dict(tensors, assign=True)
    return network


def _is_same_kind(tensor: Tensor, expected: Tensor) -> bool:
    """The same dtype, unless both are floating: a model may be bfloat16."""
    return tensor.dtype == expected.dtype or (
        tensor.dtype in FLOATING and expected.is_floating_point()
    )
