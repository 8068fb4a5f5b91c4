"""Distances of features and patches: each against published code or a few independent lines."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from stylenat.metrics import precision_recall as pr_module
from stylenat.metrics import swd
from stylenat.metrics.cmmd import cmmd
from stylenat.metrics.density_coverage import density_coverage
from stylenat.metrics.inception_score import inception_score
from stylenat.metrics.kid import kernel_distance, unbiased_mmd
from stylenat.metrics.mind import mind
from stylenat.metrics.precision_recall import precision_recall, realism

# kid


@pytest.mark.parametrize("size", [1000, 12])
def test_kid_is_clean_fid_s_on_the_same_subsets(monkeypatch, size):
    from cleanfid.fid import kernel_distance as published

    ours, reference = torch.randn(30, 16), 0.3 + 1.2 * torch.randn(25, 16)
    found = kernel_distance(ours, reference, subsets=20, subset_size=size, seed=5)
    monkeypatch.setattr(np.random, "choice", np.random.default_rng(5).choice)
    expected = published(
        ours.double().numpy(), reference.double().numpy(), num_subsets=20, max_subset_size=size
    )
    assert found == pytest.approx(expected, rel=1e-10)


def test_mmd_is_the_mean_of_the_kernel_over_pairs():
    x, y = torch.randn(5, 3).double(), torch.randn(5, 3).double() + 1

    def kernel(u, v):
        return float((u @ v / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(5) for j in range(5)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 20
    between = sum(kernel(x[i], y[j]) for i, j in pairs) / 25
    assert unbiased_mmd(x, y) == pytest.approx(within - 2 * between, rel=1e-12)


def test_kid_depends_on_its_seed_alone():
    x, y = torch.randn(30, 4), torch.randn(40, 4)
    first = kernel_distance(x, y, subsets=3, subset_size=10, seed=1)
    np.random.seed(99)
    assert kernel_distance(x, y, subsets=3, subset_size=10, seed=1) == first
    assert kernel_distance(x, y, subsets=3, subset_size=10, seed=2) != first
    with pytest.raises(ValueError, match="at least 2 images of either kind: 1"):
        kernel_distance(x[:1], y)


# precision and recall


def naive_precision_recall(generated, reference, k):
    """Equations 1 to 3 of arXiv 1904.06991, one distance at a time."""

    def radius(points, i):
        return sorted(np.linalg.norm(points - points[i], axis=1))[k]  # the first is 0, itself

    def share(points, centers):
        radii = [radius(centers, i) for i in range(len(centers))]
        inside = [
            any(np.linalg.norm(p - c) <= r for c, r in zip(centers, radii, strict=True))
            for p in points
        ]
        return sum(inside) / len(points)

    return share(generated, reference), share(reference, generated)


@pytest.mark.parametrize("chunk", [4096, 7])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_the_paper_s(monkeypatch, chunk, k):
    monkeypatch.setattr(pr_module, "CHUNK", chunk)
    generated, reference = 0.6 * torch.randn(40, 3).double(), torch.randn(33, 3).double()
    found = precision_recall(generated, reference, k=k)
    assert found == naive_precision_recall(generated.numpy(), reference.numpy(), k)
    assert found[0] > found[1] > 0  # a narrow distribution: precise, of little recall


def test_precision_in_float32_is_that_in_float64_far_from_the_origin():
    generated, reference = 100 + torch.randn(200, 64), 100 + torch.randn(180, 64)
    assert precision_recall(generated, reference) == precision_recall(
        generated.double(), reference.double()
    )


def test_distributions_that_are_apart_have_neither_and_equal_ones_both():
    points = torch.randn(20, 4)
    assert precision_recall(points, points + 100) == (0.0, 0.0)
    assert precision_recall(points, points) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least 4 images: 3"):
        precision_recall(points[:3], points)


def test_realism_is_the_largest_ratio_of_a_real_radius_to_the_distance():
    generated, reference = torch.randn(12, 3).double(), torch.randn(21, 3).double()
    found = realism(generated, reference, k=2)
    points = reference.numpy()
    radii = [sorted(np.linalg.norm(points - p, axis=1))[2] for p in points]
    dense = [i for i in range(21) if radii[i] <= sorted(radii)[10]]
    for index, value in enumerate(generated.numpy()):
        ratios = [radii[i] / np.linalg.norm(points[i] - value) for i in dense]
        assert float(found[index]) == pytest.approx(max(ratios), rel=1e-5)
    precise, _ = precision_recall(generated, reference, k=2)
    assert float((found >= 1).double().mean()) <= precise  # the large balls are left out


# density and coverage


@pytest.mark.parametrize("chunk", [4096, 7])
def test_density_and_coverage_are_prdc_s(monkeypatch, chunk):
    prdc = pytest.importorskip("prdc")
    monkeypatch.setattr(pr_module, "CHUNK", chunk)
    generated, reference = 0.7 * torch.randn(40, 4).double(), torch.randn(33, 4).double()
    expected = prdc.compute_prdc(reference.numpy(), generated.numpy(), nearest_k=5)
    found = density_coverage(generated, reference, k=5)
    assert found == pytest.approx((expected["density"], expected["coverage"]), abs=1e-12)
    with pytest.raises(ValueError, match="at least 6 real images: 5"):
        density_coverage(generated, reference[:5])


# cmmd


def test_cmmd_is_its_kernel_s_mean_over_all_pairs():
    x, y = torch.randn(7, 3), torch.randn(5, 3) + 1
    u, v = (side.double() / side.double().norm(dim=1, keepdim=True) for side in (x, y))

    def mean(a, b):
        return np.mean([[np.exp(-float((p - q).square().sum()) / 200) for q in b] for p in a])

    expected = 1000 * (mean(u, u) + mean(v, v) - 2 * mean(u, v))
    assert cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert cmmd(x, 5 * x) == pytest.approx(0, abs=1e-9)  # only directions count


# mind


def test_mind_is_the_sliced_distance_and_of_shifted_sets_three_times_the_shift_squared():
    x = torch.randn(60, 5)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0])
    assert mind(x, x[torch.randperm(60)]) == pytest.approx(0, abs=1e-12)
    # Along a direction a shift moves every projection alike, by d . shift, whose mean square is
    # |shift|^2 / D.
    assert mind(x + shift, x) == pytest.approx(3 * float(shift.square().sum()), rel=0.1)
    one = torch.randn(1, 1)
    assert mind(one, one + 2) == pytest.approx(12, rel=1e-6)  # one dimension: 3 |shift|^2 exactly
    assert mind(x, torch.cat([x, x + 9])) == pytest.approx(0, abs=1e-12)  # the first 60 of 120


# the Inception score


def test_inception_score_is_torch_fidelity_s():
    fidelity = pytest.importorskip("torch_fidelity.metric_isc")
    whole = 3 * torch.randn(100, 17)
    expected = fidelity.isc_features_to_metric(whole, splits=10, shuffle=False)
    mean, deviation = inception_score(whole.softmax(dim=1))
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-5)
    assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-4)
    with pytest.raises(ValueError, match="at least 10 images: 9"):
        inception_score(whole[:9].softmax(dim=1))


# swd


def naive_pyramid(images, levels):
    """ProGAN's pyramid with scipy's convolution: blur, halve; double with zeros, blur, subtract."""
    line = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(line, line)[None, None]
    pyramid = [images.astype(np.float64)]
    for _ in range(1, levels):
        pyramid.append(ndimage.convolve(pyramid[-1], kernel, mode="mirror")[:, :, ::2, ::2])
        grown = np.zeros_like(pyramid[-2])
        grown[:, :, ::2, ::2] = pyramid[-1]
        pyramid[-2] -= ndimage.convolve(grown, 4 * kernel, mode="mirror")
    return pyramid


def images(count=6, side=32, low=0, high=256):
    return torch.randint(low, high, (count, 3, side, side), dtype=torch.uint8)


def test_levels_halve_down_to_sixteen():
    assert swd.pyramid_resolutions(256) == [256, 128, 64, 32, 16]
    assert swd.pyramid_resolutions(16) == [16]
    assert swd.pyramid_resolutions(40) == [40, 20]
    with pytest.raises(ValueError, match="at least 16x16 pixels: 8x8"):
        swd.pyramid_resolutions(8)


def test_pyramid_is_that_of_scipy_s_convolutions():
    pixels = images(2, 64)
    levels = swd.laplacian_pyramid(pixels, 3)
    for found, expected in zip(levels, naive_pyramid(pixels.numpy(), 3), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_patches_are_cut_where_the_corners_say():
    pixels = images(2, 20).float()
    corners = torch.tensor([[[0, 13], [5, 2]], [[13, 0], [1, 1]]])
    cut = swd.cut_patches(pixels, corners)
    assert torch.equal(cut[1], pixels[0, :, 5:12, 2:9])
    assert torch.equal(cut[2], pixels[1, :, 13:20, 0:7])


def test_patches_reach_every_edge_and_depend_on_seed_and_position_alone():
    corners = np.concatenate([swd._corners(16, (0, position, 16)) for position in range(4)])
    assert corners.min() == 0
    assert corners.max() == 16 - 7
    pixels = images(5).permute(0, 2, 3, 1)
    whole, parts = swd.Patches(32, seed=3), swd.Patches(32, seed=3)
    whole.add(pixels, [0, 1, 2, 3, 4])
    parts.add(pixels[:2], [0, 1])
    parts.add(pixels[2:], [2, 3, 4])
    for place in range(2):
        assert torch.equal(whole.first(place, 5), parts.first(place, 5))
        assert len(whole.first(place, 2)) == 2 * 128
    other = swd.Patches(32, seed=4)
    other.add(pixels, [0, 1, 2, 3, 4])
    assert not torch.equal(whole.first(0, 5), other.first(0, 5))


def test_distance_is_that_of_a_few_independent_lines():
    """Patches, normalised by channel; 512 unit directions; sorted projections; mean difference."""
    dark, bright = images(high=120), images(low=60)
    distances = {}
    for place, side in enumerate([32, 16]):
        sets, cut = [], []
        for seed, pixels in enumerate((dark, bright)):
            level = naive_pyramid(pixels.numpy(), 2)[place]
            patches = np.stack(
                [
                    level[i, :, y : y + 7, x : x + 7]
                    for i in range(len(pixels))
                    for y, x in swd._corners(side, (seed, i, side))
                ]
            )
            mean, deviation = (f(patches, (0, 2, 3), keepdims=True) for f in (np.mean, np.std))
            sets.append(((patches - mean) / deviation).reshape(len(patches), -1))
            collected = swd.Patches(32, seed=seed)
            collected.add(pixels.permute(0, 2, 3, 1), list(range(len(pixels))))
            cut.append(swd.normalised(collected.first(place, len(pixels))))
        directions = np.random.default_rng(0).standard_normal((512, 3 * 7 * 7))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        a, b = (np.sort(x @ directions.T, axis=0) for x in sets)
        distances[side] = swd.sliced_wasserstein(*cut, seed=0)
        assert distances[side] == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert min(distances.values()) > 0.001


def test_flat_images_have_a_distance_of_zero_and_sizes_must_agree():
    flat = swd.normalised(torch.full((4, 3, 7, 7), 9.1))
    assert swd.sliced_wasserstein(flat, flat, seed=0) == 0
    with pytest.raises(ValueError, match="the same number of patches on both sides: 4, 3"):
        swd.sliced_wasserstein(flat, flat[:3], seed=0)
