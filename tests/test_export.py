"""Models in safetensors files: what comes back, and what is refused."""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stylenat
from ops.neighborhood import HeadGroup
from stylenat.config import to_dict
from stylenat.export import (
    load_discriminator,
    load_generator,
    save_discriminator,
    save_generator,
)
from stylenat.models import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
    Generator,
    GeneratorConfig,
    LevelConfig,
    PixelSpace,
    Windows,
)

CONFIG = GeneratorConfig(
    (
        LevelConfig(4, 8, 2, "global"),
        LevelConfig(8, 12, 3, (HeadGroup(1, 3), HeadGroup(2, 3, 2)), blocks=1),
        LevelConfig(16, 8, 2, Windows(8)),
    ),
    z_dim=6,
    style_dim=10,
    mapping_layers=2,
    qk_scale=0.3,
    pixel_space=PixelSpace((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
)
D_CONFIG = DiscriminatorConfig((DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 4)))


def tiny_generator() -> Generator:
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    generator.store_w_avg()
    return generator


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def rewrite(path: Path, *, drop: str = "", add: dict[str, Any] | None = None, **meta: Any) -> Path:
    """The file again, with other tensors or metadata (a value of None removes the key)."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in list(file.keys()) if name != drop]
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = {**file.metadata(), **meta}
    kept = {key: value for key, value in metadata.items() if value is not None}
    save_file(tensors | (add or {}), path, kept)
    return path


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save_generator(tiny_generator(), path)
    return path


# What comes back


def test_generator_comes_back_with_its_config_its_images_and_its_w_avg(saved):
    state = torch.get_rng_state()
    G, loaded = tiny_generator(), stylenat.load_generator(saved)
    torch.set_rng_state(state)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert loaded.state_dict().keys() == G.state_dict().keys()
    for name, tensor in G.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert int(loaded.w_avg_samples) == 10_000
    z = torch.randn(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded(z, truncation_psi=0.5), G(z, truncation_psi=0.5))
    assert loaded.to_uint8(loaded(z)).shape == (2, 16, 16, 3)


def test_loaded_parameters_can_be_trained_and_outlive_the_file(saved):
    G = load_generator(saved)
    before = G.const.detach().clone()
    saved.write_bytes(bytes(saved.stat().st_size))
    assert torch.equal(G.const, before)
    G(torch.randn(1, 6)).sum().backward()
    assert all(p.grad is not None for p in G.parameters())


def test_loading_leaves_the_random_state_alone(saved):
    state = torch.get_rng_state()
    load_generator(saved)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_comes_back(dtype, tmp_path):
    path = tmp_path / "model.safetensors"
    save_generator(tiny_generator().to(dtype), path)
    loaded = load_generator(path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert loaded.w_avg_samples.dtype == torch.int64
    assert loaded(torch.randn(1, 6, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_discriminator_comes_back_with_its_vectors(spectral_norm, tmp_path):
    D = Discriminator(DiscriminatorConfig(D_CONFIG.levels, spectral_norm=spectral_norm))
    x = torch.randn(4, 3, 16, 16)
    D(x)
    path = tmp_path / "model.safetensors"
    save_discriminator(D, path)
    loaded = load_discriminator(path)
    assert loaded.config == D.config
    with torch.no_grad():
        assert torch.equal(loaded(x), D.eval()(x))


def test_device_is_the_one_asked_for(saved):
    assert load_generator(saved, device="meta").const.is_meta


def test_metadata_tell_kind_version_and_config(saved):
    metadata = metadata_of(saved)
    assert json.loads(metadata.pop("config")) == to_dict(CONFIG)
    assert metadata == {
        "stylenat_format": "1",
        "stylenat_version": stylenat.__version__,
        "kind": "generator",
    }


def test_network_in_another_memory_format_is_saved(tmp_path):
    D = Discriminator(D_CONFIG).eval()
    x = torch.randn(4, 3, 16, 16)
    path = tmp_path / "model.safetensors"
    with torch.no_grad():
        logits = D(x)
        save_discriminator(D.to(memory_format=torch.channels_last), path)
        assert torch.equal(load_discriminator(path)(x), logits)


# Writing


def test_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    def fail(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        save_generator(tiny_generator(), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_folder_that_is_not_there_is_the_system_s_error(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        save_generator(tiny_generator(), tmp_path / "absent" / "model.safetensors")
    with pytest.raises(IsADirectoryError) as a_folder:
        save_generator(tiny_generator(), tmp_path)
    assert missing.value.filename == str(tmp_path / "absent")
    assert a_folder.value.filename == str(tmp_path)


def test_mode_of_the_file_follows_the_umask(saved):
    plain = saved.with_name("plain")
    plain.touch()
    assert saved.stat().st_mode == plain.stat().st_mode


# Reading what is no model


def refusal(path: Path, load: Callable[[Path], Any] = load_generator) -> str:
    with pytest.raises(ValueError, match=path.name) as error:
        load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_file_that_is_no_safetensors_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    for data in (b"", b"text", bytes(100), b"PK\x03\x04" + bytes(1000), b"\xff" * 1000):
        path.write_bytes(data)
        assert "is damaged, or no safetensors file: " in refusal(path)


def test_truncated_file_is_refused_wherever_it_ends(saved):
    data = saved.read_bytes()
    for end in [*range(0, len(data), len(data) // 50), len(data) - 1]:
        saved.write_bytes(data[:end])
        refusal(saved)
    saved.write_bytes(data + b"x")
    refusal(saved)


def test_missing_file_and_folder_are_the_system_s_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        load_generator(tmp_path / "absent.safetensors")
    with pytest.raises(IsADirectoryError):
        load_generator(tmp_path)


@pytest.mark.parametrize("header", [{"shape": [9]}, {"data_offsets": [0, 2**60]}, {"dtype": "F99"}])
def test_header_that_lies_about_a_tensor_is_refused(header, saved):
    data = saved.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries["const"] |= header
    lying = json.dumps(entries).encode()
    saved.write_bytes(len(lying).to_bytes(8, "little") + lying + data[8 + length :])
    assert "is damaged, or no safetensors file: " in refusal(saved)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"stylenat_format": None}, "not a StyleNAT model: the metadata has no stylenat_format"),
        ({"stylenat_format": "2"}, "the file has format 2, and this StyleNAT, "),
        ({"kind": "discriminator"}, "the file holds a discriminator, not a generator"),
        ({"kind": None}, "the file holds a None, not a generator"),
        ({"config": None}, "the config in its metadata is not JSON"),
        ({"config": "{"}, "the config in its metadata is not JSON"),
        ({"config": "[" * 100_000}, "the config in its metadata is not JSON"),
        ({"config": "3"}, "generator must be a section with the keys levels"),
        ({"config": "{}"}, "generator.levels is missing"),
        ({"config": '{"levelz": []}'}, "unknown key generator.levelz; did you mean generator.leve"),
        ({"config": '{"levels": []}'}, "a generator must have at least 1 level"),
        ({"config": '{"levels": {}}'}, "generator.levels must be a list"),
    ],
)
def test_metadata_that_are_not_ours_are_refused(metadata, sentence, saved):
    assert sentence in refusal(rewrite(saved, **metadata))


def test_file_without_metadata_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "not a StyleNAT model" in refusal(path)


def test_discriminator_is_no_generator_and_the_other_way_round(saved):
    assert "holds a generator, not a discriminator" in refusal(saved, load_discriminator)
    save_discriminator(Discriminator(D_CONFIG), saved)
    assert "holds a discriminator, not a generator" in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"mapping_layers": 10**12},
        {"levels": [*to_dict(CONFIG.levels[:1]), {"resolution": 8}]},
        {"style_dim": 10**12, "z_dim": 10**12},
        {"style_dim": 11},
        {"mapping_layers": 3},
    ],
)
def test_config_of_another_network_is_refused_at_once(change, saved):
    start = time.perf_counter()
    refusal(rewrite(saved, config=json.dumps(to_dict(CONFIG) | change)))
    assert time.perf_counter() - start < 60  # seconds: to build it would take hours, and all memory


def test_blocks_beyond_the_tensors_are_refused_before_they_are_built(saved):
    config = to_dict(CONFIG)
    config["levels"][1]["blocks"] = 10**12
    assert "but it holds " in refusal(rewrite(saved, config=json.dumps(config)))


def test_missing_tensor_is_named(saved):
    assert "1 missing (const)" in refusal(rewrite(saved, drop="const"))


@pytest.mark.parametrize(
    ("add", "sentence"),
    [
        ({"extra": torch.zeros(1)}, "1 left over (extra)"),
        (
            {"const": torch.zeros(4, 4, 9)},
            "of another shape (const [4, 4, 9] instead of [4, 4, 8])",
        ),
        (
            {"const": torch.zeros(4, 4, 8).int()},
            "of another type (const torch.int32 instead of torch.float32)",
        ),
        (
            {"w_avg_samples": torch.zeros(())},
            "of another type (w_avg_samples torch.float32 instead of torch.int64)",
        ),
    ],
)
def test_tensor_that_is_not_the_network_s_is_named(add, sentence, saved):
    assert sentence in refusal(rewrite(saved, add=add))


def test_five_names_are_shown_and_the_rest_counted(saved):
    add = {f"extra{i}": torch.zeros(1) for i in range(8)}
    assert "8 left over (extra0, extra1, extra2, extra3, extra4 and 3 more)" in refusal(
        rewrite(saved, add=add)
    )
