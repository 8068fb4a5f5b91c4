"""A small DiNAT learns handwritten digits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ops.neighborhood import HeadGroup
from stylenat.backbones import NAT, LevelConfig, NATConfig

EPOCHS, BATCH = 40, 64


@pytest.mark.slow
def test_a_small_dinat_learns_handwritten_digits():
    """scikit-learn's 1,797 digits of 8x8 pixels: a fifth, drawn at random, is never trained on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, scale_factor=4.0)  # 8x8 tokens behind the stem
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    mixed = torch.randperm(len(images))
    images, labels, held_back = images[mixed], labels[mixed], len(images) // 5
    levels = (
        LevelConfig(32, (HeadGroup(2, 3, 1), HeadGroup(2, 3, 2))),
        LevelConfig(64, (HeadGroup(4, 3, 1),)),
    )
    config = NATConfig(levels, mlp_ratio=2, num_classes=10)
    network = NAT(config, in_channels=1)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    train = len(images) - held_back
    steps = EPOCHS * (train // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        first = step % (train // BATCH)
        if first == 0:
            order = torch.randperm(train)
        chosen = order[first * BATCH : (first + 1) * BATCH]
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        guesses = network(images[train:]).argmax(1)
    accuracy = (guesses == labels[train:]).float().mean().item()
    print(f"{accuracy:.4f} of {held_back} held back")
    assert accuracy > 0.97
