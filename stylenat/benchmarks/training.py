"""How long each part of a training step takes, on random images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from stylenat.benchmarks.ceilings import measure_ceilings
from stylenat.benchmarks.profiler import time_by_kernel
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.timing import (
    Timing,
    measure,
    peak_memory_mb,
    reset_peak_memory,
)
from stylenat.benchmarks.work import attention_flop, counted_flop
from stylenat.config import RunConfig
from stylenat.data.plan import BatchPlan
from stylenat.models.pixels import from_uint8
from stylenat.precision import DTYPES, autocast, without_tf32
from stylenat.training.gradients import trainable
from stylenat.training.inputs import StepInputs, step_inputs
from stylenat.training.start import prepare_torch
from stylenat.training.state import new_state, update_average
from stylenat.training.steps import begin, d_step, g_step, has_penalty, penalty_step

COLUMNS = (
    "part",
    "precision",
    "batch",
    "seconds",
    "least",
    "most",
    "images_per_second",
    "tflops",
    "of_product_ceiling",
    "memory_mb",
)
# A forward pass of attention has two products, a backward pass five: the logits again, and the
# gradients of the probabilities, of v, of q and of k.
BACKWARD_PRODUCTS = 5 / 2


def cut(config: RunConfig, resolution: int) -> RunConfig:
    """The same networks for smaller images: the generator's levels up to `resolution`, and the
    discriminator's up to half of it. Raises ValueError if there is no such level."""
    model = config.model
    sides = [level.resolution for level in model.generator.levels]
    if resolution not in sides[1:]:
        raise ValueError(
            f"the network can be cut at {', '.join(map(str, sides[1:]))}: not at {resolution}"
        )
    generator = dataclasses.replace(
        model.generator, levels=model.generator.levels[: sides.index(resolution) + 1]
    )
    levels = [level for level in model.discriminator.levels if level.resolution < resolution]
    discriminator = dataclasses.replace(model.discriminator, levels=tuple(levels))
    model = dataclasses.replace(model, generator=generator, discriminator=discriminator)
    return dataclasses.replace(config, model=model)


def bench_training(
    config: RunConfig,
    *,
    name: str,
    device: torch.device,
    batches: Sequence[int],
    repeats: int,
    profiled: bool = False,
) -> Report:
    """Seconds of each part of a step and of a whole step, in the config's recipe and precision.

    A whole step is made of the inputs, D's step, the penalty's step (of which one in `r1_every`
    counts), G's step and the average. Steps include Adam. The loss of "G forward and backward" is
    the sum of the squares of the images. FLOP are those of products and convolutions. `profiled`
    adds the time that each kernel takes in D's and in G's step, with the largest batch that fits.
    """
    side = config.model.generator.resolution
    report = Report(
        f"training-{name}",
        f"{name}: a training step at {side}x{side}",
        COLUMNS,
        measure_ceilings(device),
        device,
    )
    with without_tf32(), report.until_interrupted():
        for batch in sorted(batches):
            try:
                _bench(report, config, batch, repeats, profiled)
            except torch.OutOfMemoryError:
                report.notes.append(f"batch {batch} does not fit the memory.")
                break
    return report


def _bench(report: Report, config: RunConfig, batch: int, repeats: int, profiled: bool) -> None:
    """Add a row for each part, and one for the whole step."""
    device = report.device
    step = Step(config, batch, device)
    flop = step.flop()
    prepare_torch(step.config, step.state)  # after counting: compiled products cannot be counted
    train = step.config.train
    timings: dict[str, Timing] = {}
    memories: dict[str, float | None] = {}
    for name, run in step.parts().items():
        reset_peak_memory(device)
        timings[name] = measure(run, repeats=repeats, device=device)
        memories[name] = peak_memory_mb(device)
    shares = {"inputs": 1.0, "D step": 1.0, "G step": 1.0, "average": 1.0}
    if "penalty step" in timings:
        shares["penalty step"] = 1 / train.r1_every
    timings["whole step"] = Timing(
        *(
            sum(share * getattr(timings[name], field) for name, share in shares.items())
            for field in ("median", "least", "most")
        )
    )
    flop["whole step"] = sum(share * flop.get(name, 0) for name, share in shares.items())
    memories["whole step"] = max(memory or 0 for memory in memories.values()) or None
    for name, seconds in timings.items():
        flops = flop[name] / seconds.median if name in flop else None
        is_exact = train.precision == "float32" or name == "penalty step"  # without autocast
        ceiling = report.ceilings.flops(torch.float32 if is_exact else torch.bfloat16)
        report.add(
            part=name,
            precision=train.precision,
            batch=batch,
            seconds=seconds.median,
            least=seconds.least,
            most=seconds.most,
            images_per_second=batch / seconds.median,
            tflops=None if flops is None else flops / 1e12,
            of_product_ceiling=None if flops is None else flops / ceiling,
            memory_mb=memories[name],
        )
    if profiled:
        report.profile = step.profile(f"{report.title}, {train.precision}, batch {batch}")


