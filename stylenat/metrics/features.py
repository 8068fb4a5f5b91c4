"""Images -> Inception features, as clean-fid and pytorch-fid take them.

| mode | network | scaled to 299x299 by |
|---|---|---|
| `legacy_pytorch` | pytorch-fid's state dict | PyTorch, bilinear, without antialiasing |
| `clean` | StyleGAN2-ADA's TorchScript | Pillow, bicubic in floating point, antialiased |
| `legacy_tensorflow` | the same | the network itself, as TensorFlow 1 does |

Legend: B batch, H height, W width, D features: 2048 of the published networks.
"""

from __future__ import annotations

import importlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylenat.metrics.weights import VerifiedFile
from stylenat.precision import without_tf32
from stylenat.text import first_line
from stylenat.untrusted import load_untrusted

SIDE = 299
RESIZE = {
    "clean": "Pillow bicubic, antialiased, float32",
    "legacy_pytorch": "PyTorch bilinear, not antialiased",
    "legacy_tensorflow": "TensorFlow 1 bilinear, inside the network",
}


class FeatureNetwork:
    """`network(images)`: uint8 [B, H, W, 3] -> float32 features [B, D] on the device.

    Raises ValueError, naming the file, for one that holds no such network.
    """

    def __init__(self, mode: str, weights: VerifiedFile, device: str | torch.device) -> None:
        self.mode = mode
        self.weights = weights
        self.device = torch.device(device)
        load = _load_state_dict if mode == "legacy_pytorch" else _load_torchscript
        self.network: Any = load(weights).to(self.device).eval()
        self.dim = self._probe()

    @torch.no_grad()
    def __call__(self, images_BHW3: Tensor) -> Tensor:
        with without_tf32(), torch.autocast(self.device.type, enabled=False):
            features_BD: Tensor = self._features(images_BHW3).flatten(1)
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

    def _features(self, images_BHW3: Tensor) -> Tensor:
        if self.mode == "clean":
            x = clean_resize(images_BHW3).to(self.device)
            return self.network.layers((x - 128) / 128)
        x = images_BHW3.to(self.device).permute(0, 3, 1, 2).contiguous().float()
        if self.mode == "legacy_pytorch":
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            return self.network(2 * (x / 255) - 1)
        return self.network(x, return_features=True)


def clean_resize(images_BHW3: Tensor) -> Tensor:
    """uint8 images [B, H, W, 3] -> float32 [B, 3, 299, 299], 0..255, by clean-fid's own code."""
    resize = _cleanfid("resize").make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
    # Pillow lets other threads run while it works.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        resized = list(pool.map(resize, images_BHW3.cpu().numpy()))
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _load_state_dict(weights: VerifiedFile) -> nn.Module:
    """pytorch-fid's network: torchvision's Inception v3 with the blocks of TensorFlow's release."""
    from torchvision.models import inception_v3

    blocks = _cleanfid("inception_pytorch")
    network = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    network.Mixed_5b = blocks.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = blocks.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = blocks.FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = blocks.FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = blocks.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = blocks.FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = blocks.FIDInceptionE_1(1280)
    network.Mixed_7c = blocks.FIDInceptionE_2(2048)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the error below says more than a warning
            network.load_state_dict(_tensors(weights))
    except Exception as error:  # torch.load raises errors of many classes
        if isinstance(error, OSError):
            raise
        reason = " ".join(str(error).split())[:400]
        raise ValueError(
            f"{weights.path} is no state dict of pytorch-fid's network: {reason}"
        ) from error
    network.fc = nn.Identity()  # the features, before the classes
    return network


def _tensors(weights: VerifiedFile) -> Any:
    if weights.is_published:  # it may have PyTorch's older format, which is refused otherwise
        return torch.load(weights.path, map_location="cpu", weights_only=True)
    return load_untrusted(weights.path)


def _load_torchscript(weights: VerifiedFile) -> nn.Module:
    """The only place that loads a program from a file; `find_weights` has accepted it before."""
    try:
        with warnings.catch_warnings():
            # The format is deprecated, but the published file has it.
            warnings.simplefilter("ignore", FutureWarning)
            network = torch.jit.load(weights.path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"{weights.path} is no TorchScript network: {reason}") from error
    return network


def _cleanfid(module: str) -> Any:
    """A module of clean-fid, of which nothing that downloads is called."""
    try:
        return importlib.import_module(f"cleanfid.{module}")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the feature network needs {error.name}, which is not installed: pip install clean-fid"
        ) from error
