"""The networks in training mode, against the official loop's first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize, softplus

from stylenat.legacy import convert_checkpoint
from tests.golden_values import golden_json, golden_randn
from tests.official_checkpoints import first_format, official_discriminator, official_generator


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An official file with the weights that the golden training starts from."""
    g, (d, _) = official_generator("ffhq16"), official_discriminator("d16")
    for letter, state, case in (
        ("G", g, golden_json("generators")["ffhq16"]),
        ("D", d, golden_json("discriminators")["d16"]),
    ):
        for key, parameter in case["params"].items():
            state[key] = golden_randn(parameter["shape"], f"train/{letter}/{key}", parameter["std"])
    for key in d:
        if key.endswith(("weight_u", "weight_v")):
            d[key] = normalize(torch.ones_like(d[key]), dim=0)
    path = tmp_path / "official.pt"
    args = {"size": 16, "kernels": [[3], [7], [7]], "dilations": [[1], [1], [1, 2]]}
    torch.save(first_format(g_ema=g, d=d, **args), path)
    return path


def test_the_first_discriminator_loss_is_the_official_one(checkpoint):
    """Spectral norm steps v before u in every forward pass, as it did in the published training.

    The other order, PyTorch's parametrization's, is seen by this loss.
    """
    G, D = (convert_checkpoint(checkpoint, which=which) for which in ("g_ema", "d"))
    D.train()
    with torch.no_grad():
        fake = G(golden_randn((4, 512), "train/0/z_d"))
        fake_logits = D(fake)
        real_logits = D(golden_randn((4, 3, 16, 16), "train/0/real_d"))
    loss = softplus(fake_logits).mean() + softplus(-real_logits).mean()
    assert loss.item() == pytest.approx(golden_json("training_steps")["steps"][0]["d"], abs=1e-5)
