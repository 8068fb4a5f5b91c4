"""Published checkpoints, converted exactly, to the last tensor."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from ops.neighborhood import HeadGroup
from stylenat.cli import main
from stylenat.config import ModelConfig, RunConfig, load_config
from stylenat.export import load_discriminator, load_generator
from stylenat.legacy import convert_checkpoint
from stylenat.legacy.tensors import official_sources
from stylenat.models import (
    Discriminator,
    DiscriminatorConfig,
    DiscriminatorLevel,
    Generator,
    GeneratorConfig,
    LevelConfig,
    PixelSpace,
    Windows,
    deal_heads,
)
from tests.golden_values import golden_arrays, golden_json, golden_randn
from tests.official_checkpoints import (
    constant,
    first_format,
    new_format,
    official_discriminator,
    official_generator,
)

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# What the project promises; the networks' own tests hold them to less.
W_TOLERANCE = 1e-4
IMAGE_TOLERANCE = 1e-3
LOGIT_TOLERANCE = 1e-4


def run_convert(*arguments: str | Path) -> str:
    """What `stylenat convert` prints."""
    result = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


# The golden networks, through `stylenat convert`, from files as the published code writes them

# What else each command is given: the released FFHQ files tell no kernels and dilations.
GOLDEN_OPTIONS = {
    "ffhq16": [],
    "ffhq16_legacy": ["--config", CONFIGS / "ffhq256.yaml"],
    "ffhq32": [],
    "church32": [],
    "swin32": [],
}


@pytest.mark.parametrize("name", GOLDEN_OPTIONS)
def test_converted_generator_makes_the_official_images(name, tmp_path):
    case = golden_json("generators")[name]
    size, weights = case["size"], official_generator(name)
    if case["legacy"]:
        checkpoint = first_format(g_ema=weights, size=size, style_dim=512, n_mlp=8, lr_mlp=0.01)
    else:
        checkpoint = new_format(g_ema=weights, size=size, generator_args=case["overrides"])
    official, out = tmp_path / "official.pt", tmp_path / "native.safetensors"
    torch.save(checkpoint, official)
    printed = run_convert(official, out, *GOLDEN_OPTIONS[name])
    assert f"generator, {size}x{size}, {case['num_params'] / 1e6:.3f} M parameters" in printed
    official.unlink()

    G = load_generator(out)
    out.unlink()
    expected = golden_arrays(f"generator_{name}")
    z = golden_randn((2, 512), f"G/{name}/z")
    with torch.no_grad():
        torch.testing.assert_close(G.mapping(z), expected["w"], rtol=0, atol=W_TOLERANCE)
        torch.testing.assert_close(G(z), expected["image"], rtol=0, atol=IMAGE_TOLERANCE)


@pytest.mark.parametrize("name", ["d16", "d32", "d32_nosn"])
def test_converted_discriminator_gives_the_official_logits(name, tmp_path):
    case = golden_json("discriminators")[name]
    weights, logits = official_discriminator(name)
    official, out = tmp_path / "official.pt", tmp_path / "native.safetensors"
    arguments = case["overrides"]
    torch.save(new_format(d=weights, size=case["size"], discriminator_args=arguments), official)
    assert "discriminator" in run_convert(official, out, "--which", "d")
    D = load_discriminator(out)
    x = golden_randn((8, 3, case["size"], case["size"]), f"D/{name}/x")
    with torch.no_grad():
        torch.testing.assert_close(D(x), logits, rtol=0, atol=LOGIT_TOLERANCE)
    for path in (official, out):
        path.unlink()


# Small networks in the official names

TINY = GeneratorConfig(
    (
        LevelConfig(4, 32, 8, "global"),
        LevelConfig(8, 32, 8, deal_heads(8, [7], [1])),
        LevelConfig(16, 32, 8, deal_heads(8, [7], [1, 2])),
    ),
    z_dim=16,
    style_dim=16,
    mapping_layers=3,
    mlp_ratio=2.0,
)
TINY_D = DiscriminatorConfig((DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 4)))
TINY_ARGS = {
    "size": 16,
    "kernels": [[3], [7], [7], [7], [7]],
    "dilations": [[1], [1], [1, 2], [1, 4], [1, 8]],
}


def run_config(generator: GeneratorConfig = TINY) -> RunConfig:
    return RunConfig(ModelConfig(generator, TINY_D))


def official_weights(
    config: GeneratorConfig | DiscriminatorConfig = TINY, *, prefix: str = ""
) -> dict[str, Tensor]:
    """Random tensors by the official names of a network, constants among them."""
    torch.manual_seed(1)
    with torch.device("meta"):
        network = (
            Generator(config) if isinstance(config, GeneratorConfig) else Discriminator(config)
        )
    sources = official_sources(network, {})
    weights = {
        prefix + name: torch.randn(shape)
        for source in sources.values()
        for name, shape in source.shapes.items()
    }
    if isinstance(config, GeneratorConfig):
        for level in range(len(config.levels) - 1):
            weights[f"{prefix}to_rgbs.{level}.upsample.kernel"] = constant("upsample.kernel")
            embedding = f"{prefix}layers.{level}.upsample.sin_pos_embed._float_tensor"
            weights[embedding] = torch.tensor([float("nan")])
    return weights


def save(
    folder: Path, weights: dict[str, Any], args: Any = TINY_ARGS, which: str = "g_ema"
) -> Path:
    path = folder / "official.pt"
    torch.save({"state_dicts": {which: weights}, "args": args}, path)
    return path


def convert(folder: Path, weights: dict[str, Any], args: Any = TINY_ARGS, **options: Any) -> Any:
    return convert_checkpoint(save(folder, weights, args), **options)


def with_level(attention: Any) -> GeneratorConfig:
    """TINY with this attention at 16x16."""
    heads = sum(group.heads for group in attention) if isinstance(attention, tuple) else 8
    *below, last = TINY.levels
    level = LevelConfig(16, last.channels * heads // 8, heads, attention)
    return GeneratorConfig((*below, level), z_dim=16, style_dim=16, mapping_layers=3, mlp_ratio=2.0)


@pytest.mark.parametrize(
    ("heads", "kernels", "dilations", "groups"),
    [
        (16, [7], [1, 2, 1], [(5, 7, 1), (5, 7, 2), (6, 7, 1)]),
        (16, [7], [1, 1, 1, 1, 1, 1, 2], [(2, 7, 1)] * 5 + [(3, 7, 1), (3, 7, 2)]),
        (8, [11], [1], [(8, 11, 1)]),
        (8, [3, 5, 13], [1], [(2, 3, 1), (3, 5, 1), (3, 13, 1)]),
        (8, [3, 5], [4, 2], [(4, 3, 4), (4, 5, 2)]),
    ],
)
def test_heads_are_dealt_to_the_groups_of_the_args(heads, kernels, dilations, groups, tmp_path):
    expected = with_level(tuple(HeadGroup(*group) for group in groups))
    weights = official_weights(expected)
    tables = [
        weights[f"layers.2.blocks.1.attn.rpb.{index}"] for index in range(len(groups))
    ]  # fmt: skip
    args = TINY_ARGS | {"kernels": [[3], [7], kernels], "dilations": [[1], [1], dilations]}
    G = convert(tmp_path, weights, args)
    assert G.config == expected
    attention = G.levels[2].blocks[1].attention
    assert [tuple(table.shape) for table in tables] == [
        (n, 2 * k - 1, 2 * k - 1) for n, k, _ in groups
    ]
    assert all(map(torch.equal, attention.rpb, tables))
    with torch.no_grad():
        assert G(torch.randn(1, 16)).isfinite().all()


def test_every_number_arrives_where_it_belongs(tmp_path):
    weights = official_weights()
    G = convert(tmp_path, weights)
    block, official = G.levels[1].blocks[1], "layers.1.blocks.1"
    assert torch.equal(G.const.permute(2, 0, 1)[None], weights["input.input"])
    assert torch.equal(G.mapping_network.layers[2].weight, weights["style.3.weight"])
    assert torch.equal(block.norm2.style.bias, weights[f"{official}.norm2.style.bias"])
    assert torch.equal(block.attention.qkv.weight, weights[f"{official}.attn.qkv.weight"])
    assert torch.equal(block.mlp.fc2.weight, weights[f"{official}.mlp.fc2.weight"])
    assert torch.equal(G.levels[1].upsample.alpha, weights["layers.1.upsample.alpha"])
    assert torch.equal(
        G.levels[1].upsample.linear.weight, weights["layers.1.upsample.reduction.weight"]
    )
    to_rgb = G.levels[2].to_rgb
    assert torch.equal(to_rgb.bias, weights["to_rgbs.2.bias"].flatten())
    assert torch.equal(to_rgb.linear.bias, weights["to_rgbs.2.conv.bias"])
    assert torch.equal(to_rgb.linear.weight, weights["to_rgbs.2.conv.weight"][..., 0, 0])


def first_format_blocks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, but two tables `rpb0` and `rpb1` in every block above 4x4."""
    old = {}
    for name, tensor in weights.items():
        block, _, leaf = name.partition(".attn.rpb.")
        if leaf and f"{block}.attn.rpb.1" not in weights:
            old[f"{block}.attn.rpb0"], old[f"{block}.attn.rpb1"] = tensor.chunk(2)
        else:
            old[f"{block}.attn.rpb{leaf}" if leaf else name] = tensor
    return old


