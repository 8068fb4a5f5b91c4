"""NATTEN's kernels stood in for on the CPU: what goes into them, and what comes out."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.impl import natten, reference
from ops.neighborhood.window import window_indices
from tests.ops.problems import GRID, Case, draw, errors, lift_limits, run

# The largest maps and windows take long, and differ in nothing that is tested here.
SMALL = [case for case in GRID if case.size[1] * case.size[2] < 2000 and case.groups[0][1] < 20]


def exact_kernel(
    q: Tensor, k: Tensor, v: Tensor, kernel_size: int, dilation: int, scale: float
) -> Tensor:
    """What NATTEN computes, of the shapes and the scale that it takes."""
    assert q.shape == k.shape
    assert q.shape[:-1] == v.shape[:-1]
    assert q.shape[-1] % 8 == v.shape[-1] % 8 == 0
    assert scale != 0
    groups = [HeadGroup(q.shape[-2], kernel_size, dilation)]
    return reference.attention(q, k, v, groups, None, scale)


class HalfKernel(torch.autograd.Function):
    """The arithmetic of a fused kernel on tensor cores: sums in float32, of products of numbers
    rounded to the inputs' dtype: q, k, v, the weights, and the gradient of the logits."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, kernel_size: int, dilation: int, scale: float
    ) -> Tensor:
        keys = [window_indices(side, kernel_size, dilation, q.device)[0] for side in q.shape[1:3]]
        logits = reference._query_key(q.float(), k.float(), *keys) * scale
        weights = logits.softmax(-1)
        out = reference._gather(weights.to(q.dtype).float(), v.float(), *keys).to(q.dtype)
        ctx.save_for_backward(q, k, v, weights, out, *keys)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, out, *keys = ctx.saved_tensors
        dtype, dout = q.dtype, dout.float()
        dweights = reference._query_key(dout, v.float(), *keys)
        dlogits = weights * (dweights - (dout * out.float()).sum(-1, keepdim=True)) * ctx.scale
        dlogits = dlogits.to(dtype).float()
        dq = reference._gather(dlogits, k.float(), *keys)
        dk = reference._scatter(dlogits, q.float(), *keys)
        dv = reference._scatter(weights.to(dtype).float(), dout, *keys)
        return dq.to(dtype), dk.to(dtype), dv.to(dtype), None, None, None


@pytest.fixture(autouse=True)
def natten_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lift_limits(monkeypatch, "natten")
    monkeypatch.setattr(natten, "_na2d", exact_kernel)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_bias_and_every_gradient_are_those_of_the_reference(case):
    for name, (error, _) in errors(case, "natten", torch.float64).items():
        assert error <= 1e-12, f"{name}: error {error:.3g}, allowed 1e-12"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_in_half_precision_the_features_cost_no_more_than_is_allowed(monkeypatch, case, dtype):
    monkeypatch.setattr(natten, "_na2d", HalfKernel.apply)
    for name, (error, allowed) in errors(case, "natten", dtype).items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def test_a_bias_takes_one_feature_a_key_of_the_window_and_keys_are_one_hot():
    group = HeadGroup(2, 5, 3)
    q = k = torch.zeros(2, 17, 16, 2, 8)
    wide_q, wide_k = natten.with_bias(q, k, group, torch.randn(2, 9, 9), 0.5)
    assert wide_q.shape == wide_k.shape == (2, 17, 16, 2, 8 + 5 * 5)
    assert torch.equal(wide_k[..., 8:].sum(-1), torch.ones(2, 17, 16, 2))
    assert wide_k.unique().tolist() == [0, 1]


@pytest.mark.parametrize("scale", [0.0, -0.5, 3.0])
def test_any_scale_is_taken_zero_included(scale):
    inputs = dataclasses.replace(draw(Case((1, 7, 9), 5, ((2, 3, 2),))), scale=scale)
    got = run(inputs, "natten", torch.float64)
    for name, value in run(inputs, "reference", torch.float64).items():
        torch.testing.assert_close(got[name], value)


def test_tables_made_in_inference_mode_serve_training():
    natten._cached_codes.cache_clear()
    case = Case((1, 7, 8), 8, ((1, 3, 1),))
    inputs = draw(case)
    with torch.inference_mode():
        neighborhood_attention_2d(
            inputs.q, inputs.k, inputs.v, inputs.groups, inputs.rpb, backend="natten"
        )
    assert "drpb" in run(inputs, "natten", torch.float64)


def test_it_compiles_without_a_graph_break_for_any_batch_and_map():
    torch.compiler.reset()
    groups = [HeadGroup(1, 3, 2), HeadGroup(1, 5, 1)]
    rpb = [torch.randn(group.rpb_shape, requires_grad=True) for group in groups]
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=count)
    def attend(q):
        return neighborhood_attention_2d(q, q, q, groups, rpb, backend="natten")

    for shape in ((1, 7, 8), (2, 7, 8), (3, 7, 8), (4, 7, 8), (4, 9, 7), (4, 11, 12)):
        q = torch.randn(*shape, 2, 8)
        expected = neighborhood_attention_2d(q, q, q, groups, rpb, backend="reference")
        torch.testing.assert_close(attend(q), expected)
    assert len(compilations) <= 5  # batches of 1, 2, any; each size of the map
    assert not any("argsort" in graph.code for graph in compilations)  # tables are made before


@pytest.mark.parametrize("installed", ["without libnatten", "not at all"])
def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch, installed):
    class Natten:
        __version__ = "0.21.7"
        HAS_LIBNATTEN = False

    monkeypatch.setitem(sys.modules, "natten", None if "not" in installed else Natten)
    natten.missing.cache_clear()
    reason = natten.missing()
    natten.missing.cache_clear()
    assert reason is not None
    assert ("STYLENAT_NATTEN=build" in reason) == ("without" in installed)
    assert "\n" not in reason
