"""Networks without values: the same names and shapes, and nothing that is slow to import."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stylenat.backbones import NAT
from stylenat.backbones.variants import VARIANTS
from stylenat.config import load_config
from stylenat.models import Discriminator, Generator
from stylenat.models.unfilled import without_values

ROOT = Path(__file__).resolve().parents[2]


def described(network):
    return {
        name: (tuple(x.shape), x.dtype, getattr(x, "requires_grad", False))
        for name, x in (*network.named_parameters(), *network.named_buffers())
    }


@pytest.mark.parametrize(
    "build",
    [
        lambda: Generator(load_config(ROOT / "configs" / "faces32.yaml").model.generator),
        lambda: Discriminator(load_config(ROOT / "configs" / "faces32.yaml").model.discriminator),
        lambda: NAT(VARIANTS["dinat_s_tiny"]),
    ],
)
def test_an_unfilled_network_has_the_network_s_names_shapes_and_types(build):
    with without_values():
        unfilled = build()
    assert described(unfilled) == described(build())
    assert all(x.is_meta for x in unfilled.state_dict().values())


def test_values_that_matter_are_still_computed():
    """Only what a constructor draws or fills in is left out."""
    with without_values():
        x = torch.empty(3, 4).fill_(2)
        y = x / torch.ones(4)
        z = torch.arange(5, device="cpu") * 2
    assert y.is_meta
    assert z.tolist() == [0, 2, 4, 6, 8]


def test_sampling_does_not_import_the_compiler(tmp_path):
    """It would take longer than all the rest of a small command."""
    code = (
        "import sys, torch\n"
        "from stylenat.export import load_generator, save_generator\n"
        "from stylenat.sampling import generate\n"
        "from tests.sampling.tiny import tiny_generator\n"
        f"path = {str(tmp_path / 'model.safetensors')!r}\n"
        "save_generator(tiny_generator(), path)\n"
        "next(iter(generate(load_generator(path), [0])))\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
