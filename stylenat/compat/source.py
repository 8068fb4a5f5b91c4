"""What deferred attention weights are made of: query, key and bias as they were when qk was called.

Shapes: B batch, N heads, H height, W width, D head_dim, K = kernel_size**2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ops.neighborhood import HeadGroup, neighborhood_attention_2d, neighborhood_qk
from stylenat.compat.utils import without_autocast

CHANGED = (
    "the query or key of attention weights that were not computed yet was changed in place, and "
    "their gradient needs it; change a copy, or install stylenat.compat with deferred=False"
)


class Source:
    """What weights are made of: `[B, N, H, W, D]` query and key, as they were, and the bias.

    The copies are made on write: they cost nothing unless somebody changes the originals. Raises
    RuntimeError where PyTorch can't copy so, as for memory of NumPy's.
    """

    def __init__(
        self, query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int
    ) -> None:
        self.tensors = (query, key)
        self.kernel_size, self.dilation = kernel_size, dilation
        inputs = (query, key) if rpb is None else (query, key, rpb)
        self.requires_grad = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        self.rpb = None if rpb is None else rpb.clone()  # small, and optimizers change it in place
        self.versions = [None if x.is_inference() else x._version for x in self.tensors]
        self.copies: list[Tensor] = []
        self.copy()

    def copy(self) -> None:
        self.copies = [torch._lazy_clone(x.detach()) for x in self.tensors]

    def is_unchanged(self) -> bool:
        """Whether the originals hold what they held. Inference tensors count no versions: they
        share their memory with the copies until one of them is written to."""
        return all(
            _shares_memory(x) if version is None else x._version == version
            for x, version in zip(self.tensors, self.versions, strict=True)
        )

    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Query, key and bias, cut off from autograd if the weights were made without it."""
        if self.is_unchanged():
            query, key = self.tensors
        elif self.requires_grad:
            raise RuntimeError(CHANGED)
        else:
            query, key = self.copies
        if self.requires_grad:
            return query, key, self.rpb
        return query.detach(), key.detach(), None if self.rpb is None else self.rpb.detach()

    @contextmanager
    def reading(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Query, key and bias for an operation: without copies meanwhile, for a kernel that asks
        for an address could be about to write, and would make PyTorch copy the memory."""
        query, key, rpb = self.inputs()
        if query.untyped_storage()._cdata == self.tensors[0].untyped_storage()._cdata:
            self.copies = []
        try:
            with without_autocast(query):
                yield query, key, rpb
        finally:
            if not self.copies:
                self.copy()

    def logits(self) -> Tensor:
        """`[B, N, H, W, K]`, exactly, with gradients as far as the call to qk had them."""
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(self.requires_grad),
            self.reading() as (query, key, rpb),
        ):
            return neighborhood_qk(
                query, key, kernel_size=self.kernel_size, dilation=self.dilation, rpb=rpb
            )

    def attend(self, value: Tensor) -> Tensor:
        """`[B, N, H, W, D]`: the fused operation with the softmax of these weights."""
        with self.reading() as (query, key, rpb):
            q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (query, key, value))
            group = HeadGroup(query.shape[1], self.kernel_size, self.dilation)
            tables = None if rpb is None else [rpb]
            out = neighborhood_attention_2d(q, k, v, [group], tables, scale=1.0)
        return out.permute(0, 3, 1, 2, 4)


def _shares_memory(x: Tensor) -> bool:
    """Whether its memory is still shared with a copy on write."""
    return bool(torch._C._is_cow_tensor(x))  # type: ignore[attr-defined]
