"""Vision transformers that see images as DINOv2 and CLIP do (arXiv 2304.07193, 2103.00020).

One network has both shapes. Its modules have the names of DINOv2's published files; CLIP's tensors
are renamed. Sizes come from the tensors, so that smaller ones of either family load too.
Legend: B batch, N tokens, D width, S side of the image, M side of the table of positions.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.weights import VerifiedFile, fill, load_program, read_tensors

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_DIM = 64
DINOV2_OFFSET = 0.1  # added to the number of patches when the table of positions is scaled
CLIP_NAMES = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^proj$", "head.weight"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.in_proj_", ".qkv."),
    (r"\.out_proj\.", ".proj."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)


class VisionTransformer(nn.Module):
    """float32 images [B, 3, S, S], 0..255 -> the class token's features [B, D]."""

    def __init__(self, tensors: dict[str, Tensor], *, is_clip: bool) -> None:
        super().__init__()
        patches, self.width = tensors["pos_embed"].shape[-2:]
        kernel = tensors["patch_embed.proj.weight"]
        self.table_side, self.patch = math.isqrt(patches - 1), kernel.shape[-1]
        depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        eps = 1e-5 if is_clip else 1e-6
        hidden = len(tensors["blocks.0.mlp.fc1.bias"])
        self.cls_token = nn.Parameter(torch.empty(1, 1, self.width))
        self.pos_embed = nn.Parameter(torch.empty(1, patches, self.width))
        proj = nn.Conv2d(3, self.width, self.patch, stride=self.patch, bias=not is_clip)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        self.norm_pre = nn.LayerNorm(self.width, eps=eps) if is_clip else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(self.width, hidden, eps=eps, is_clip=is_clip) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=eps)
        self.head: nn.Module = nn.Identity()
        if is_clip:
            self.head = nn.Linear(self.width, len(tensors["head.weight"]), bias=False)
        self.mean: Tensor
        self.std: Tensor
        for name, values in {
            "mean": CLIP_MEAN if is_clip else IMAGENET_MEAN,
            "std": CLIP_STD if is_clip else IMAGENET_STD,
        }.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        x_B3SS = (images_B3SS / 255 - self.mean) / self.std
        map_BDHW = self.patch_embed(x_B3SS)
        tokens_BND = map_BDHW.flatten(2).transpose(1, 2)
        class_B1D = self.cls_token.expand(len(tokens_BND), -1, -1)
        x_BND = torch.cat([class_B1D, tokens_BND], dim=1) + self._positions(map_BDHW.shape[-1])
        x_BND = self.norm_pre(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.head(self.norm(x_BND[:, 0]))

    def _positions(self, side: int) -> Tensor:
        """The embeddings of positions, scaled to side x side patches as DINOv2 does it."""
        if side == self.table_side:
            return self.pos_embed
        table_1DMM = (
            self.pos_embed[:, 1:]
            .reshape(1, self.table_side, self.table_side, self.width)
            .permute(0, 3, 1, 2)
        )
        # The scale is a little too large: other codes scale by side / table_side and differ.
        scale = (side + DINOV2_OFFSET) / self.table_side
        scaled_1DHW = F.interpolate(
            table_1DMM, scale_factor=(scale, scale), mode="bicubic", antialias=False
        )
        assert scaled_1DHW.shape[-1] == side
        return torch.cat([self.pos_embed[:, :1], scaled_1DHW.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Attention and an MLP, each with its norm, added to the tokens [B, N, D]."""

    def __init__(self, width: int, hidden: int, *, eps: float, is_clip: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width)
        self.ls1 = nn.Identity() if is_clip else LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, hidden, is_clip=is_clip)
        self.ls2 = nn.Identity() if is_clip else LayerScale(width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.ls1(self.attn(self.norm1(x_BND)))
        return x_BND + self.ls2(self.mlp(self.norm2(x_BND)))


class Attention(nn.Module):
    """Every token sees every token, in heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        qkv = self.qkv(x_BND).unflatten(2, (3, self.heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv)
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers; CLIP's activation is `x sigmoid(1.702 x)`, DINOv2's is GELU."""

    def __init__(self, width: int, hidden: int, *, is_clip: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.is_clip = is_clip

    def forward(self, x_BND: Tensor) -> Tensor:
        x = self.fc1(x_BND)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.is_clip else F.gelu(x))


class LayerScale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x_BND: Tensor) -> Tensor:
        return x_BND * self.gamma


def dinov2(weights: VerifiedFile) -> VisionTransformer:
    """DINOv2 without registers, from Meta's state dict; it sees images of 224x224.

    Raises ValueError, naming the file, for one that holds no such network.
    """
    what = "DINOv2"
    tensors = read_tensors(weights, what)
    if isinstance(tensors, dict):
        tensors = {name: x for name, x in tensors.items() if name != "mask_token"}
    return _built(tensors, weights, what, is_clip=False)


def clip(weights: VerifiedFile) -> VisionTransformer:
    """CLIP's image encoder, from OpenAI's TorchScript or from its state dict, in float32.

    The published file is a program, so it is loaded as one only if its hash is right. Raises
    ValueError, naming the file, for one that holds no such network.
    """
    what = "CLIP's image encoder"
    if weights.is_published:
        tensors: Any = dict(load_program(weights).state_dict())
    else:
        tensors = read_tensors(weights, what)
    return _built(tensors, weights, what, is_clip=True)


def _built(tensors: Any, weights: VerifiedFile, what: str, *, is_clip: bool) -> VisionTransformer:
    try:
        if is_clip:
            tensors = _as_dinov2(tensors)
        network = VisionTransformer(tensors, is_clip=is_clip)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = f"{error} is not in it" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{weights.path} is no state dict of {what}: {reason}") from error
    fill(network, tensors, weights, what)
    return network


def _as_dinov2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors by DINOv2's names, in float32; those of its text encoder are left out."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith("visual."):
            continue
        key = name.removeprefix("visual.")
        for pattern, replacement in CLIP_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor.float()
    if "head.weight" in renamed:
        renamed["head.weight"] = renamed["head.weight"].T.contiguous()
    for name in ("cls_token", "pos_embed"):
        if name in renamed:
            renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
    return renamed
