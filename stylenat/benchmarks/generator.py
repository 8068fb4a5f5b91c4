"""Images per second of a whole generator, and of the same network without its attention."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.profiler import time_by_kernel
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.timing import Timing, measure, peak_memory_mb, reset_peak_memory
from stylenat.benchmarks.work import attention_flop, forward_flop, without_attention
from stylenat.config import load_config
from stylenat.models import Generator, GeneratorConfig
from stylenat.precision import TRAINED, autocast, name_of, without_tf32
from stylenat.sampling import compile_synthesis

COLUMNS = (
    "network",
    "mode",
    "dtype",
    "batch",
    "images_per_second",
    "seconds",
    "least",
    "most",
    "relative_error",
    "tflops",
    "of_product_ceiling",
    "memory_mb",
)


def bench_generator(
    config_path: Path,
    *,
    device: torch.device,
    batches: Sequence[int],
    repeats: int,
    dtypes: Sequence[torch.dtype] = TRAINED,
    compiled: bool = False,
    profiled: bool = False,
) -> Report:
    """The speed of a generator with fresh weights, in each dtype and batch, with attention and not.

    bfloat16 is by autocast, as in training; float32 is without TF32. "Attention taken out" means
    that the operation gives back v, while the projections stay: it shows the cost of everything
    else. `relative_error` is the root mean square error of the first image against eager float32,
    divided by the standard deviation of its pixels. FLOP are those of `forward_flop`. `compiled`
    measures the network after `compile_synthesis` too. If a GPU's memory does not hold a batch,
    larger ones are left out. `profiled` adds the time that each kernel takes in bfloat16, with the
    largest batch that fitted.
    """
    config = load_config(config_path).model.generator
    side = config.resolution
    report = Report(
        f"generator-{config_path.stem}{'-compiled' if compiled else ''}",
        f"{config_path.stem}: images of {side}x{side}",
        COLUMNS,
        measure_ceilings(device),
        device,
    )
    torch.manual_seed(0)
    generator = Generator(config).to(device).eval().requires_grad_(False)
    networks = {"eager": generator}
    if compiled:
        networks["compiled"] = copy.deepcopy(generator)
        compile_synthesis(networks["compiled"])
    with without_tf32(), report.until_interrupted():
        for mode, network in networks.items():
            for name, change in _changes(config, mode).items():
                for dtype in dtypes:
                    with change():
                        _bench(report, generator, network, (name, mode), dtype, batches, repeats)
        if profiled:
            batch = max((row["batch"] for row in report.rows), default=1)
            report.profile = _profile(networks[mode], batch, f"{report.title}, {mode}", device)
    return report


def _changes(
    config: GeneratorConfig, mode: str
) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    changes: dict[str, Callable[[], AbstractContextManager[object]]] = {"whole": nullcontext}
    if mode == "eager" and attention_flop(config) > 0:
        changes["attention taken out"] = without_attention
    return changes


def _bench(
    report: Report,
    exact: Generator,
    network: Generator,
    names: tuple[str, str],
    dtype: torch.dtype,
    batches: Sequence[int],
    repeats: int,
) -> None:
    """Add a row for each batch, until the memory is full; errors are against `exact`."""
    flop = forward_flop(network.config)
    for batch in sorted(batches):
        z = torch.randn(batch, network.z_dim, device=report.device)
        if names[1] == "compiled":
            torch.compiler.reset()  # otherwise dynamo gives up after eight shapes
        reset_peak_memory(report.device)
        try:
            seconds, images = _time(network, z, dtype, repeats)
        except torch.OutOfMemoryError:
            report.notes.append(f"{', '.join(names)}: batch {batch} does not fit the memory.")
            return
        memory = peak_memory_mb(report.device)
        flops = batch * flop / seconds.median
        report.add(
            network=names[0],
            mode=names[1],
            dtype=name_of(dtype),
            batch=batch,
            images_per_second=batch / seconds.median,
            seconds=seconds.median,
            least=seconds.least,
            most=seconds.most,
            relative_error=_error(exact(z[:1]), images[:1]) if names[0] == "whole" else None,
            tflops=flops / 1e12 if names[0] == "whole" else None,
            of_product_ceiling=flops / report.ceilings.flops(dtype)
            if names[0] == "whole"
            else None,
            memory_mb=memory,
        )


def _time(
    generator: Generator, z: Tensor, dtype: torch.dtype, repeats: int
) -> tuple[Timing, Tensor]:
    with torch.no_grad(), autocast(z.device, dtype):
        seconds = measure(lambda: generator(z), repeats=repeats, device=z.device)
        return seconds, generator(z)


def _error(exact: Tensor, image: Tensor) -> float:
    return ((image - exact).square().mean().sqrt() / exact.std()).item()


def _profile(generator: Generator, batch: int, title: str, device: torch.device) -> str:
    z = torch.randn(batch, generator.z_dim, device=device)
    with torch.no_grad(), autocast(device, torch.bfloat16):
        return time_by_kernel(
            lambda: generator(z), f"{title}, bfloat16, batch {batch}", device=device
        )
