"""Numbers computed by the official implementation (float32, CPU), kept in tests/golden.

Weights and inputs are not stored: `golden_randn` draws each from a formula over its tag.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"

# Channels by resolution, with the published multiplier of 2.
PUBLISHED_CHANNELS = {
    4: 512,
    8: 512,
    16: 512,
    32: 512,
    64: 512,
    128: 256,
    256: 128,
    512: 64,
    1024: 32,
}


def golden_randn(shape: Sequence[int], tag: str, std: float = 1.0) -> Tensor:
    """The float32 tensor that the tag stands for: N(0, std), seeded with the tag's CRC-32."""
    generator = torch.Generator().manual_seed(zlib.crc32(tag.encode()))
    return torch.randn(tuple(shape), generator=generator) * std


def golden_json(name: str) -> Any:
    """The contents of tests/golden/NAME.json."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def golden_arrays(name: str) -> dict[str, Tensor]:
    """Every array of tests/golden/NAME.npz."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}
