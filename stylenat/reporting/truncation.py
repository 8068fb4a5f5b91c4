"""What truncation costs and gives: precision against recall, density against coverage, over psi.

Truncation (StyleGAN, arXiv 1812.04948, appendix B) moves w towards its mean: images become more
alike and fewer of them fail. Precision (arXiv 1904.06991) then rises and recall falls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stylenat.choices import Space, metric_name
from stylenat.files import check_can_write, replacing, sha256_of
from stylenat.layout import RunPaths, numbered
from stylenat.metrics import Evaluator, protocol_of
from stylenat.metrics.scoring import open_subject
from stylenat.models import Generator
from stylenat.reporting.facts import is_number
from stylenat.sampling import model_file

NAMES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Truncation:
    """A measured curve: psi and the four scores at each point, and how they were measured."""

    points: list[dict[str, float]]
    space: str
    model: str
    is_current: bool
    protocol: dict[str, Any]


def measure_truncation(
    run: Path,
    psis: Sequence[float],
    *,
    num: int,
    space: Space,
    device: torch.device,
    weights: str | None = None,
    trust_weights: bool = False,
    batch: int = 32,
    workers: int = 2,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Measure a run's best snapshot at each psi, and write truncation.json in its folder.

    The images are compared with the run's own data. `weights` is a file for the network of `space`;
    without it, it is the run's own, or the published one. `tell` gets a line for each psi. Raises
    as `Evaluator`, `open_subject` and `check_can_write` do, before anything is generated.
    """
    path = RunPaths(run).truncation
    check_can_write(path)
    metrics = [metric_name(metric, space) for metric in ("pr", "dc")]
    protocol = protocol_of(str(run), metrics=metrics, num=num, weights=weights)
    settings: dict[str, Any] = {"seed": 0, "snapshot": "best", "compiled": False, "tell": tell}
    file = model_file(run)
    sha256 = sha256_of(file)  # now: a run that trains may replace the file
    generator, _, data = open_subject(str(run), protocol, device, **settings)
    assert generator is not None
    evaluator = Evaluator(
        metrics, data, num=num, mode=protocol.mode, weights=protocol.weights,
        trust_weights=trust_weights, device=device, batch=batch, workers=workers,
    )  # fmt: skip
    points, shared = _points(evaluator, generator, psis, tell)
    content = {
        "model": file.name,
        "model_sha256": sha256,
        "space": space,
        "points": points,
        "protocol": shared,
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _points(
    evaluator: Evaluator,
    generator: Generator,
    psis: Sequence[float],
    tell: Callable[[str], None],
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The scores at each psi, and what of their protocols is the same for all."""
    points = []
    for psi in sorted(psis):
        scores = evaluator(generator, truncation_psi=psi)
        values = dict(zip(NAMES, scores.values.values(), strict=True))
        points.append({"psi": psi, **values})
        tell(f"psi {psi:g}: {', '.join(f'{name} {value:.3f}' for name, value in values.items())}")
    images = dict(scores.protocol["images"])
    del images["truncation_psi"]  # it is another one at each point
    return points, {**scores.protocol, "images": images}


def read_truncation(paths: RunPaths) -> Truncation | None:
    """What truncation.json holds; None if there is none. Raises ValueError for another content."""
    if not paths.truncation.exists():
        return None
    try:
        content = json.loads(paths.truncation.read_text(encoding="utf-8"))
        points = [{name: point[name] for name in ("psi", *NAMES)} for point in content["points"]]
        if not points or not all(is_number(value) for point in points for value in point.values()):
            raise ValueError("its points must have numbers")
        return Truncation(
            points=points,
            space=str(content["space"]),
            model=str(content["model"]),
            is_current=_is_current(paths, content["model_sha256"]),
            protocol=dict(content["protocol"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{paths.truncation} is not what `stylenat report --truncation` writes: delete it, or "
            "measure again"
        ) from error


def _is_current(paths: RunPaths, sha256: str) -> bool:
    """Whether the model with this hash is still the one that a measurement would take."""
    snapshots = [paths.best, *numbered(paths.snapshots, ".safetensors")]
    now = next((path for path in snapshots if path.is_file()), None)
    return now is not None and sha256_of(now) == sha256
