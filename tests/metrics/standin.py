"""Feature networks in the published files' formats, with random weights; and images for them.

The published weights cannot be had without a network, but the code that reads and runs them can.
"""

import contextlib
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stylenat.data import open_images
from stylenat.metrics import Evaluator


def save_inception(path: Path) -> Path:
    """pytorch-fid's own network, its batch norms set so that no layer dies out, as a state dict."""
    import pytorch_fid.inception as inception
    from torchvision.models import Inception3

    torch.manual_seed(0)
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict"),
    ):
        network = inception.fid_inception_v3()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(F.interpolate(torch.rand(4, 3, 16, 16) * 2 - 1, size=(139, 139)))
        # Features about as large as the published network's: below 1 in the mean.
        for name, parameter in network.Mixed_7c.named_parameters():
            if ".bn." in name:
                parameter.mul_(1 / 300)
    torch.save(network.state_dict(), path)
    return path


@contextlib.contextmanager
def their_inception(path: Path):
    """clean-fid and pytorch-fid find `path` where they would download."""
    import cleanfid.inception_pytorch
    import pytorch_fid.inception

    def load(*_, **__):
        return torch.load(path, weights_only=True)

    with (
        mock.patch.object(cleanfid.inception_pytorch, "load_state_dict_from_url", load),
        mock.patch.object(pytorch_fid.inception, "load_state_dict_from_url", load),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


class Layers(nn.Module):
    def __init__(self, cells: int):
        super().__init__()
        self.cells = cells
        self.conv = nn.Conv2d(3, 32, 12, stride=6)

    def forward(self, x: Tensor) -> Tensor:
        x = 10 * torch.relu(self.conv(x))
        return F.adaptive_avg_pool2d(x, [self.cells, self.cells]).flatten(1)


class SmallTorchScript(nn.Module):
    """Takes the calls that StyleGAN2-ADA's file takes: 32 * cells^2 features of images 0..255."""

    def __init__(self, cells: int):
        super().__init__()
        self.layers = Layers(cells)

    def forward(
        self, x: Tensor, return_features: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        assert return_features or no_output_bias
        x = F.interpolate(x, size=[299, 299], mode="bilinear", align_corners=False)
        features = self.layers((x - 128) / 128)
        return features if return_features else features.softmax(dim=1)


def save_torchscript(path: Path, *, cells: int) -> Path:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(SmallTorchScript(cells).eval()).save(str(path))
    return path


def save_folder(folder: Path, count: int, *, seed: int, side: int = 64) -> Path:
    """PNG files with blots of random colours, sizes and places, unlike for unlike seeds."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        coarse = random.integers(0, 256, (4 + 4 * seed, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.BICUBIC).save(folder / f"{index:03}.png")
    return folder


def images(folder):
    return open_images(str(folder))


def evaluator(metrics, data, weights, **settings):
    """With the small network, in the clean mode, and nothing beside this process."""
    settings = {"mode": "clean", "trust_weights": True, "workers": 0, "num": 100, **settings}
    return Evaluator(metrics, data, weights=weights, **settings)
