"""What one call of neighborhood attention asks for: head groups, shapes, and their rules.

Shapes: B batch, H height, W width, N heads, D head_dim, P = 2 * kernel_size - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.checks import check_tensor, keep_whole, kind
from ops.derivatives import carries_tangent, in_transform


@dataclass(frozen=True)
class HeadGroup:
    """Consecutive heads that share one kernel size and one dilation.

    A query's neighborhood is `kernel_size` x `kernel_size` keys, `dilation` pixels apart.
    Raises ValueError unless `heads >= 1`, `kernel_size` is odd and > 1, and `dilation >= 1`.
    """

    heads: int
    kernel_size: int
    dilation: int = 1

    def __post_init__(self) -> None:
        keep_whole(self, "heads", "kernel_size", "dilation")
        if self.heads < 1:
            raise ValueError(f"a head group needs at least one head, got heads={self.heads}")
        if self.kernel_size <= 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and greater than 1, got {self.kernel_size}")
        if self.dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {self.dilation}")

    @property
    def rpb_shape(self) -> tuple[int, int, int]:
        """Shape of the group's relative positional bias, `[heads, P, P]`."""
        side = 2 * self.kernel_size - 1
        return self.heads, side, side

    def check_fits(self, height: int, width: int) -> None:
        """Raises ValueError if the dilated window is larger than the feature map."""
        span = self.kernel_size * self.dilation
        if span > min(height, width):
            raise ValueError(
                f"kernel_size * dilation must not exceed the feature map: {self.kernel_size} * "
                f"{self.dilation} = {span} > {min(height, width)} at {height}x{width}; "
                "lower the dilation or the kernel size"
            )


@dataclass(frozen=True)
class Problem:
    """What a backend needs to know of a call to say whether it can run it.

    `has_tangent`: forward-mode differentiation goes through the call. `is_transformed`: the call is
    inside a gradient of torch.func.
    """

    batch: int
    height: int
    width: int
    heads: int
    head_dim: int
    groups: tuple[HeadGroup, ...]
    dtype: torch.dtype
    device_type: str
    device_index: int | None
    has_rpb: bool
    needs_grad: bool
    has_tangent: bool = False
    is_transformed: bool = False

    @property
    def largest_kernel_size(self) -> int:
        return max(group.kernel_size for group in self.groups)


def describe(
    q: Tensor, k: Tensor, v: Tensor, groups: Sequence[HeadGroup], rpb: Sequence[Tensor] | None
) -> Problem:
    """Check one call against every rule of the operation and describe it.

    Raises ValueError, with the rule and the values in it, also for values of a wrong type.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor)
    if q.ndim != 5:
        raise ValueError(f"q must be [B, H, W, heads, head_dim], got shape {tuple(q.shape)}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.shape != q.shape:
            raise ValueError(
                f"q, k and v must have one shape: q {tuple(q.shape)}, {name} {tuple(tensor.shape)}"
            )
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise ValueError(
                "q, k and v must share dtype and device: "
                f"q {q.dtype} on {q.device}, {name} {tensor.dtype} on {tensor.device}"
            )
    if not q.is_floating_point():
        raise ValueError(f"q, k and v must be floating point, got {q.dtype}")
    batch, height, width, heads, head_dim = q.shape
    _check_are_groups(groups)
    if not groups:
        raise ValueError("groups must name at least one HeadGroup")
    check_heads_add_up(groups, heads, of="the tensor's")
    for group in groups:
        group.check_fits(height, width)
    if rpb is not None:
        _check_rpb(q, groups, rpb)
    tensors = (q, k, v, *(rpb or ()))
    return Problem(
        batch=batch,
        height=height,
        width=width,
        heads=heads,
        head_dim=head_dim,
        groups=tuple(groups),
        dtype=q.dtype,
        device_type=q.device.type,
        device_index=q.device.index,
        has_rpb=rpb is not None,
        needs_grad=torch.is_grad_enabled() and any(t.requires_grad for t in tensors),
        has_tangent=carries_tangent(tensors),
        is_transformed=in_transform("Grad"),
    )


def check_heads_add_up(
    groups: Sequence[HeadGroup], heads: int, *, of: str, where: str = ""
) -> None:
    """Raises ValueError unless the groups' heads add up to `heads`.

    `of` says whose heads these are, and `where`, if given, ends the sentence.
    """
    dealt = [group.heads for group in groups]
    if sum(dealt) != heads:
        raise ValueError(
            f"the heads of the groups must add up to {of}: "
            f"{' + '.join(map(str, dealt))} = {sum(dealt)}, not {heads}{where}"
        )


def _check_are_groups(groups: Sequence[HeadGroup]) -> None:
    if not isinstance(groups, (list, tuple)):
        raise ValueError(f"groups must be a list or tuple of HeadGroup, not {kind(groups)}")
    for index, group in enumerate(groups):
        if not isinstance(group, HeadGroup):
            raise ValueError(f"groups[{index}] must be a HeadGroup, not {kind(group)}: {group!r}")


def _check_rpb(q: Tensor, groups: Sequence[HeadGroup], rpb: Sequence[Tensor]) -> None:
    if isinstance(rpb, Tensor) or not hasattr(rpb, "__len__"):
        raise ValueError(f"rpb must be a list of tables, one per group, not {kind(rpb)}")
    if len(rpb) != len(groups):
        raise ValueError(f"rpb needs one table per group: {len(rpb)} tables, {len(groups)} groups")
    for index, (table, group) in enumerate(zip(rpb, groups, strict=True)):
        check_tensor(f"rpb[{index}]", table)
        if tuple(table.shape) != group.rpb_shape:
            raise ValueError(
                f"rpb[{index}] must be [heads, 2*kernel_size-1, 2*kernel_size-1] = "
                f"{list(group.rpb_shape)}, got {list(table.shape)}"
            )
        if table.device != q.device:
            raise ValueError(f"rpb[{index}] is on {table.device}, q on {q.device}")
        if not table.is_floating_point():
            raise ValueError(f"rpb[{index}] must be floating point, got {table.dtype}")
