"""FIR resampling and wavelets against a naive filter in NumPy, and as operators."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ops import resample
from ops.resample import blur2d, downsample2d, haar, upsample2d

# Symmetric, longer, and without symmetry: a kernel applied the wrong way round is caught.
KERNELS = [(1, 3, 3, 1), (1, 1), (1, 2, 5, 4, 2, 1), (4, 2, 1, 0.5)]

OPERATIONS = [upsample2d, downsample2d, blur2d, haar]


def random_map(batch: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64)


def filter_naively(
    x: Tensor, kernel: np.ndarray, *, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0)
) -> Tensor:
    """Zero-insert by `up`, pad (before, after), convolve in the true sense, keep every `down`th."""
    batch, channels, height, width = x.shape
    inserted = np.zeros((batch, channels, height * up, width * up))
    inserted[:, :, ::up, ::up] = x.numpy()
    padded = np.pad(inserted, [(0, 0), (0, 0), padding, padding])
    rows, columns = kernel.shape
    out = np.zeros((batch, channels, padded.shape[2] - rows + 1, padded.shape[3] - columns + 1))
    for y in range(out.shape[2]):
        for x_ in range(out.shape[3]):
            window = padded[:, :, y : y + rows, x_ : x_ + columns]
            out[:, :, y, x_] = (window * kernel[::-1, ::-1]).sum(axis=(2, 3))
    return torch.from_numpy(out[:, :, ::down, ::down].copy())


def normalised(kernel: tuple[float, ...]) -> np.ndarray:
    square = np.outer(kernel, kernel)
    return square / square.sum()


@pytest.mark.parametrize("kernel", KERNELS)
def test_upsampling_is_zero_insertion_and_a_filter_of_gain_4(kernel):
    x, half = random_map(2, 3, 3, 5), len(kernel) // 2
    expected = filter_naively(x, 4 * normalised(kernel), up=2, padding=(half, half - 1))
    torch.testing.assert_close(upsample2d(x, kernel=kernel), expected)
    assert expected.shape == (2, 3, 6, 10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_downsampling_is_a_filter_that_keeps_every_second_pixel(kernel):
    x, half = random_map(2, 3, 6, 8), len(kernel) // 2
    expected = filter_naively(x, normalised(kernel), down=2, padding=(half - 1, half - 1))
    torch.testing.assert_close(downsample2d(x, kernel=kernel), expected)
    assert expected.shape == (2, 3, 3, 4)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_blur_filters_the_padded_map(kernel, padding):
    x = random_map(2, 3, 6, 7)
    expected = filter_naively(x, normalised(kernel), padding=(padding, padding))
    torch.testing.assert_close(blur2d(x, kernel=kernel, padding=padding), expected)


def test_default_blur_grows_height_and_width_by_one_pixel():
    assert blur2d(random_map(1, 2, 4, 6)).shape == (1, 2, 5, 7)


def test_default_kernel_is_1_3_3_1():
    x = random_map(1, 1, 4, 6)
    for operation in (upsample2d, downsample2d, blur2d):
        assert torch.equal(operation(x), operation(x, kernel=(1, 3, 3, 1)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_upsampling_is_4_times_the_adjoint_of_downsampling_with_the_kernel_reversed(kernel):
    x, y = random_map(2, 3, 6, 8), random_map(2, 3, 3, 4)
    downsampled = (downsample2d(x, kernel=kernel) * y).sum()
    upsampled = (x * upsample2d(y, kernel=kernel[::-1])).sum() / 4
    torch.testing.assert_close(downsampled, upsampled)


def test_constant_map_stays_constant_away_from_the_edges():
    x = torch.full((1, 1, 8, 12), 3.0, dtype=torch.float64)
    for operation in (upsample2d, downsample2d, blur2d):
        inside = operation(x)[:, :, 2:-2, 2:-2]
        torch.testing.assert_close(inside, torch.full_like(inside, 3.0))


@pytest.mark.parametrize(
    ("band", "vertical", "horizontal"),
    [(0, (1, 1), (1, 1)), (1, (-1, 1), (1, 1)), (2, (1, 1), (-1, 1)), (3, (-1, 1), (-1, 1))],
)
def test_haar_bands_are_ll_lh_hl_hh(band, vertical, horizontal):
    x = random_map(2, 3, 4, 6)
    kernel = np.outer(vertical, horizontal) / 2
    torch.testing.assert_close(
        haar(x)[:, 3 * band : 3 * band + 3], filter_naively(x, kernel, down=2)
    )


def test_haar_keeps_energy():
    x = random_map(2, 3, 4, 6)
    torch.testing.assert_close(haar(x).square().sum(), x.square().sum())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_is_twice_differentiable(operation):
    x = random_map(1, 4, 4, 2).requires_grad_()
    assert gradcheck(operation, (x,))

    # The operations are linear, and a linear function has no second derivative to be wrong about.
    def squared(x: Tensor) -> Tensor:
        return operation(x).square()

    assert gradgradcheck(squared, (x,))


@pytest.mark.parametrize("operation", [upsample2d, downsample2d, blur2d])
def test_a_second_derivative_takes_no_convolution_per_channel(operation):
    """PyTorch's own would compute the gradient of the constant weight, channel by channel."""
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(operation(x).square().sum(), x, create_graph=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gradient.square().sum().backward()
    calls = sum(e.count for e in profile.key_averages() if e.key == "aten::convolution")
    assert 1 <= calls <= 4, calls


@pytest.mark.parametrize("operation", [upsample2d, downsample2d, blur2d])
def test_gradients_under_autocast_are_those_of_plain_convolutions(monkeypatch, operation):
    x, weight = torch.randn(2, 4, 8, 8), torch.randn(1)

    def gradient():
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = operation(leaf)
        (out.float() * weight).square().sum().backward()
        return out, leaf.grad

    ours = gradient()
    monkeypatch.setattr(resample, "is_transformed", lambda: True)  # leave it to PyTorch
    for found, expected in zip(ours, gradient(), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_operation_keeps_the_dtype(operation, dtype):
    x = random_map(1, 4, 4, 2)
    out = operation(x.to(dtype))
    assert out.dtype == dtype
    # At most 16 products a value, each of a magnitude below 4 here.
    rounding = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), operation(x), rtol=0, atol=rounding)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_ignores_the_memory_format(operation):
    x = random_map(2, 4, 4, 6)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(operation(channels_last), operation(x))


