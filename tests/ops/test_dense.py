"""A linear layer with GELU and addition in one pass: the same numbers, and only where it may."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ops import dense
from ops.dense import linear
from stylenat import precision

EXPECTED_DTYPES = [torch.float32, torch.bfloat16]


def plain(x, weight, bias, *, gelu=False, add=None):
    """In float64."""
    bias = None if bias is None else bias.double()
    out = F.linear(x.double(), weight.double(), bias)
    out = F.gelu(out) if gelu else out
    return out if add is None else add.double() + out


def problem(dtype, *, rows=(2, 5, 3), inputs=24, outputs=40):
    torch.manual_seed(0)
    x = torch.randn(*rows, inputs).to(dtype)
    weight, bias = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype)
    return x, weight, bias, torch.randn(*rows, outputs).to(dtype)


def calls(monkeypatch):
    """Counts the products that go through oneDNN."""
    seen = []
    fused = dense._fused
    monkeypatch.setattr(dense, "_fused", lambda *a, **k: seen.append(1) or fused(*a, **k))
    return seen


@pytest.fixture
def with_bfloat16(monkeypatch):
    if not torch.cpu.get_capabilities().get("avx512_bw"):
        pytest.skip("oneDNN has no products in bfloat16 on this processor")
    monkeypatch.setattr(dense, "bfloat16_instructions", lambda: "avx512_bf16")


@pytest.mark.parametrize("dtype", EXPECTED_DTYPES)
@pytest.mark.parametrize(
    ("gelu", "adds"), [(False, False), (True, False), (False, True), (True, True)]
)
@pytest.mark.parametrize("has_bias", [True, False])
def test_one_pass_gives_the_numbers_of_the_steps(
    monkeypatch, with_bfloat16, dtype, gelu, adds, has_bias
):
    x, weight, bias, other = problem(dtype)
    bias, add = bias if has_bias else None, other if adds else None
    before = other.clone()
    seen = calls(monkeypatch)
    with torch.no_grad():
        found = linear(x, weight, bias, gelu=gelu, add=add)
    assert seen == [1]
    assert found.dtype == dtype
    assert torch.equal(other, before)
    expected = plain(x, weight, bias, gelu=gelu, add=add)
    error = (found.double() - expected).abs().max()
    # Twice what the separate steps lose.
    steps = F.linear(x, weight, bias)
    steps = F.gelu(steps) if gelu else steps
    steps = steps if add is None else add + steps
    assert error <= 2 * (steps.double() - expected).abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_with_gradients_other_dtypes_are_pytorch_s_own_to_the_bit(monkeypatch, dtype):
    x, weight, bias, other = problem(dtype)
    weight.requires_grad_()
    seen = calls(monkeypatch)
    out = linear(x, weight, bias, gelu=True, add=other)
    assert torch.equal(out, other + F.gelu(F.linear(x, weight, bias)))
    out.sum().backward()
    assert weight.grad is not None
    assert not seen


def gradients(layer, *tensors):
    """Of the sum of a layer's cubes by its inputs, and of their squares by them once more."""
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    given = [leaf for leaf in leaves if leaf is not None]
    first = torch.autograd.grad(layer(*leaves).pow(3).sum(), given, create_graph=True)
    again = torch.autograd.grad(layer(*leaves).pow(3).sum(), given)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), given)
    return [*again, *first, *second]


