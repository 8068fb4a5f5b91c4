"""The rules of the operation: what it takes, what it refuses, and how a backend is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ops.neighborhood import BACKENDS, HeadGroup, backend_names, neighborhood_attention_2d
from ops.neighborhood.backends import choose
from ops.neighborhood.problem import describe
from ops.neighborhood.window import window_indices

Q = torch.zeros(1, 9, 12, 4, 8)
GROUPS = [HeadGroup(3, 5), HeadGroup(1, 3, 3)]


def attend(**changes):
    arguments = {"q": Q, "k": Q, "v": Q, "groups": GROUPS} | changes
    return neighborhood_attention_2d(**arguments)


def test_a_window_is_centred_and_at_the_edges_shifted_inside():
    keys, bias = window_indices(7, 3, 1, torch.device("cpu"))
    assert keys.tolist() == [
        [0, 1, 2],
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
        *[[4, 5, 6]] * 2,
    ]
    assert bias.tolist() == [[2, 3, 4], *[[1, 2, 3]] * 5, [0, 1, 2]]


def test_a_dilated_window_stays_within_its_group_even_where_lengths_differ():
    keys, bias = window_indices(7, 3, 2, torch.device("cpu"))
    assert keys[6].tolist() == [2, 4, 6]  # group 0 has four pixels
    assert keys[5].tolist() == [1, 3, 5]  # group 1 has three
    assert bias[6].tolist() == [0, 1, 2]


def test_a_query_sees_its_window_and_nothing_else():
    """A value outside the window does not reach the output; every value inside does."""
    v = torch.zeros(1, 9, 12, 1, 1, requires_grad=True)
    q = torch.zeros(1, 9, 12, 1, 1)
    out = neighborhood_attention_2d(q, q, v, [HeadGroup(1, 3, 3)], backend="reference")
    (seen,) = torch.autograd.grad(out[0, 0, 4, 0, 0], v)
    assert sorted(seen[0, :, :, 0, 0].nonzero().tolist()) == [
        [y, x] for y in (0, 3, 6) for x in (1, 4, 7)
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": Q[0]}, r"must be \[B, H, W, heads, head_dim\]"),
        ({"k": Q[:, :, :11]}, "one shape"),
        ({"v": Q.double()}, "share dtype and device"),
        (dict.fromkeys("qkv", Q.int()), "floating point"),
        ({"groups": []}, "at least one HeadGroup"),
        ({"groups": [HeadGroup(3, 3)]}, r"add up to the tensor's: 3 = 3, not 4"),
        ({"groups": [HeadGroup(4, 5, 2)]}, r"5 \* 2 = 10 > 9 at 9x12; lower the dilation"),
        ({"rpb": [torch.zeros(3, 9, 9)]}, "one table per group: 1 tables, 2 groups"),
        (
            {"rpb": [torch.zeros(3, 9, 9), torch.zeros(1, 9, 9)]},
            r"rpb\[1\] must be .* = \[1, 5, 5\], got \[1, 9, 9\]",
        ),
        ({"rpb": [torch.zeros(3, 9, 9).int(), torch.zeros(1, 5, 5)]}, "floating point"),
        ({"backend": "fast"}, "unknown attention backend 'fast'; choose one of auto, triton"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_rule_and_the_values(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        attend(**changes)


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ((0, 3, 1), "at least one head, got heads=0"),
        ((1, 4, 1), "odd and greater than 1, got 4"),
        ((1, 1, 1), "odd and greater than 1, got 1"),
        ((1, 3, 0), "dilation must be at least 1, got 0"),
    ],
)
def test_a_head_group_that_cannot_be_is_refused(group, sentence):
    with pytest.raises(ValueError, match=sentence):
        HeadGroup(*group)


def test_auto_takes_the_first_backend_that_can():
    problem = describe(Q, Q, Q, GROUPS, None)
    first = next(row for row in BACKENDS if row.unsupported(problem) is None)
    assert choose(problem, "auto") is first


def test_auto_leaves_float64_to_the_reference():
    q = Q.double()
    assert choose(describe(q, q, q, GROUPS, None), "auto").name == "reference"


def test_a_backend_asked_for_by_name_never_falls_back():
    with pytest.raises(RuntimeError, match=r"'cpu' can't run this call: it takes float32"):
        attend(q=Q.double(), k=Q.double(), v=Q.double(), backend="cpu")


def test_the_reference_takes_every_problem_so_that_auto_always_ends():
    assert BACKENDS[-1].name == "reference"
    assert backend_names()[0] == "auto"
    assert len(set(backend_names())) == len(BACKENDS) + 1


DERIVATIVES = {(True, True): "all", (True, False): "first order", (False, False): "none"}


def table_for_docs() -> list[str]:
    """BACKENDS as the lines of docs/attention.md."""
    lines = ["| backend | what it is | runs on | needs | dtypes | limits | derivatives |"]
    lines.append("|---" * 7 + "|")
    for row in BACKENDS:
        device = {"cuda": "CUDA", "cpu": "the CPU", None: "any device"}[row.device_type]
        dtypes = [
            str(dtype).removeprefix("torch.") + (f" (from {least}.0)" if least else "")
            for dtype, least in (row.dtypes or {}).items()
        ]
        limits = {"head_dim": row.max_head_dim, "kernel_size": row.max_kernel_size}
        cells = (
            f"`{row.name}`",
            row.summary,
            device,
            row.requires or "nothing",
            ", ".join(dtypes) or "any floating",
            ", ".join(f"{name} {most}" for name, most in limits.items() if most) or "none",
            DERIVATIVES[row.has_gradient, row.has_all_derivatives],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_documented_table_is_the_table():
    documented = (Path(__file__).parents[2] / "docs" / "attention.md").read_text()
    assert "\n".join(table_for_docs()) in documented