def test_first_format_gives_the_network_of_the_new_one(tmp_path):
    new = convert(tmp_path, official_weights())
    old = convert(tmp_path, first_format_blocks(official_weights()))
    assert old.config == new.config
    for name, tensor in new.state_dict().items():
        assert torch.equal(old.state_dict()[name], tensor), name


def test_network_has_memory_of_its_own_and_can_be_trained(tmp_path):
    path = save(tmp_path, official_weights())
    state = torch.get_rng_state()
    G = convert_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), state)
    before = G.const.detach().clone()
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(G.const, before)
    assert not G.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in G.parameters())
    assert int(G.w_avg_samples) == 0


# Where the architecture comes from


def test_args_come_before_the_config_and_the_config_before_the_shapes(tmp_path):
    given = GeneratorConfig(
        TINY.levels,
        z_dim=16,
        style_dim=16,
        mapping_layers=3,
        mlp_ratio=2.0,
        mapping_lr_multiplier=0.5,
        qk_scale=0.25,
        pixel_space=PixelSpace((0.5,) * 3, (0.5,) * 3),
    )
    weights = official_weights()
    assert convert(tmp_path, weights, config=run_config(given)).config == given
    args = TINY_ARGS | {"lr_mlp": 0.1, "qk_scale": 0.125}
    config = convert(tmp_path, weights, args, config=run_config(given)).config
    assert (config.mapping_lr_multiplier, config.qk_scale) == (0.1, 0.125)
    assert config.pixel_space == given.pixel_space
    args = TINY_ARGS | {"dilations": [[1], [1], [2, 1]]}
    config = convert(tmp_path, weights, args, config=run_config(given)).config
    assert config.levels[2].attention == deal_heads(8, [7], [2, 1])
    assert convert(tmp_path, weights).config == TINY


