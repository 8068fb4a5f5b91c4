"""Every backend answers to the reference: output and all gradients, over one grid of problems."""

from __future__ import annotations

import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.backends import BACKENDS
from ops.neighborhood.problem import describe
from tests.golden_values import golden_arrays, golden_json, golden_randn
from tests.ops.problems import GRID, Case, draw, errors, run

OTHERS = [backend for backend in BACKENDS if backend.name != "reference"]
GOLDEN = golden_json("na2d_rpb")


def skip_unsupported(backend_name: str, dtype: torch.dtype = torch.float32) -> None:
    """Skips with the backend's own sentence where it can't run here."""
    q = torch.zeros(1, 3, 3, 1, 8, dtype=dtype)
    problem = describe(q, q, q, [HeadGroup(1, 3)], None)
    backend = next(row for row in BACKENDS if row.name == backend_name)
    if (reason := backend.unsupported(problem)) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("case", GRID, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("backend", OTHERS, ids=lambda row: row.name)
def test_backend_errs_at_most_twice_as_much_as_the_reference(backend, dtype, case):
    skip_unsupported(backend.name, dtype)
    for name, (error, allowed) in errors(case, backend.name, dtype).items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("index", range(len(GOLDEN)))
@pytest.mark.parametrize("backend", [row.name for row in BACKENDS])
def test_golden_values_of_natten(backend, index):
    skip_unsupported(backend)
    case, arrays = GOLDEN[index], golden_arrays("na2d_rpb")
    heads, kernel_size = case["heads"], case["kernel_size"]
    shape = (case["batch"], heads, case["height"], case["width"], case["head_dim"])

    def heads_last(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1, 4)

    q, k, v = (
        heads_last(golden_randn(shape, f"na/{index}/{name}")).requires_grad_() for name in "qkv"
    )
    groups = [HeadGroup(heads, kernel_size, case["dilation"])]
    rpb = golden_randn(groups[0].rpb_shape, f"na/{index}/rpb").requires_grad_()
    out = neighborhood_attention_2d(q, k, v, groups, [rpb], backend=backend)
    dout = heads_last(golden_randn(shape, f"na/{index}/grad"))
    dq, dk, dv, drpb = torch.autograd.grad((out * dout).sum(), [q, k, v, rpb])
    without = neighborhood_attention_2d(q, k, v, groups, backend=backend)
    for name, value, limit in (
        ("out", out, 2e-5),
        ("out_nobias", without, 2e-5),
        ("dq", dq, 1e-4),
        ("dk", dk, 1e-4),
        ("dv", dv, 1e-4),
        ("drpb", drpb, 1e-4),
    ):
        golden = arrays[f"{index}.{name}"]
        golden = golden if name == "drpb" else heads_last(golden)
        error = (value - golden).abs().max().item()
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"


@pytest.mark.parametrize("backend", OTHERS, ids=lambda row: row.name)
def test_a_group_gives_the_same_alone_and_among_others(backend):
    skip_unsupported(backend.name)
    inputs = draw(Case((1, 16, 15), 8, ((2, 7, 1), (3, 5, 2), (1, 3, 4))), torch.float32)
    together = run(inputs, backend.name, torch.float32)
    first = 0
    for index, group in enumerate(inputs.groups):
        part = slice(first, first + group.heads)
        first += group.heads
        alone = neighborhood_attention_2d(
            inputs.q[..., part, :],
            inputs.k[..., part, :],
            inputs.v[..., part, :],
            [group],
            [inputs.rpb[index]],
            backend=backend.name,
        )
        assert torch.equal(together["out"][..., part, :].float(), alone)


@pytest.mark.parametrize("backend", [row.name for row in BACKENDS])
def test_strided_views_give_the_same_as_copies(backend):
    skip_unsupported(backend)
    groups = [HeadGroup(2, 3), HeadGroup(1, 3, 2)]
    qkv = torch.randn(2, 7, 8, 3, 3, 8)
    q, k, v = qkv.unbind(3)
    depth_first = qkv.unbind(3)[0].transpose(-1, -2).contiguous().transpose(-1, -2)
    expected = neighborhood_attention_2d(
        q.contiguous(), k.contiguous(), v.contiguous(), groups, backend=backend
    )
    for view in (q, depth_first):
        out = neighborhood_attention_2d(view, k, v, groups, backend=backend)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("backend", [row.name for row in BACKENDS])
def test_an_expanded_gradient_is_taken_as_it_is(backend):
    skip_unsupported(backend)
    q = torch.randn(1, 5, 6, 2, 8, requires_grad=True)
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=backend)
    (summed,) = torch.autograd.grad(out.sum(), q, retain_graph=True)
    (weighted,) = torch.autograd.grad(out, q, torch.ones_like(out))
    assert torch.equal(summed, weighted)


@pytest.mark.parametrize("backend", [row.name for row in BACKENDS])
def test_an_empty_batch_is_an_empty_batch(backend):
    skip_unsupported(backend)
    q = torch.randn(0, 5, 6, 2, 8)
    assert neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=backend).shape == q.shape


@pytest.mark.parametrize("backend", OTHERS, ids=lambda row: row.name)
def test_opcheck_finds_schema_fake_and_autograd_in_order(backend):
    skip_unsupported(backend.name)
    operator = getattr(torch.ops.stylenat, f"neighborhood_{backend.name}").default
    q, k, v = (torch.randn(1, 5, 6, 3, 4, requires_grad=True) for _ in range(3))
    layout = [2, 3, 1, 1, 3, 1]
    for rpb in (None, torch.randn(3 * 5 * 5, requires_grad=True)):
        torch.library.opcheck(operator, (q, k, v, rpb, layout, 0.5))


@pytest.mark.parametrize("backend", ["auto", *(row.name for row in BACKENDS)])
def test_it_compiles_without_a_graph_break(backend):
    if backend != "auto":
        skip_unsupported(backend)
    torch.compiler.reset()
    groups = (HeadGroup(2, 3, 1), HeadGroup(2, 3, 2))
    q, k, v = (torch.randn(2, 8, 9, 4, 8, requires_grad=True) for _ in range(3))
    rpb = [torch.randn(2, 5, 5, requires_grad=True) for _ in groups]

    def attend(q, k, v):
        return neighborhood_attention_2d(q, k, v, groups, rpb, backend=backend)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    inputs = [q, k, v, *rpb]
    weight = torch.randn(2, 8, 9, 4, 8)

    def out_and_gradients(function):
        out = function(q, k, v)
        return out, *torch.autograd.grad((out * weight).sum(), inputs)

    torch.testing.assert_close(out_and_gradients(compiled), out_and_gradients(attend))
