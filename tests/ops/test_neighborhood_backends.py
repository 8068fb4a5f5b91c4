"""Every backend answers to the reference: output and all gradients, over one grid of problems.

On the CPU and, where there is one, on the GPU; each backend that can't run says why it is skipped.
"""

from __future__ import annotations

import pytest
import torch

from ops.neighborhood import BACKENDS, HeadGroup, backend_names, neighborhood_attention_2d
from ops.neighborhood.problem import describe
from tests.golden_values import golden_arrays, golden_json, golden_randn
from tests.ops.problems import GRID, Case, draw, errors, run_forward

SMALL = Case((1, 3, 3), 8, ((1, 3, 1),))
GOLDEN = golden_json("na2d_rpb")


def on(device: str, *names: str) -> list:
    """Each backend of these with the device that it runs on."""
    marks = pytest.mark.gpu if device == "cuda" else ()
    return [pytest.param(name, device, marks=marks, id=f"{name}-{device}") for name in names]


OTHER_ROWS = {row.name: row for row in BACKENDS if row.name != "reference"}
OTHERS = [
    case
    for row in OTHER_ROWS.values()
    for device in ([row.device_type] if row.device_type else ["cpu", "cuda"])
    for case in on(device, row.name)
]
ALL = [*on("cpu", "reference"), *on("cuda", "reference"), *OTHERS]
DIFFERENTIABLE = [
    case for case in ALL if case.values[0] == "reference" or OTHER_ROWS[case.values[0]].has_gradient
]
OTHERS_BY_DTYPE = [
    pytest.param(*case.values, dtype, marks=case.marks, id=f"{case.id}-{dtype}")
    for case in OTHERS
    for dtype in OTHER_ROWS[case.values[0]].dtypes
]
REGISTERED_WHOLE = [*on("cpu", "cpu"), *on("cuda", "triton")]


def skip_unsupported(
    name: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    case: Case = SMALL,
) -> None:
    """Skips with the backend's own sentence where it can't run the case here."""
    shape = (*case.size, sum(heads for heads, _, _ in case.groups), case.head_dim)
    q = torch.zeros(shape, dtype=dtype, device=device)
    problem = describe(q, q, q, [HeadGroup(*group) for group in case.groups], None)
    backend = next(row for row in BACKENDS if row.name == name)
    if (reason := backend.unsupported(problem)) is not None:
        pytest.skip(reason)


def test_every_backend_has_a_device_here():
    assert {parameters.values[0] for parameters in ALL} == set(backend_names()) - {"auto"}


@pytest.mark.parametrize("case", GRID, ids=str)
@pytest.mark.parametrize(("backend", "device", "dtype"), OTHERS_BY_DTYPE)
def test_backend_errs_at_most_twice_as_much_as_the_reference(backend, device, dtype, case):
    skip_unsupported(backend, device, dtype, case)
    for name, (error, allowed) in errors(case, backend, dtype, device).items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("index", range(len(GOLDEN)))
@pytest.mark.parametrize(("backend", "device"), ALL)
def test_golden_values_of_natten(backend, device, index):
    skip_unsupported(backend, device)
    case, arrays = GOLDEN[index], golden_arrays("na2d_rpb")
    heads, kernel_size = case["heads"], case["kernel_size"]
    shape = (case["batch"], heads, case["height"], case["width"], case["head_dim"])

    def heads_last(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1, 4).to(device)

    q, k, v = (heads_last(golden_randn(shape, f"na/{index}/{name}")) for name in "qkv")
    groups = [HeadGroup(heads, kernel_size, case["dilation"])]
    rpb = golden_randn(groups[0].rpb_shape, f"na/{index}/rpb").to(device)
    without = neighborhood_attention_2d(q, k, v, groups, backend=backend)
    has_gradient = backend == "reference" or OTHER_ROWS[backend].has_gradient
    for tensor in (q, k, v, rpb):
        tensor.requires_grad_(has_gradient)
    out = neighborhood_attention_2d(q, k, v, groups, [rpb], backend=backend)
    compared = [("out", out, 2e-5), ("out_nobias", without, 2e-5)]
    if has_gradient:
        dout = heads_last(golden_randn(shape, f"na/{index}/grad"))
        gradients = torch.autograd.grad((out * dout).sum(), [q, k, v, rpb])
        compared += zip(("dq", "dk", "dv", "drpb"), gradients, [1e-4] * 4, strict=True)
    for name, value, limit in compared:
        golden = arrays[f"{index}.{name}"]
        golden = golden.to(device) if name == "drpb" else heads_last(golden)
        error = (value - golden).abs().max().item()
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"


