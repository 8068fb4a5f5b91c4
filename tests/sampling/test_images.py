"""Seeds -> pixels: the same image for a seed, whatever is drawn with it."""

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.sampling import contact_sheet, default_sheet, generate, latents, save_png
from tests.sampling.tiny import tiny_generator


def images(generator, seeds, **settings):
    return torch.cat(list(generate(generator, seeds, **settings)))


def test_pixels_are_the_generator_s_own_for_the_seed_s_latent():
    generator = tiny_generator()
    z = latents([4, 2], generator.z_dim)
    with torch.no_grad():
        expected = generator.to_uint8(generator(z, truncation_psi=0.7, truncation_cutoff=2))
    found = images(generator, [4, 2], truncation_psi=0.7, truncation_cutoff=2)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)
    assert len(expected.unique()) > 100  # of 256: the images are no flat colour


def test_batch_changes_a_seed_s_image_by_rounding_alone():
    generator, seeds = tiny_generator(), list(range(37))
    alone = images(generator, seeds, batch=1)
    for batch in (2, 5, 8, 64):
        difference = (images(generator, seeds, batch=batch).int() - alone.int()).abs()
        share = (difference > 0).float().mean()
        assert difference.max() <= 1, f"batch {batch}: by up to {difference.max()}"
        assert share < 1e-3, f"batch {batch}: {share} of the values"


def test_batches_have_the_size_that_was_asked_for_and_keep_the_order():
    generator = tiny_generator()
    parts = list(generate(generator, [5, 9, 5], batch=2))
    assert [len(part) for part in parts] == [2, 1]
    assert (parts[0][0].int() - parts[1][0].int()).abs().max() <= 1
    assert not torch.equal(parts[0][0], parts[0][1])


def test_seed_scheme_and_truncation_act():
    generator = tiny_generator()
    plain = images(generator, [1])
    assert not torch.equal(plain, images(generator, [1], scheme="stylegan"))
    assert not torch.equal(plain, images(generator, [1], truncation_psi=0.5))
    mean = images(generator, [1, 2], truncation_psi=0.0)
    assert (mean[0].int() - mean[1].int()).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_float32(dtype):
    generator = tiny_generator()
    exact, half = images(generator, range(8)), images(generator, range(8), dtype=dtype)
    difference = (exact.int() - half.int()).abs().float()
    assert 0 < difference.mean() < 2, f"{dtype}: {difference.mean()} on average"


def test_gradients_stay_as_they_were_for_who_consumes_the_images():
    for batch in generate(tiny_generator(), [0, 1], batch=1):
        assert torch.is_grad_enabled()
        assert not batch.requires_grad


def test_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="batch must be at least 1: 0"):
        next(generate(tiny_generator(), [0], batch=0))


def test_contact_sheet_lays_images_out_line_by_line():
    cells = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 2, 4, 3)
    sheet = contact_sheet(cells, 3)
    assert sheet.shape == (4, 12, 3)
    assert sheet[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert torch.equal(sheet[:2, :4], cells[0])
    assert contact_sheet(cells, 2, 4).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="2x2 must get 1 to 4 images: 5"):
        contact_sheet(cells, 2, 2)
    with pytest.raises(ValueError, match="0x1 must get 1 to 0 images: 5"):
        contact_sheet(cells, 0, 1)


@pytest.mark.parametrize(
    ("count", "sheet"), [(1, (1, 1)), (2, (2, 1)), (7, (3, 3)), (64, (8, 8)), (5000, (10, 10))]
)
def test_sheet_is_nearly_square_unless_chosen(count, sheet):
    assert default_sheet(count) == sheet


def test_png_holds_the_pixels_and_is_all_there_is(tmp_path):
    pixels = torch.randint(0, 256, (4, 7, 3), dtype=torch.uint8)
    save_png(pixels, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.array(image), pixels.numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
