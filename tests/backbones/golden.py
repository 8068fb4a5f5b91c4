"""The official classifiers of tests/golden: weights under official names, and their numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tests.golden_values import golden_arrays, golden_json, golden_randn

FILES = {
    "nat_tiny": "cls_plain",
    "dinat_tiny": "cls_plain",
    "dinat_base": "cls_plain",
    "dinat_s_small": "cls_plain",
    "nat_mini_padded": "cls_padded",
    "dinat_mini_padded": "cls_padded",
}


class GoldenClassifier(NamedTuple):
    """`levels`: mean and root mean square of each channel after each level, [2, C]."""

    variant: str
    weights: dict[str, Tensor]
    num_params: int
    images: Tensor
    logits: Tensor
    levels: list[Tensor]


def golden_classifier(name: str) -> GoldenClassifier:
    case, arrays = golden_json(FILES[name])[name], golden_arrays(FILES[name])
    weights = {
        key: golden_randn(x["shape"], f"C/{name}/{key}", x["std"]) + float(x["plus_one"])
        for key, x in case["params"].items()
    }
    return GoldenClassifier(
        name.removesuffix("_padded"),
        weights,
        case["num_params"],
        golden_randn([1, 3, *case["size"]], f"C/{name}/x"),
        arrays[name],
        [arrays[f"{name}.level{index}"] for index in range(4)],
    )


def hugging_face_names(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Official weights as Hugging Face's classes keep them; `prefix` is dinat. or nat. or none."""
    held = {}
    for name, x in weights.items():
        start, _, rest = name.rpartition(".blocks.")
        if rest.startswith(tuple("0123456789")):
            number, _, leaf = rest.partition(".")
            held |= _of_block(f"{prefix}encoder.{start}.layers.{number}.", leaf, x, weights, name)
        elif name.startswith("head."):
            held[name.replace("head.", "classifier.")] = x
        elif name.startswith("levels."):
            held[f"{prefix}encoder.{name}"] = x
        elif name.startswith("norm."):
            held[f"{prefix}layernorm.{name[5:]}"] = x
        elif name.startswith("norm"):
            stage, _, leaf = name[4:].partition(".")
            held[f"hidden_states_norms.stage{int(stage) + 1}.{leaf}"] = x
        elif name.startswith("patch_embed.proj."):
            held[f"{prefix}embeddings.patch_embeddings.projection.{name[17:]}"] = x
        else:
            held[f"{prefix}embeddings.{name.removeprefix('patch_embed.')}"] = x
    return held


def _of_block(
    block: str, leaf: str, x: Tensor, weights: dict[str, Tensor], name: str
) -> dict[str, Tensor]:
    part, _, end = leaf.rpartition(".")
    if part == "attn.qkv":
        thirds = zip(("query", "key", "value"), x.chunk(3), strict=True)
        return {f"{block}attention.self.{third}.{end}": y.clone() for third, y in thirds}
    if leaf == "gamma1":
        stacked = [x, weights[name.replace("gamma1", "gamma2")]]
        return {f"{block}layer_scale_parameters": torch.stack(stacked)}
    if leaf == "gamma2":
        return {}
    renamed = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn": "attention.self",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }[part]
    return {f"{block}{renamed}.{end}": x}
