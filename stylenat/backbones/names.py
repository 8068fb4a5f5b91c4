"""The names that files give to tensors -> the names of our modules, which are the official ones.

Legend: C channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

# Where detectors and segmenters keep their backbone; their other tensors belong to other parts.
PARTS = ("backbone.", "model.pixel_level_module.encoder.")

# Hugging Face's classifiers keep all but the head under the name of the model.
MODELS = ("dinat.", "nat.")

# The first tensor of a stem, in the official code and in Hugging Face's. It is how a file of this
# family is known.
STEMS = ("patch_embed.", "embeddings.patch_embeddings.")

HUGGING_FACE = (  # applied in order
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.levels\.(\d+)\.layers\.(\d+)\.", r"levels.\1.blocks.\2."),
    (r"^encoder\.levels\.(\d+)\.downsample\.", r"levels.\1.downsample."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
QKV = ("query", "key", "value")


def is_of_family(names: Sequence[str]) -> bool:
    """Whether tensors of these names make a network of this family, or have one as a part."""
    stems = tuple(start + stem for start in ("", *PARTS, *MODELS) for stem in STEMS)
    return any(name.removeprefix("module.").startswith(stems) for name in names)


def is_hugging_face(names: Sequence[str]) -> bool:
    """Whether these are the names of Hugging Face's classes."""
    return any(STEMS[1] in name for name in names)


def of_backbone(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network itself, without the prefixes of what it is a part of."""
    if all(name.startswith("module.") for name in found):  # of DistributedDataParallel
        found = {name.removeprefix("module."): x for name, x in found.items()}
    for part in PARTS:
        if any(name.startswith(part) for name in found):
            return {n.removeprefix(part): x for n, x in found.items() if n.startswith(part)}
    for model in MODELS:
        if any(name.startswith(model) for name in found):
            return {name.removeprefix(model): x for name, x in found.items()}
    return dict(found)


def official_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `of_backbone` gave, under the names of our modules.

    Hugging Face's query, key and value become one tensor, its stacked layer scale two. A tensor
    that cannot be renamed keeps its name.
    """
    if not is_hugging_face(list(found)):
        return {_from_layers(name): x for name, x in found.items()}
    renamed = {_renamed(name): x for name, x in found.items()}
    for query in [name for name in renamed if ".attn.query." in name]:
        thirds = [query.replace(".query.", f".{third}.") for third in QKV]
        if all(renamed[query].shape == getattr(renamed.get(n), "shape", None) for n in thirds):
            parts = [renamed.pop(name) for name in thirds]
            renamed[query.replace(".query.", ".qkv.")] = torch.cat(parts)
    for name in [name for name in renamed if name.endswith(".layer_scale_parameters")]:
        if renamed[name].ndim == 2 and len(renamed[name]) == 2:
            block = name.removesuffix("layer_scale_parameters")
            renamed[f"{block}gamma1"], renamed[f"{block}gamma2"] = renamed.pop(name)
    return renamed


def _from_layers(name: str) -> str:
    """DiNAT_s calls its levels layers; isotropic networks, the blocks of their only level."""
    is_level = re.match(r"layers\.\d+\.(blocks|downsample)\.", name)
    return re.sub(r"^layers\.", "levels." if is_level else "levels.0.blocks.", name)


def _renamed(name: str) -> str:
    if (stage := re.match(r"hidden_states_norms\.stage(\d+)\.", name)) is not None:
        return f"norm{int(stage[1]) - 1}.{name[stage.end() :]}"
    for pattern, replacement in HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    return name
