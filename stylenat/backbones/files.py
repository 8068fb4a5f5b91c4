"""Classifiers and backbones in files: published ones, Hugging Face's and our own."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylenat.backbones.config import NATConfig
from stylenat.backbones.names import (
    STEMS,
    is_hugging_face,
    is_of_family,
    of_backbone,
    official_names,
)
from stylenat.backbones.network import NAT
from stylenat.backbones.shapes import (
    Skeleton,
    skeleton_in,
    skeleton_of,
    variants_that_fit,
    with_dilations,
    with_outputs_of,
)
from stylenat.backbones.variants import VARIANTS, variant, variant_in
from stylenat.export import Kind, as_device, build_network, load_network, save_network
from stylenat.files import naming, user_path
from stylenat.hub import is_hub_name, name_of, pull
from stylenat.models.unfilled import without_values
from stylenat.text import first_line, listed, printable, shown
from stylenat.untrusted import ZIP_MAGIC, fields, is_plain, load_untrusted

CLASSIFIER = Kind("classifier", NAT, NATConfig, lambda config: sum(config.depths))
CONFIG_BESIDE = "config.json"
FILES_OF_FOLDER = ("model.safetensors", "pytorch_model.bin")
WRAPPERS = ("state_dict", "model")
MOST_BYTES_OF_JSON = 64_000_000


def save_classifier(network: NAT, path: str | Path) -> None:
    """Write a network, with or without a head, and its configuration, to one safetensors file.

    Raises OSError if the file cannot be written.
    """
    save_network(CLASSIFIER, network, path)


def load_classifier(
    path: str | Path, name: str | None = None, device: str | torch.device = "cpu"
) -> NAT:
    """The network in a file, in eval mode: float32, or, in a file of ours, the dtype that it has.

    `path`: an official checkpoint, of a classifier or of a detector or segmenter, whose backbone is
    taken; one of Hugging Face's, or the folder that it lies in; a file of `save_classifier`; or
    `hf:user/name[@revision]` on the Hub.
    Nothing in the file is run. The shapes say all of the architecture but its dilations. These come
    from `name`, a variant's or a published file's; otherwise from Hugging Face's config.json beside
    the file, and otherwise from the file's own name. A file of ours knows them.

    Raises OSError for a file that cannot be read, and ValueError, one sentence that names it, for
    one that is refused, and if a tensor is missing, left over, of another shape or type, or not
    finite; if the dilations are not known, the sentence says which names fit.
    """
    path, device = _weights_file(user_path(path)), as_device(device)
    if is_ours(path):
        if name is not None:
            raise ValueError(f"{path} holds its own configuration: leave out the name {name}")
        network: NAT = load_network(CLASSIFIER, path, device)
        return network
    try:
        found = _read(path)
        beside = _Beside.of(path) if is_hugging_face(list(found)) else _Beside()
        tensors = official_names(found)
        config = _config(tensors, path, name, beside)
        built = build_network(
            CLASSIFIER, config, {n: x.float().clone() for n, x in tensors.items()}
        )
        odd = [n for n, x in built.state_dict().items() if not x.isfinite().all()]
        if odd:
            raise ValueError(f"{len(odd)} of its tensors are not finite ({listed(odd)})")
    except ValueError as error:
        said = str(error).removeprefix(f"{path}: ")
        sentence = said if said.startswith(str(path)) else f"{name_of(path) or path}: {said}"
        raise ValueError(printable(sentence)) from error
    assert isinstance(built, NAT)
    return built.to(device).eval()


def to_backbone(network: NAT, out_levels: Sequence[int] = (0, 1, 2, 3)) -> NAT:
    """The same network for features, with a fresh norm for each of these levels and no head.

    The tensors of its blocks are those of `network`, not copies.
    """
    config = replace(network.config, num_classes=0, labels=(), out_levels=tuple(out_levels))
    with without_values():
        backbone = NAT(config)
    for index in config.out_levels:
        norm = backbone.get_submodule(f"norm{index}").to_empty(device="cpu")
        norm.reset_parameters()  # type: ignore[operator]
        norm.to(network.patch_embed.norm.weight)
    backbone.load_state_dict(network.state_dict(keep_vars=True), strict=False, assign=True)
    return backbone.train(network.training)


def holds_classifier(path: str | Path) -> bool:
    """Whether a file's index of tensors names the stem of a NAT. False for what cannot be read.

    It only looks for names, and judges nothing: `load_classifier` does.
    """
    path = user_path(path)
    stems = [stem.encode() for stem in STEMS]
    try:
        if path.is_dir():
            return _weights_file(path).is_file()
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                header = file.read(min(int.from_bytes(file.read(8), "little"), MOST_BYTES_OF_JSON))
            return any(stem in header for stem in stems)
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (i for i in archive.infolist() if i.filename.endswith("data.pkl"))
            # torch.save compresses nothing: a compressed member could be a bomb.
            is_stored = pickled.compress_type == zipfile.ZIP_STORED
            content = archive.read(pickled) if is_stored else b""
        return any(stem in content for stem in stems)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False


def is_ours(path: Path) -> bool:
    """Whether `save_classifier`, or another function of StyleNAT's, wrote this safetensors file."""
    if path.suffix != ".safetensors":
        return False
    try:
        with naming(path), path.open("rb"), safe_open(path, framework="pt") as file:
            return "stylenat_format" in (file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(printable(f"{path} is damaged, or no safetensors file: {error}"))


def _weights_file(path: Path) -> Path:
    """The file itself, the one in a folder of Hugging Face's, or the cache's of one on the Hub."""
    if is_hub_name(path):
        return pull(path, beside=(CONFIG_BESIDE,))
    if not path.is_dir():
        return path
    for name in FILES_OF_FOLDER:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} is a folder without {' and '.join(FILES_OF_FOLDER)}")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of the network in a file, each plain, by the names that it gives them."""
    with naming(path), path.open("rb") as file:
        start = file.read(9)
    if path.suffix == ".safetensors" and not start.startswith(ZIP_MAGIC):
        try:
            with safe_open(path, framework="pt") as archive:
                found: Mapping[str, Any] = {n: archive.get_tensor(n) for n in archive.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise _damaged(path, error) from error
    else:
        found = fields(load_untrusted(path))
        for wrapper in WRAPPERS:
            found = fields(found.get(wrapper)) or found
    if not is_of_family(list(found)):
        raise ValueError("it holds no NAT, DiNAT or DiNAT_s: no tensor is named as their stem is")
    tensors = of_backbone(found)
    odd = [n for n, x in tensors.items() if not is_plain(x) or not x.is_floating_point()]
    if odd:
        raise ValueError(f"{len(odd)} of its tensors are not plain, or no numbers ({listed(odd)})")
    return {name: x.detach() for name, x in tensors.items()}


@dataclass(frozen=True)
class _Beside:
    """What the config.json beside a file of Hugging Face's says; nothing if there is none."""

    dilations: Any = None
    labels: Any = None
    is_nat: bool = False  # whose dilations are all 1

    @classmethod
    def of(cls, path: Path) -> _Beside:
        file = path.parent / CONFIG_BESIDE
        if not file.is_file():
            return cls()
        if file.stat().st_size > MOST_BYTES_OF_JSON:
            raise ValueError(f"{file} is too large to be a configuration")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is no JSON: {first_line(error)}") from error
        top = data if isinstance(data, dict) else {}
        inner = top.get("backbone_config")
        model = inner if isinstance(inner, dict) else top
        is_nat = model.get("model_type") == "nat"
        return cls(model.get("dilations"), top.get("id2label"), is_nat)

    def labels_of(self, classes: int) -> tuple[str, ...]:
        """The names of the classes, if there is one for each that says something."""
        named = self.labels if isinstance(self.labels, dict) else {}
        labels = tuple(named.get(str(index)) for index in range(classes))
        if all(isinstance(label, str) for label in labels) and set(labels) != _placeholders(
            classes
        ):
            return labels  # type: ignore[return-value]
        return ()


def _placeholders(classes: int) -> set[str]:
    """What Hugging Face calls classes that nobody named."""
    return {f"LABEL_{index}" for index in range(classes)}


def _config(
    tensors: Mapping[str, Tensor], path: Path, name: str | None, beside: _Beside
) -> NATConfig:
    skeleton = skeleton_in(tensors)
    if name is None and beside.is_nat:
        config = with_dilations(skeleton, [[1] * depth for depth in skeleton.depths])
    elif name is None and beside.dilations is not None:
        config = _from_dilations(skeleton, beside.dilations)
    else:
        config = _named(skeleton, path, name)
    config = with_outputs_of(config, tensors)
    return replace(config, labels=beside.labels_of(config.num_classes))


def _from_dilations(skeleton: Skeleton, dilations: Any) -> NATConfig:
    is_table = isinstance(dilations, list) and all(isinstance(level, list) for level in dilations)
    if not is_table:
        raise ValueError(f"the dilations in its config.json are no lists: {shown(dilations)}")
    return with_dilations(skeleton, dilations)


def _named(skeleton: Skeleton, path: Path, name: str | None) -> NATConfig:
    """The variant that `name` or the file's name says, held to the shapes."""
    fitting = variants_that_fit(skeleton)
    fit = f"these names fit: {', '.join(fitting)}" if fitting else "no published variant fits"
    found = variant_in(path.stem) if name is None else None
    if name is None and found is None:
        raise ValueError(
            "its tensors do not say its dilations, and its file's name is no variant's; give the "
            f"name; {fit}"
        )
    config = VARIANTS[found] if found is not None else variant(str(name))
    if differences := skeleton.differences(skeleton_of(config)):
        raise ValueError(f"its tensors make no {found or name}: {differences}; {fit}")
    return config
