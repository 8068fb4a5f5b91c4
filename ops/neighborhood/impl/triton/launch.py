"""Neighborhood attention by the kernels of kernels.py, registered with torch.library.

torch.compile sees one node for the forward pass and one for the backward. The gradient is of first
order, and every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ops.derivatives import refuse_second_gradient, refuse_tangents
from ops.neighborhood.impl.triton import kernels
from ops.neighborhood.impl.triton.plan import (
    TILE,
    Plan,
    groups_of,
    plan_columns,
    plan_tiles,
    power_of_two,
)
from ops.neighborhood.problem import HeadGroup
from ops.operation import operation


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` tensors in float32, bfloat16 or float16."""
    bias = None if rpb is None else torch.cat([table.flatten() for table in rpb]).float()
    layout = [n for g in groups for n in (g.heads, g.kernel_size, g.dilation)]
    out, _m, _inv_l = _forward(q, k, v, bias, layout, scale)
    return out


@operation("neighborhood_triton")
def _forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, layout: list[int], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (unit_depth(x) for x in (q, k, v))
    batch, height, width, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    m = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    inv_l = torch.empty_like(m)
    plan = plan_tiles(groups_of(layout), height, width)
    if batch:
        with device_of(q):
            kernels.forward[(batch * plan.programs,)](
                q, k, v, out, m, inv_l, q if bias is None else bias,
                *q.stride()[:4], *k.stride()[:4], *v.stride()[:4],
                height, width, heads, plan.programs, plan.layout, scale,
                **_settings("forward", plan, q, bias),
            )  # fmt: skip
    return out, m, inv_l


@operation("neighborhood_triton_backward")
def _backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    m: Tensor,
    inv_l: Tensor,
    layout: list[int],
    scale: float,
    needs_dbias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dout, q, k, v = (unit_depth(x) for x in (dout, q, k, v))
    batch, height, width, heads, _ = q.shape
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(3))
    delta = torch.empty_like(m)
    groups = groups_of(layout)
    strides = [stride for x in (q, k, v, dout) for stride in x.stride()[:4]]
    shape = (height, width, heads)
    columns, tiles = plan_columns(groups, height, width, batch), plan_tiles(groups, height, width)
    has_dbias = bias is not None and needs_dbias
    settings = _settings("backward_queries", columns, q, bias, has_dbias)
    count, side = batch * columns.programs if has_dbias else 0, settings["BIAS_SIDE"]
    shares = torch.empty(count, side, side, dtype=torch.float32, device=q.device)
    table = q if bias is None else bias
    if batch:
        with device_of(q):
            kernels.backward_queries[(batch * columns.programs,)](
                q, k, v, out, dout, m, inv_l, delta, table, dq, shares, *strides,
                *shape, columns.programs, columns.tiles_a_program, columns.layout, scale,
                **settings,
            )  # fmt: skip
            kernels.backward_keys[(batch * tiles.programs,)](
                q, k, v, dout, m, inv_l, delta, table, dk, dv, *strides,
                *shape, tiles.programs, tiles.layout, scale,
                **_settings("backward_keys", tiles, q, bias),
            )  # fmt: skip
    dbias = _sum_shares(shares, columns, batch) if has_dbias else m.new_empty(0)
    return dq, dk, dv, dbias


def _sum_shares(shares: Tensor, plan: Plan, batch: int) -> Tensor:
    """The flat gradient of all tables, of the programs' shares `[B * programs, side, side]`."""
    by_image = shares.unflatten(0, (batch, plan.programs))
    tables = []
    for group, first, count in plan.programs_of_groups():
        own = by_image[:, first : first + count * group.heads]
        summed = own.unflatten(1, (count, group.heads)).sum((0, 1))
        side = 2 * group.kernel_size - 1
        tables.append(summed[:, :side, :side].flatten())
    return torch.cat(tables)


