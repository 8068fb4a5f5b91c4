"""How the probability p of ADA adapts to the discriminator (arXiv 2006.06676, section 3.1).

r is the mean of sign(D(real)) over all ranks since p was last adjusted. It is near 0 while D cannot
tell real from generated images, and 1 once it knows the real ones by heart. p rises while r is
above the target, and falls while it is below.

Signs are summed as integers, which add up to the same in any order: a run that continues, on any
number of ranks, has the same p as one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

SPEED_KIMG = 500.0
SPEED_KIMG_FROM_A_MODEL = 100.0  # for a run that starts from a trained model


@dataclass(frozen=True)
class Adaptation:
    """When and how fast p moves.

    Every `every` steps p moves by the share that the images of these steps have in `speed_kimg`, in
    which it could go from 0 to 1. It never exceeds `p_max`: above 0.8 or so, generated images begin
    to look augmented themselves. Raises ValueError for settings out of range.
    """

    target: float = 0.6
    speed_kimg: float = SPEED_KIMG
    every: int = 4
    p_max: float = 0.8

    def __post_init__(self) -> None:
        if not -1 <= self.target <= 1:
            raise ValueError(f"the target of ADA is a mean sign, from -1 to 1: {self.target}")
        if not (math.isfinite(self.speed_kimg) and self.speed_kimg > 0):
            raise ValueError(f"the speed of ADA must be positive, in kimg: {self.speed_kimg}")
        if self.every < 1:
            raise ValueError(f"ADA must adjust p every 1 or more steps: {self.every}")
        if not 0 < self.p_max <= 1:
            raise ValueError(f"p_max must be above 0 and at most 1: {self.p_max}")


@dataclass(frozen=True)
class AdaptiveState:
    """p, and the signs since it was last adjusted; `state_dict` is plain data for a checkpoint.

    `r` is the mean sign at the last adjustment, None before the first. `p_max_reached` tells
    whether p has ever been at its ceiling.
    """

    p: float = 0.0
    sign_sum: int = 0
    count: int = 0
    r: float | None = None
    p_max_reached: bool = False

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state_dict(cls, saved: Mapping[str, Any]) -> AdaptiveState:
        """The state that `state_dict` gave. Raises ValueError for anything else."""
        types = {"p": float, "sign_sum": int, "count": int, "p_max_reached": bool}
        names = [field.name for field in fields(cls)]
        if not isinstance(saved, Mapping) or sorted(map(str, saved)) != sorted(names):
            raise ValueError(f"the state of ADA must have {', '.join(names)}, and nothing else")
        wrong = [name for name, kind in types.items() if type(saved[name]) is not kind]
        if wrong or not (saved["r"] is None or type(saved["r"]) is float):
            raise ValueError(f"the state of ADA has values of other types: {(wrong or ['r'])[0]}")
        state = cls(**saved)
        if not (0 <= state.p <= 1 and state.count >= 0 and abs(state.sign_sum) <= state.count):
            raise ValueError(
                f"the state of ADA is impossible: p {state.p}, signs {state.sign_sum} of "
                f"{state.count} images"
            )
        return state


def update(
    state: AdaptiveState, settings: Adaptation, *, sign_sum: int, count: int, step: int
) -> AdaptiveState:
    """The state after step `step` (1 for the first), in which D judged `count` real images.

    `sign_sum` is the sum of sign(D(real)), over all ranks. p is adjusted after every
    `settings.every`-th step.
    """
    sign_sum, count = state.sign_sum + sign_sum, state.count + count
    if step % settings.every or count == 0:
        return AdaptiveState(state.p, sign_sum, count, state.r, state.p_max_reached)
    r = sign_sum / count
    direction = (r > settings.target) - (r < settings.target)
    p = state.p + direction * count / (settings.speed_kimg * 1000)
    p = min(max(p, 0.0), settings.p_max)
    return AdaptiveState(p, 0, 0, r, state.p_max_reached or p == settings.p_max)