@pytest.mark.parametrize("scale", [None, 0, 0.0])
def test_scale_of_none_or_0_is_the_default_even_beside_a_config(scale, tmp_path):
    given = GeneratorConfig(TINY.levels, 16, 16, 3, mlp_ratio=2.0, qk_scale=0.25)
    args = TINY_ARGS | {"qk_scale": scale}
    config = convert(tmp_path, official_weights(), args, config=run_config(given)).config
    assert config.qk_scale is None


@pytest.mark.parametrize("told", [True, False])
def test_projection_without_bias_is_converted_whether_the_args_tell_or_not(told, tmp_path):
    expected = GeneratorConfig(TINY.levels, 16, 16, 3, mlp_ratio=2.0, qkv_bias=False)
    args = TINY_ARGS | ({"qkv_bias": False} if told else {})
    G = convert(tmp_path, official_weights(expected), args)
    assert G.config == expected
    assert G.levels[0].blocks[0].attention.qkv.bias is None


@pytest.mark.parametrize(
    "args",
    [
        {"runs": {"size": 16, "generator": TINY_ARGS}},
        {"size": 16, "generator": TINY_ARGS},
        TINY_ARGS,
        argparse.Namespace(**TINY_ARGS),
        argparse.Namespace(runs=argparse.Namespace(generator=TINY_ARGS)),
        {"G_kernels": TINY_ARGS["kernels"], "G_dilations": TINY_ARGS["dilations"]},
        {"kernels": (3, 7, 7), "dilations": (1, (1,), (1, 2))},
    ],
)
def test_args_are_found_in_sections_flat_or_in_a_namespace(args, tmp_path):
    assert convert(tmp_path, official_weights(), args).config == TINY


@pytest.mark.parametrize("args", [None, {}, {"size": 16}, argparse.Namespace(size=16), [1], "none"])
def test_args_without_dilations_ask_for_a_config(args, tmp_path):
    with pytest.raises(ValueError, match=r"pass the model's config \(--config"):
        convert(tmp_path, official_weights(), args)
    assert convert(tmp_path, official_weights(), args, config=run_config()).config == TINY