@pytest.mark.parametrize("rows", [(2, 5, 3), (1,), (500,)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_in_float32_gradients_of_both_orders_are_those_of_the_steps(monkeypatch, rows, has_bias):
    x, weight, bias, _ = problem(torch.float32, rows=rows)
    tensors = (x, weight, bias if has_bias else None)
    seen = calls(monkeypatch)
    found = gradients(linear, *tensors)
    # Forward twice, two of the plain gradient, two where the second one comes back to the layer.
    assert len(seen) == 2 + 2 + 2
    steps = gradients(F.linear, *tensors)
    exact = gradients(F.linear, *(None if t is None else t.double() for t in tensors))
    for ours, theirs, expected in zip(found, steps, exact, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        scale = expected.abs().max()
        lost, allowed = ((g.double() - expected).abs().max() / scale for g in (ours, theirs))
        assert lost <= 2 * allowed + 1e-6


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_what_is_asked_for_is_differentiated(monkeypatch, wanted):
    tensors = list(problem(torch.float32)[:3])
    tensors[wanted].requires_grad_()
    seen = calls(monkeypatch)
    (found,) = torch.autograd.grad(linear(*tensors).square().sum(), tensors[wanted])
    assert len(seen) == (1 if wanted == 2 else 2)
    (expected,) = torch.autograd.grad(F.linear(*tensors).square().sum(), tensors[wanted])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_pass_through_transforms_and_counters(monkeypatch):
    x, weight, bias, _ = problem(torch.float32)
    weight.requires_grad_()
    seen = calls(monkeypatch)
    _, tangent = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (x,))
    torch.testing.assert_close(tangent, F.linear(x, weight))
    with FlopCounterMode(display=False) as counter:
        linear(x, weight, bias).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * x.numel() * len(weight)
    assert not seen


def test_under_autocast_the_product_has_its_precision(monkeypatch, with_bfloat16):
    x, weight, bias, other = problem(torch.float32)
    seen = calls(monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        product = linear(x, weight, bias)
        total = linear(x, weight, bias, add=other)
        plain_product = F.linear(x, weight, bias)
    assert seen == [1, 1]
    assert product.dtype == plain_product.dtype == torch.bfloat16
    torch.testing.assert_close(product, plain_product, rtol=1e-2, atol=1e-2)
    assert total.dtype == torch.float32  # the residual stream keeps its precision


@pytest.mark.parametrize(
    "tensors",
    [
        lambda: (torch.zeros(0, 4), torch.ones(3, 4), torch.ones(3)),
        lambda: (torch.ones(2, 4).double(), torch.ones(3, 4).double(), torch.ones(3).double()),
        lambda: tuple(x.to("meta") for x in (torch.ones(2, 4), torch.ones(3, 4), torch.ones(3))),
    ],
)
def test_what_onednn_does_not_take_goes_step_by_step(monkeypatch, tensors):
    seen = calls(monkeypatch)
    with torch.no_grad():
        out = linear(*tensors(), gelu=True)
    assert out.shape[1] == 3
    assert not seen


@pytest.mark.parametrize("adds", [False, True])
def test_rows_in_parts_give_what_all_rows_give(adds):
    x, weight, bias, other = problem(torch.float32, rows=(3, 40, 50))
    seen = []

    def layers(x, add):
        seen.append(len(x))
        return linear(x, weight, bias, gelu=not adds, add=add)

    with torch.no_grad():
        parts = dense.by_rows(layers, x, other if adds else None)
    assert seen == [2048, 2048, 1904]
    with torch.no_grad():
        whole = layers(x, other if adds else None)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    seen.clear()
    dense.by_rows(layers, x, None)  # gradients are on
    assert seen == [3]


def test_transforms_and_compilers_see_every_step(monkeypatch):
    x, weight, bias, _ = problem(torch.float32)
    seen = calls(monkeypatch)
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: linear(x, weight, bias, gelu=True), (x,), (x,))
        mapped = torch.func.vmap(lambda x: linear(x, weight, bias))(x)
    expected = torch.func.jvp(lambda x: F.gelu(F.linear(x, weight, bias)), (x,), (x,))[1]
    torch.testing.assert_close(tangent, expected)
    torch.testing.assert_close(mapped, F.linear(x, weight, bias))
    program = torch.export.export(_Layer(weight, bias), (x,))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("aten.linear" in name for name in names)
    assert not any("mkldnn" in name for name in names)
    assert not seen


def test_work_is_counted_as_without_fusion(monkeypatch):
    x, weight, bias, _ = problem(torch.float32)
    seen = calls(monkeypatch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        linear(x, weight, bias, gelu=True)
    assert counter.get_total_flops() == 2 * x.numel() * len(weight)
    assert not seen


def test_a_program_with_parts_takes_any_batch():
    x, weight, bias, _ = problem(torch.float32, rows=(2, 50, 50))
    layer = _Layer(weight, bias)

    class Parts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return dense.by_rows(lambda x, _: self.layer(x), x, None)

    with torch.no_grad():
        dynamic = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
        program = torch.export.export(Parts(), (x,), dynamic_shapes=dynamic)
        one = program.module()(x[:1])
        torch.testing.assert_close(one, layer(x[:1]), rtol=1e-5, atol=1e-5)


class _Layer(torch.nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def forward(self, x):
        return linear(x, self.weight, self.bias, gelu=True)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"architecture": "x86_64", "amx_bf16": True, "avx512_bf16": True}, "amx_bf16"),
        ({"architecture": "x86_64", "amx_bf16": False, "avx512_bf16": True}, "avx512_bf16"),
        ({"architecture": "x86_64", "avx512_f": True}, None),
        ({"architecture": "aarch64"}, "unknown"),
    ],
)
def test_a_processor_without_bfloat16_makes_images_in_float32(monkeypatch, known, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    dense.bfloat16_instructions.cache_clear()
    try:
        assert dense.bfloat16_instructions() == found
        used = precision.for_images(torch.bfloat16, torch.device("cpu"))
        assert used == (torch.float32 if found is None else torch.bfloat16)
        assert precision.for_images(torch.bfloat16, torch.device("cuda")) == torch.bfloat16
        assert precision.for_images(torch.float32, torch.device("cpu")) == torch.float32
    finally:
        dense.bfloat16_instructions.cache_clear()