@pytest.mark.parametrize(("backend", "device"), OTHERS)
def test_a_group_gives_the_same_alone_and_among_others(backend, device):
    skip_unsupported(backend, device)
    case = Case((1, 16, 15), 8, ((2, 7, 1), (3, 5, 2), (1, 3, 4)))
    inputs = draw(case, torch.float32, device=device)
    together = run_forward(inputs, backend, torch.float32)
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
            backend=backend,
        )
        assert torch.equal(together["out"][..., part, :].float(), alone)


@pytest.mark.parametrize(("backend", "device"), ALL)
def test_strided_views_give_the_same_as_copies(backend, device):
    skip_unsupported(backend, device)
    groups = [HeadGroup(2, 3), HeadGroup(1, 3, 2)]
    qkv = torch.randn(2, 7, 8, 3, 3, 8, device=device)
    q, k, v = qkv.unbind(3)
    depth_first = qkv.unbind(3)[0].transpose(-1, -2).contiguous().transpose(-1, -2)
    expected = neighborhood_attention_2d(
        q.contiguous(), k.contiguous(), v.contiguous(), groups, backend=backend
    )
    for view in (q, depth_first):
        out = neighborhood_attention_2d(view, k, v, groups, backend=backend)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("backend", "device"), DIFFERENTIABLE)
def test_an_expanded_gradient_is_taken_as_it_is(backend, device):
    skip_unsupported(backend, device)
    q = torch.randn(1, 5, 6, 2, 8, device=device, requires_grad=True)
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=backend)
    (summed,) = torch.autograd.grad(out.sum(), q, retain_graph=True)
    (weighted,) = torch.autograd.grad(out, q, torch.ones_like(out))
    assert torch.equal(summed, weighted)


@pytest.mark.parametrize(("backend", "device"), ALL)
def test_an_empty_batch_is_an_empty_batch(backend, device):
    skip_unsupported(backend, device)
    q = torch.randn(0, 5, 6, 2, 8, device=device)
    assert neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=backend).shape == q.shape


@pytest.mark.parametrize(("backend", "device"), REGISTERED_WHOLE)
def test_opcheck_finds_schema_fake_and_autograd_in_order(backend, device):
    skip_unsupported(backend, device)
    operator = getattr(torch.ops.stylenat, f"neighborhood_{backend}").default
    q, k, v = (torch.randn(1, 5, 6, 3, 4, device=device, requires_grad=True) for _ in range(3))
    layout = [2, 3, 1, 1, 3, 1]
    for rpb in (None, torch.randn(3 * 5 * 5, device=device, requires_grad=True)):
        torch.library.opcheck(operator, (q, k, v, rpb, layout, 0.5))


@pytest.mark.parametrize(("backend", "device"), [*on("cpu", "auto"), *on("cuda", "auto"), *ALL])
def test_it_compiles_without_a_graph_break(backend, device):
    if backend != "auto":
        skip_unsupported(backend, device)
    torch.compiler.reset()
    has_gradient = backend not in OTHER_ROWS or OTHER_ROWS[backend].has_gradient
    groups = (HeadGroup(2, 3, 1), HeadGroup(2, 3, 2))
    rpb = [torch.randn(2, 5, 5, device=device, requires_grad=has_gradient) for _ in groups]

    def attend(q, k, v):
        return neighborhood_attention_2d(q, k, v, groups, rpb, backend=backend)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for batch in (2, 3):  # the second is compiled for any
        shape = (batch, 8, 9, 4, 8)
        q, k, v = (torch.randn(shape, device=device, requires_grad=has_gradient) for _ in range(3))
        weight = torch.randn(shape, device=device)
        both = []
        for function in (compiled, attend):
            out = function(q, k, v)
            gradients = (
                torch.autograd.grad((out * weight).sum(), [q, k, v, *rpb]) if has_gradient else ()
            )
            both.append((out, *gradients))
        torch.testing.assert_close(*both)


def test_a_backend_without_a_gradient_refuses_tensors_that_need_one():
    q = torch.randn(1, 5, 6, 2, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="'portable' can't run this call: it has no gradient"):
        neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend="portable")
    with torch.no_grad():
        neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend="portable")