def test_checkpoint_without_args_at_all_is_converted_with_a_config(tmp_path):
    path = tmp_path / "official.pt"
    torch.save({"g": official_weights(), "g_optim": {}}, path)
    assert convert_checkpoint(path, which="g", config=run_config()).config == TINY
    with pytest.raises(ValueError, match="holds no g_ema: only g"):
        convert_checkpoint(path, config=run_config())


def test_larger_config_is_cut_to_the_checkpoint_and_a_smaller_one_refused(tmp_path):
    larger = GeneratorConfig(
        (*TINY.levels, LevelConfig(32, 16, 4, deal_heads(4, [7], [1, 4]))), 16, 16, 3, mlp_ratio=2.0
    )
    D = DiscriminatorConfig((*TINY_D.levels, DiscriminatorLevel(16, 4)))
    config = RunConfig(ModelConfig(larger, D))
    assert convert(tmp_path, official_weights(), None, config=config).config == TINY
    with pytest.raises(ValueError, match="config ends at 16x16, the checkpoint has a level 32x32"):
        convert(tmp_path, official_weights(larger), None, config=run_config())


def test_prefix_of_parallel_training_is_dropped(tmp_path):
    assert convert(tmp_path, official_weights(prefix="module.")).config == TINY


def test_channels_and_heads_of_the_args_follow_the_published_table(tmp_path):
    args = TINY_ARGS | {"channel_multiplier": 2, "min_heads": 4}
    with pytest.raises(ValueError, match=r"style\.weight \[64, 16\] instead of \[1024, 16\]"):
        convert(tmp_path, official_weights(), args)
    args = TINY_ARGS | {"min_heads": 4}
    with pytest.raises(ValueError, match=r"attn\.rpb\.0 \[8, 13, 13\] instead of \[4, 13, 13\]"):
        convert(tmp_path, official_weights(), args)


# StyleSwin


SWIN = GeneratorConfig(
    (
        LevelConfig(4, 16, 4, Windows(4)),
        LevelConfig(8, 16, 4, Windows(8)),
        LevelConfig(16, 16, 4, Windows(8)),
        LevelConfig(32, 8, 2, Windows(8)),
    ),
    z_dim=16,
    style_dim=16,
    mapping_layers=2,
)


@pytest.mark.parametrize(
    "args",
    [
        None,
        argparse.Namespace(size=32, style_dim=16, n_mlp=2, lr_mlp=0.01, mlp_ratio=4),
        {"block_type": "SWIN", "enable_full_resolution": 8, "kernels": None},
    ],
)
def test_styleswin_is_known_by_its_names(args, tmp_path):
    G = convert(tmp_path, official_weights(SWIN), args)
    assert G.config == SWIN
    weights = official_weights(SWIN)
    rpb = G.levels[3].blocks[0].attention.rpb
    table = weights["layers.3.blocks.0.attn.1.relative_position_bias_table"]
    # Official: query minus key, row by row, heads last.
    assert rpb[1, 3, 4] == table[(14 - 3) * 15 + (14 - 4), 0]


def test_windows_as_large_as_the_map_up_to_the_full_resolution(tmp_path):
    levels = tuple(
        LevelConfig(
            level.resolution, level.channels, level.heads, Windows(min(level.resolution, 16))
        )
        for level in SWIN.levels[:3]
    )
    expected = GeneratorConfig(levels, z_dim=16, style_dim=16, mapping_layers=2)
    weights = official_weights(expected)
    for args in (None, {"enable_full_resolution": 16}, {"enable_full_resolution": 31}):
        assert convert(tmp_path, weights, args).config == expected
    with pytest.raises(ValueError, match=r"bias_table \[961, 2\] instead of \[225, 2\]"):
        convert(tmp_path, weights, {"enable_full_resolution": 8})


