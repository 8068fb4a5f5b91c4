"""The generator against the official one's numbers, and by its own rules."""

import copy
import dataclasses
import functools
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.neighborhood import HeadGroup
from ops.resample import upsample2d
from stylenat.models.generator import Generator
from stylenat.models.layers import AdaptiveInstanceNorm, ToRGB, Upsample, sinusoids
from stylenat.models.levels import (
    AttentionKind,
    GeneratorConfig,
    LevelConfig,
    Windows,
    deal_heads,
)
from stylenat.models.pixels import IMAGENET, PixelSpace, from_uint8, to_uint8
from tests.golden_values import (
    PUBLISHED_CHANNELS,
    golden_arrays,
    golden_json,
    golden_randn,
)


def published_config(
    resolution: int, dilations: dict[int, list[int]], *, min_heads: int = 4
) -> GeneratorConfig:
    """The published network up to `resolution`: global attention at 4x4, kernel 7 above."""

    def level(side: int, channels: int) -> LevelConfig:
        heads = max(channels // 32, min_heads)
        groups: AttentionKind = "global" if side == 4 else deal_heads(heads, [7], dilations[side])
        return LevelConfig(side, channels, heads, groups)

    levels = [level(side, c) for side, c in PUBLISHED_CHANNELS.items() if side <= resolution]
    return GeneratorConfig(tuple(levels), attention_backend="reference")


def ffhq_config(resolution: int) -> GeneratorConfig:
    """Two groups from 16x16 up: next neighbours, and a dilation that spans half the map."""
    return published_config(resolution, {8: [1], **{8 << i: [1, 1 << i] for i in range(1, 8)}})


def swin_config(resolution: int) -> GeneratorConfig:
    levels = [
        LevelConfig(side, channels, max(channels // 32, 4), Windows(min(side, 8)))
        for side, channels in PUBLISHED_CHANNELS.items()
        if side <= resolution
    ]
    return GeneratorConfig(tuple(levels))


GOLDEN_CONFIGS = {
    "ffhq16": ffhq_config(16),
    "ffhq32": ffhq_config(32),
    "church32": published_config(32, {8: [1], 16: [1, 2], 32: [1, 2, 3, 4]}, min_heads=8),
    "swin32": swin_config(32),
}

# The official float32 results differ from this network in float64 by up to 3e-6 in w and 6e-5 in an
# image (of values up to 9); another float32 implementation may differ from them by twice that.
W_TOLERANCE = 6e-6
IMAGE_TOLERANCE = 1.2e-4


TINY_LEVELS = (
    LevelConfig(4, 8, 2, "global"),
    LevelConfig(8, 12, 3, (HeadGroup(1, 3, 1), HeadGroup(2, 3, 2)), blocks=1),
    LevelConfig(16, 8, 2, Windows(8), blocks=3),
)


def tiny_config(**settings) -> GeneratorConfig:
    settings = {"style_dim": 6, "z_dim": 5, "mapping_layers": 2, **settings}
    settings = {"levels": TINY_LEVELS, "attention_backend": "reference", **settings}
    return GeneratorConfig(**settings)


def tiny_generator(**settings) -> Generator:
    """A float64 network for 16x16 images whose parameters are all well away from 0."""
    torch.manual_seed(0)
    G = Generator(tiny_config(**settings)).double()
    for name, parameter in G.named_parameters():
        if not name.startswith("mapping_network"):
            nn.init.normal_(parameter, std=0.5)
    return G


def latents(batch: int = 2, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


# The official numbers


def native_name(official: str) -> str:
    name = official.replace("layers.", "levels.").replace("upsample.reduction", "upsample.linear")
    name = re.sub(r"^style\.(\d)", lambda m: f"mapping_network.layers.{int(m[1]) - 1}", name)
    name = re.sub(r"^input\.input$", "const", name)
    name = re.sub(r"\.attn\.", ".attention.", name)
    name = re.sub(r"(blocks\.\d)\.(qkv|proj)", r"\1.attention.\2", name)
    name = re.sub(r"attention\.[01]\.relative_position_bias_table", "attention.rpb", name)
    return re.sub(r"^to_rgbs\.(\d)\.(conv\.)?", to_rgb_name, name)


def to_rgb_name(match: re.Match) -> str:
    return f"levels.{match[1]}.to_rgb." + ("linear." if match[2] else "")


def native_tensor(official: str, tensor: Tensor) -> Tensor:
    if official == "input.input":
        return tensor[0].permute(1, 2, 0)
    if official.startswith("to_rgbs"):
        return tensor.flatten(1) if "conv.weight" in official else tensor.flatten()
    if "relative_position_bias_table" in official:  # [side^2, heads], by query minus key
        side = int(len(tensor) ** 0.5)
        return tensor.T.reshape(-1, side, side).flip(1, 2)
    return tensor


@functools.cache
def golden_case(name: str) -> tuple[Tensor, Tensor]:
    """w and images of the network with the golden weights."""
    tensors: dict[str, Tensor] = {
        "w_avg": torch.zeros(512),
        "w_avg_samples": torch.zeros((), dtype=torch.int64),
    }
    for key, parameter in golden_json("generators")[name]["params"].items():
        official = golden_randn(parameter["shape"], f"G/{name}/{key}", parameter["std"])
        native, tensor = native_name(key), native_tensor(key, official)
        # Double windows: the second table belongs to the second half of the heads.
        tensors[native] = torch.cat([tensors[native], tensor]) if native in tensors else tensor
    with torch.device("meta"):
        G = Generator(GOLDEN_CONFIGS[name])
    G.load_state_dict(tensors, assign=True)
    z = golden_randn((2, 512), f"G/{name}/z")
    with torch.no_grad():
        return G.mapping(z), G(z)


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_w_is_the_official_one(name):
    w, _ = golden_case(name)
    expected = golden_arrays(f"generator_{name}")["w"]
    torch.testing.assert_close(w, expected, rtol=0, atol=W_TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_images_are_the_official_ones(name):
    _, image = golden_case(name)
    expected = golden_arrays(f"generator_{name}")["image"]
    torch.testing.assert_close(image, expected, rtol=0, atol=IMAGE_TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN_CONFIGS)
def test_parameter_count_is_the_official_one(name):
    assert count_on_meta(GOLDEN_CONFIGS[name]) == golden_json("generators")[name]["num_params"]


@pytest.mark.parametrize(("resolution", "parameters"), [(256, 48_921_000), (1024, 49_452_934)])
def test_published_networks_have_their_published_size(resolution, parameters):
    assert count_on_meta(ffhq_config(resolution)) == parameters


def count_on_meta(config: GeneratorConfig) -> int:
    with torch.device("meta"):
        G = Generator(config)
    return sum(parameter.numel() for parameter in G.parameters())


def test_parameter_names_are_those_of_saved_models():
    G = Generator(GeneratorConfig(TINY_LEVELS[:2], mapping_layers=1))
    linear = ["norm1.style", "attention.qkv", "attention.proj", "norm2.style", "mlp.fc1", "mlp.fc2"]
    block = [f"{layer}.{tensor}" for layer in linear for tensor in ("weight", "bias")]
    blocks = {
        "levels.0.blocks.0": ["attention.rpb", *block],
        "levels.0.blocks.1": ["attention.rpb", *block],
        "levels.0.upsample": ["norm.weight", "norm.bias", "linear.weight", "alpha"],
        "levels.0.to_rgb": ["linear.weight", "linear.bias", "bias"],
        "levels.1.blocks.0": ["attention.rpb.0", "attention.rpb.1", *block],
        "levels.1.to_rgb": ["linear.weight", "linear.bias", "bias"],
        "mapping_network.layers.0": ["weight", "bias"],
    }
    names = [f"{module}.{name}" for module, names in blocks.items() for name in names]
    assert sorted(G.state_dict()) == sorted([*names, "const", "w_avg", "w_avg_samples"])


# Synthesis


def test_one_w_serves_all_blocks():
    G, z = tiny_generator(), latents()
    ws = G.mapping(z)[:, None].repeat(1, G.num_ws, 1)
    assert torch.equal(G(z), G.synthesis(ws))


def test_every_block_takes_its_own_w():
    G = tiny_generator()
    seen = []
    for level in G.levels:
        for block in level.blocks:
            block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    ws = torch.randn(2, G.num_ws, 6, dtype=torch.float64)
    G.synthesis(ws)
    assert G.num_ws == 2 + 1 + 3
    assert torch.equal(torch.stack(seen, dim=1), ws)


def test_image_is_the_sum_of_all_colours_scaled_up():
    G = tiny_generator()
    colours = []
    for level in G.levels:
        level.to_rgb.register_forward_hook(lambda _, inputs, output: colours.append(output))
    image = G(latents())
    assert [tuple(rgb.shape) for rgb in colours] == [(2, 3, 8, 8), (2, 3, 16, 16), (2, 3, 16, 16)]
    torch.testing.assert_close(image, upsample2d(colours[0]) + colours[1] + colours[2])


def test_images_of_a_batch_do_not_depend_on_each_other():
    G, z = tiny_generator(), latents(3)
    alone = torch.cat([G(z[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(G(z), alone)


def test_smallest_network_has_one_level():
    config = GeneratorConfig((LevelConfig(4, 2, 1, "global", blocks=1),), z_dim=2)
    assert Generator(config)(torch.randn(1, 2)).shape == (1, 3, 4, 4)


def test_every_parameter_has_a_gradient():
    G = tiny_generator()
    G(latents()).square().mean().backward()
    for name, parameter in G.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_matches_finite_differences():
    G, z = tiny_generator(), latents(1)

    def output(const: Tensor, weight: Tensor) -> Tensor:
        changed = {"const": const, "mapping_network.layers.0.weight": weight}
        return torch.func.functional_call(G, changed, (z,))

    inputs = (G.const, G.mapping_network.layers[0].weight)
    assert torch.autograd.gradcheck(output, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mlp_ratio", 2.0),
        ("qkv_bias", False),
        ("style_dim", 7),
        ("mapping_layers", 3),
        ("z_dim", 4),
    ],
)
def test_settings_change_the_network(setting, value):
    assert count_on_meta(tiny_config(**{setting: value})) != count_on_meta(tiny_config())


def test_qk_scale_changes_the_image():
    assert not torch.allclose(tiny_generator(qk_scale=0.1)(latents()), tiny_generator()(latents()))


# Mapping and truncation


def test_mapping_ignores_the_length_of_z():
    G, z = tiny_generator(), latents()
    torch.testing.assert_close(G.mapping(3 * z), G.mapping(z))


def test_learning_rate_multiplier_scales_what_is_stored_and_not_w():
    torch.manual_seed(0)
    slow = Generator(tiny_config(mapping_lr_multiplier=0.01))
    torch.manual_seed(0)
    fast = Generator(tiny_config(mapping_lr_multiplier=1.0))
    weight = slow.mapping_network.layers[1].weight
    torch.testing.assert_close(weight, 100 * fast.mapping_network.layers[1].weight)
    z = latents().float()
    torch.testing.assert_close(slow.mapping(z), fast.mapping(z))


def with_known_w_avg() -> Generator:
    G = tiny_generator()
    G.w_avg.fill_(0.25)
    G.w_avg_samples.fill_(4)
    return G


def test_psi_0_gives_everyone_the_average_image():
    G = with_known_w_avg()
    image = G(latents(), truncation_psi=0)
    ws = torch.full((1, G.num_ws, 6), 0.25, dtype=torch.float64)
    torch.testing.assert_close(image, G.synthesis(ws).expand(2, -1, -1, -1))


@pytest.mark.parametrize("psi", [0.7, -0.5, 1.5])
def test_truncation_moves_w_towards_the_average(psi):
    G, z = with_known_w_avg(), latents()
    w = 0.25 + psi * (G.mapping(z) - 0.25)
    torch.testing.assert_close(
        G(z, truncation_psi=psi), G.synthesis(w[:, None].repeat(1, G.num_ws, 1))
    )


def test_cutoff_truncates_the_first_ws_alone():
    G, z = with_known_w_avg(), latents()
    ws = G.mapping(z)[:, None].repeat(1, G.num_ws, 1)
    ws[:, :2] = 0.25 + 0.5 * (ws[:, :2] - 0.25)
    torch.testing.assert_close(G(z, truncation_psi=0.5, truncation_cutoff=2), G.synthesis(ws))


def test_cutoff_0_truncates_nothing():
    G, z = with_known_w_avg(), latents()
    assert torch.equal(G(z, truncation_psi=0.5, truncation_cutoff=0), G(z))


def test_psi_1_does_not_read_the_average():
    G, z = with_known_w_avg(), latents()
    expected = G(z)
    G.w_avg.fill_(torch.nan)
    assert torch.equal(G(z, truncation_psi=1), expected)


def test_unknown_average_is_that_of_10000_seeded_latents():
    G, z = tiny_generator(), latents()
    many = torch.randn(10_000, 5, generator=torch.Generator().manual_seed(0)).double()
    w_avg = G.mapping(many).mean(0)
    assert w_avg.abs().max() > 0.05
    w = w_avg + 0.5 * (G.mapping(z) - w_avg)
    torch.testing.assert_close(
        G(z, truncation_psi=0.5), G.synthesis(w[:, None].repeat(1, G.num_ws, 1))
    )


def test_estimated_average_is_the_same_in_every_call():
    G = tiny_generator()
    random_state = torch.get_rng_state()
    first = G.estimate_w_avg()
    assert torch.equal(G.estimate_w_avg(), first)
    assert torch.equal(torch.get_rng_state(), random_state)
    torch.testing.assert_close(G.float().estimate_w_avg(), first.float())


def test_estimating_the_average_keeps_no_graph_and_changes_no_state():
    G = tiny_generator()
    before = copy.deepcopy(G.state_dict())
    assert not G.estimate_w_avg().requires_grad
    G(latents(), truncation_psi=0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in G.state_dict().items())


def test_stored_average_is_the_estimate_and_follows_no_change_of_weights():
    G = tiny_generator()
    G.store_w_avg()
    stored = G.w_avg.clone()
    assert G.w_avg_samples == 10_000
    assert torch.equal(stored, G.estimate_w_avg())
    image = G(latents(), truncation_psi=0)
    G.mapping_network.layers[1].bias.data.add_(100)
    assert torch.equal(G(latents(), truncation_psi=0), image)


class CountedQuestions(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts how often a tensor's value comes to the host."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def questions(G: Generator, calls: int = 2) -> int:
    """How often so many truncated calls ask the device."""
    z = torch.zeros(1, 5, dtype=G.const.dtype)
    with CountedQuestions() as counted, torch.no_grad():
        for _ in range(calls):
            G(z, truncation_psi=0.5)
    return counted.count


def loaded(G: Generator, *, assign: bool) -> Generator:
    with torch.device("meta" if assign else "cpu"):
        other = tiny_generator()
    other.load_state_dict(G.state_dict(), assign=assign)
    return other


def test_a_known_average_is_not_asked_for_again_on_the_device():
    G = tiny_generator()
    G.store_w_avg()
    assert questions(G) == 0
    assert questions(copy.deepcopy(G)) == 0
    assert questions(pickle.loads(pickle.dumps(G))) == 0
    assert questions(G.float()) == 0
    assert questions(with_known_w_avg(), calls=3) == 1


@pytest.mark.parametrize("assign", [False, True])
def test_loading_asks_once_and_heeds_what_was_loaded(assign):
    known, unknown = with_known_w_avg(), tiny_generator()
    assert questions(loaded(known, assign=assign), calls=3) == 1
    image = known(latents(), truncation_psi=0)
    torch.testing.assert_close(loaded(known, assign=assign)(latents(), truncation_psi=0), image)
    known.load_state_dict(unknown.state_dict())  # forgets
    estimated = unknown(latents(), truncation_psi=0)
    torch.testing.assert_close(known(latents(), truncation_psi=0), estimated)
    assert not torch.allclose(estimated, image)


def test_an_average_set_by_hand_is_taken_even_after_an_estimate():
    G = tiny_generator()
    G(latents(), truncation_psi=0.5)
    G.w_avg.fill_(0.25)
    G.w_avg_samples.fill_(4)
    expected = with_known_w_avg()(latents(), truncation_psi=0)
    torch.testing.assert_close(G(latents(), truncation_psi=0), expected)


# Devices, precisions, compilation, checkpointing


def test_everything_runs_on_the_meta_device():
    with torch.device("meta"):
        G = Generator(tiny_config())
        image = G(torch.randn(2, 5), truncation_psi=0.5, truncation_cutoff=1)
        G.store_w_avg()
    assert image.shape == (2, 3, 16, 16)
    assert image.is_meta
    image.sum().backward()
    assert G.to_uint8(image).shape == (2, 16, 16, 3)


def test_model_built_on_meta_and_loaded_is_whole():
    G = tiny_generator()
    with torch.device("meta"):
        loaded = Generator(tiny_config())
    loaded.load_state_dict(G.state_dict(), assign=True)
    assert torch.equal(loaded(latents()), G(latents()))


def test_autocast_keeps_w_and_images_in_float32():
    G, z = tiny_generator().float(), latents().float()
    exact = G(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w, image = G.mapping(z), G(z)
    assert torch.equal(w, G.mapping(z))
    assert image.dtype == torch.float32
    assert 0 < (image - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("dtype", "image_dtype"),
    [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)],
)
def test_network_runs_in_other_precisions(dtype, image_dtype):
    exact = tiny_generator()(latents())
    image = tiny_generator().to(dtype)(latents().to(dtype))
    assert image.dtype == image_dtype
    assert (image - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("index", "backend"), [(0, "reference"), (1, "reference"), (1, "cpu"), (2, "reference")]
)
def test_level_compiles_into_one_graph(index, backend):
    G = tiny_generator(attention_backend=backend).float()
    level, config = G.levels[index], TINY_LEVELS[index]
    side = config.resolution
    x = torch.randn(2, side, side, config.channels)
    ws = torch.randn(2, config.blocks, 6)
    image = torch.randn(2, 3, side, side) if index else None
    try:
        expected = level(x, ws, image)
    except RuntimeError as error:
        if "can't run this call" not in str(error):
            raise
        pytest.skip(str(error))
    torch._dynamo.reset()
    outputs = torch.compile(level, fullgraph=True, backend="aot_eager")(x, ws, image)
    # AdaIN is C++ without the compiler and PyTorch's steps with it: each rounds as it likes.
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-5)
    gradients, expected_gradients = (
        torch.autograd.grad(image_out.square().mean(), level.blocks[0].attention.qkv.weight)
        for _, image_out in (outputs, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


def runs_of_the_first_block(G: Generator) -> list[int]:
    runs = []
    G.levels[0].blocks[0].norm1.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_checkpointing_gives_the_same_gradients_and_runs_blocks_twice():
    plain, saving = tiny_generator(), tiny_generator(activation_checkpointing=True)
    runs = runs_of_the_first_block(saving)
    for G in (plain, saving):
        G.train()(latents()).square().mean().backward()
    assert len(runs) == 2
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_does_nothing_outside_of_training(training):
    G = tiny_generator(activation_checkpointing=True).train(training)
    runs = runs_of_the_first_block(G)
    with torch.set_grad_enabled(not training):
        image = G(latents())
    if not training:
        image.sum().backward()
    assert len(runs) == 1


# Pixels


def test_pixel_space_of_the_config_is_the_one_of_the_images():
    space = PixelSpace((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    image = torch.rand(1, 3, 16, 16) - 0.5
    for chosen, G in ((IMAGENET, tiny_generator()), (space, tiny_generator(pixel_space=space))):
        pixels = G.to_uint8(image)
        assert torch.equal(pixels, to_uint8(image, chosen))
        assert torch.equal(G.from_uint8(pixels), from_uint8(pixels, chosen))


# The layers


def test_adain_normalises_each_channel_and_gamma_has_no_offset():
    norm = AdaptiveInstanceNorm(4, 3).double()
    nn.init.normal_(norm.style.bias)
    x = 5 + torch.randn(2, 6, 5, 4, dtype=torch.float64)
    w = torch.randn(2, 3, dtype=torch.float64)
    gamma, beta = norm.style(w)[:, :, None, None].chunk(2, dim=1)
    normalised = F.instance_norm(x.permute(0, 3, 1, 2), eps=1e-5)
    expected = (gamma * normalised + beta).permute(0, 2, 3, 1)
    torch.testing.assert_close(norm(x, w), expected)


def test_adain_adds_eps_to_the_biased_variance():
    norm = AdaptiveInstanceNorm(1, 1).double()
    norm.load_state_dict({"style.weight": torch.zeros(2, 1), "style.bias": torch.tensor([1.0, 0])})
    x = torch.tensor([0.0, 0.002], dtype=torch.float64).view(1, 1, 2, 1)
    expected = 0.001 / (1e-6 + 1e-5) ** 0.5
    assert norm(x, torch.zeros(1, 1, dtype=torch.float64)).flatten().tolist() == pytest.approx(
        [-expected, expected], rel=1e-12
    )


def test_adain_is_accurate_where_the_mean_dwarfs_the_deviation():
    norm = AdaptiveInstanceNorm(2, 3)
    x, w = 1000 + torch.randn(1, 32, 32, 2), torch.randn(1, 3)
    exact = norm.double()(x.double(), w.double())
    torch.testing.assert_close(norm.float()(x, w).double(), exact, rtol=0, atol=1e-3)


def test_adain_takes_statistics_of_bfloat16_in_float32():
    norm = AdaptiveInstanceNorm(2, 3).bfloat16()
    x, w = (3 + torch.randn(1, 32, 32, 2)).bfloat16(), torch.randn(1, 3).bfloat16()
    gamma, beta = norm.style(w).float()[:, None, None].chunk(2, dim=-1)
    x32 = x.float()
    mean, variance = x32.mean((1, 2), keepdim=True), x32.var((1, 2), correction=0, keepdim=True)
    exact = gamma * (x32 - mean) / (variance + 1e-5).sqrt() + beta
    out = norm(x, w)
    assert out.dtype == torch.bfloat16
    assert ((out.float() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


def test_sinusoids_count_from_1_to_frequency_1_over_10000():
    table = sinusoids(5, 8, torch.device("cpu"))
    frequency = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4])
    for index, position in enumerate(range(1, 6)):
        expected = torch.cat([(position * frequency).sin(), (position * frequency).cos()])
        torch.testing.assert_close(table[index], expected)


def test_embedding_holds_the_column_first_then_the_row():
    upsample = Upsample(3, 8)
    nn.init.zeros_(upsample.linear.weight)
    nn.init.constant_(upsample.alpha, 2)
    embedding = upsample(torch.randn(1, 2, 3, 3))
    assert embedding.shape == (1, 4, 6, 8)
    table = 2 * sinusoids(6, 4, torch.device("cpu"))
    torch.testing.assert_close(embedding[0, 1, 4], torch.cat([table[4], table[1]]))


def test_upsampling_is_bilinear_then_layer_norm_then_linear():
    upsample = Upsample(5, 8)
    for parameter in (*upsample.norm.parameters(), upsample.linear.weight):
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 4, 5)
    # Output pixel centres lie a quarter of a pixel beside the input's; edges repeat.
    rows, columns = (weights_of_bilinear_doubling(n) for n in (3, 4))
    larger = torch.einsum("hi,wj,bijc->bhwc", rows, columns, x)
    torch.testing.assert_close(upsample(x), upsample.linear(upsample.norm(larger)))


def weights_of_bilinear_doubling(length: int) -> Tensor:
    weights = torch.zeros(2 * length, length)
    for i in range(2 * length):
        near, far = i // 2, i // 2 + (1 if i % 2 else -1)
        weights[i, near] += 0.75
        weights[i, min(max(far, 0), length - 1)] += 0.25
    return weights


def test_colours_have_two_biases():
    to_rgb = ToRGB(4)
    nn.init.normal_(to_rgb.linear.bias)
    nn.init.normal_(to_rgb.bias)
    x = torch.randn(2, 3, 5, 4)
    weight = to_rgb.linear.weight[:, :, None, None]
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, to_rgb.linear.bias)
    torch.testing.assert_close(to_rgb(x), expected + to_rgb.bias.view(3, 1, 1))


def test_first_values_are_the_published_ones():
    torch.manual_seed(0)
    config = GeneratorConfig((LevelConfig(4, 256, 8, "global"), LevelConfig(8, 256, 8, Windows(8))))
    G = Generator(config)
    stds = {
        "const": 1,
        "mapping_network.layers.3.weight": 100,
        "levels.0.blocks.1.norm1.style.weight": 1,
        "levels.0.blocks.1.mlp.fc2.weight": 0.02,
        "levels.1.blocks.0.attention.proj.weight": 0.02,
        "levels.1.blocks.0.attention.rpb": 0.02,
        "levels.0.upsample.linear.weight": 0.02,
        "levels.1.to_rgb.linear.weight": 0.02 * (2 / (256 + 3)) ** 0.5,
    }
    parameters = dict(G.named_parameters())
    for name, std in stds.items():
        assert parameters[name].std().item() == pytest.approx(std, rel=0.1), name
    for name, parameter in parameters.items():
        if name.endswith(("bias", "alpha")):
            assert parameter.abs().max() == 0, name
    assert (parameters["levels.0.upsample.norm.weight"] == 1).all()


# Rules


def test_configuration_knows_its_resolution_and_num_ws():
    config = tiny_config()
    G = Generator(config)
    assert (config.resolution, config.num_ws) == (G.resolution, G.num_ws) == (16, 6)
    assert G.z_dim == 5


def test_config_is_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_config().z_dim = 2  # type: ignore[misc]
    assert hash(tiny_config()) == hash(tiny_config())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 0}, "resolution must be at least 1: 0 at level 0x0"),
        ({"channels": 0}, "channels must be at least 1: 0 at level 8x8"),
        ({"heads": -1}, "heads must be at least 1: -1 at level 8x8"),
        ({"blocks": 0}, "blocks must be at least 1: 0 at level 8x8"),
        ({"heads": 3}, "heads must divide the channels: 3 against 8 at level 8x8"),
        ({"attention": Windows(3)}, "windows must divide .* 3 against 8 at level 8x8"),
    ],
)
def test_level_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LevelConfig(
            **{"resolution": 8, "channels": 8, "heads": 2, "attention": "global", **settings}
        )


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ([], "at least 1 level"),
        ([8, 16], "must be 4x4: 8x8"),
        ([4, 16], "double the one before: 16 after 4"),
        ([4, 8, 8], "double the one before: 8 after 8"),
    ],
)
def test_levels_that_do_not_double_from_4x4_are_refused(resolutions, message):
    levels = tuple(LevelConfig(side, 8, 2, "global") for side in resolutions)
    with pytest.raises(ValueError, match=message):
        GeneratorConfig(levels)


@pytest.mark.parametrize("channels", [4, 10])
def test_channels_without_room_for_the_embedding_are_refused(channels):
    levels = (TINY_LEVELS[0], LevelConfig(8, channels, 2, "global"))
    with pytest.raises(ValueError, match=f"multiple of 4 from 8 up, .*: {channels} at level 8x8"):
        GeneratorConfig(levels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"z_dim": 0}, "z_dim must be at least 1: 0"),
        ({"style_dim": -2}, "style_dim must be at least 1: -2"),
        ({"mapping_layers": 0}, "mapping_layers must be at least 1: 0"),
        ({"mapping_lr_multiplier": 0.0}, "mapping_lr_multiplier must be positive: 0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be positive: nan"),
        ({"mlp_ratio": 0.1}, "a hidden channel: 0.1 of 8 channels at level 4x4"),
        ({"qk_scale": -1.0}, "qk_scale must be positive: -1"),
        ({"attention_backend": "cuda"}, "unknown attention backend 'cuda'; choose one of auto"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings)


@pytest.mark.parametrize("shape", [(2, 4), (5,), (2, 1, 5)])
def test_latents_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, z_dim\] = \[B, 5\]"):
        tiny_generator()(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 6), (2, 5, 6), (2, 6, 5)])
