"""Neighborhood attention by NATTEN's CUDA kernels, with the relative positional bias they lack.

Shapes: B batch, H height, W width, N heads, D head_dim, K = kernel_size, P = 2 * K - 1.

The keys of a window are K consecutive positions of one dilation group along either axis, so that
their positions modulo K are all different: K * K codes name the keys of any window. A key gets the
one-hot vector of its code, and a query, for each code, the bias of the key in its window that has
it. Their product is the bias. This takes K * K more features, and no sum has to be rounded.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ops.derivatives import first_order
from ops.neighborhood.problem import HeadGroup
from ops.neighborhood.window import window_indices

_MULTIPLE = 8  # of head dims that NATTEN's kernels take


@functools.cache
def missing() -> str | None:
    """None, or one sentence on why NATTEN's kernels can't be had in this process."""
    try:
        import natten
    except (ImportError, OSError, RuntimeError) as error:
        return f"NATTEN can't be imported: {' '.join(str(error).split())}"
    if hasattr(natten, "__stylenat_compat__"):
        return (
            f"the natten {natten.__version__} of this process is StyleNAT's own drop-in for old "
            "code (stylenat.compat), and has no kernels"
        )
    if not hasattr(natten, "HAS_LIBNATTEN"):
        return f"NATTEN {natten.__version__} is older than 0.20, the first with the call it needs"
    if not natten.HAS_LIBNATTEN:
        return (
            f"NATTEN {natten.__version__} is installed without libnatten, its CUDA kernels: "
            "STYLENAT_NATTEN=build scripts/setup.sh compiles them, and STYLENAT_NATTEN=WHEEL "
            "installs a prebuilt wheel from that path or URL"
        )
    return None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None,
    scale: float,
) -> Tensor:
    """Neighborhood attention of `[B, H, W, N, D]` CUDA tensors, one call of NATTEN per group.

    The bias, divided by `scale`, is rounded to the dtype of q.
    """
    if q.shape[0] == 0:
        return v.clone()
    if scale == 0:  # NATTEN would replace 0 by its default, and a bias can't be divided by 0
        q, scale = q * 0, 1.0
    outputs, first = [], 0
    for index, group in enumerate(groups):
        heads = slice(first, first + group.heads)
        first += group.heads
        q_group, k_group, v_group = q[..., heads, :], k[..., heads, :], _padded(v[..., heads, :])
        if rpb is not None:
            q_group, k_group = with_bias(q_group, k_group, group, rpb[index], scale)
        q_group, k_group = _padded(q_group), _padded(k_group)
        # Autograd takes NATTEN's gradient for a constant, so a second one would be incomplete.
        q_group, k_group, v_group = (first_order(x) for x in (q_group, k_group, v_group))
        outputs.append(_na2d(q_group, k_group, v_group, group.kernel_size, group.dilation, scale))
    return torch.cat(outputs, dim=-2)[..., : v.shape[-1]]


def with_bias(
    q: Tensor, k: Tensor, group: HeadGroup, table: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """q and k of one group, `[B, H, W, N, D + K*K]`, that carry the bias `table`, `[N, P, P]`.

    `scale * q . k` of the result is that of the arguments plus the bias, for all keys in the
    query's window; of other keys it means nothing. `scale` must not be 0.
    """
    batch, height, width = q.shape[:3]
    # operator.index: dynamo then takes H and W for constants, as the tables need.
    axis = (group.kernel_size, group.dilation, q.device)
    bias_rows, row_code = _codes(operator.index(height), *axis)
    bias_columns, column_code = _codes(operator.index(width), *axis)
    # One axis after the other, so that the gradient is summed in two short steps, too.
    bias = table.index_select(1, bias_rows.flatten()).unflatten(1, (height, -1))  # [N, H, K, P]
    bias = bias.index_select(3, bias_columns.flatten()).unflatten(3, (width, -1))
    bias_HWNE = bias.permute(1, 3, 0, 2, 4).flatten(-2) / scale
    code_HWE = (row_code[:, None, :, None] & column_code[None, :, None, :]).flatten(-2)
    return (
        torch.cat([q, bias_HWNE.to(q.dtype).expand(batch, -1, -1, -1, -1)], dim=-1),
        torch.cat([k, code_HWE.to(k.dtype)[:, :, None].expand(*k.shape[:4], -1)], dim=-1),
    )


def _codes(
    length: int, kernel_size: int, dilation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Along one axis, `[length, K]` each: index into rpb of the key with code c in the window of
    pixel i (int64), and whether pixel i has code c (bool)."""
    return _cached_codes(length, kernel_size, dilation, device)


# torch.compiler.assume_constant_result sets this too, but imports dynamo and inductor: dynamo calls
# the function and does not trace it.
_codes._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=128)  # two axes of 64 kinds of groups; a few kilobytes each
@torch.inference_mode(False)  # an inference tensor could not be kept for a gradient
def _cached_codes(
    length: int, kernel_size: int, dilation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    keys, bias = window_indices(length, kernel_size, dilation, device)
    code = torch.div(keys, dilation, rounding_mode="floor") % kernel_size
    own = torch.div(torch.arange(length, device=device), dilation, rounding_mode="floor")
    codes = torch.arange(kernel_size, device=device)
    return bias.gather(1, code.argsort(dim=1)), (own % kernel_size)[:, None] == codes


def _padded(x: Tensor) -> Tensor:
    """With zeros after its features, up to a head dim that the kernels take."""
    return F.pad(x, (0, -x.shape[-1] % _MULTIPLE))


def _na2d(q: Tensor, k: Tensor, v: Tensor, kernel_size: int, dilation: int, scale: float) -> Tensor:
    import natten

    return natten.na2d(q, k, v, kernel_size=kernel_size, dilation=dilation, scale=scale)
