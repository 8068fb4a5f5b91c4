"""The Triton kernels under Triton's interpreter; test_neighborhood_triton.py runs this file.

Triton takes TRITON_INTERPRET from the environment when it is imported, hence a process of its own.
The interpreter multiplies bfloat16 as if it were integers: float16 stands for 16 bits here.
"""

from __future__ import annotations

import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.impl.triton import launch, plan
from tests.ops.problems import Case, draw, errors, run

CASES = (
    Case((1, 3, 3), 8, ((1, 3, 1),)),
    Case((2, 7, 9), 8, ((1, 7, 1),)),
    Case((1, 9, 20), 16, ((1, 7, 1),)),
    Case((1, 13, 11), 32, ((1, 3, 3),)),
    Case((1, 15, 17), 8, ((1, 7, 2),)),
    Case((1, 9, 10), 5, ((1, 5, 1),)),
    Case((1, 9, 10), 24, ((1, 5, 1),)),
    Case((1, 12, 14), 8, ((1, 9, 1),)),
    Case((1, 14, 26), 16, ((1, 13, 1),)),
    Case((1, 8, 9), 128, ((1, 7, 1),)),
    Case((1, 16, 14), 8, ((1, 3, 1), (2, 7, 2), (1, 5, 1))),
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), rpb=False),
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), scale=0.7),
)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in CASES), *((case, torch.float16) for case in CASES[:4])],
    ids=str,
)
def test_kernels_err_about_as_much_as_the_reference(case, dtype):
    for name, (error, twice) in errors(case, "triton", dtype).items():
        # Of maps as small as the interpreter can take, the reference's largest error is the largest
        # of few and differs between processors: four times, as for the unfused calls.
        assert error <= 2 * twice, f"{name}: error {error:.3g}, allowed {2 * twice:.3g}"


def test_columns_of_tiles_sum_to_the_same_bias_gradient(monkeypatch):
    inputs = draw(Case((1, 20, 15), 8, ((1, 3, 1), (1, 5, 3))), torch.float32)
    alone = run(inputs, "triton", torch.float32)
    monkeypatch.setattr(plan, "PROGRAMS", 1)
    monkeypatch.setattr(plan, "TILES_A_PROGRAM", 2)
    plan.plan_columns.cache_clear()
    together = run(inputs, "triton", torch.float32)
    plan.plan_columns.cache_clear()
    for name in ("out", "dq", "dk", "dv"):
        assert torch.equal(together[name], alone[name]), name
    torch.testing.assert_close(together["drpb"], alone["drpb"], rtol=1e-5, atol=1e-5)
    assert not torch.equal(together["drpb"], alone["drpb"])  # another order of the same sum


def test_views_of_one_projection_give_the_same_as_copies():
    groups = [HeadGroup(1, 3), HeadGroup(1, 3, 2)]
    q, k, v = torch.randn(1, 7, 8, 3, 2, 8).unbind(3)
    views = neighborhood_attention_2d(q, k, v, groups, backend="triton")
    copies = neighborhood_attention_2d(
        *(x.contiguous() for x in (q, k, v)), groups, backend="triton"
    )
    flipped = neighborhood_attention_2d(
        *(x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in (q, k, v)),
        groups,
        backend="triton",
    )
    assert torch.equal(views, copies)
    assert torch.equal(views, flipped)


def test_an_empty_batch_is_answered():
    q = torch.zeros(0, 7, 7, 1, 8, requires_grad=True)
    rpb = [torch.zeros(1, 5, 5, requires_grad=True)]
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(1, 3)], rpb, backend="triton")
    out.sum().backward()
    assert out.shape == q.shape
    assert rpb[0].grad.count_nonzero() == 0


def test_the_operation_is_registered_as_pytorch_asks():
    q, k, v = (torch.randn(1, 4, 5, 2, 8, requires_grad=True) for _ in range(3))
    bias = torch.randn(2 * 25, requires_grad=True)
    torch.library.opcheck(launch._forward, (q, k, v, bias, [2, 3, 1], 0.3))


def test_torch_compile_sees_one_node_for_any_batch():
    from torch._dynamo.testing import CompileCounterWithBackend

    groups, rpb = [HeadGroup(2, 3)], [torch.randn(2, 5, 5)]
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def attend(q):
        return neighborhood_attention_2d(q, q, q, groups, rpb, backend="triton")

    for batch in (6, 7):  # no other size: equal ones would be taken for one
        q = torch.randn(batch, 4, 5, 2, 8)
        expected = neighborhood_attention_2d(q, q, q, groups, rpb, backend="reference")
        torch.testing.assert_close(attend(q), expected)
    assert counter.frame_count == 1
    calls = [node for node in counter.graphs[0].graph.nodes if "neighborhood" in str(node.target)]
    assert len(calls) == 1


def test_auto_leaves_the_interpreter_alone():
    q = torch.randn(1, 4, 5, 1, 8).half()  # which the cpu backend does not take
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(1, 3)])
    plain = neighborhood_attention_2d(q, q, q, [HeadGroup(1, 3)], backend="reference")
    assert torch.equal(out, plain)
