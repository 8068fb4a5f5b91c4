"""Features of two classifiers of ImageNet: VGG16 and EfficientNet-Lite0, at 224x224.

Legend: B batch, S side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stylenat.latents.perceptual import load_effnet, load_vgg16
from stylenat.metrics.transformers import IMAGENET_MEAN, IMAGENET_STD
from stylenat.weights import VerifiedFile


class VGG16(nn.Module):
    """float32 images [B, 3, S, S], 0..255 -> [B, 4096]: the second linear layer, after its ReLU.

    Precision and recall were published with these features (arXiv 1904.06991).
    Raises ValueError, naming the file, for one that holds no such network.
    """

    def __init__(self, weights: VerifiedFile) -> None:
        super().__init__()
        network = load_vgg16(weights)
        self.maps = nn.Sequential(network.features, network.avgpool)
        self.layers = network.classifier[:5]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, images_B3SS: Tensor) -> Tensor:
        x_B3SS = (images_B3SS / 255 - self.mean) / self.std
        return self.layers(self.maps(x_B3SS).flatten(1))


class EfficientNet(nn.Module):
    """float32 images [B, 3, S, S], 0..255 -> [B, 1280]: what EfficientNet-Lite0 classifies by."""

    def __init__(self, weights: VerifiedFile) -> None:
        super().__init__()
        self.network = load_effnet(weights)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        return self.network.pooled(images_B3SS / 127.5 - 1)
