"""The unfused Triton kernels under Triton's interpreter; test_unfused_triton.py runs this file.

Triton takes TRITON_INTERPRET from the environment when it is imported, hence a process of its own.
The interpreter multiplies bfloat16 as if it were integers: float16 stands for 16 bits here.
"""

from __future__ import annotations

import pytest
import torch

from ops.neighborhood import neighborhood_av, neighborhood_qk
from ops.neighborhood.impl.triton import unfused
from tests.ops.unfused_problems import Call, draw, errors, run

CALLS = (
    Call((3, 3), 3, rpb=True, head_dim=8, value_dim=8),
    Call((7, 9), 7, rpb=True, head_dim=8, value_dim=8, batch=2),
    Call((13, 11), 3, 3, rpb=True, heads=1, head_dim=16, value_dim=5),
    Call((9, 20), (3, 5), (2, 1), rpb=True, extra=2, head_dim=8, value_dim=24),
    Call((14, 26), 13, heads=1, head_dim=16, value_dim=16),
    Call((70,), 7, 2, rpb=True, heads=1, head_dim=8, value_dim=8),
    Call((131,), 13, 3, rpb=True, heads=1, head_dim=8, value_dim=8),
)


@pytest.mark.parametrize(
    ("call", "dtype"),
    [*((call, torch.float32) for call in CALLS), *((call, torch.float16) for call in CALLS[1:4])],
    ids=str,
)
def test_kernels_err_at_most_twice_as_much_as_the_reference(call, dtype):
    for name, (error, allowed) in errors(call, "triton", dtype).items():
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def test_programs_share_the_sum_of_a_bias_gradient(monkeypatch):
    call = Call((9, 10), 3, 2, rpb=True, batch=2, head_dim=8, value_dim=8)
    x = draw(call, torch.float32)
    dout = torch.randn_like(x.value)
    alone = run(call, x, dout, "triton", torch.float32)["drpb"]
    monkeypatch.setattr(unfused, "BIAS_BLOCKS", 1)
    shared = run(call, x, dout, "triton", torch.float32)["drpb"]
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)


def test_views_of_one_projection_give_the_same_as_copies():
    q, k, v = torch.randn(1, 7, 8, 3, 2, 8).permute(3, 0, 4, 1, 2, 5)
    flipped = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    attn = neighborhood_qk(q, k, kernel_size=3, backend="triton")
    for one, other in ((q.contiguous(), k.contiguous()), (flipped, k)):
        assert torch.equal(neighborhood_qk(one, other, kernel_size=3, backend="triton"), attn)
    out = neighborhood_av(attn, v, kernel_size=3, backend="triton")
    assert torch.equal(neighborhood_av(attn, v.contiguous(), kernel_size=3, backend="triton"), out)


def test_an_empty_batch_is_answered():
    query = torch.zeros(0, 1, 7, 7, 8, requires_grad=True)
    rpb = torch.zeros(1, 5, 5, requires_grad=True)
    attn = neighborhood_qk(query, query, kernel_size=3, rpb=rpb, backend="triton")
    neighborhood_av(attn, query, kernel_size=3, backend="triton").sum().backward()
    assert attn.shape == (0, 1, 7, 7, 9)
    assert rpb.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (Call((3, 3, 3), 3), "it takes 1-D and 2-D maps, not 3-D"),
        (Call((9, 9), 3, 1, True), "it has no causal windows"),
    ],
    ids=str,
)
def test_what_the_kernels_lack_is_refused_in_a_sentence(call, sentence):
    x = draw(call, torch.float32)
    with pytest.raises(RuntimeError, match=sentence):
        neighborhood_qk(x.query, x.key, **call.window, backend="triton")