class Step:
    """The parts of one step of training, on random images."""

    def __init__(self, config: RunConfig, batch: int, device: torch.device) -> None:
        train = dataclasses.replace(config.train, batch=batch, batch_gpu=None)
        self.plan = BatchPlan(batch)
        self.config = dataclasses.replace(config, train=train)
        self.device = device
        self.state = new_state(self.config, device)
        side = config.model.generator.resolution
        self.pixels_BHW3 = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
        if device.type == "cuda":
            self.pixels_BHW3 = self.pixels_BHW3.pin_memory()
        self.inputs = self.new_inputs()

    def parts(self) -> dict[str, Callable[[], object]]:
        """What each part runs, by name."""
        state, inputs, train = self.state, self.inputs, self.config.train
        parts: dict[str, Callable[[], object]] = {
            "inputs": self.new_inputs,
            "D step": lambda: d_step(state, inputs, train),
            "penalty step": lambda: penalty_step(state, inputs, train),
            "G step": lambda: g_step(state, inputs, train),
            "average": lambda: update_average(state, train, train.batch),
            "G forward": lambda: self.forward_of_g(backward=False),
            "G forward and backward": lambda: self.forward_of_g(backward=True),
            "Adam of G and D": self.adam,
        }
        if not has_penalty(train) or train.r1_every == 1:
            del parts["penalty step"]
        return parts

    def flop(self) -> dict[str, float]:
        """FLOP of products and convolutions, of each part that has some."""
        generator, train = self.config.model.generator, self.config.train
        one_pass = train.batch * attention_flop(generator)
        again = 1 if generator.activation_checkpointing else 0
        both = (1 + again + BACKWARD_PRODUCTS) * one_pass
        of_attention = {
            "D step": one_pass,
            "penalty step": one_pass if train.r2_gamma > 0 else 0,
            "G step": both,
            "G forward": one_pass,
            "G forward and backward": both,
        }
        parts = self.parts()
        return {
            name: counted_flop(parts[name]) + flop
            for name, flop in of_attention.items()
            if name in parts
        }

    def profile(self, title: str) -> str:
        """How long each kernel takes in D's and in G's step."""
        parts = self.parts()
        return "\n\n".join(
            time_by_kernel(parts[name], f"{title}, {name}", device=self.device)
            for name in ("D step", "G step")
        )

    def new_inputs(self) -> StepInputs:
        config = self.config
        pixels_BHW3 = self.pixels_BHW3.to(self.device, non_blocking=True)
        real = from_uint8(pixels_BHW3, config.model.generator.pixel_space)
        z_dim = config.model.generator.z_dim
        return step_inputs(real, self.plan, seed=config.train.seed, step=0, z_dim=z_dim)

    def adam(self) -> None:
        """Step both optimizers with gradients of zero, which takes as long as with any others."""
        for network, optimizer in (
            (self.state.G, self.state.optimizer_g),
            (self.state.D, self.state.optimizer_d),
        ):
            for parameter in network.parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()

    def forward_of_g(self, *, backward: bool) -> None:
        G = self.state.G
        begin(self.config.train)
        if not backward:
            with torch.no_grad(), autocast(self.device, DTYPES[self.config.train.precision]):
                G(self.inputs.z_g)
            return
        with trainable(G.parameters()):
            with autocast(self.device, DTYPES[self.config.train.precision]):
                loss = G(self.inputs.z_g).square().sum()
            loss.backward()