def test_ws_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, num_ws, style_dim\] = \[B, 6, 6\]"):
        tiny_generator().synthesis(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation_psi": float("inf")}, "truncation_psi must be finite: inf"),
        ({"truncation_cutoff": 7}, "between 0 and num_ws, 6: 7"),
        ({"truncation_cutoff": -1}, "between 0 and num_ws, 6: -1"),
    ],
)
def test_truncation_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_generator()(latents(), **settings)


def test_settings_are_shown():
    assert "resolution=16, num_ws=6" in repr(tiny_generator())
    assert "eps=1e-05" in repr(AdaptiveInstanceNorm(2, 2))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_forward_mode_and_torch_func_give_the_derivative_of_images(is_frozen):
    """Through global attention, windows and head groups; PyTorch's fused kernels have none."""
    generator = Generator(_all_kinds()).double().eval().requires_grad_(not is_frozen)
    z, direction = torch.randn(2, 2, 8, dtype=torch.float64)
    eps = 1e-5

    def loss(z):
        return generator(z).square().sum()

    with torch.no_grad():
        slope = (loss(z + eps * direction) - loss(z - eps * direction)) / (2 * eps)
    forward = torch.func.jvp(loss, (z,), (direction,))[1]
    torch.testing.assert_close(forward, slope, atol=0, rtol=1e-5)
    torch.testing.assert_close((torch.func.grad(loss)(z) * direction).sum(), forward)
    one_by_one = torch.func.vmap(lambda z: generator(z[None])[0])(z)
    torch.testing.assert_close(one_by_one, generator(z))


def _all_kinds():
    levels = (
        LevelConfig(4, 8, heads=2, attention="global", blocks=1),
        LevelConfig(8, 8, heads=2, attention=Windows(4), blocks=1),
        LevelConfig(16, 8, heads=2, attention=(HeadGroup(1, 3, 1), HeadGroup(1, 3, 2)), blocks=1),
    )
    return GeneratorConfig(levels=levels, z_dim=8, style_dim=8, mapping_layers=1)
