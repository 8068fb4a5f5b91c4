"""Makes a loss or a gradient NaN or infinite; as a program, on one of two ranks.

    torchrun --nproc-per-node 2 -m tests.training.spoil FOLDER

Rank 1 alone has a NaN in D's loss at step 3, and an infinite number in G's gradient. Every rank
checks that neither step was taken, that those before and after were, and that both ranks hold the
same weights.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stylenat.distributed import all_gather, process_group, rank, world_size
from stylenat.training import loop, steps
from stylenat.training.gradients import Gradients
from stylenat.training.state import trained
from tests.training.tiny import tiny

LOSSES = {"d": "d_losses", "penalty": "penalty_losses", "g": "g_loss"}


def spoiled_loss(function: Callable[..., Any], value: float) -> Callable[..., Any]:
    """The function's loss, or first loss, is `value`; its gradient stays what it is."""

    def spoiled(*arguments: object, **named: object) -> Any:
        losses = function(*arguments, **named)
        if not isinstance(losses, dict):
            return losses + value
        first = next(iter(losses))
        return {**losses, first: losses[first] + value}

    return spoiled


def spoiled_gradient(
    value: float, of: torch.optim.Optimizer | None = None, average=Gradients.average
) -> Callable[..., Any]:
    """One number of this rank's gradient is `value`; the loss stays as it is.

    With `of`, only in gradients of the parameters that this optimizer moves.
    """

    def spoiled(gradients: Gradients, loss: torch.Tensor) -> torch.Tensor:
        if of is None or gradients.parameters[0] is trained(of)[0]:
            last = [p for p in gradients.parameters if p.grad is not None][-1]
            last.grad.view(-1)[0] = value
        return average(gradients, loss)

    return spoiled


def main() -> None:
    cpu = torch.device("cpu")
    before: dict[str, Any] = {}
    real_d_step = loop.d_step

    def d_step(state, *arguments: object):
        if state.step == 3:
            before.update(copy.deepcopy(state.state_dict()))
            if rank() == 1:
                steps.d_losses = spoiled_loss(steps.d_losses, math.nan)
                Gradients.average = spoiled_gradient(math.inf, of=state.optimizer_g)
        if state.step == 4:
            check_unchanged(before, state.state_dict())
            steps.d_losses, Gradients.average = originals
        return real_d_step(state, *arguments)

    originals = steps.d_losses, Gradients.average
    loop.d_step = d_step
    with process_group(cpu):
        assert world_size() == 2
        run = loop.Run
        states = []

        class Watched(run):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                states.append(self.state)

        loop.Run = Watched
        assert loop.train(tiny(), Path(sys.argv[1]), cpu) is None
        (state,) = states
        assert int(state.optimizer_g.state_dict()["state"][0]["step"]) == 4
        weights = torch.cat([p.flatten() for n in (state.G, state.D) for p in n.parameters()])
        ours, theirs = all_gather(weights.detach())
        assert torch.equal(ours, theirs)
        assert ours.isfinite().all()


def check_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    """But for D's spectral-norm vectors, which follow its weights, and the average generator."""
    for name in ("G", "D"):
        for key, tensor in after[name].items():
            assert tensor.isfinite().all(), key
            assert key.endswith(("._u", "._v")) or torch.equal(tensor, before[name][key]), key
    for name in ("optimizer_g", "optimizer_d"):
        for index, moments in after[name]["state"].items():
            for key, tensor in moments.items():
                assert torch.equal(tensor, before[name]["state"][index][key]), (name, index, key)


if __name__ == "__main__":
    main()
