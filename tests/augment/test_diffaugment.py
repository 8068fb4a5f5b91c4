"""The augmentation of consistency regularisation."""

import pytest
import torch

from stylenat.augment import AUGMENT_DRAWS, augment, is_cut, shifted

FLIP, SHIFT_Y, SHIFT_X, BRIGHTNESS, SATURATION, CONTRAST, CUT_Y, CUT_X = range(AUGMENT_DRAWS)


def draws(**values: float) -> torch.Tensor:
    """One image's draws that change nothing but for the cutout, and for those given by name."""
    neutral = torch.full((1, AUGMENT_DRAWS), 0.5)
    for name, value in values.items():
        neutral[0, globals()[name]] = value
    return neutral


def image(seed: int = 0, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def without_cutout(augmented: torch.Tensor) -> torch.Tensor:
    """The part left of a cutout in the middle of a 16x24 image."""
    return augmented[..., :6]


def test_neutral_draws_only_cut_half_the_height_by_half_the_width():
    x = image()
    out = augment(x, draws())
    assert torch.equal(out[..., 4:12, 6:18], torch.zeros(1, 3, 8, 12))
    out[..., 4:12, 6:18] = x[..., 4:12, 6:18]
    assert torch.allclose(out, x, atol=1e-6)


def test_low_flip_draw_mirrors_the_width():
    x = image()
    assert torch.allclose(
        without_cutout(augment(x, draws(FLIP=0.49))), without_cutout(x.flip(3)), atol=1e-6
    )


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -2), (0.19, -2), (0.5, 0), (0.999, 2)])
def test_shifts_are_whole_pixels_up_to_an_eighth_and_bring_in_zeros(draw, shift):
    x = image()
    out = shifted(x, torch.full((1, 1, 1, 1), draw), dim=2)
    expected = x.roll(shift, 2)
    if shift > 0:
        expected[:, :, :shift] = 0
    elif shift < 0:
        expected[:, :, shift:] = 0
    assert torch.equal(out, expected)


def test_every_shift_is_equally_likely():
    side, count = 16, 50_000
    values = torch.rand(count, generator=torch.Generator().manual_seed(0)).view(-1, 1, 1, 1)
    marked = torch.zeros(1, 1, side, 1)
    marked[0, 0, 8] = 1
    moved = shifted(marked.expand(count, -1, -1, -1), values, dim=2).flatten(1).argmax(1) - 8
    shares = torch.bincount(moved + 2, minlength=5) / count
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.01)


def test_colours_follow_their_formulas():
    x = image()
    out = augment(x, draws(BRIGHTNESS=0.9, SATURATION=0.25, CONTRAST=0.0))
    bright = x + 0.4
    grey = bright.mean(1, keepdim=True)
    pale = grey + 0.5 * (bright - grey)
    flat = pale.mean() + 0.5 * (pale - pale.mean())
    assert torch.allclose(without_cutout(out), without_cutout(flat), atol=1e-6)


@pytest.mark.parametrize(("draw", "cut"), [(0.0, range(0, 4)), (0.999, range(12, 16))])
def test_a_cutout_may_hang_over_the_edge(draw, cut):
    mask = is_cut(image(), torch.full((1, 1, 1, 1), draw), dim=2).flatten()
    assert mask.nonzero().flatten().tolist() == list(cut)


def test_an_image_is_augmented_the_same_in_any_batch():
    x = torch.cat([image(seed) for seed in range(3)])
    random = torch.rand(3, AUGMENT_DRAWS, generator=torch.Generator().manual_seed(1))
    whole = augment(x, random)
    for i in range(3):
        assert torch.equal(augment(x[i : i + 1], random[i : i + 1])[0], whole[i])


def test_the_augmentation_is_differentiable():
    x = image(height=8, width=8).double().requires_grad_()
    random = torch.rand(1, AUGMENT_DRAWS, generator=torch.Generator().manual_seed(2)).double()
    assert torch.autograd.gradcheck(lambda x: augment(x, random), x)


def test_draws_for_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"draws must be \[B, 8\] for B = 1 images: \(2, 8\)"):
        augment(image(), torch.zeros(2, AUGMENT_DRAWS))
