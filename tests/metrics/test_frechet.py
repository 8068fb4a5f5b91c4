"""The Fréchet distance: closed forms, and the code that everybody uses."""

import numpy as np
import pytest
import torch

from stylenat.metrics.frechet import Gaussian, Moments, frechet_distance


def gaussian(features, batch=7):
    moments = Moments(features.shape[1])
    for part in features.split(batch):
        moments.add(part)
    return moments.gaussian()


def correlated(count, dim, *, offset=0.0):
    """float32 features whose means are large beside their deviations, as Inception's are."""
    mix = torch.randn(dim, dim) / dim**0.5
    return 10 + offset + torch.randn(count, dim) @ mix


def test_gaussian_has_numpy_s_mean_and_covariance():
    features = correlated(50, 6)
    found = gaussian(features)
    exact = features.double().numpy()
    np.testing.assert_allclose(found.mean_D, exact.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance_DD, np.cov(exact, rowvar=False), atol=1e-12)


def test_distance_of_diagonal_gaussians_is_the_closed_form():
    a = Gaussian(torch.tensor([0.0, 1.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double()))
    b = Gaussian(torch.tensor([3.0, 1.0]).double(), torch.diag(torch.tensor([1.0, 25.0]).double()))
    assert frechet_distance(a, b) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-14)


def test_distance_to_itself_is_zero_and_never_below():
    same = gaussian(correlated(40, 64))  # of rank 39
    assert 0 <= frechet_distance(same, same) < 1e-9


def test_distance_is_symmetric():
    a, b = gaussian(correlated(30, 20)), gaussian(correlated(25, 20, offset=0.3))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


@pytest.mark.parametrize("theirs", ["clean-fid", "pytorch-fid"])
@pytest.mark.parametrize(("count", "dim"), [(400, 96), (60, 96)])  # of full rank, and not
def test_distance_is_that_of_published_code(theirs, count, dim):
    if theirs == "clean-fid":
        from cleanfid.fid import frechet_distance as published
    else:
        from pytorch_fid.fid_score import calculate_frechet_distance as published
    x, y = correlated(count, dim), correlated(count - 10, dim, offset=0.2)
    statistics = [(f.double().numpy().mean(0), np.cov(f.double().numpy().T)) for f in (x, y)]
    try:
        expected = published(*statistics[0], *statistics[1])
    except TypeError as error:  # scipy 1.18 has no sqrtm(disp=)
        pytest.skip(f"{theirs}'s distance does not run with this scipy: {error}")
    found = frechet_distance(gaussian(x), gaussian(y))
    assert abs(found - expected) < max(1e-6 * expected, 1e-3 * (count < dim)), (found, expected)


def test_too_few_features_and_unlike_ones_are_refused():
    with pytest.raises(ValueError, match="at least 2 images: 1"):
        gaussian(torch.ones(1, 3))
    with pytest.raises(ValueError, match="one dimension: 3 against 4"):
        frechet_distance(gaussian(torch.randn(5, 3)), gaussian(torch.randn(5, 4)))
