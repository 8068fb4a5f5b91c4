"""Inception v3 as clean-fid and pytorch-fid take it, from its two published files.

`clean` and `legacy_tensorflow` run StyleGAN2-ADA's TorchScript, `legacy_pytorch` pytorch-fid's
state dict. Each gives its 2048 features, or the probabilities of its 1008 classes, without the bias
of the last layer, as the Inception score takes them.
Legend: B batch, H height, W width, D features.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.weights import VerifiedFile, fill, load_program, read_tensors

NETWORK = "pytorch-fid's network"
SIDE = 299
CLASSES, DIM = 1008, 2048


class PyTorchInception(nn.Module):
    """uint8 images [B, H, W, 3] -> features [B, 2048], or probabilities [B, 1008]."""

    def __init__(self, weights: VerifiedFile, *, classifies: bool = False) -> None:
        super().__init__()
        self.network = _load_state_dict(weights)
        self.classes = self.network.fc if classifies else None
        self.network.fc = nn.Identity()  # the features, before the classes

    def forward(self, images_BHW3: Tensor) -> Tensor:
        x = images_BHW3.permute(0, 3, 1, 2).contiguous().float()
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        features_BD: Tensor = self.network(2 * (x / 255) - 1)
        if self.classes is None:
            return features_BD
        return (features_BD @ self.classes.weight.T).softmax(dim=1)


class ScriptedInception(nn.Module):
    """uint8 images [B, H, W, 3], or images from `clean_resize`, -> features or probabilities."""

    def __init__(
        self, weights: VerifiedFile, *, is_resized: bool, classifies: bool = False
    ) -> None:
        super().__init__()
        self.network: Any = load_program(weights)
        self.is_resized, self.classifies = is_resized, classifies

    def forward(self, images: Tensor) -> Tensor:
        if self.classifies:
            x = images if self.is_resized else images.permute(0, 3, 1, 2).contiguous().float()
            return self.network(x, no_output_bias=True)
        if self.is_resized:
            return self.network.layers((images - 128) / 128)
        return self.network(images.permute(0, 3, 1, 2).contiguous().float(), return_features=True)


def clean_resize(images_BHW3: Tensor) -> Tensor:
    """uint8 images [B, H, W, 3] -> float32 [B, 3, 299, 299], 0..255, by clean-fid's own code."""
    resize = _cleanfid("resize").make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
    # Pillow lets other threads run while it works.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        resized = list(pool.map(resize, images_BHW3.cpu().numpy()))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _load_state_dict(weights: VerifiedFile) -> Any:
    """pytorch-fid's network: torchvision's Inception v3 with the blocks of TensorFlow's release."""
    from torchvision.models import inception_v3

    blocks = _cleanfid("inception_pytorch")
    network = inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = blocks.FIDInceptionE_1(1280)
    network.Mixed_7c = blocks.FIDInceptionE_2(DIM)
    fill(network, read_tensors(weights, NETWORK), weights, NETWORK)
    return network


def _cleanfid(module: str) -> Any:
    """A module of clean-fid, of which nothing that downloads is called."""
    try:
        return importlib.import_module(f"cleanfid.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the feature network needs {error.name}, which is not installed: pip install clean-fid"
        ) from error
