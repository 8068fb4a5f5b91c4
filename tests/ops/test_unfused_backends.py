"""Every backend of the unfused pair against the reference; the table; torch.compile and export."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from ops.neighborhood import UNFUSED_BACKENDS, neighborhood_av, neighborhood_qk, unfused_backends
from ops.neighborhood.impl import unfused_cpu
from ops.neighborhood.unfused_maps import (
    _bias_gradient,
    _gather,
    _query_key,
    _scatter,
)
from tests.ops.unfused_problems import Call, attend, draw, errors

needs_build = pytest.mark.skipif(
    unfused_cpu.missing() is not None, reason=str(unfused_cpu.missing())
)
GRID = (
    # one axis: as long as the window, a dilation that does not divide it, wide windows
    Call((7,), 7, rpb=True, head_dim=8, value_dim=8),
    Call((131,), 5, 3, rpb=True, batch=2, head_dim=12, value_dim=12),
    Call((40,), 31, rpb=True, head_dim=16, value_dim=24),
    # two: edges, dilations, rectangles, a kernel and a dilation for each axis, several segments
    Call((3, 3), 3, rpb=True, head_dim=8, value_dim=8),
    Call((23, 37), 7, 3, rpb=True, head_dim=16, value_dim=16),
    Call((14, 130), (3, 7), (2, 1), rpb=True, batch=2, head_dim=32, value_dim=32),
    Call((56, 57), 7, 8, rpb=True, head_dim=32, value_dim=32),
    Call((20, 26), 13, rpb=True, head_dim=5, value_dim=70),
    Call((9, 10), 5, head_dim=128, value_dim=64),
    # additional tokens, causal windows
    Call((12, 15), 5, (1, 3), rpb=True, extra=3, batch=2, head_dim=16, value_dim=16),
    Call((21, 22), 7, 2, (True, False), extra=1, head_dim=16, value_dim=16),
    Call((50,), 7, 2, True, head_dim=8, value_dim=8),
    # three
    Call((5, 8, 9), (5, 3, 3), (1, 2, 1), rpb=True, head_dim=16, value_dim=16),
    Call((4, 7, 8), 3, (1, 1, 2), (True, False, True), extra=2, head_dim=8, value_dim=8),
)


@needs_build
@pytest.mark.parametrize("call", GRID, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpp_errs_at_most_twice_as_much_as_the_reference(dtype, call):
    for name, (error, allowed) in errors(call, "cpu", dtype).items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.gpu
@pytest.mark.parametrize("call", GRID, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_kernels_err_at_most_twice_as_much_as_the_reference(dtype, call):
    for name, (error, allowed) in errors(call, "auto", dtype, "cuda").items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@needs_build
@pytest.mark.parametrize("call", [GRID[1], GRID[4], GRID[5], GRID[12]], ids=str)
def test_the_number_of_threads_changes_no_bit(call):
    """Each half alone: in between, PyTorch's gradient of the softmax depends on it."""
    x = draw(call, torch.float32).map(torch.Tensor.requires_grad_)
    keys = math.prod(call.each_axis(call.kernel_size))
    attn = torch.randn(*x.query.shape[:-1], keys, requires_grad=True)
    dattn, dout, results = torch.randn_like(attn), torch.randn_like(x.value), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            logits = neighborhood_qk(x.query, x.key, rpb=x.rpb, **call.window, backend="cpu")
            out = neighborhood_av(attn, x.value, **call.window, backend="cpu")
            gradients = torch.autograd.grad(logits, [x.query, x.key, x.rpb], dattn)
            gradients += torch.autograd.grad(out, [attn, x.value], dout)
            results.append((logits, out, *gradients))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@needs_build
def test_views_of_one_projection_are_read_where_they_lie(monkeypatch):
    """Heads-first views of `[B, H, W, 3, heads, D]`, and a window's part of longer weights."""
    q, k, v = torch.randn(2, 9, 10, 3, 2, 16).permute(3, 0, 4, 1, 2, 5)
    call = Call((9, 10), 3, extra=2)
    x = dataclasses.replace(draw(call, torch.float32), query=q, key=k, value=v)
    x = dataclasses.replace(
        x, additional_keys=torch.randn(2, 2, 2, 16), additional_values=torch.randn(2, 2, 2, 16)
    )
    copies = x.map(torch.Tensor.contiguous)
    expected = attend(call, copies, "cpu")[1]
    seen = []
    inner = unfused_cpu._describe
    monkeypatch.setattr(
        unfused_cpu, "_describe", lambda maps, *rest: (seen.extend(maps), inner(maps, *rest))[1]
    )
    assert torch.equal(attend(call, x, "cpu")[1], expected)
    assert [tensor.data_ptr() for tensor in (q, k, v)] == [seen[i].data_ptr() for i in (0, 1, 4)]


@needs_build
def test_features_that_are_not_contiguous_are_copied_and_right():
    query = torch.randn(1, 2, 16, 5, 6).permute(0, 1, 3, 4, 2)
    value = torch.randn(1, 2, 5, 6, 9).transpose(2, 3).contiguous().transpose(2, 3)
    flipped = torch.randn(1, 2, 5, 9, 6).transpose(-1, -2)
    attn = neighborhood_qk(query, query, kernel_size=3, backend="cpu")
    copy = query.contiguous()
    assert torch.equal(attn, neighborhood_qk(copy, copy, kernel_size=3, backend="cpu"))
    weights = attn.transpose(-1, -2).contiguous().transpose(-1, -2)
    for x in (value, flipped):
        out = neighborhood_av(weights, x, kernel_size=3, backend="cpu")
        plain = neighborhood_av(attn, x.contiguous(), kernel_size=3, backend="cpu")
        assert torch.equal(out, plain)


