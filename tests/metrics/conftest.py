"""What the tests of the metrics share: stand-in networks, two folders, a cache of their own."""

import pytest

from stylenat import weights
from tests.metrics.standin import images, save_folder, save_inception, save_torchscript


@pytest.fixture(scope="session")
def inception(tmp_path_factory):
    return save_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="session")
def torchscript(tmp_path_factory):
    """2048 features, as clean-fid wants them, under the name that it wants."""
    folder = tmp_path_factory.mktemp("weights")
    return save_torchscript(folder / "inception-2015-12-05.pt", cells=8)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """32 features: a distance takes no time."""
    return save_torchscript(tmp_path_factory.mktemp("weights") / "small.pt", cells=1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Twice 20 PNG files of 64x64."""
    base = tmp_path_factory.mktemp("images")
    return save_folder(base / "a", 20, seed=0), save_folder(base / "b", 20, seed=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The metrics' folder of an empty cache; built operations stay where they are."""
    monkeypatch.setattr(weights, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "metrics"


@pytest.fixture
def data(tmp_path):
    """30 images of the tiny generator's size."""
    return images(save_folder(tmp_path / "data", 30, seed=1, side=16))
