"""Feature networks and resizing: what clean-fid and pytorch-fid compute, from the same weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.data import open_images, read_batches
from stylenat.metrics.features import FeatureNetwork
from stylenat.weights import find_weights
from tests.metrics.standin import their_inception

CPU = torch.device("cpu")


def pixels(folder):
    """The first four images at most."""
    source = open_images(str(folder))
    return next(read_batches(source, range(min(4, len(source))), batch=4, workers=0))


def save_noise(folder, count, side):
    """PNG files with detail in every pixel."""
    folder.mkdir()
    for index in range(count):
        noise = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


def ours(mode, weights, folder):
    network = FeatureNetwork(mode, find_weights(mode, weights, trust=True), CPU)
    return network(pixels(folder)).numpy()


def assert_equal(found, expected):
    """float32 networks may add in another order: 1e-5 of the largest feature."""
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error < 1e-5, f"{error} of the largest feature"
    assert found.std(axis=0).max() > 1e-3 * np.abs(expected).max()  # images are told apart


@pytest.mark.parametrize("side", [64, 400])  # scaled up, and down, where antialiasing would show
def test_legacy_pytorch_features_are_clean_fid_s_and_pytorch_fid_s(inception, tmp_path, side):
    import cleanfid.fid
    import pytorch_fid.fid_score
    from cleanfid.features import build_feature_extractor
    from pytorch_fid.inception import InceptionV3

    folder = save_noise(tmp_path / "images", 2, side)
    found = ours("legacy_pytorch", inception, folder)
    files = sorted(str(path) for path in folder.iterdir())
    with their_inception(inception):
        model = build_feature_extractor("legacy_pytorch", CPU, use_dataparallel=False)
        settings = {"num_workers": 0, "device": CPU, "mode": "legacy_pytorch", "verbose": False}
        clean = cleanfid.fid.get_files_features(files, model, **settings)
        network = InceptionV3([3])
        old = pytorch_fid.fid_score.get_activations(files, network, batch_size=2, num_workers=0)
    assert_equal(found, clean)
    assert_equal(found, old)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_torchscript_features_are_clean_fid_s(torchscript, folders, mode):
    from cleanfid.fid import get_files_features
    from cleanfid.inception_torchscript import InceptionV3W

    inside = mode == "legacy_tensorflow"
    model = InceptionV3W(str(torchscript.parent), download=False, resize_inside=inside)
    files = sorted(str(path) for path in folders[0].iterdir())[:4]
    expected = get_files_features(files, model, num_workers=0, device=CPU, mode=mode, verbose=False)
    assert_equal(ours(mode, torchscript, folders[0]), expected)


def test_features_do_not_depend_on_the_batch_nor_on_autocast(small, folders):
    network = FeatureNetwork("clean", find_weights("clean", small, trust=True), CPU)
    images = pixels(folders[0])
    alone = torch.cat([network(image) for image in images.split(1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = network(images)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not together.requires_grad


@pytest.fixture
def tf32():
    """The backends' switches, set to TF32 for this test."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32"
    yield backends
    for backend, precision in zip(backends, before, strict=True):
        backend.fp32_precision = precision


def test_tf32_is_off_inside_and_as_it_was_outside(small, monkeypatch, tf32):
    network = FeatureNetwork("clean", find_weights("clean", small, trust=True), CPU)
    seen = []

    def features(images):
        seen.extend(backend.fp32_precision for backend in tf32)
        return images.float()

    monkeypatch.setattr(network, "network", features)
    network(torch.zeros(2, 4, 4, 3, dtype=torch.uint8))
    assert seen == ["ieee", "ieee"]
    assert [backend.fp32_precision for backend in tf32] == ["tf32", "tf32"]


def save_program(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("mode", "make", "sentence"),
    [
        ("legacy_pytorch", lambda p: p.write_bytes(b"none"), "is no state dict of pytorch-fid's"),
        ("legacy_pytorch", lambda p: torch.save({"a": torch.ones(1)}, p), "is no state dict"),
        ("legacy_pytorch", save_program, "is no state dict"),
        ("clean", lambda p: p.write_bytes(b"none"), "is no TorchScript network"),
        ("clean", save_program, "is no feature network"),
    ],
)
def test_file_of_another_kind_is_one_sentence_with_its_name(tmp_path, mode, make, sentence):
    path = tmp_path / "weights"
    make(path)
    with pytest.raises(ValueError, match=sentence) as refusal:
        FeatureNetwork(mode, find_weights(mode, path, trust=True), CPU)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_pickled_code_in_a_state_dict_is_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(1, 1), path)  # a pickled class, not tensors
    with pytest.raises(ValueError, match="is no state dict"):
        FeatureNetwork("legacy_pytorch", find_weights("legacy_pytorch", path), CPU)
