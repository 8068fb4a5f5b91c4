"""Times the discriminator's step with the weights of its convolutions in either memory format.

`python -m tools.memory_format configs/ffhq256.yaml --batch 32 --device cuda`; `--help` lists the
other options. Rounds of both formats alternate, so that a change of the machine's load meets both;
the least time of each counts. It changes nothing in the library.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch

from stylenat.benchmarks.timing import measure
from stylenat.benchmarks.training import Step, cut
from stylenat.choices import PRECISIONS
from stylenat.config import RunConfig, load_config
from stylenat.training.start import prepare_torch

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def compare(
    config: RunConfig, *, batch: int, device: torch.device, repeats: int
) -> dict[str, dict[str, float]]:
    """The least seconds of D's step and of its penalty's step, for each format of D's weights.

    D itself chooses the format of its images, by the precision.
    """
    steps = {name: Step(config, batch, device) for name in FORMATS}
    for name, step in steps.items():
        prepare_torch(step.config, step.state)
        step.state.D.to(memory_format=FORMATS[name])
    parts: list[str] = [part for part in ("D step", "penalty step") if part in step.parts()]
    least = {name: dict.fromkeys(parts, math.inf) for name in FORMATS}
    for _ in range(repeats):
        for name, step in steps.items():
            for part in parts:
                timing = measure(step.parts()[part], repeats=3, device=device)
                least[name][part] = min(least[name][part], timing.least)
    return least


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--side", type=int, help="cut both networks to images of this side")
    parser.add_argument("--precision", choices=PRECISIONS, help="by default the config's")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of both formats")
    given = parser.parse_args()
    precision = [] if given.precision is None else [f"train.precision={given.precision}"]
    config = load_config(given.config, precision)
    if given.side is not None:
        config = cut(config, given.side)
    device = torch.device(given.device)
    least = compare(config, batch=given.batch, device=device, repeats=given.repeats)
    for part, seconds in least["contiguous"].items():
        other = least["channels_last"][part]
        sys.stdout.write(
            f"{given.config} {config.model.generator.resolution}, {config.train.precision}, batch "
            f"{given.batch}, {part}: contiguous {1e3 * seconds:.1f} ms, channels_last "
            f"{1e3 * other:.1f} ms, ratio {other / seconds:.2f}\n"
        )


if __name__ == "__main__":
    main()