@needs_build
def test_auto_takes_cpp_on_the_cpu_and_the_reference_for_what_it_lacks():
    def chosen(x: torch.Tensor) -> str:
        problem = unfused_backends.UnfusedProblem
        window = unfused_backends.Window((3,), (1,), (False,))
        return unfused_backends.choose_unfused(
            problem(window, 4, x.dtype, x.device.type, None, False, False, False), "auto"
        ).name

    assert chosen(torch.zeros(1)) == "cpu"
    assert chosen(torch.zeros(1).double()) == "reference"
    query = torch.zeros(1, 1, 5, 4).double()
    with pytest.raises(RuntimeError, match="'cpu' can't run this call: it takes float32 and bfl"):
        neighborhood_qk(query, query, kernel_size=3, backend="cpu")


def test_an_empty_batch_is_answered():
    query = torch.zeros(0, 2, 5, 6, 4, requires_grad=True)
    rpb = torch.zeros(2, 5, 5, requires_grad=True)
    attn = neighborhood_qk(query, query, kernel_size=3, rpb=rpb)
    out = neighborhood_av(attn, query, kernel_size=3)
    out.sum().backward()
    assert attn.shape == (0, 2, 5, 6, 9)
    assert out.shape == query.grad.shape == query.shape
    assert rpb.grad.count_nonzero() == 0


@pytest.mark.parametrize("call", [GRID[3], GRID[10], GRID[12]], ids=str)
def test_torch_compile_sees_the_whole_call_and_its_gradient(call):
    x = draw(call, torch.float32).map(lambda t: t.contiguous().requires_grad_())
    plain, compiled = (
        function(*x.present())
        for function in (
            of_tensors(call, x),
            torch.compile(of_tensors(call, x), fullgraph=True, backend="aot_eager"),
        )
    )
    assert torch.equal(plain, compiled)
    dout = torch.randn_like(plain)
    gradients = [torch.autograd.grad(out, x.present(), dout) for out in (plain, compiled)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def of_tensors(call, like):
    def function(*tensors):
        given = iter(tensors)
        return attend(call, like.map(lambda _: next(given)))[1]

    return function


def test_export_writes_the_maps_as_nodes():
    class Pair(torch.nn.Module):
        def forward(self, query, key, value):
            attn = neighborhood_qk(query, key, kernel_size=3)
            return neighborhood_av(attn.softmax(-1), value, kernel_size=3)

    x = draw(Call((5, 6), 3), torch.float32)
    exported = torch.export.export(Pair(), (x.query, x.key, x.value))
    names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert [name for name in names if "neighborhood" in name] == [
        "stylenat.neighborhood_query_key.default",
        "stylenat.neighborhood_gather.default",
    ]
    expected = Pair()(x.query, x.key, x.value)
    assert torch.equal(exported.module()(x.query, x.key, x.value), expected)


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_build)])
def test_the_maps_are_registered_as_pytorch_asks(backend):
    window = ([3, 5], [2, 1], [0, 0], backend)
    x, y = (torch.randn(1, 2, 6, 5, 4, requires_grad=True) for _ in range(2))
    a = torch.randn(1, 2, 6, 5, 15, requires_grad=True)
    rpb = torch.randn(2, 5, 9, requires_grad=True)
    torch.library.opcheck(_query_key, (x, y, rpb, 0.0, *window))
    torch.library.opcheck(_gather, (a, y, *window))
    torch.library.opcheck(_scatter, (a, x, *window))
    torch.library.opcheck(_bias_gradient, (a, *window))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_graph_names_the_function_for_flop_counters():
    query = torch.randn(1, 2, 5, 6, 4, requires_grad=True)
    graph, _ = torch.jit._get_trace_graph(
        lambda query: neighborhood_qk(query, query, kernel_size=3), (query,)
    )
    nodes = [node for node in graph.nodes() if node.kind() == "prim::PythonOp"]
    assert [node.pyname() for node in nodes] == ["NeighborhoodAttention2DQKAutogradFunction"]


def table_for_docs() -> list[str]:
    """UNFUSED_BACKENDS as the lines of docs/attention.md."""
    lines = ["| backend | runs on | dtypes | axes | causal windows | limits |", "|---" * 6 + "|"]
    for row in UNFUSED_BACKENDS:
        dtypes = [
            str(dtype).removeprefix("torch.") + (f" (from {least}.0)" if least else "")
            for dtype, least in (row.dtypes or {}).items()
        ]
        limits = {"head_dim": row.max_head_dim, "kernel_size": row.max_kernel_size}
        cells = (
            f"`{row.name}`",
            {"cuda": "CUDA", "cpu": "the CPU", None: "any device"}[row.device_type],
            ", ".join(dtypes) or "any floating",
            " and ".join(map(str, row.axes)) if row.axes else "1 to 3",
            "yes" if row.causal else "no",
            ", ".join(f"{name} {most}" for name, most in limits.items() if most) or "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_documented_table_is_the_table():
    documented = (Path(__file__).parents[2] / "docs" / "attention.md").read_text()
    assert "\n".join(table_for_docs()) in documented
