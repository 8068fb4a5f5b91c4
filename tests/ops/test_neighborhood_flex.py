"""FlexAttention: the order of its tokens, the blocks that it may skip, and what it computes."""

from __future__ import annotations

import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.impl import flex
from ops.neighborhood.window import window_indices
from tests.ops.problems import Case, draw, errors, lift_limits

CPU = torch.device("cpu")
# (H, W, kernel_size, dilation): one tile and several, not square, dilations that do not divide.
MAPS = (
    (3, 3, 3, 1),
    (7, 130, 7, 1),
    (70, 7, 7, 1),
    (40, 50, 7, 1),
    (23, 37, 7, 3),
    (61, 47, 5, 2),
    (29, 31, 5, 5),
    (56, 64, 7, 8),
    (40, 28, 13, 2),
    (34, 33, 31, 1),
)
CASES = (
    Case((2, 7, 9), 8, ((3, 7, 1),)),
    Case((1, 23, 37), 16, ((2, 7, 3),)),
    Case((1, 7, 130), 8, ((1, 7, 1),)),
    Case((1, 9, 10), 5, ((2, 3, 1),)),
    Case((2, 16, 14), 8, ((1, 3, 1), (3, 7, 2), (2, 5, 1))),
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), rpb=False),
    Case((1, 10, 18), 8, ((2, 5, 1), (1, 3, 3)), scale=0.7),
)


@pytest.fixture(autouse=True)
def flex_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lift_limits(monkeypatch, "flex")


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as plain PyTorch: all pairs, any dtype, and on the CPU gradients too."""
    from torch.nn.attention import flex_attention

    torch.compiler.reset()
    traced = torch.compile(flex_attention.flex_attention, fullgraph=True, backend="eager")
    monkeypatch.setattr(flex, "_compile", lambda: traced)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)


@pytest.mark.usefixtures("dense")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bias_and_every_gradient_are_those_of_the_reference(case):
    for name, (error, _) in errors(case, "flex", torch.float64).items():
        assert error <= 1e-12, f"{name}: error {error:.3g}, allowed 1e-12"


@pytest.mark.parametrize(("height", "width", "kernel_size", "dilation"), MAPS)
def test_every_pixel_is_one_token(height, width, kernel_size, dilation):
    layout = flex._layout(height, width, kernel_size, dilation, CPU)
    assert torch.equal(layout.pixel[layout.token], torch.arange(height * width))


@pytest.mark.parametrize(("height", "width", "kernel_size", "dilation"), MAPS)
def test_no_block_is_skipped_that_a_window_reaches(height, width, kernel_size, dilation):
    layout = flex._layout(height, width, kernel_size, dilation, CPU)
    rows, columns = (
        window_indices(length, kernel_size, dilation, CPU)[0] for length in (height, width)
    )
    keys = rows[:, None, :, None] * width + columns[None, :, None, :]  # [H, W, K, K]
    queries = torch.arange(height * width).view(height, width, 1, 1).expand_as(keys)
    reached = torch.zeros(2 * [layout.num_blocks.numel()], dtype=torch.bool)
    reached[layout.token[queries] // flex.BLOCK, layout.token[keys] // flex.BLOCK] = True
    listed = torch.zeros_like(reached)
    for block, count in enumerate(layout.num_blocks[0, 0].tolist()):
        listed[block, layout.blocks[0, 0, block, :count].long()] = True
    assert not (reached & ~listed).any()
    assert torch.equal(listed, listed.T)  # one table serves forward and backward


@pytest.mark.parametrize(
    ("side", "dilation", "most_seen", "waste"),
    [
        (1024, 1, 9, 1),
        (256, 32, 1, 1),
        (256, 1, 9, 1),
        (64, 8, 1, 1),
        (128, 16, 1, 1),
        (28, 4, 1, 1.4),
    ],
)
def test_a_block_sees_few_others_and_few_tokens_lie_outside(side, dilation, most_seen, waste):
    layout = flex._cached_layout.__wrapped__(side, side, 7, dilation, CPU)
    assert layout.num_blocks.max() <= most_seen
    assert layout.pixel.numel() <= waste * side**2


def test_heads_get_the_width_that_the_gpu_s_kernels_ask_for():
    tokens = flex._to_tokens(torch.ones(2, 3, 4, 1, 5), torch.arange(12))
    assert tokens.shape == (2, 1, 12, 16)
    assert tokens.sum() == 2 * 12 * 5


def test_layouts_made_in_inference_mode_serve_training():
    flex._cached_layout.cache_clear()
    with torch.inference_mode():
        flex._layout(7, 8, 3, 1, CPU)
    assert not any(x.is_inference() for x in flex._layout(7, 8, 3, 1, CPU))


def test_no_more_than_a_few_layouts_are_kept():
    assert flex._cached_layout.cache_info().maxsize == 32


@pytest.mark.usefixtures("dense")
def test_one_network_makes_more_kernels_than_dynamo_allows_by_itself():
    for heads in range(1, 11):
        q = torch.randn(1, 3, 3, heads, 8)
        out = neighborhood_attention_2d(q, q, q, [HeadGroup(heads, 3)], backend="flex")
        assert out.shape == q.shape


def test_it_compiles_without_a_graph_break_for_any_batch_and_map():
    torch.compiler.reset()
    groups = [HeadGroup(1, 3, 2), HeadGroup(1, 5, 1)]
    rpb = [torch.randn(group.rpb_shape) for group in groups]
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=count)
    def attend(q):
        return neighborhood_attention_2d(q, q, q, groups, rpb, backend="flex")

    for shape in ((1, 7, 8), (2, 7, 8), (3, 7, 8), (4, 7, 8), (4, 9, 7), (4, 11, 12)):
        q = torch.randn(*shape, 2, 8)
        expected = neighborhood_attention_2d(q, q, q, groups, rpb, backend="reference")
        torch.testing.assert_close(attend(q), expected)
    assert len(compilations) <= 5  # batches of 1, 2, any; each size of the map
    assert not any("arange" in graph.code for graph in compilations)  # tables are made before


@pytest.mark.slow  # it compiles C++
def test_compiled_it_skips_blocks_and_equals_the_reference():
    torch.compiler.reset()
    flex._compile.cache_clear()
    inputs = draw(Case((1, 24, 40), 16, ((2, 5, 1),)), torch.float32)
    arguments = (inputs.q, inputs.k, inputs.v, inputs.groups, inputs.rpb)
    assert flex._layout(24, 40, 5, 1, CPU).num_blocks.min() < 9 == 24 * 48 // flex.BLOCK
    got = neighborhood_attention_2d(*arguments, backend="flex")
    torch.testing.assert_close(got, neighborhood_attention_2d(*arguments, backend="reference"))