# Discriminators


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_discriminator_is_read_from_its_shapes_or_the_config(spectral_norm, tmp_path):
    expected = DiscriminatorConfig(TINY_D.levels, spectral_norm=spectral_norm)
    path = save(tmp_path, official_weights(expected), None, which="d")
    assert convert_checkpoint(path, which="d").config == expected
    config = RunConfig(ModelConfig(TINY, DiscriminatorConfig(TINY_D.levels, spectral_norm)))
    assert convert_checkpoint(path, which="d", config=config).config == expected
    config = RunConfig(ModelConfig(TINY, DiscriminatorConfig(TINY_D.levels, not spectral_norm)))
    with pytest.raises(ValueError, match=r"missing .* left over"):
        convert_checkpoint(path, which="d", config=config)
    args = argparse.Namespace(D_sn=not spectral_norm)
    with pytest.raises(ValueError, match=r"missing .* left over"):
        convert_checkpoint(save(tmp_path, official_weights(expected), args, which="d"), which="d")


@pytest.mark.parametrize(
    "args", [{"discriminator": {"channel_multiplier": 1}}, {"D_channel_multiplier": 1}]
)
def test_discriminator_s_channels_follow_the_published_table(args, tmp_path):
    path = save(tmp_path, official_weights(TINY_D), args, which="d")
    with pytest.raises(ValueError, match=r"final_conv\.1\.bias \[8\] instead of \[512\]"):
        convert_checkpoint(path, which="d")


# Tensors that are not the network's


