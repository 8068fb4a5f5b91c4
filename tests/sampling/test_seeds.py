"""Seeds: what they are as text, and the latents that they stand for."""

import re

import numpy as np
import pytest
import torch

from stylenat.sampling import latents, parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0-3,100,4-6", [0, 1, 2, 3, 100, 4, 5, 6]),
        (" 5 , 1-1 ", [5, 1]),
        ("2,0-2", [2, 0, 1, 2]),
        (str(2**63 - 1), [2**63 - 1]),
    ],
)
def test_seeds_are_numbers_and_ranges_in_their_order(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "at least one seed"),
        (" ", "at least one seed"),
        ("1,,2", "from 0 up or ranges such as 0-63: ''"),
        ("1,two,3", "from 0 up or ranges such as 0-63: 'two'"),
        ("-4", "from 0 up or ranges such as 0-63: '-4'"),
        ("1.5", "'1.5'"),
        ("٣", "from 0 up"),  # a digit, but no ASCII one
        ("0-3-5", "'0-3-5'"),
        ("1,9-3", "must not run backwards: 9-3"),
        (f"{2**63}", "must be below 2**63"),
        ("5,0-9999999", "at most 10,000,000: with '0-9999999' there are more"),
    ],
)
def test_anything_else_is_refused_with_the_piece_that_is_wrong(text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_seeds(text)


@pytest.mark.parametrize("z_dim", [5, 64])
def test_latent_of_a_seed_is_what_the_published_code_draws(z_dim):
    z = latents([3, 0], z_dim)
    for row, seed in zip(z, [3, 0], strict=True):
        torch.manual_seed(seed)
        assert torch.equal(row, torch.randn(1, z_dim)[0])


def test_stylegan_scheme_draws_from_numpy():
    z = latents([7], 64, scheme="stylegan")
    expected = np.random.RandomState(7).randn(1, 64).astype(np.float32)
    assert z.dtype == torch.float32
    assert np.array_equal(z.numpy(), expected)


def test_latents_do_not_depend_on_their_neighbours_nor_touch_the_global_generator():
    before = torch.get_rng_state()
    assert torch.equal(latents([1, 2, 3], 8)[1:], latents([2, 3], 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_and_schemes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="one of torch, stylegan: numpy"):
        latents([0], 8, scheme="numpy")
    with pytest.raises(ValueError, match=rf"from 0 to {2**32 - 1}: {2**32}"):
        latents([2**32], 8, scheme="stylegan")
    with pytest.raises(ValueError, match=r"from 0 to .*: -1"):
        latents([-1], 8)
