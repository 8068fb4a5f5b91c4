"""Images -> features: the spaces that images are compared in, and how images are scaled for each.

| space | network | scaled by |
|---|---|---|
| `inception`, mode `legacy_pytorch` | pytorch-fid's state dict | PyTorch, not antialiased |
| `inception`, mode `clean` | StyleGAN2-ADA's TorchScript | Pillow, bicubic in floating point |
| `inception`, mode `legacy_tensorflow` | the same | the network itself, as TensorFlow 1 does |
| `dinov2`, `dinov2_b` | DINOv2, ViT-L/14 and ViT-B/14 | Pillow, bicubic, 224x224 |
| `clip` | CLIP's ViT-L/14@336 | Pillow, bicubic, the middle square to 336x336 |
| `vgg` | torchvision's VGG16 | Pillow, bicubic, 224x224 |
| `effnet_lite0` | EfficientNet-Lite0 | Pillow, bicubic, 224x224 |

`inception_classes` stands for the probabilities of Inception's classes.
Legend: B batch, H height, W width, S side, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stylenat.latents.perceptual import effnet_file
from stylenat.metrics import inception, transformers
from stylenat.metrics.classifiers import VGG16, EfficientNet
from stylenat.metrics.inception import PyTorchInception, ScriptedInception
from stylenat.precision import without_tf32
from stylenat.text import first_line
from stylenat.weights import WEIGHTS, VerifiedFile, find_weights


def squeezed(images_BHW3: Tensor, *, side: int, is_cropped: bool = False) -> Tensor:
    """uint8 images [B, H, W, 3] -> float32 [B, 3, S, S], 0..255: Pillow's bicubic, antialiased.

    Images that are not square lose their proportions, or with `is_cropped` their edges.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # Pillow lets other threads run
        resize = partial(_squeezed, side=side, is_cropped=is_cropped)
        resized = list(pool.map(resize, images_BHW3.cpu().numpy()))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().contiguous()


def _squeezed(image_HW3: np.ndarray, *, side: int, is_cropped: bool) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    box = (0, 0, width, height)
    if is_cropped:
        short = min(height, width)
        left, top = (width - short) // 2, (height - short) // 2
        box = (left, top, left + short, top + short)
    image = Image.fromarray(image_HW3).crop(box)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Kind:
    """A feature network: how images are scaled for it, in words and in code, and how it is loaded.

    What `prepare` gives goes to the device and then through the network.
    """

    resize: str
    load: Callable[[VerifiedFile], nn.Module]
    prepare: Callable[[Tensor], Tensor] = lambda images: images


def _inception_kinds(*, classifies: bool) -> dict[str, Kind]:
    scripted = partial(ScriptedInception, classifies=classifies)
    return {
        "legacy_pytorch": Kind(
            "PyTorch bilinear, not antialiased", partial(PyTorchInception, classifies=classifies)
        ),
        "clean": Kind(
            "Pillow bicubic, antialiased, float32",
            partial(scripted, is_resized=True),
            inception.clean_resize,
        ),
        "legacy_tensorflow": Kind(
            "TensorFlow 1 bilinear, inside the network", partial(scripted, is_resized=False)
        ),
    }


_224 = partial(squeezed, side=224)
_TO_224 = "Pillow bicubic, antialiased, uint8, 224x224"
CLASSES = "_classes"
KINDS: dict[str, Kind] = {
    **_inception_kinds(classifies=False),
    **{f"{mode}{CLASSES}": kind for mode, kind in _inception_kinds(classifies=True).items()},
    "dinov2": Kind(_TO_224, transformers.dinov2, _224),
    "dinov2_b": Kind(_TO_224, transformers.dinov2, _224),
    "clip": Kind(
        "Pillow bicubic, antialiased, uint8, middle square to 336x336",
        transformers.clip,
        partial(squeezed, side=336, is_cropped=True),
    ),
    "vgg": Kind(_TO_224, VGG16, _224),
    "effnet_lite0": Kind(_TO_224, EfficientNet, _224),
}


class FeatureNetwork:
    """`network(images)`: uint8 [B, H, W, 3] -> float32 features [B, D] on the device.

    `kind`: a key of KINDS. Raises ValueError, naming the file, for one that holds no such network.
    """

    def __init__(self, kind: str, weights: VerifiedFile, device: str | torch.device) -> None:
        self.kind = kind
        self.weights = weights
        self.device = torch.device(device)
        self.prepare = KINDS[kind].prepare
        self.network = KINDS[kind].load(weights).to(self.device).eval()
        self.dim = self._probe()

    @torch.no_grad()
    def __call__(self, images_BHW3: Tensor) -> Tensor:
        with without_tf32(), torch.autocast(self.device.type, enabled=False):
            features_BD: Tensor = self.network(self.prepare(images_BHW3).to(self.device)).flatten(1)
        return features_BD

    def _probe(self) -> int:
        """How many features an image has; a black one is tried, so that errors come now."""
        try:
            features_BD = self(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
        except (RuntimeError, AttributeError, TypeError) as error:
            reason = first_line(error)
            raise ValueError(f"{self.weights.path} is no feature network: {reason}") from error
        if len(features_BD) != 2 or not features_BD.isfinite().all():
            raise ValueError(f"{self.weights.path} gives no finite features of a black image")
        return features_BD.shape[1]


def kind_of(space: str, mode: str) -> str:
    """The kind of network that a space means; Inception's depends on the mode."""
    if space.startswith("inception"):
        return mode + space.removeprefix("inception")
    return space


def takes_file(space: str) -> bool:
    """Whether the weights of a space are a file; otherwise a package holds them."""
    return space.startswith("inception") or space in WEIGHTS


def open_network(
    space: str,
    mode: str,
    device: str | torch.device,
    weights: str | Path | None = None,
    *,
    trust: bool = False,
) -> FeatureNetwork:
    """The feature network of a space, from `weights` or from the published file.

    Raises OSError and ValueError as `find_weights` does, and for a file that holds another network.
    """
    kind = kind_of(space, mode)
    if takes_file(space):
        found = find_weights(kind.removesuffix(CLASSES), weights, trust=trust)
    else:
        found = effnet_file()
    return FeatureNetwork(kind, found, device)
