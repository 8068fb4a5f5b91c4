"""What the functions refuse, and with which of NATTEN's kinds of error."""

from __future__ import annotations

import pytest
import torch

from stylenat.compat import functional


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


REFUSED = {
    "even": (RuntimeError, "odd and greater than 1", {"kernel_size": 4}),
    "one": (RuntimeError, "odd and greater than 1", {"kernel_size": 1}),
    "no dilation": (RuntimeError, "at least 1", {"dilation": 0}),
    "too large": (RuntimeError, r"3 \* 3 > 7", {"dilation": 3}),
    "causal with bias": (
        NotImplementedError,
        "bias",
        {"is_causal": True, "rpb": torch.zeros(2, 5, 5)},
    ),
    "bias of another shape": (RuntimeError, r"\[2, 5, 5\]", {"rpb": torch.zeros(2, 5, 7)}),
    "kernel of a wrong type": (ValueError, "kernel_size", {"kernel_size": 3.0}),
    "kernel of a wrong length": (ValueError, "kernel_size", {"kernel_size": (3, 3, 3)}),
    "causal of a wrong type": (ValueError, "is_causal", {"is_causal": 1}),
    "additional keys": (
        ValueError,
        "additional keys",
        {"additional_keys": torch.zeros(1, 2, 3, 5)},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_natten_s_kind_of_error(case):
    kind, sentence, arguments = REFUSED[case]
    q = draw(1, 2, 7, 9, 4)
    with pytest.raises(kind, match=sentence):
        functional.na2d_qk(q, q, **{"kernel_size": 3, **arguments})


def test_tensors_that_do_not_belong_together_are_refused():
    q = draw(1, 2, 7, 9, 4)
    with pytest.raises(RuntimeError, match="one shape"):
        functional.na2d_qk(q, q[:, :, 1:], 3)
    with pytest.raises(RuntimeError, match="dtype"):
        functional.na2d_qk(q, q.double(), 3)
    with pytest.raises(RuntimeError, match="5 axes"):
        functional.na2d_qk(q[0], q[0], 3)
    with pytest.raises(ValueError, match="9 weights"):
        functional.na2d_av(draw(1, 2, 7, 9, 8), q, 3)
    with pytest.raises(ValueError, match="given together"):
        functional.na2d(*[draw(1, 7, 9, 2, 4)] * 3, 3, additional_keys=draw(1, 3, 2, 4))
    with pytest.raises(RuntimeError, match="odd and greater than 1"):
        functional.na2d(*[draw(1, 7, 9, 2, 4)] * 3, 4, rpb=torch.zeros(2, 7, 7))


def test_old_names_need_their_arguments():
    q = draw(1, 2, 7, 9, 4)
    with pytest.raises(TypeError, match="kernel_size"):
        functional.natten2dqkrpb(q, q, None, 1)
    with pytest.raises(TypeError, match="kernel_size, dilation"):
        functional.natten2dqkrpb(q, q, None, 3, 1, 1)
    with pytest.raises(TypeError, match="kernel_size_d"):
        functional.natten3dqkrpb(q[None], q[None], None, kernel_size_d=3)


@pytest.mark.parametrize("name", ["stride", "backend", "return_lse"])
def test_arguments_of_0_20_are_refused_with_the_reason(name):
    q = draw(1, 7, 9, 2, 4)
    for call in (functional.na2d, functional.na2d_qk):
        inputs = [q] * (3 if call is functional.na2d else 2)
        with pytest.raises(TypeError, match=f"'{name}': it belongs to NATTEN 0.20"):
            call(*inputs, kernel_size=3, **{name: 1})
    with pytest.raises(TypeError, match="unexpected keyword argument 'kernel'"):
        functional.na2d(q, q, q, kernel_size=3, kernel=3)
