"""One image through a whole generator, beside the same network with its attention taken out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from stylenat.benchmarks.report import Report, Timing, measure, measure_ceilings
from stylenat.config import load_config
from stylenat.models import Generator, attention


def bench_generator(config_path: Path, *, repeats: int) -> Report:
    """Seconds an image on the CPU: float32 and bfloat16, with attention and without.

    bfloat16 is autocast, as in training. Without attention every call of the operation gives back
    its values (the projections stay): what is left is the cost of everything else.
    `relative_error` is the root mean square error of the image, over the standard deviation of its
    pixels.
    """
    config = load_config(config_path).model.generator
    report = Report(
        f"generator-{config_path.stem}-cpu",
        f"{config_path.stem}: one {config.resolution}x{config.resolution} image, CPU",
        ("network", "dtype", "seconds", "least", "most", "relative_error"),
        measure_ceilings(),
    )
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    z = torch.randn(1, config.z_dim)
    exact = generator(z)
    changes: dict[str, Callable[[], AbstractContextManager[object]]] = {"whole": nullcontext}
    if any(isinstance(level.attention, tuple) for level in config.levels):
        changes["attention taken out"] = _without_attention
    for name, change in changes.items():
        for dtype in (torch.float32, torch.bfloat16):
            seconds, image = _time_image(generator, z, dtype, change, repeats)
            error = (image - exact).square().mean().sqrt() / exact.std()
            report.add(
                network=name,
                dtype=str(dtype).removeprefix("torch."),
                seconds=seconds.median,
                least=seconds.least,
                most=seconds.most,
                relative_error=error.item() if change is nullcontext else None,
            )
    return report


def _time_image(
    generator: Generator,
    z: Tensor,
    dtype: torch.dtype,
    change: Callable[[], AbstractContextManager[object]],
    repeats: int,
) -> tuple[Timing, Tensor]:
    with change(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return measure(lambda: generator(z), repeats=repeats), generator(z)


def _without_attention() -> AbstractContextManager[object]:
    def give_back_values(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
        return v.contiguous()

    return patch.object(attention, "neighborhood_attention_2d", give_back_values)
