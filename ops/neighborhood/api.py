"""The one function that computes neighborhood attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ops.checks import check_number
from ops.neighborhood.backends import choose
from ops.neighborhood.problem import HeadGroup, describe


def neighborhood_attention_2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    groups: Sequence[HeadGroup],
    rpb: Sequence[Tensor] | None = None,
    *,
    scale: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Neighborhood attention with a relative positional bias, all head groups in one call.

    `q, k, v`: `[B, H, W, heads, head_dim]`, one floating dtype and device; H and W may differ.
    `groups`: the heads in order, each group with its kernel size and dilation. `rpb`: None, or one
    table `[group.heads, 2*kernel_size-1, 2*kernel_size-1]` per group, indexed by key minus query
    position. `scale` multiplies `q . k`; None means `head_dim ** -0.5`.

    Returns `[B, H, W, heads, head_dim]`: for each query the softmax-weighted sum of the values in
    its window, which at an edge is shifted inside (NAT, arXiv 2204.07143; dilation: DiNAT,
    2209.15001). `backend` is the name of a row of `ops.neighborhood.backends.BACKENDS`, or `auto`.
    With `auto`, the environment variable STYLENAT_ATTENTION may name a row.

    Raises ValueError if a shape, kernel, dilation or table breaks a rule, and RuntimeError if a
    backend that is asked for by name can't run the call.
    """
    if scale is not None:
        check_number("scale", scale)
    problem = describe(q, k, v, groups, rpb)
    attention = choose(problem, backend).load()
    scale = problem.head_dim**-0.5 if scale is None else float(scale)
    return attention(q, k, v, groups, rpb, scale)
