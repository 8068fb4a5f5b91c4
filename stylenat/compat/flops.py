"""`natten.flops`: how many multiplications an operation takes, for fvcore's counter and by hand.

Shapes: B batch, N heads, S the axes, D head_dim, K weights of a query. qk and av both multiply
B * N * prod(S) * K * D times; the softmax and the bias are left out, as in NATTEN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stylenat.compat.utils import check_kernel_size_arg


def _shape(value: Any) -> list[int]:
    """The shape of a value in a graph of torch.jit."""
    sizes: list[int] = value.type().sizes()
    return sizes


def qk_rpb_flop(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of qk, from its values in a graph: query first; the output is `[B, N, *S, K]`."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def av_flop(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of av, from its values in a graph: `[B, N, *S, K]` first; the output is `[B, N, *S, D]`."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


qk_1d_rpb_flop = qk_2d_rpb_flop = qk_3d_rpb_flop = qk_rpb_flop
av_1d_flop = av_2d_flop = av_3d_flop = av_flop


def add_natten_handle(flop_ctr: Any) -> Any:
    """Teach fvcore's counter the operations, under the names of all versions."""
    handles = {}
    for dims in (1, 2, 3):
        for name, count in (("QK", qk_rpb_flop), ("AV", av_flop)):
            handles[f"prim::PythonOp.NeighborhoodAttention{dims}D{name}AutogradFunction"] = count
        handles[f"prim::PythonOp.NATTEN{dims}DQKRPBFunction"] = qk_rpb_flop
        handles[f"prim::PythonOp.NATTEN{dims}DAVFunction"] = av_flop
    return flop_ctr.set_op_handle(**handles)


def get_flops(model: Any, input: Any, disable_warnings: bool = False) -> int:
    """Multiplications of a model's forward, by fvcore, which must be installed."""
    try:
        from fvcore.nn import FlopCountAnalysis
    except ImportError as error:
        raise ImportError(
            "natten.flops.get_flops counts with fvcore: pip install fvcore"
        ) from error
    counter = add_natten_handle(FlopCountAnalysis(model, input))
    if disable_warnings:
        counter = counter.unsupported_ops_warnings(False)
    total: int = counter.total()
    return total


# By hand, from shapes.


def _count(shape: Sequence[int], kernel_size: Any, return_macs: bool) -> int:
    """Of qk or of av, for a query or a value `[B, *S, N, D]` or `[B, N, *S, D]`: their
    order, dilation and causality change nothing. Two operations for each multiplication, unless
    `return_macs`."""
    if len(shape) not in (4, 5, 6):
        raise ValueError(f"a shape has 4, 5 or 6 axes in 1-D, 2-D and 3-D: {tuple(shape)}")
    kernel = check_kernel_size_arg(len(shape) - 3, kernel_size)
    return math.prod(shape) * math.prod(kernel) * (1 if return_macs else 2)


def _same(**shapes: Sequence[int]) -> None:
    if len({tuple(shape) for shape in shapes.values()}) != 1:
        raise ValueError(f"these must be one shape: {shapes}")


def na_qk_flop_count(
    q_shape: Sequence[int],
    k_shape: Sequence[int],
    kernel_size: Any,
    dilation: Any,
    is_causal: Any,
    is_heads_last: bool,
    return_macs: bool = False,
) -> int:
    _same(q_shape=q_shape, k_shape=k_shape)
    return _count(q_shape, kernel_size, return_macs)


def na_av_flop_count(
    a_shape: Sequence[int],
    v_shape: Sequence[int],
    kernel_size: Any,
    dilation: Any,
    is_causal: Any,
    is_heads_last: bool,
    return_macs: bool = False,
) -> int:
    return _count(v_shape, kernel_size, return_macs)


def fna_flop_count(
    q_shape: Sequence[int],
    k_shape: Sequence[int],
    v_shape: Sequence[int],
    kernel_size: Any,
    dilation: Any,
    is_causal: Any,
    is_heads_last: bool,
    return_macs: bool = False,
) -> int:
    _same(q_shape=q_shape, k_shape=k_shape, v_shape=v_shape)
    return 2 * _count(q_shape, kernel_size, return_macs)
