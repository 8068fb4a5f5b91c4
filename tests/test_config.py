"""Configuration files: what loads, what is refused in which words, and the ones that we ship."""

import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ops.neighborhood import HeadGroup, backend_names
from stylenat.config import (
    ModelConfig,
    RunConfig,
    from_dict,
    load_config,
    save_config,
    to_dict,
)
from stylenat.files import replacing
from stylenat.models import (
    IMAGENET,
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

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
FACES = CONFIGS / "faces32.yaml"

TINY = RunConfig(
    ModelConfig(
        GeneratorConfig(
            (
                LevelConfig(4, 8, 2, "global"),
                LevelConfig(8, 8, 2, Windows(4)),
                LevelConfig(16, 12, 3, (HeadGroup(1, 7), HeadGroup(2, 5, 3)), blocks=1),
            ),
            qk_scale=0.25,
        ),
        DiscriminatorConfig((DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 4))),
    )
)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The one sentence that refuses a file, without the file's name."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        load_config(path, overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence.removeprefix(f"{path}: ")


def blamed(*overrides: str, on: Path = FACES) -> tuple[str, str]:
    """What the sentence that refuses overrides names, and what it says."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the callers look at all of it)
        load_config(on, overrides)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    for named in (f"{overrides[-1]} on top of {on}", overrides[-1], str(on)):
        if sentence.startswith(f"{named}: "):
            return named, sentence.removeprefix(f"{named}: ")
    return "", sentence


# The files that we ship


def count_on_meta(config: RunConfig) -> tuple[int, int]:
    with torch.device("meta"):
        networks = Generator(config.model.generator), Discriminator(config.model.discriminator)
    G, D = (sum(p.numel() for p in network.parameters()) for network in networks)
    return G, D


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ffhq256", (48_921_000, 26_211_585)),
        ("ffhq1024", (49_452_934, 27_736_641)),
        ("church256", (48_922_352, 26_211_585)),
        ("styleswin256", (48_929_512, 26_211_585)),
        ("faces32", (514_157, 400_737)),
        ("faces64", (685_866, 395_377)),
        ("finetune256", (48_921_000, 26_211_585)),
        ("portraits64", (685_866, 395_377)),
    ],
)
def test_shipped_config_makes_networks_of_its_size(name, parameters):
    assert count_on_meta(load_config(CONFIGS / f"{name}.yaml")) == parameters


def test_every_shipped_config_is_in_the_table_above():
    marks = test_shipped_config_makes_networks_of_its_size.pytestmark
    assert sorted(name for name, _ in marks[0].args[1]) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_header_of_a_shipped_config_tells_its_parameters(name):
    path = CONFIGS / f"{name}.yaml"
    header = " ".join(path.read_text().partition("\n\n")[0].replace("\n#", " ").split())
    G, D = count_on_meta(load_config(path))
    assert f"Generator {G / 1e6:.3f} M parameters, discriminator {D / 1e6:.3f} M" in header


@pytest.mark.parametrize("name", ["ffhq256", "ffhq1024"])
def test_ffhq_levels_have_a_plain_group_and_one_that_spans_most_of_the_map(name):
    config = load_config(CONFIGS / f"{name}.yaml").model.generator
    assert config.pixel_space == IMAGENET
    assert config.levels[0].attention == "global"
    for level in config.levels[1:]:
        dilations = [1] if level.resolution == 8 else [1, level.resolution // 8]
        assert level.heads == max(level.channels // 32, 4)
        assert level.attention == deal_heads(level.heads, [7], dilations)


def test_church_levels_have_every_power_of_two_dilation_that_fits():
    path = CONFIGS / "church256.yaml"
    assert "THIS ONE IS OURS" in path.read_text().replace("\n# ", " ")
    for level in load_config(path).model.generator.levels[1:]:
        dilations = [2**i for i in range(8) if 7 * 2**i <= level.resolution]
        assert level.heads == max(level.channels // 32, 8)
        assert level.attention == deal_heads(level.heads, [7], dilations)


def test_styleswin_levels_have_windows_of_8_or_the_whole_map():
    for level in load_config(CONFIGS / "styleswin256.yaml").model.generator.levels:
        assert level.heads == max(level.channels // 32, 4)
        assert level.attention == Windows(min(level.resolution, 8))


# Loading


def test_saved_config_is_readable_and_loads_back_equal(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(TINY, path)
    assert load_config(path) == TINY
    text = path.read_text()
    assert "- {heads: 2, kernel_size: 5, dilation: 3}" in text
    assert "attention: {window_size: 4}" in text
    assert max(map(len, text.splitlines())) <= 100


@st.composite
def attentions(draw, resolution: int, heads: int):
    kinds = ["global", "groups"] + ["windows"] * (heads % 2 == 0)
    kind = draw(st.sampled_from(kinds))
    if kind == "global":
        return "global"
    if kind == "windows":
        return Windows(draw(st.sampled_from([1, 2, 4, resolution])))
    groups, left = [], heads
    while left:
        size = draw(st.integers(1, left))
        kernel = draw(st.sampled_from([k for k in (3, 5, 7, 11) if k <= resolution]))
        groups.append(HeadGroup(size, kernel, draw(st.integers(1, resolution // kernel))))
        left -= size
    return tuple(groups)


@st.composite
def run_configs(draw):
    sides = [4 * 2**i for i in range(draw(st.integers(2, 4)))]
    levels = []
    for side in sides:
        heads = draw(st.integers(1, 4))
        channels = heads * draw(st.sampled_from([8, 12, 32]))
        attention = draw(attentions(side, heads))
        levels.append(LevelConfig(side, channels, heads, attention, draw(st.integers(1, 3))))
    positive = st.floats(1e-6, 1e6)
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    generator = GeneratorConfig(
        tuple(levels),
        z_dim=draw(st.integers(1, 2**63 - 1)),
        style_dim=draw(st.integers(1, 1000)),
        mapping_layers=draw(st.integers(1, 10)),
        mapping_lr_multiplier=draw(positive),
        mlp_ratio=draw(st.floats(0.125, 8)),
        qkv_bias=draw(st.booleans()),
        qk_scale=draw(st.none() | positive),
        pixel_space=PixelSpace(
            mean=draw(st.tuples(numbers, numbers, numbers)),
            std=draw(st.tuples(positive, positive, positive)),
        ),
        attention_backend=draw(st.sampled_from(backend_names())),
        activation_checkpointing=draw(st.booleans()),
    )
    features = draw(st.integers(1, 3))
    widths = [features * draw(st.integers(1, 8)) for _ in sides[:-1]]
    discriminator = DiscriminatorConfig(
        tuple(map(DiscriminatorLevel, sides[:-1], widths)),
        spectral_norm=draw(st.booleans()),
        stddev_group=draw(st.integers(1, 64)),
        stddev_features=features,
    )
    return RunConfig(ModelConfig(generator, discriminator))


@given(config=run_configs())
def test_every_valid_config_survives_yaml_and_plain_data(config, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    save_config(config, path)
    assert load_config(path) == config
    assert from_dict(RunConfig, to_dict(config)) == config


def test_defaults_fill_what_a_file_leaves_out(tmp_path):
    path = write(
        tmp_path,
        "model:\n"
        "  generator: {levels: [{resolution: 4, channels: 8, heads: 2, attention: global},\n"
        "    {resolution: 8, channels: 8, heads: 2, attention: [{heads: 2, kernel_size: 3}]}]}\n"
        "  discriminator: {levels: [{resolution: 4, channels: 8}]}\n",
    )
    generator = load_config(path).model.generator
    assert generator.levels[1] == LevelConfig(8, 8, 2, (HeadGroup(2, 3, 1),), blocks=2)
    assert generator.pixel_space == IMAGENET


def test_integer_counts_as_a_number_and_1e_3_is_one(tmp_path):
    config = load_config(
        FACES, ["model.generator.mlp_ratio=2", "model.generator.mapping_lr_multiplier=1e-3"]
    )
    assert repr(config.model.generator.mlp_ratio) == "2.0"
    assert config.model.generator.mapping_lr_multiplier == 0.001


def test_overrides_set_values_and_list_entries_in_order():
    config = load_config(
        FACES,
        [
            "model.generator.style_dim=100",
            "model.generator.levels[1].channels=48",
            "model.generator.levels[1].attention=global",
            "model.generator.levels[3].attention[1].dilation=2",
            "model.generator.pixel_space.mean[0]=0.25",
            "model.generator.style_dim=256",
        ],
    )
    generator = config.model.generator
    assert generator.style_dim == 256
    assert (generator.levels[1].channels, generator.levels[1].attention) == (48, "global")
    assert generator.levels[3].attention == (HeadGroup(1, 7), HeadGroup(1, 7, 2))
    assert generator.pixel_space.mean == (0.25, 0.5, 0.5)
    unchanged = load_config(FACES).model
    assert config.model.discriminator == unchanged.discriminator
    assert generator.levels[2] == unchanged.generator.levels[2]
    assert generator.z_dim == unchanged.generator.z_dim


def test_override_reaches_a_field_that_the_file_leaves_out():
    overrides = ["model.generator.qk_scale=0.5", "model.discriminator.spectral_norm=false"]
    model = load_config(FACES, overrides).model
    assert model.generator.qk_scale == 0.5
    assert not model.discriminator.spectral_norm


# Text, taken as it stands

ODD_TEXTS = (
    "set #2", "a: b", "[x]", "{x: 1}", "on", "123", "1e3", "x ", " x", "\tx\t", "Null", "~", "NULL",
    "none", "'a'", '"a"', "'", "-", "- a", "?", "!!str a", "&a", "*a", "|", ">", "%", "@", "`",
    "???", "a=b", "0x1F", "0o7", "1_000", "12:30:45", "2001-01-01", ".inf", ".nan", "true",
    "yes", "a\nb",
    "a\r\nb", "a\x85b", "\ufeffa", "a\u2028b", "😀", "e\u0301", "C:\\data", "$HOME", "$(x)", "{}",
    "a" * 300, "word " * 60, os.fsdecode(b"caf\xe9.zip"), os.fsdecode(b"\xff\xfe #"), "\x1b[2J",
)  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_text_is_taken_literally_and_survives_the_config_file(text, tmp_path):
    config = load_config(FACES, [f"data.path={text}", f"metrics.weights={text}"])
    assert (config.data.path, config.metrics.weights) == (text, text)
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "config.yaml").read_bytes().decode("ascii")
    assert load_config(tmp_path / "config.yaml") == config


def test_null_alone_means_that_there_is_none():
    overrides = ["data.path=x", "data.path=null", "metrics.weights=null", "data.resize=null"]
    config = load_config(FACES, overrides)
    assert (config.data.path, config.metrics.weights, config.data.resize) == (None, None, None)
    assert load_config(FACES, ["data.path=./null"]).data.path == "./null"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.path=", "data.path must not be empty"),
        ("metrics.weights=", "metrics.weights must not be empty"),
        ("data.path=a\0b", "data.path must not hold a null character: 'a\\x00b'"),
        ("train.precision=bfloat16 ", "train.precision must be float32 or bfloat16: 'bfloat16 '"),
        ("train.cuda_graphs=true", "train.cuda_graphs must be false without train.compile: true"),
        ("train.wandb=null", "train.wandb must be off or online or offline: 'null'"),
        ("data.resize=[box]", "data.resize must be bilinear or lanczos or box or null: '[box]'"),
        ("model.generator.attention_backend=null", "unknown attention backend 'null'"),
    ],
)
def test_text_without_meaning_is_refused_as_it_was_written(override, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_config(FACES, [override])


def test_entries_of_a_list_of_text_are_taken_literally(tmp_path):
    path = write(tmp_path, FACES.read_text().replace("names: [swd]", "names: [fid, kid]"))
    assert load_config(path, ["metrics.names[1]=swd"]).metrics.names == ("fid", "swd")
    for word in ("on", "123", "null", " fid", "[fid]"):
        with pytest.raises(ValueError, match=re.escape(f"unknown metric '{word}'")):
            load_config(path, [f"metrics.names[0]={word}"])


def test_other_values_stay_yaml():
    config = load_config(
        FACES, ["metrics.names=[fid, 'kid']", "train.batch= 8 ", "data.mirror=off"]
    )
    assert (config.metrics.names, config.train.batch) == (("fid", "kid"), 8)
    assert not config.data.mirror
    assert load_config(FACES, ["data={path: 'on', workers: 1}"]).data.path == "on"


def test_an_empty_path_in_a_file_is_refused(tmp_path):
    path = write(tmp_path, FACES.read_text() + "  weights: ''\n")
    assert refusal(path) == "metrics.weights must not be empty"


# Who is to blame


@pytest.mark.parametrize(
    "override",
    [
        "train.batch=-3",
        "train.seed=-1",
        "data.path=",
        "data.workers=many",
        "metrics.num=1",
        "train.consistency.real_weight=-1",
        "train.sample_grid=[0, 0]",
        "model.generator.style_dim=0",
        "model.generator.attention_backend=fast",
        "model.generator.levels[2].attention[1].kernel_size=4",
        "model.discriminator.stddev_group=0",
        "model.generator.levels=5",
        "train.batch=[1",
        "train.bach=3",
        "metrics.names=[on]",
    ],
)
def test_a_wrong_override_is_named_and_the_file_is_not(override):
    named, sentence = blamed("train.r1_every=4", "model.generator.z_dim=8", override)
    assert named == override
    assert str(FACES) not in sentence


@pytest.mark.parametrize(
    "override",
    [
        "model.generator.levels[2].heads=3",
        "model.generator.levels[2].attention[1].dilation=3",
        "model.generator.levels[2].resolution=64",
        "model.discriminator.levels=[{resolution: 4, channels: 8}]",
        "model.generator.levels[9].heads=2",
        "model.generator.levels[0].attention.window_size=2",
    ],
)
def test_an_override_that_does_not_fit_the_file_is_named_with_it(override):
    assert blamed(override)[0] == f"{override} on top of {FACES}"


def test_a_fault_of_the_file_stays_the_file_s(tmp_path):
    text = FACES.read_text()
    path = write(tmp_path, text.replace("style_dim: 128", "style_dim: 0"))
    assert blamed("train.batch=8", on=path)[0] == str(path)
    assert load_config(path, ["model.generator.style_dim=8"])
    path = write(tmp_path, path.read_text().replace("num: 1000", "num: 0"))
    named, sentence = blamed("model.generator.style_dim=8", on=path)
    assert named == str(path)
    assert sentence.startswith("metrics.num must be ")


def test_an_override_that_a_later_one_mends_is_not_to_blame():
    overrides = ["train.batch=-3", "train.seed=-1", "train.batch=8"]
    with pytest.raises(
        ValueError, match=r"^train\.seed=-1: train\.seed must be at least 0"
    ) as error:
        load_config(FACES, overrides)
    assert "batch" not in str(error.value)


def test_two_overrides_that_do_not_fit_each_other_are_both_named():
    overrides = [f"model.generator.levels[0].{value}" for value in ("channels=48", "heads=7")]
    with pytest.raises(ValueError, match="must divide the channels: 7 against 48") as error:
        load_config(FACES, ["train.batch=8", *overrides])
    assert str(error.value).startswith(" with ".join(overrides))


# Numbers beyond what machines count with


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.seed", 2**63),
        ("data.seed", 2**63),
        ("data.seed", -1),
        ("train.seed", 10**30),
        ("train.batch", 10**30),
        ("train.batch", 10**7),
        ("train.total_kimg", "1e300"),
        ("train.snapshot_every_kimg", "1e300"),
        ("metrics.every_kimg", "1e300"),
        ("metrics.num", 10**12),
        ("train.sample_grid", f"[1, {10**30}]"),
        ("train.sample_grid", f"[-1, -{10**30}]"),
        ("train.keep_snapshots", 2**64),
        ("train.log_every_nimg", 2**64),
        ("data.max_images", 2**64),
        ("data.workers", 10**6),
        ("model.generator.z_dim", 2**64),
        ("model.generator.levels[0].attention", "[{heads: 1, kernel_size: 18446744073709551617}]"),
        ("train.seed", "9" * 5000),
    ],
)
def test_numbers_past_every_use_are_refused_by_name(key, value):
    named, sentence = blamed(f"{key}={value}")
    assert key in (named or sentence)
    assert "must be" in sentence or "too many digits" in sentence


def test_every_seed_of_63_bits_is_one(tmp_path):
    config = load_config(FACES, [f"train.seed={2**63 - 1}", f"data.seed={2**63 - 1}"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


# Keys that do not exist


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("model.generator.styledim", "model.generator.style_dim"),
        ("modle.generator.style_dim", "model.generator.style_dim"),
        ("style_dim", "model.generator.style_dim"),
        ("generator.z_dim", "model.generator.z_dim"),
        ("model.generator.levels[2].chanels", "model.generator.levels[2].channels"),
        ("model.generator.levels[2].style_dim", "model.generator.style_dim"),
        ("model.generator.channels", "model.generator.levels[0].channels"),
        ("model.generator.levels[1].attention[0].kernel", None),
        ("model.discriminator.spectral", "model.discriminator.spectral_norm"),
        ("xyz", None),
    ],
)
def test_override_of_an_unknown_key_is_refused_with_the_nearest(key, right):
    named, sentence = blamed(f"{key}=256")
    assert named == f"{key}=256"
    assert re.fullmatch(rf"unknown key {re.escape(key)}; did you mean \S+\?", sentence)
    if right is not None:
        assert sentence.endswith(f"did you mean {right}?")


def test_unknown_key_in_a_file_is_refused_with_the_nearest(tmp_path):
    text = FACES.read_text()
    path = write(tmp_path, text.replace("style_dim", "styl_dim"))
    assert refusal(path) == (
        "unknown key model.generator.styl_dim; did you mean model.generator.style_dim?"
    )
    path = write(tmp_path, text.replace("dilation: 4", "dilatation: 4"))
    assert refusal(path) == (
        "unknown key model.generator.levels[3].attention[1].dilatation; "
        "did you mean model.generator.levels[3].attention[1].dilation?"
    )
    assert "unknown key 1; " in refusal(write(tmp_path, "1: 2"))


def test_missing_key_is_named(tmp_path):
    path = write(tmp_path, FACES.read_text().replace("resolution: 4, ", "", 1))
    assert refusal(path) == "model.generator.levels[0].resolution is missing"


# Values of another type, or out of range


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.generator.style_dim='256'", "must be an integer: '256'"),
        ("model.generator.style_dim=true", "must be an integer: True"),
        ("model.generator.style_dim=256.0", "must be an integer: 256.0"),
        ("model.generator.style_dim=", "must be an integer: None"),
        ("model.generator.style_dim=[1]", "must be an integer: [1]"),
        ("model.generator.style_dim=!!binary aGk=", "must be an integer: b'hi'"),
        ("model.generator.mlp_ratio=true", "must be a number: True"),
        ("model.generator.mlp_ratio=.inf", "must be a number: inf"),
        ("model.generator.qk_scale=.nan", "must be a number or null: nan"),
        ("model.generator.qkv_bias=1", "must be true or false: 1"),
        ("model.generator.pixel_space.std=[1, 1]", "a list (3 entries, each a number): [1, 1]"),
        ("model.generator.levels=5", "must be a list"),
        ("model.generator.levels[0]=5", "must be a section with the keys resolution, channels"),
        ("model.generator.levels[0].attention=globe", "must be global or "),
        ("model.generator.levels[0].attention=3", "must be global or "),
        (
            "model=null",
            "must be a section with the keys generator, discriminator, classes, class_names: None",
        ),
    ],
)
def test_value_of_another_type_is_refused(override, sentence):
    key = override.partition("=")[0]
    named, said = blamed(override)
    assert named == override
    assert said.startswith(f"{key} must be ")
    assert sentence in said


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.generator.style_dim=0", "model.generator.style_dim must be at least 1: 0"),
        ("model.generator.levels[2].heads=3", "levels[2].heads must divide the channels: 3"),
        ("model.generator.levels[2].attention[1].dilation=3", "levels[2]: kernel_size * dilation"),
        ("model.generator.levels[2].attention[1].kernel_size=4", "levels[2].attention[1].kernel"),
        ("model.generator.levels[2].attention=[]", "model.generator.levels[2].attention must be"),
        ("model.generator.levels[2].attention={window_size: 5}", "levels[2]: windows must divide"),
        ("model.generator.levels[2].resolution=32", "model.generator: each generator level must"),
        ("model.generator.pixel_space.std[2]=0", "pixel_space.std must be three positive"),
        ("model.generator.attention_backend=fast", "unknown attention backend 'fast'"),
        ("model.discriminator.stddev_group=0", "model.discriminator.stddev_group must be at"),
        (
            "model.discriminator.levels=[{resolution: 4, channels: 8}]",
            "model: the generator and the discriminator must have one resolution: 32 against 8",
        ),
    ],
)
def test_rule_of_the_networks_is_passed_on_with_its_key(override, sentence):
    assert sentence in blamed(override)[1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.generator.style_dim", "must read KEY=VALUE"),
        ("=3", "must read KEY=VALUE"),
        ("model..generator=3", "must read KEY=VALUE"),
        ("model.generator.levels.0=3", "must read KEY=VALUE"),
        ("model.generator.levels[4].heads=2", "model.generator.levels has 4 entries, from [0] on"),
        ("model.generator.levels[0].attention.window_size=2", "is no section: 'global'"),
        ("model.generator.levels[0].attention[0].heads=2", "is no list: 'global'"),
        ("model.generator.levels[0].heads=[1", "not YAML"),
        ("model.generator.levels[0].heads=&a [*a]", "aliases"),
    ],
)
def test_override_that_cannot_be_applied_is_refused(override, sentence):
    assert sentence in blamed(override)[1]


# Files that are no configuration


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("# nothing but a comment\n", "the file is empty"),
        ("just a sentence", "must hold keys and values, not str"),
        ("- 1\n- 2\n", "must hold keys and values, not list"),
        ("model: {", "not YAML"),
        ("model:\n\tgenerator: 1\n", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        (b"\xff\xfe\x00\x01", "not UTF-8 text"),
        ("model: 1\nmodel: 2\n", "not YAML that can be used here: "),
        ("model: {generator: {z_dim: 1, z_dim: 2}}", "not YAML that can be used here: "),
        ("model: !!python/object/apply:os.getcwd []", "not YAML"),
        ("model: " + "[" * 1000 + "]" * 1000, "nested too deeply"),
        ("a:\n" + "".join(" " * n + "a:\n" for n in range(1, 200)), "nested too deeply"),
        ("model: " + "{a: " * 400 + "1" + "}" * 400, "nested too deeply"),
        ("#" * 200_000, "over 100,000 characters"),
        ("a: " + "9" * 5000, "has too many digits"),
        ("a: !!int x", "does not fit its tag"),
        ("a: !!bool x", "does not fit its tag"),
        ("a: !!timestamp x", "does not fit its tag"),
        ("a: &a [1]\nb: *a\n", "aliases"),
    ],
)
def test_file_that_is_no_configuration_is_refused(text, sentence, tmp_path):
    assert sentence in refusal(write(tmp_path, text))


def test_billion_laughs_are_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases" in refusal(write(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a ${model.generator.z_dim}", "${x:${y}}"])
def test_nothing_stands_for_something_else(value, tmp_path):
    path = write(tmp_path, f'{FACES.read_text()}  weights: "{value}"\n')
    assert load_config(path).metrics.weights == value
    assert load_config(FACES, [f"data.path={value}"]).data.path == value


@pytest.mark.parametrize("text", ["1e3abc", "1e", "2001-01-01", "<<"])
def test_text_that_begins_like_another_type_stays_text(text, tmp_path):
    path = write(tmp_path, f"{FACES.read_text()}  weights: {text}\n")
    assert load_config(path).metrics.weights == text


def test_numbers_with_exponents_are_numbers(tmp_path):
    for text, number in (("1e-3", 1e-3), ("1.5e3", 1500.0), ("-1e+2", -100.0), ("1_0e1", 100.0)):
        path = write(tmp_path, FACES.read_text().replace("z_dim: 64", f"qk_scale: {text}"))
        if number > 0:
            assert load_config(path).model.generator.qk_scale == number
        else:
            assert "qk_scale must be" in refusal(path)


def test_missing_file_and_folder_are_the_system_s_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(IsADirectoryError):
        load_config(tmp_path)


# Plain data


def test_from_dict_names_keys_below_the_one_given():
    data = to_dict(TINY.model.generator)
    data["levels"][1]["attention"] = {"window_sizes": 4}
    with pytest.raises(ValueError, match=r"unknown key generator\.levels\[1\]\.attention\.window_"):
        from_dict(GeneratorConfig, data, "generator")


# Replacing a file


def test_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_and_interrupt(path)
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def write_half_and_interrupt(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_replaced_link_stays_a_link_and_modes_follow_the_umask(tmp_path):
    target, link, plain = (tmp_path / name for name in ("target", "link", "plain"))
    target.write_text("old")
    link.symlink_to(target)
    plain.write_text("")
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode == plain.stat().st_mode


def test_what_no_key_can_hold_is_refused_by_what_it_is(tmp_path):
    text = FACES.read_text()
    date = write(tmp_path, f"{text}  weights: !!timestamp 2001-01-01\n")
    assert refusal(date).startswith("metrics.weights must be text, a number, true, false, null, ")
    no_text = write(tmp_path, text.replace("z_dim: 64", "attention_backend: !!binary /w=="))
    assert refusal(no_text).startswith("model.generator.attention_backend must be text in UTF-8: ")
    no_section = write(
        tmp_path, f"{text}data: !!binary /w==\n".replace("data:\n  workers: 1\n", "")
    )
    assert refusal(no_section).startswith("data must be a section with the keys path, ")