def changed(**changes: Any) -> dict[str, Any]:
    """The tiny network's tensors with some replaced, or removed where None; `__` stands for `.`."""
    weights: dict[str, Any] = official_weights()
    for name, tensor in changes.items():
        if tensor is None:
            del weights[name.replace("__", ".")]
        else:
            weights[name.replace("__", ".")] = tensor
    return weights


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (changed(style__3__bias=None), "1 missing (style.3.bias)"),
        (changed(layers__0__extra=torch.zeros(1)), "1 left over (layers.0.extra)"),
        (changed(extra__kernel=torch.zeros(4, 4)), "1 left over (extra.kernel)"),
        (
            changed(input__input=torch.zeros(1, 32, 4, 5)),
            "1 of another shape (input.input [1, 32, 4, 5] instead of [1, 32, 4, 4])",
        ),
        (changed(style__1__bias=torch.zeros(16, dtype=torch.int64)), "(style.1.bias torch.int64)"),
        (changed(style__1__bias=torch.full((16,), float("nan"))), "1 not finite (style.1.bias)"),
        (changed(style__1__bias=torch.full((16,), float("-inf"))), "1 not finite (style.1.bias)"),
        (changed(style__1__bias="text"), "1 no plain tensor (style.1.bias)"),
        (changed(style__1__bias=torch.zeros(16).to_sparse()), "1 no plain tensor (style.1.bias)"),
        (changed(style__1__bias=torch.zeros(1).expand(16)), "1 no plain tensor (style.1.bias)"),
        (
            changed(to_rgbs__0__upsample__kernel=torch.zeros(1).expand(2**40)),
            "1 no plain tensor (to_rgbs.0.upsample.kernel)",
        ),
        (changed(style__1__weight=torch.zeros(1).expand(2**20, 2**20)), "(style.1.weight)"),
        (
            changed(to_rgbs__0__upsample__kernel=torch.ones(4, 4) / 4),
            "1 unlike the published filter (to_rgbs.0.upsample.kernel)",
        ),
        (
            changed(to_rgbs__0__upsample__kernel=torch.ones(2, 2)),
            "1 unlike the published filter (to_rgbs.0.upsample.kernel)",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_tensor_that_is_not_the_network_s_stops_it_and_is_named(weights, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        convert(tmp_path, weights)
    assert "official.pt, g_ema: its tensors do not make the network, 16x16: " in str(error.value)


def test_sides_that_no_tensor_can_have_are_refused(tmp_path):
    vast = changed(style__1__weight=torch.zeros(1).expand(2**40, 2**20))
    with pytest.raises(ValueError, match="g_ema: its tensors do not make a network: "):
        convert(tmp_path, vast)


def test_five_names_are_shown_and_the_rest_counted(tmp_path):
    weights = {name: x for name, x in official_weights().items() if "mlp.fc2" not in name}
    with pytest.raises(ValueError, match=r"^.*: 12 missing \((\S+, ){4}\S+ and 7 more\)$"):
        convert(tmp_path, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(dtype, tmp_path):
    third = torch.full((16,), 1 / 3, dtype=dtype)
    G = convert(tmp_path, changed(style__1__bias=third))
    assert torch.equal(G.mapping_network.layers[0].bias, third.float())


def test_blanked_filter_is_no_other_filter(tmp_path):
    convert(tmp_path, changed(to_rgbs__0__upsample__kernel=torch.zeros(4, 4)))


def test_filters_of_the_discriminator_are_compared(tmp_path):
    weights = official_weights(TINY_D)
    names = [
        f"{owner}.{leaf}" for owner in ("dwt", "from_rgbs.1.iwt") for leaf in ("ll", "lh", "hh")
    ]
    names += ["convs.0.conv2.0.kernel", "from_rgbs.1.downsample.kernel"]
    filters = {name: constant(name) for name in names}
    convert_checkpoint(save(tmp_path, weights | filters, None, which="d"), which="d")
    for name in ("from_rgbs.1.iwt.lh", "convs.0.conv2.0.kernel"):
        path = save(tmp_path, weights | filters | {name: -filters[name]}, None, which="d")
        with pytest.raises(ValueError, match=rf"1 unlike the published filter \({name}\)"):
            convert_checkpoint(path, which="d")


# Args that make no network


def deep(levels: int) -> list:
    """A list of lists of lists, each shared by its parent's ten entries: 10^levels to print."""
    value: list = [1]
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"size": 32}, "args.size is 32, but its 3 levels make images of 16x16"),
        ({"size": "16"}, "args.size must be an integer from 1 to 65536: '16'"),
        ({"n_mlp": True}, "args.n_mlp must be an integer from 1 to 65536: True"),
        ({"n_mlp": 10**9}, "args.n_mlp must be an integer from 1 to 65536: 1000000000"),
        ({"n_mlp": 55_554}, "its config has 55560 layers, but it holds"),  # minutes to build
        ({"style_dim": deep(40)}, "args.style_dim must be an integer"),
        ({"mlp_ratio": float("nan")}, "args.mlp_ratio must be a finite number"),
        ({"lr_mlp": 0}, "mapping_lr_multiplier must be positive"),
        ({"qkv_bias": 1}, "args.qkv_bias must be true or false: 1"),
        ({"block_type": "transformer"}, "args.block_type must be nat or swin"),
        ({"block_type": ["nat"]}, "args.block_type must be nat or swin"),
        ({"block_type": "swin"}, "left over"),
        ({"min_heads": 5}, "heads must divide the channels: 5 against 32 at level 4x4"),
        ({"kernels": [[3], [7]]}, "args.kernels must hold a list for every level: [[3], [7]]"),
        ({"kernels": 7}, "args.kernels must hold a list for every level: 7"),
        ({"kernels": [[3], [7], ["7"]]}, "args.kernels must hold integers"),
        ({"dilations": deep(40)}, "args.dilations must hold integers"),
        ({"dilations": [[1], [1], []]}, "kernel_sizes and dilations must have one length"),
        ({"dilations": [[1], [1], [1, 3]]}, "must not exceed the feature map: 7 * 3"),
        ({"dilations": [[1], [1], [1] * 9]}, "each head group needs a head: 8 heads for 9"),
        ({"kernels": [[3], [7], [8]]}, "kernel_size must be odd and greater than 1, got 8"),
    ],
)
def test_args_that_make_no_network_are_refused(args, sentence, tmp_path):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        convert(tmp_path, official_weights(), TINY_ARGS | args)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("count", [0, 10, 2000])
def test_number_of_levels_that_was_never_published_is_refused(count, tmp_path):
    weights = {f"layers.{i}.blocks.0.mlp.fc1.weight": torch.zeros(2, 1) for i in range(count)}
    weights |= {"style.1.weight": torch.zeros(2, 2)}
    with pytest.raises(ValueError, match=f"the checkpoint holds {count} levels"):
        convert(tmp_path, weights, None)


def test_unknown_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which must be one of g_ema, g, d: ema"):
        convert_checkpoint(tmp_path / "any.pt", which="ema")


def test_config_of_the_command_applies_overrides(tmp_path):
    config = load_config(CONFIGS / "faces32.yaml").model.generator
    levels = tuple(
        LevelConfig(level.resolution, level.channels, level.heads, level.attention)
        for level in config.levels
    )
    expected = GeneratorConfig(
        levels, 128, 128, 4, mlp_ratio=3.0, pixel_space=config.pixel_space
    )  # fmt: skip
    path = save(tmp_path, official_weights(expected), None)
    out = tmp_path / "native.safetensors"
    run_convert(path, out, "--config", CONFIGS / "faces32.yaml", "model.generator.mlp_ratio=3")
    assert load_generator(out).config == expected
