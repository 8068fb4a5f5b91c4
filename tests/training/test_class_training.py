"""A small run learns two classes: a probe that has seen only real faces tells them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stylenat.data import draw_face, open_images
from stylenat.data.classes import class_labels
from stylenat.data.faces import what_is_drawn
from stylenat.data.prepare import Settings, prepare
from stylenat.sampling import chosen_classes, generate, load_model
from stylenat.training.loop import train
from tests.training.tiny import tiny

SIDE = 16
NAMES = ("dark", "light")  # hair
GROUPS = [{"heads": 2, "kernel_size": 3}, {"heads": 2, "kernel_size": 3, "dilation": 2}]
LEVELS = [
    {"resolution": 4, "channels": 32, "heads": 4, "blocks": 1, "attention": "global"},
    {"resolution": 8, "channels": 32, "heads": 4, "blocks": 1, "attention": GROUPS},
    {"resolution": 16, "channels": 32, "heads": 4, "blocks": 1, "attention": GROUPS},
]
MODEL = {
    "classes": 2,
    "generator": {
        "levels": LEVELS,
        "z_dim": 32,
        "style_dim": 32,
        "mapping_layers": 2,
        "pixel_space": {"mean": [0.5] * 3, "std": [0.5] * 3},
    },
    "discriminator": {
        "levels": [{"resolution": 4, "channels": 32}, {"resolution": 8, "channels": 32}]
    },
}
RECIPE = {
    "total_kimg": 8,
    "batch": 16,
    "loss": "relativistic",
    "consistency": None,
    "r1_gamma": 2,
    "r2_gamma": 2,
    "r1_every": 8,
    "grad_clip_d": None,
    "lr_g": 2e-3,
    "lr_d": 2e-3,
    "decay_from_kimg": 5,
    "ema_halflife_nimg": 1000,
    "log_every_nimg": 4000,
    "snapshot_every_kimg": 100,
}


def hair_of(index: int) -> str | None:
    """`dark`, `light`, or None for what lies between them, and for shaved heads."""
    face = what_is_drawn(index)
    red, green, blue = face.hair
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    if face.hairstyle.volume < 0.05 or 75 < luma < 110:
        return None
    return "dark" if luma <= 75 else "light"


def draw_folders(folder: Path, each: int) -> None:
    """`each` faces for each class, in folders of the classes' names."""
    left = dict.fromkeys(NAMES, each)
    index = 0
    while any(left.values()):
        hair = hair_of(index)
        if hair is not None and left[hair]:
            left[hair] -= 1
            place = folder / hair
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_face(index, SIDE)).save(place / f"{index}.png")
        index += 1


def pixels_of(source) -> torch.Tensor:
    return torch.from_numpy(np.stack([source.read(i) for i in range(len(source))]))


def trained_probe(images_NHW3: torch.Tensor, labels_N: torch.Tensor) -> nn.Module:
    """A small network that tells the classes of real faces."""
    torch.manual_seed(0)
    probe = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (SIDE // 4) ** 2, 2),
    )
    optimizer = torch.optim.Adam(probe.parameters(), 2e-3)
    for _ in range(400):
        chosen = torch.randint(len(labels_N), (64,))
        loss = nn.functional.cross_entropy(probe(as_input(images_NHW3[chosen])), labels_N[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return probe


def as_input(images_NHW3: torch.Tensor) -> torch.Tensor:
    return images_NHW3.permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def accuracy(probe: nn.Module, images_NHW3: torch.Tensor, labels_N: torch.Tensor) -> float:
    return float((probe(as_input(images_NHW3)).argmax(1) == labels_N).float().mean())


@pytest.mark.slow
def test_a_probe_tells_the_classes_of_generated_faces(tmp_path):
    draw_folders(tmp_path / "faces", each=1000)
    prepare(
        str(tmp_path / "faces"), tmp_path / "faces.zip", Settings(SIDE), labels_from_folders=True
    )
    source = open_images(str(tmp_path / "faces.zip"), resolution=SIDE)
    real, labels = pixels_of(source), torch.from_numpy(class_labels(source, 2))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    kept, left = order[:1600], order[1600:]
    probe = trained_probe(real[kept], labels[kept])
    assert accuracy(probe, real[left], labels[left]) > 0.97

    config = tiny(model=MODEL, data={"path": str(tmp_path / "faces.zip")}, train=RECIPE)
    train(config, tmp_path / "run", torch.device("cpu"))
    generator = load_model(tmp_path / "run")
    assert generator.config.class_names == NAMES
    for name in NAMES:
        (label,) = chosen_classes(generator, name)
        images = torch.cat([*generate(generator, range(256), [label] * 256, batch=64)])
        found = accuracy(probe, images, torch.full((256,), label))
        assert found > 0.9, f"the probe takes {found:.1%} of the generated faces for {name} ones"
