"""Checkpoints: official, Hugging Face's, detectors', our own; and those that are refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylenat.backbones import (
    NAT,
    NATConfig,
    holds_classifier,
    load_classifier,
    save_classifier,
    to_backbone,
    variant,
)
from stylenat.export import load_generator, save_generator
from tests.backbones.golden import FILES, golden_classifier, hugging_face_names
from tests.backbones.test_network import close, tiny_config
from tests.sampling.tiny import tiny_generator

OFFICIAL = {
    "nat_tiny": "nat_tiny.pth",
    "dinat_tiny": "dinat_tiny_in1k_224.pth",
    "dinat_base": "dinat_base_in1k_224.pth",
    "dinat_s_small": "dinat_s_small_in1k_224.pth",
    "nat_mini_padded": "nat_mini.pth",
    "dinat_mini_padded": "dinat_mini_in1k_224.pth",
}


def weights(config: NATConfig, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: x.clone() for name, x in NAT(config).state_dict().items()}


def test_layers_are_the_official_name_of_dinat_s_s_levels():
    assert any(name.startswith("layers.") for name in golden_classifier("dinat_s_small").weights)


@pytest.mark.parametrize("name", FILES)
def test_official_checkpoints_give_the_official_logits(name, tmp_path):
    golden = golden_classifier(name)
    torch.save(golden.weights, tmp_path / OFFICIAL[name])
    network = load_classifier(tmp_path / OFFICIAL[name])
    assert not network.training
    assert network.config == variant(golden.variant)
    with torch.no_grad():
        close(network(golden.images), golden.logits)


def test_the_layers_of_isotropic_networks_are_the_blocks_of_their_level(tmp_path):
    """Their files give no dilations, and their names say which of the two families they are."""
    tensors = weights(variant("dinat_isotropic_small"))
    official = {name.replace("levels.0.blocks.", "layers."): x for name, x in tensors.items()}
    assert "layers.11.attn.rpb" in official
    path = tmp_path / "dinat_isotropic_small_in1k_224.pth"
    torch.save(official, path)
    network = load_classifier(path)
    assert network.config == variant("dinat_isotropic_small")
    assert all(torch.equal(x, tensors[name]) for name, x in network.state_dict().items())
    path.rename(tmp_path / "model.pth")
    with pytest.raises(ValueError, match="nat_isotropic_small, dinat_isotropic_small"):
        load_classifier(tmp_path / "model.pth")


@pytest.mark.parametrize("name", [name for name in FILES if "dinat_s" not in name])
def test_hugging_face_s_checkpoints_give_the_official_logits(name, tmp_path):
    golden = golden_classifier(name)
    model = name.split("_")[0]
    held = hugging_face_names(golden.weights, f"{model}.")
    dilations = [[b.dilation for b in level.blocks] for level in variant(golden.variant).levels]
    config = {"model_type": model, "hidden_size": 512}
    config |= {} if model == "nat" else {"dilations": dilations}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if name == "dinat_base":
        torch.save(held, tmp_path / "pytorch_model.bin")
    else:
        save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    network = load_classifier(tmp_path)
    assert network.config == variant(golden.variant)
    with torch.no_grad():
        close(network(golden.images), golden.logits)


def test_hugging_face_s_names_are_as_many_as_theirs():
    """325 tensors for DiNAT-Mini and 559 for DiNAT-Base, whose 469 hold layer scale."""
    for name, count in (("dinat_mini", 325), ("dinat_base", 559)):
        with torch.device("meta"):
            state = NAT(variant(name)).state_dict()
        assert len(hugging_face_names(state, "dinat.")) == count


def test_labels_come_from_hugging_face_s_configuration(tmp_path):
    state = weights(variant("nat_mini"))
    save_file(hugging_face_names(state, "nat."), tmp_path / "model.safetensors")
    labels = {str(i): f"kind {i}" for i in range(1000)}
    for id2label, expected in (
        (labels, tuple(labels.values())),
        ({str(i): f"LABEL_{i}" for i in range(1000)}, ()),
        ({"0": "cat"}, ()),
    ):
        config = {"model_type": "nat", "id2label": id2label}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert load_classifier(tmp_path).config.labels == expected


# Detectors and segmenters


def _mmcv(state: dict[str, Tensor]) -> dict[str, object]:
    held = {f"backbone.{name}": x for name, x in state.items()}
    return {"meta": {"epoch": 12}, "state_dict": {**held, "neck.convs.0.weight": torch.zeros(3)}}


def _detectron(state: dict[str, Tensor]) -> dict[str, object]:
    held = {f"backbone.{name}": x for name, x in state.items()}
    held["sem_seg_head.pixel_decoder.weight"] = torch.zeros(2)
    return {"model": held, "__author__": "third_party", "matching_heuristics": True}


def _data_parallel(state: dict[str, Tensor]) -> dict[str, object]:
    return {f"module.{name}": x for name, x in state.items()}


def _hugging_face_part(state: dict[str, Tensor]) -> dict[str, object]:
    prefix = "model.pixel_level_module.encoder."
    held = {f"{prefix}{name}": x for name, x in hugging_face_names(state, "").items()}
    return {**held, "model.transformer_module.queries": torch.zeros(2)}


@pytest.mark.parametrize("wrap", [_mmcv, _detectron, _data_parallel, _hugging_face_part])
def test_a_detector_s_backbone_is_taken_with_its_norms(wrap, tmp_path):
    config = variant("dinat_mini_upernet")
    state = weights(config)
    state["norm2.weight"].normal_()
    torch.save(wrap(state), tmp_path / "upernet_dinat_mini.pth")
    network = load_classifier(tmp_path / "upernet_dinat_mini.pth")
    assert network.config == config
    for name, x in network.state_dict().items():
        assert torch.equal(x, state[name]), name


def test_a_classifier_s_backbone_shares_its_tensors_and_has_fresh_norms():
    torch.manual_seed(0)
    classifier = NAT(tiny_config(labels=tuple("abcdefghij"))).double().eval()
    backbone = to_backbone(classifier, [1])
    assert backbone.config.out_levels == (1,)
    assert not backbone.training
    assert backbone.patch_embed.norm.weight is classifier.patch_embed.norm.weight
    assert backbone.norm1.weight.requires_grad
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    found, expected = backbone.features(images), classifier.features(images, [1])
    torch.testing.assert_close(found, expected)
    again = to_backbone(backbone, [0, 1])
    assert again.norm1.weight is backbone.norm1.weight


# Ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_network_comes_back_with_its_configuration(dtype, tmp_path):
    labels = tuple(f"käfer {index}" for index in range(10))
    network = NAT(tiny_config(labels=labels, layer_scale=0.1, drop_path=0.25)).to(dtype)
    save_classifier(network, tmp_path / "own.safetensors")
    found = load_classifier(tmp_path / "own.safetensors")
    assert found.config == network.config
    assert not found.training
    for name, x in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], x), name


def test_a_generator_is_no_classifier_and_a_classifier_no_generator(tmp_path):
    save_classifier(NAT(tiny_config()), tmp_path / "classifier.safetensors")
    save_generator(tiny_generator(), tmp_path / "generator.safetensors")
    with pytest.raises(ValueError, match="the file holds a classifier, not a generator"):
        load_generator(tmp_path / "classifier.safetensors")
    with pytest.raises(ValueError, match="the file holds a generator, not a classifier"):
        load_classifier(tmp_path / "generator.safetensors")
    assert holds_classifier(tmp_path / "classifier.safetensors")
    assert not holds_classifier(tmp_path / "generator.safetensors")


# Names


def test_a_name_that_says_no_variant_is_refused_with_those_that_fit(tmp_path):
    torch.save(weights(variant("dinat_s_tiny")), tmp_path / "best.pth")
    fit = "dinat_s_tiny, dinat_s_tiny_maskrcnn, dinat_s_tiny_cascade, dinat_s_tiny_upernet"
    with pytest.raises(ValueError, match=f"its tensors do not say its dilations.*: {fit}$"):
        load_classifier(tmp_path / "best.pth")
    found = load_classifier(tmp_path / "best.pth", "dinat_s_tiny_upernet")
    assert found.config.levels == variant("dinat_s_tiny_upernet").levels
    assert (found.config.num_classes, found.config.out_levels) == (1000, ())


def test_a_name_goes_before_the_file_s(tmp_path):
    torch.save(weights(variant("nat_mini")), tmp_path / "nat_mini.pth")
    assert load_classifier(tmp_path / "nat_mini.pth").config == variant("nat_mini")
    assert load_classifier(tmp_path / "nat_mini.pth", "dinat_mini").config == variant("dinat_mini")


def test_another_variant_s_tensors_are_refused_by_their_differences(tmp_path):
    torch.save(weights(variant("dinat_mini")), tmp_path / "dinat_mini_in1k_224.pth")
    path = tmp_path / "dinat_mini_in1k_224.pth"
    wrong = r"no dinat_tiny: depths \(3, 4, 6, 5\) instead of \(3, 4, 18, 5\); these names fit"
    with pytest.raises(ValueError, match=wrong):
        load_classifier(path, "dinat_tiny")
    with pytest.raises(ValueError, match="there is no variant 'dinat_huge'; choose from nat_mini"):
        load_classifier(path, "dinat_huge")


def test_a_head_of_other_classes_is_taken_as_it_is(tmp_path):
    state = weights(variant("nat_mini"))
    state |= {"head.weight": torch.zeros(7, 512), "head.bias": torch.arange(7.0)}
    torch.save(state, tmp_path / "nat_mini_flowers.pth")
    network = load_classifier(tmp_path / "nat_mini_flowers.pth")
    assert network(torch.randn(1, 3, 32, 32))[0].tolist() == list(range(7))


def test_sizes_of_its_own_are_read_with_the_dilations_beside_the_file(tmp_path):
    torch.manual_seed(0)
    network = NAT(tiny_config()).eval()
    network.levels[1].blocks[0].attn.rpb = torch.nn.Parameter(torch.randn(4, 5, 5))
    state = network.state_dict()
    save_file(hugging_face_names(state, "dinat."), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"dilations": [[1, 2], [3]]}))
    levels = load_classifier(tmp_path).config.levels
    assert [[b.dilation for b in level.blocks] for level in levels] == [[1, 2], [3]]
    for dilations, sentence in (
        ([[1], [3]], r"dilations for \[1, 1\] blocks, and its tensors make \[2, 1\]"),
        ("all", "are no lists: 'all'"),
        ([[1, 0], [3]], "dilation must be at least 1, got 0"),
        ([[1, "x"], [3]], "dilation must be a whole number: 'x'"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"dilations": dilations}))
        with pytest.raises(ValueError, match=sentence):
            load_classifier(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        load_classifier(tmp_path)


# What is refused


def _without(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def _with(name: str, x: object) -> Callable[[dict[str, object]], object]:
    return lambda state: state.update({name: x})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_without("norm.bias"), "1 missing (norm.bias)"),
        (_without("levels.1.blocks.2.attn.rpb"), "1 missing (levels.1.blocks.2.attn.rpb)"),
        (_without("head.weight"), "1 left over (head.bias)"),
        (_with("extra", torch.zeros(2)), "1 left over (extra)"),
        (_with("norm.bias", torch.zeros(3)), "norm.bias [3] instead of [512]"),
        (_with("norm.bias", torch.zeros(512, dtype=torch.int)), "or no numbers (norm.bias)"),
        (_with("norm.bias", torch.zeros(1).expand(512)), "not plain, or no numbers (norm.bias)"),
        (_with("norm.bias", "zeros"), "not plain, or no numbers (norm.bias)"),
        (_with("norm.bias", torch.full((512,), torch.nan)), "are not finite (norm.bias)"),
        (_without("patch_embed.norm.weight"), "patch_embed.norm.weight is missing"),
        (_with("patch_embed.norm.weight", torch.zeros(2, 2)), "has the shape [2, 2]"),
        (_without("levels.0.blocks.0.attn.rpb"), "levels.0.blocks.0.attn.rpb is missing"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_by_the_names(spoil, sentence, tmp_path):
    state = weights(variant("nat_mini"))
    spoil(state)
    path = tmp_path / "nat_mini.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"nat_mini|x\.safetensors") as caught:
        load_classifier(path)
    assert sentence in str(caught.value)
    assert str(caught.value).count(str(path)) == 1


def test_split_attention_that_lacks_a_third_is_refused(tmp_path):
    held = hugging_face_names(weights(variant("nat_mini")), "nat.")
    del held["nat.encoder.levels.0.layers.1.attention.self.key.weight"]
    torch.save(held, tmp_path / "nat_mini.bin")
    with pytest.raises(ValueError, match=r"1 missing \(levels\.0\.blocks\.1\.attn\.qkv\.weight\)"):
        load_classifier(tmp_path / "nat_mini.bin")


class Print:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return print, ("run",)


def test_other_files_are_refused_in_one_sentence(tmp_path, capsys):
    def refused(content: object, name: str = "nat_mini.pth") -> str:
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=r"nat_mini|x\.safetensors") as caught:
            load_classifier(tmp_path / name)
        return str(caught.value)

    assert "it holds no NAT, DiNAT or DiNAT_s" in refused({"g_ema": {"a": torch.zeros(2)}})
    assert "it holds no NAT" in refused([1, 2])
    assert "levels.0.blocks.0 is missing" in refused({"patch_embed.norm.weight": torch.ones(4)})
    assert "loading it would call builtins.print" in refused({"patch_embed.x": Print()})
    assert "is not a PyTorch checkpoint in zip format" in refused(b"\x80\x02nothing")
    assert "is empty" in refused(b"")
    assert "is damaged, or no safetensors file" in refused(b"{}", "x.safetensors")
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"a folder without model\.safetensors and pytorch_model"):
        load_classifier(tmp_path)


def test_a_name_for_a_file_that_knows_its_own_is_refused(tmp_path):
    save_classifier(NAT(tiny_config()), tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="holds its own configuration: leave out the name nat_m"):
        load_classifier(tmp_path / "own.safetensors", "nat_mini")


def test_only_files_of_this_family_are_taken_for_classifiers(tmp_path):
    state = weights(tiny_config())
    held = hugging_face_names(state, "dinat.")
    torch.save(state, tmp_path / "a.pth")
    torch.save(_mmcv(state), tmp_path / "b.pth")
    save_file(held, tmp_path / "c.safetensors")
    torch.save({"g_ema": {"input.input": torch.zeros(2)}}, tmp_path / "d.pt")
    (tmp_path / "e.pth").write_bytes(os.urandom(100))
    found = {path.name for path in Path(tmp_path).iterdir() if holds_classifier(path)}
    assert found == {"a.pth", "b.pth", "c.safetensors"}
    assert not holds_classifier(tmp_path / "absent.pth")