@pytest.mark.parametrize("operation", [haar, downsample2d])
@pytest.mark.parametrize("shape", [(1, 3, 5, 4), (1, 3, 4, 5)])
def test_odd_sides_are_refused_by_name(operation, shape):
    with pytest.raises(ValueError, match=f"height and width must be even: {shape[2]}x{shape[3]}"):
        operation(torch.zeros(shape))


@pytest.mark.parametrize("kernel", [(), (1,), (1, 2, 1), (1, -1)])
@pytest.mark.parametrize("operation", [upsample2d, downsample2d, blur2d])
def test_bad_kernel_is_refused(operation, kernel):
    with pytest.raises(ValueError, match="even number of taps"):
        operation(torch.zeros(1, 1, 4, 4), kernel=kernel)


def test_negative_padding_is_refused():
    with pytest.raises(ValueError, match="must not be negative: -1"):
        blur2d(torch.zeros(1, 1, 4, 4), padding=-1)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("x", [torch.zeros(4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.int64)])
def test_map_that_is_not_4d_and_floating_is_refused(operation, x):
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] and floating"):
        operation(x)


def test_operations_leave_their_input_alone():
    x = random_map(1, 4, 4, 2)
    before = x.clone()
    for operation in OPERATIONS:
        operation(x)
    assert torch.equal(x, before)
