"""Neighborhood attention in two calls with the weights between them, for one to three axes.

Whoever masks, changes or makes the weights needs this pair; `neighborhood_attention_2d` is faster
and keeps no weights. Heads come first here, as in NATTEN before 0.20.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.derivatives import in_transform, is_transformed
from ops.neighborhood.unfused_backends import choose_unfused
from ops.neighborhood.unfused_functions import (
    AV_FUNCTIONS,
    QK_FUNCTIONS,
    sum_of_values,
    weights_of_keys,
)
from ops.neighborhood.unfused_maps import Maps
from ops.neighborhood.unfused_problem import describe_av, describe_qk


def neighborhood_qk(
    query: Tensor,
    key: Tensor,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Products of each query with the keys of its neighborhood; nothing is scaled.

    `query, key`: `[B, heads, *space, D]` with one to three axes of space, of one floating dtype.
    `kernel_size`, `dilation` and `is_causal` are one value for all axes, or one for each. `rpb`,
    `[heads, 2*kernel_size-1 for each axis]`, is added by key minus query position.
    `additional_keys`, `[B, heads, n, D]`, are keys of every query and get no bias.

    Returns `[B, heads, *space, prod(kernel_size) + n]`: the window's keys in ascending order, the
    last axis fastest, then the additional ones. A causal window ends with the query itself; where
    it has fewer keys than `kernel_size`, -inf stands in the last places of that axis. `backend` is
    a row of `ops.neighborhood.UNFUSED_BACKENDS`, or `auto`, as in `neighborhood_attention_2d`.

    Raises ValueError if a shape, kernel, dilation or table breaks a rule, NotImplementedError for
    a causal window with rpb, RuntimeError if the backend asked for by name can't run the call.
    """
    problem = describe_qk(query, key, rpb, additional_keys, kernel_size, dilation, is_causal)
    maps = Maps(problem.window, choose_unfused(problem, backend).name)
    if _has_no_function(maps):
        return weights_of_keys(maps, query, key, rpb, additional_keys)
    attn: Tensor = QK_FUNCTIONS[query.ndim - 3].apply(
        query, key, rpb, additional_keys, *maps.window.by_axis(), maps
    )
    return attn


def neighborhood_av(
    attn: Tensor,
    value: Tensor,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    additional_values: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sums of the values of each query's neighborhood, weighted by `attn`.

    `attn`: `[B, heads, *space, prod(kernel_size) + n]` in the order of `neighborhood_qk`; places
    without a key are skipped, whatever they hold. `value`: `[B, heads, *space, D]`, and D may
    differ from that of the queries. `additional_values`: `[B, heads, n, D]`.

    Returns `[B, heads, *space, D]`. Other arguments and errors are as in `neighborhood_qk`.
    """
    problem = describe_av(attn, value, additional_values, kernel_size, dilation, is_causal)
    maps = Maps(problem.window, choose_unfused(problem, backend).name)
    if _has_no_function(maps):
        return sum_of_values(maps, attn, value, additional_values)
    out: Tensor = AV_FUNCTIONS[value.ndim - 3].apply(
        attn, value, additional_values, *maps.window.by_axis(), maps
    )
    return out


def _has_no_function(maps: Maps) -> bool:
    """Whether PyTorch looks into the call: torch.compile, a transform, forward mode."""
    if torch.compiler.is_compiling() or in_transform("Grad", "Jvp", "Vmap"):
        return True
    return maps.backend == "reference" and is_transformed()
