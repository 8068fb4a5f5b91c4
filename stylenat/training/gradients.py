"""The gradients of one optimizer step: summed over its passes, and averaged over the ranks.

On several ranks, gradients are averaged in buckets of some megabytes. In the last backward pass a
gradient moves to its bucket as soon as it is there, and a bucket is sent as soon as it is full, so
that the ranks exchange gradients while the pass goes on. The buckets take as much memory as the
gradients, which are views of them: only a gradient that is moving is there twice.

Each rank must send the same buckets in the same order. The passes reach parameters about from the
last to the first, so buckets are filled and sent in that order. If a loss does not reach a
parameter (the gradient penalty does not reach D's last bias), its bucket and those after it are
sent at the end of the pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn

from stylenat.distributed import Mean, world_size

BUCKET_BYTES = 25 * 2**20
ALIGNMENT = 32  # numbers: kernels read a gradient fastest if it begins at a multiple of 128 bytes


@contextmanager
def trainable(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block the parameters collect gradients, which are removed after it."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


class Gradients:
    """Within the block the parameters are trainable, and their gradients are gathered here.

    `passes` is the number of backward passes whose mean the gradient is. On one rank there are
    neither buckets nor hooks.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        passes: int = 1,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.parameters = list(parameters)
        self.passes = passes
        self.passed = 0
        self.buckets: list[_Bucket] = []
        self.sent = 0
        if world_size() > 1:
            self.buckets = _filled_from_the_last(self.parameters, bucket_bytes)
        self._stack = ExitStack()

    def __enter__(self) -> Gradients:
        self._stack.enter_context(trainable(self.parameters))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_of(self, loss: Tensor) -> None:
        """Take the gradient of one pass's loss."""
        self.passed += 1
        assert self.passed <= self.passes
        if self.passed == self.passes:
            self._watch_for_gradients()
        (loss / self.passes).backward()

    def average(self, loss: Tensor) -> Tensor:
        """Replace each gradient by its mean over the ranks, and return the norm of all of them.

        The norm is not finite if a loss or a gradient of some rank is not. A parameter that the
        loss does not reach gets the gradient 0, so that Adam counts the step, as in the published
        R1. The caller sums `loss` over the passes; only whether it is finite matters.
        """
        assert self.passed == self.passes
        loss = loss.detach().to(self.parameters[0].dtype).reshape(1)
        if self.buckets:
            loss = self._average_buckets(loss)
        else:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.parameters if p.grad is not None]  # now all of them
        return nn.utils.get_total_norm(gradients) + 0 * loss.squeeze()

    def _watch_for_gradients(self) -> None:
        """Move each gradient of the pass to its bucket when it is there."""
        for bucket in self.buckets:
            for index, parameter in enumerate(bucket.parameters):

                def take(_: Tensor, bucket: _Bucket = bucket, index: int = index) -> None:
                    bucket.take(index)
                    self._send(only_full=True)

                hook = parameter.register_post_accumulate_grad_hook(take)
                self._stack.callback(hook.remove)

    def _send(self, *, only_full: bool) -> None:
        """Send the next buckets, but not the last one, which waits for the loss."""
        while self.sent < len(self.buckets) - 1:
            bucket = self.buckets[self.sent]
            if only_full and bucket.missing:
                return
            bucket.send()
            self.sent += 1

    def _average_buckets(self, loss: Tensor) -> Tensor:
        """The mean of the loss over the ranks; the gradients have become theirs."""
        self._send(only_full=False)
        # The loss goes with the last gradients, so that no rank waits once more.
        last = self.buckets[-1]
        last.send(loss)
        for bucket in self.buckets:
            bucket.wait()
        return last.extra


class _Bucket:
    """The gradients of some parameters in one tensor, and one number more."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = set(range(len(parameters)))
        sizes = [-(-parameter.numel() // ALIGNMENT) * ALIGNMENT for parameter in parameters]
        *self.offsets, self.size = accumulate(sizes, initial=0)
        self._flat: Tensor | None = None
        self._mean: Mean | None = None

    @property
    def flat(self) -> Tensor:
        """Zeros until gradients come, and made when the first one does."""
        if self._flat is None:
            self._flat = self.parameters[0].detach().new_zeros(self.size + 1)
        return self._flat

    @property
    def extra(self) -> Tensor:
        return self.flat[-1:]

    def take(self, index: int) -> None:
        """Move the gradient of a parameter here; 0 if it has none."""
        parameter = self.parameters[index]
        # Once sent, it cannot take in more.
        assert self._mean is None
        view = self.flat[self.offsets[index] :][: parameter.numel()].view_as(parameter)
        if parameter.grad is not None:
            view.copy_(parameter.grad)
        parameter.grad = view
        self.missing.remove(index)

    def send(self, extra: Tensor | None = None) -> None:
        """Begin to average over the ranks; what no gradient has come for counts as 0."""
        for index in sorted(self.missing):
            self.take(index)
        if extra is not None:
            self.extra.copy_(extra)
        self._mean = Mean(self.flat)

    def wait(self) -> None:
        assert self._mean is not None
        self._mean.wait()


def _filled_from_the_last(parameters: list[nn.Parameter], most_bytes: int) -> list[_Bucket]:
    """Buckets of neighbours of one dtype; only one of a single parameter exceeds `most_bytes`."""
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        fits = groups and size + parameter.nbytes <= most_bytes
        if not fits or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.nbytes
    return [_Bucket(group) for group in groups]
