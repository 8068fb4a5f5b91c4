"""The published variants: parameters, dilations, and the names of their files."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ops.neighborhood import HeadGroup
from stylenat.backbones import NAT, VARIANTS, ImageConfig, LevelConfig, NATConfig, variant
from stylenat.backbones.variants import variant_in

# Parameters with 1000 classes, those of the bias tables among them, entries of the state dict.
COUNTS = {
    "nat_mini": (19_984_174, 25_350, 253),
    "nat_tiny": (27_901_582, 41_574, 409),
    "nat_small": (50_743_297, 62_361, 469),
    "nat_base": (89_769_652, 83_148, 469),
    "dinat_mini": (19_984_174, 25_350, 253),
    "dinat_tiny": (27_901_582, 41_574, 409),
    "dinat_small": (50_719_681, 62_361, 409),
    "dinat_base": (89_769_652, 83_148, 469),
    "dinat_large": (200_943_514, 124_722, 409),
    "dinat_large_384": (200_943_514, 124_722, 409),
    "dinat_large_384_11x11": (201_144_250, 325_458, 409),
    "dinat_large_21k": (232_976_131, 124_722, 409),
    "dinat_large_21k_11x11": (233_176_867, 325_458, 409),
    "dinat_s_tiny": (28_288_354, 23_322, 173),
    "dinat_s_small": (49_606_258, 47_658, 329),
    "dinat_s_base": (87_768_224, 63_544, 329),
    "dinat_s_large": (196_532_476, 95_316, 329),
    "dinat_s_large_384": (196_532_476, 95_316, 329),
    "dinat_s_large_21k": (228_565_093, 95_316, 329),
    # Counted by hand from the description: the paper has 22 M and 86 M (2209.15001, table 6).
    "nat_isotropic_small": (21_999_736, 24_336, 164),
    "nat_isotropic_base": (86_465_800, 48_672, 164),
    "dinat_isotropic_small": (21_999_736, 24_336, 164),
    "dinat_isotropic_base": (86_465_800, 48_672, 164),
}
OF_1000_CLASSES = {
    "dinat_large_21k": 200_943_514,
    "dinat_large_21k_11x11": 201_144_250,
    "dinat_s_large_21k": 196_532_476,
}


def meta(config: NATConfig) -> NAT:
    with torch.device("meta"):
        return NAT(config)


def test_every_classifier_is_counted():
    assert {name for name, config in VARIANTS.items() if config.num_classes} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_variant_has_the_published_parameters(name):
    network = meta(variant(name))
    sizes = {key: x.numel() for key, x in network.state_dict().items()}
    tables = sum(size for key, size in sizes.items() if key.endswith("rpb"))
    assert (sum(sizes.values()), tables, len(sizes)) == COUNTS[name]


@pytest.mark.parametrize("name", OF_1000_CLASSES)
def test_with_1000_classes_the_22k_variants_have_the_published_parameters(name):
    network = meta(replace(variant(name), num_classes=1000))
    assert sum(x.numel() for x in network.parameters()) == OF_1000_CLASSES[name]


# Of each level's blocks, kernel size and drop path. `+`: a pattern that is repeated to the depth.
SETTINGS = {
    "nat_isotropic_base": ("1 " * 12, 7, 0.4),
    "dinat_isotropic_small": ("1 2 " * 6, 7, 0.1),
    "nat_mini": ("1 1 1|1 1 1 1|1 1 1 1 1 1|1 1 1 1 1", 7, 0.2),
    "nat_small_upernet": (f"1 1 1|1 1 1 1|{'1 ' * 18}|1 1 1 1 1", 7, 0.5),
    "dinat_mini": ("1 8 1|1 4 1 4|1 2 1 2 1 2|1 1 1 1 1", 7, 0.2),
    "dinat_large_21k_11x11": (f"1 8 1|1 4 1 4|{'1 2 ' * 9}|1 1 1 1 1", 11, 0.2),
    "dinat_large_384": (f"1 13 1|1 6 1 6|{'1 3 ' * 9}|1 1 1 1 1", 7, 0.35),
    "dinat_large_384_11x11": (f"1 8 1|1 4 1 4|{'1 2 ' * 9}|1 1 1 1 1", 11, 0.35),
    "dinat_mini_maskrcnn": ("1 28 1|1 7 1 14|1 3 1 5 1 7|1 3 1 3 1", 7, 0.2),
    "dinat_large_cascade": (f"1 28 1|1 7 1 14|{'1 3 1 5 1 7 ' * 3}|1 3 1 3 1", 7, 0.6),
    "dinat_tiny_upernet": (f"1 16 1|1 4 1 8|{'1 2 1 3 1 4 ' * 3}|1 2 1 2 1", 7, 0.3),
    "dinat_large_upernet": (
        "1 20 1|1 5 1 10|1 2 1 3 1 4 1 5 1 2 1 3 1 4 1 5 1 5|1 2 1 2 1", 7, 0.3
    ),
    "dinat_large_mask2former": (f"1 14 1|1 4 1 7|{'1 2 1 3 ' * 4}1 3|1 1 1 1 1", 11, 0.3),
    "dinat_large_oneformer": (
        "1 20 1|1 5 1 10|1 2 1 3 1 4 1 5 1 2 1 3 1 4 1 5 1 5|1 2 1 2 1", 11, 0.3
    ),
    "dinat_large_oneformer_1280": (
        "1 28 1|1 7 1 14|1 3 1 5 1 5 1 7 1 3 1 5 1 5 1 7 1 7|1 3 1 3 1", 11, 0.3
    ),
    "dinat_large_oneformer_cityscapes": (
        f"1 18 1|1 5 1 9|{'1 2 1 3 1 4 ' * 3}|1 2 1 2 1", 7, 0.3
    ),
    "dinat_s_tiny": ("1 8|1 4|1 2 1 2 1 2|1 1", 7, 0.2),
    "dinat_s_large_384": (f"1 13|1 6|{'1 3 ' * 9}|1 1", 7, 0.35),
    "dinat_s_tiny_maskrcnn": ("1 28|1 14|1 3 1 5 1 7|1 3", 7, 0.2),
    "dinat_s_base_cascade": (f"1 28|1 14|{'1 3 1 5 1 7 ' * 3}|1 3", 7, 0.6),
    "dinat_s_small_upernet": (f"1 16|1 8|{'1 2 1 3 1 4 ' * 3}|1 2", 7, 0.3),
    "dinat_s_large_upernet": ("1 20|1 10|1 2 1 3 1 4 1 5 1 2 1 3 1 4 1 5 1 5|1 2", 7, 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_variant_has_the_published_dilations(name):
    text, kernel_size, drop_path = SETTINGS[name]
    config = variant(name)
    expected = [[int(number) for number in level.split()] for level in text.split("|")]
    assert [[block.dilation for block in level.blocks] for level in config.levels] == expected
    assert {b.kernel_size for level in config.levels for b in level.blocks} == {kernel_size}
    assert config.drop_path == drop_path
    assert all(level.channels == 32 * level.heads for level in config.levels)


def test_what_is_for_detectors_gives_features_and_what_is_for_384_says_so():
    assert variant("dinat_s_tiny_maskrcnn").out_levels == (0, 1, 2, 3)
    names = set(meta(variant("dinat_mini_upernet")).state_dict())
    assert "norm3.weight" in names
    assert not {"norm.weight", "head.weight"} & names
    at_384 = variant("dinat_large_384").images
    assert (at_384.scaled_side, variant("dinat_large").images.scaled_side) == (384, 256)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dinat_mini", "dinat_mini"),
        ("nat_tiny.pth", "nat_tiny"),
        ("dinat_small_in1k_224.pth", "dinat_small"),
        ("dinat_large_in22k_in1k_224.pth", "dinat_large"),
        ("dinat_large_in22k_in1k_384.pth", "dinat_large_384"),
        ("dinat_large_in22k_in1k_384_11x11.pth", "dinat_large_384_11x11"),
        ("dinat_large_in22k_224.pth", "dinat_large_21k"),
        ("dinat_large_in22k_224_11x11interp.pth", "dinat_large_21k_11x11"),
        ("dinat_s_small_in1k_224.pth", "dinat_s_small"),
        ("dinat_s_large_in1k_384.pth", "dinat_s_large_384"),
        ("dinat_s_large_in22k_224.pth", "dinat_s_large_21k"),
        ("nat_isotropic_base_in1k_224.pth", "nat_isotropic_base"),
        ("dinat_isotropic_small_in1k_224.pth", "dinat_isotropic_small"),
        ("shi-labs/dinat-mini-in1k-224", "dinat_mini"),
        ("shi-labs/nat-base-in1k-224", "nat_base"),
        ("models--shi-labs--dinat-large-11x11-in22k-in1k-384", "dinat_large_384_11x11"),
        ("nat_tiny_cascademaskrcnn.pth", "nat_tiny_cascade"),
        ("cascadedmaskrcnn_dinat_s_base.pth", "dinat_s_base_cascade"),
        ("maskrcnn_dinat_mini_3x.pth", "dinat_mini_maskrcnn"),
        ("upernet_dinat_large.pth", "dinat_large_upernet"),
        ("mask2former_dinat_large_ade20k_panoptic.pth", "dinat_large_mask2former"),
        ("oneformer_cityscapes_dinat_large", "dinat_large_oneformer_cityscapes"),
        ("oneformer_coco_dinat_large", "dinat_large_oneformer"),
        ("1280x1280_250_16_dinat_l_oneformer_ade20k_160k.pth", "dinat_large_oneformer_1280"),
        ("donat_mini", None),
        ("nat_huge", None),
        ("mask2former_dinat_mini", None),
        ("model", None),
    ],
)
def test_a_file_s_name_says_its_variant(text, name):
    assert variant_in(text) == name


def test_an_unknown_variant_is_refused_with_the_names():
    with pytest.raises(ValueError, match="no variant 'dinat_huge'; choose from nat_mini, "):
        variant("dinat_huge")


LEVEL = LevelConfig(16, (HeadGroup(2, 3),))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LevelConfig(16, ()), "a level has 1 to 1000 blocks: 0"),
        (lambda: LevelConfig(16, (HeadGroup(2, 3), HeadGroup(4, 3))), "as many heads: "),
        (lambda: LevelConfig(15, (HeadGroup(2, 3),)), "heads must divide the channels: 2 and 15"),
        (lambda: NATConfig((LEVEL, LEVEL)), r"levels must double in channels, .*\[16, 16\]"),
        (lambda: NATConfig(()), "at least one level"),
        (
            lambda: NATConfig((LEVEL, LEVEL), shell="isotropic"),
            "an isotropic network has one level: 2",
        ),
        (
            lambda: NATConfig((LEVEL,), shell="vit"),
            "shell must be one of nat, swin, isotropic: vit",
        ),
        (lambda: NATConfig((LEVEL,), mlp_ratio=0), "mlp_ratio must leave"),
        (lambda: NATConfig((LEVEL,), drop_path=1), "drop_path must be at least 0 and below 1: 1"),
        (lambda: NATConfig((LEVEL,), num_classes=-1), "num_classes must be at least 0: -1"),
        (lambda: NATConfig((LEVEL,), out_levels=(0,)), "set num_classes to 0, not to 1000"),
        (lambda: NATConfig((LEVEL,), num_classes=0, out_levels=(1,)), "levels, 0 to 0, in order"),
        (lambda: NATConfig((LEVEL,), labels=("cat",)), "1 labels, 1000 classes"),
        (lambda: ImageConfig(size=0), "size must be at least 1: 0"),
        (lambda: ImageConfig(crop_pct=1.5), "crop_pct must be over 0, and 1 at most: 1.5"),
        (lambda: ImageConfig(std=(0, 1, 1)), "std must be positive"),
    ],
)
def test_a_configuration_that_makes_no_network_is_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