# (BLOCK_N, num_warps, num_stages) by bytes of an element, then by the head_dim they serve up to:
# what compiles without spilling, or spills least (results/benchmarks/triton-compiled.json).
TUNING = {
    2: {
        32: {"forward": (32, 4, 2), "backward_queries": (32, 4, 2), "backward_keys": (32, 4, 2)},
        64: {"forward": (32, 4, 2), "backward_queries": (32, 8, 2), "backward_keys": (32, 8, 1)},
        128: {"forward": (32, 8, 2), "backward_queries": (32, 8, 2), "backward_keys": (32, 8, 2)},
    },
    4: {
        32: {"forward": (32, 8, 2), "backward_queries": (32, 8, 2), "backward_keys": (32, 8, 2)},
        64: {"forward": (32, 8, 1), "backward_queries": (32, 8, 2), "backward_keys": (32, 16, 2)},
        128: {
            "forward": (32, 16, 1),
            "backward_queries": (32, 16, 1),
            "backward_keys": (32, 16, 1),
        },
    },
}


def tuning_of(dtype: torch.dtype, head_dim: int) -> dict[str, tuple[int, int, int]]:
    """The row of TUNING that serves a call, by kernel."""
    rows = TUNING[dtype.itemsize]
    return rows[min(limit for limit in rows if limit >= head_dim)]


def _settings(
    kernel: str, plan: Plan, q: Tensor, bias: Tensor | None, has_dbias: bool = False
) -> dict[str, Any]:
    """The constants that a kernel is compiled with. No side of a matrix product is below 16."""
    head_dim = q.shape[-1]
    wide, narrow = plan.halo_widths
    kernel_size = max(group.kernel_size for group in plan.groups)
    block_n, num_warps, num_stages = tuning_of(q.dtype, head_dim)[kernel]
    settings = {
        "GROUPS": len(plan.groups),
        "HEAD_DIM": head_dim,
        "BLOCK_D": max(16, power_of_two(head_dim)),
        "TILE": TILE,
        "WIDE": wide,
        "NARROW": narrow,
        "BLOCK_N": max(block_n, wide),
        "TABLE": 0 if bias is None else power_of_two((2 * kernel_size - 1) ** 2 + 1),
        "PRECISION": precision_of(q),
        "num_warps": num_warps,
        "num_stages": num_stages,
        "enable_fp_fusion": True,
    }
    if kernel == "backward_queries":
        # Two rows of keys at least: with TILE rows of queries, 16 pairs.
        settings["BLOCK_N"] = max(block_n, 2 * wide)
        settings["BIAS_SIDE"] = max(16, power_of_two(2 * kernel_size - 1))
        settings["HAS_DBIAS"] = has_dbias
        if kernel_size > 9:
            settings["num_warps"] = max(num_warps, 8)  # four times the sums for the bias
    return settings


def precision_of(x: Tensor) -> str:
    """As PyTorch's own products: TensorFloat-32 only where the user has turned it on."""
    is_tf32 = x.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if is_tf32 else "ieee"


def unit_depth(x: Tensor) -> Tensor:
    """x, copied unless its features lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def device_of(x: Tensor) -> Any:
    """Triton launches on the current GPU; the interpreter has none."""
    return torch.cuda.device(x.device if x.is_cuda else -1)


@torch.library.register_fake(_forward)
def _(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, layout: list[int], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    m, inv_l = (q.new_empty(q.shape[:-1], dtype=torch.float32) for _ in range(2))
    return q.new_empty(q.shape), m, inv_l


@torch.library.register_fake(_backward)
def _(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    m: Tensor,
    inv_l: Tensor,
    layout: list[int],
    scale: float,
    needs_dbias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = 0 if bias is None or not needs_dbias else bias.numel()
    dbias = q.new_empty(count, dtype=torch.float32)
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape), dbias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, bias, ctx.layout, ctx.scale = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(q, k, v, bias, *output)


def _differentiate(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, bias, *outputs = ctx.saved_tensors
    refuse_tangents(dout, q, k, v, *(() if bias is None else (bias,)))
    needs_dbias = ctx.needs_input_grad[3]
    dq, dk, dv, dbias = _backward(dout, q, k, v, bias, *outputs, ctx.layout, ctx.scale, needs_dbias)
    return dq, dk, dv, dbias if needs_dbias else None, None, None


torch.library.register_autograd(_backward, refuse_second_gradient)
torch.library.register_autograd(_forward, _differentiate, setup_context=_setup_context)
