"""timm's conventions: creation, features, data configuration, fine-tuning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from stylenat.backbones import NAT, to_backbone, variant
from stylenat.backbones.preparing import normalise, prepare
from tests.backbones.golden import golden_classifier, hugging_face_names
from tests.backbones.test_network import close

timm = pytest.importorskip("timm", reason="timm is not installed: pip install stylenat[timm]")
timm_models = pytest.importorskip("stylenat.backbones.timm_models")


def test_every_classifier_is_registered_and_only_by_its_name():
    assert set(timm_models.CLASSIFIERS) <= set(timm.list_models(module="timm_models"))
    with torch.device("meta"):
        network = timm.create_model("dinat_large_384_11x11")
    assert sum(x.numel() for x in network.parameters()) == 201_144_250


@pytest.mark.parametrize("name", ["dinat_mini_padded", "dinat_s_small"])
def test_a_checkpoint_gives_the_official_logits(name, tmp_path):
    golden = golden_classifier(name)
    torch.save(golden.weights, tmp_path / "official.pth")
    network = timm.create_model(golden.variant, checkpoint_path=str(tmp_path / "official.pth"))
    with torch.no_grad():
        close(network.eval()(golden.images), golden.logits)


def test_hugging_face_s_checkpoint_loads_as_well(tmp_path):
    golden = golden_classifier("nat_mini_padded")
    torch.save(hugging_face_names(golden.weights, "nat."), tmp_path / "model.bin")
    network = timm.create_model("nat_mini", checkpoint_path=str(tmp_path / "model.bin"))
    with torch.no_grad():
        close(network.eval()(golden.images), golden.logits)


@pytest.mark.parametrize("out_indices", [None, (1, 2), (-1,)])
def test_features_only_gives_the_maps_of_a_checkpoint(out_indices, tmp_path):
    torch.manual_seed(0)
    plain = NAT(variant("dinat_mini")).eval()
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    network = timm.create_model(
        "dinat_mini",
        pretrained=False,
        checkpoint_path=str(tmp_path / "a.pth"),
        features_only=True,
        **({} if out_indices is None else {"out_indices": out_indices}),
    ).eval()
    images = torch.randn(1, 3, 70, 64)
    chosen = [i % 4 for i in out_indices or range(4)]
    with torch.no_grad():
        maps = [x.permute(0, 3, 1, 2) for x in plain.maps(images)]
        found = network(images)
    for x, index in zip(found, chosen, strict=True):
        torch.testing.assert_close(x, maps[index])
    assert network.feature_info.channels() == [64 * 2**index for index in chosen]
    assert network.feature_info.reduction() == [4 * 2**index for index in chosen]
    again = timm.create_model("dinat_mini", features_only=True, out_indices=chosen)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(images), found)


def test_a_checkpoint_with_a_tensor_too_many_is_refused(tmp_path):
    state = NAT(variant("nat_mini")).state_dict()
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "a.pth")
    for features_only in (False, True):
        with pytest.raises(RuntimeError, match="extra"):
            timm.create_model(
                "nat_mini", checkpoint_path=str(tmp_path / "a.pth"), features_only=features_only
            )


@pytest.mark.parametrize("name", ["dinat_mini", "dinat_large_384"])
def test_timm_s_transforms_prepare_images_as_we_do(name):
    from timm.data import create_transform, resolve_model_data_config

    with torch.device("meta"):
        network = timm.create_model(name)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 411, 3), np.uint8)
    config = variant(name).images
    ours = np.asarray(prepare(Image.fromarray(pixels), config)).copy()
    expected = normalise(torch.from_numpy(ours)[None], config)[0]
    torch.testing.assert_close(transform(Image.fromarray(pixels)), expected)


def test_another_head_and_rates_are_taken():
    network = timm.create_model("nat_mini", num_classes=7, drop_path_rate=0.1, in_chans=1)
    assert network.levels[3].blocks[4].drop_path == pytest.approx(0.1)
    images = torch.randn(2, 1, 32, 32)
    assert network(images).shape == (2, 7)
    network.reset_classifier(0)
    assert network(images).shape == (2, 512)
    network.reset_classifier(3, global_pool="")
    assert network(images).shape == (2, 1, 1, 3)
    assert network.get_classifier() is network.head
    with pytest.raises(ValueError, match="global_pool must be avg, or empty for none: max"):
        timm.create_model("nat_mini", global_pool="max")


def test_forward_is_features_then_head():
    network = timm.create_model("nat_mini").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = network.forward_features(images)
        logits = network(images)
        torch.testing.assert_close(network.forward_head(features), logits)
        torch.testing.assert_close(NAT.forward(network, images), logits)
        final, maps = network.forward_intermediates(images, indices=2, norm=True)
        torch.testing.assert_close(final, features)
        torch.testing.assert_close(maps[1], features.permute(0, 3, 1, 2))
        assert network.forward_head(features, pre_logits=True).shape == (1, 512)
    assert len(maps) == 2


def test_dropout_before_the_head_acts_in_training_alone():
    network = timm.create_model("nat_mini", drop_rate=0.5, drop_path_rate=0.0)
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_optimisers_find_what_timm_asks_for():
    from timm.optim import create_optimizer_v2

    network = timm.create_model("nat_mini")
    optimizer = create_optimizer_v2(network, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    tables = {id(x) for name, x in network.named_parameters() if name.endswith("rpb")}
    decayed = {id(x) for g in optimizer.param_groups if g["weight_decay"] for x in g["params"]}
    held = {id(x) for group in optimizer.param_groups for x in group["params"]}
    assert tables
    assert not tables & decayed
    assert held == {id(x) for x in network.parameters()}
    scales = sorted({group["lr_scale"] for group in optimizer.param_groups})
    assert len(scales) > 18
    network.set_grad_checkpointing()
    assert network.activation_checkpointing


def test_timm_s_model_is_one_of_ours():
    network = timm.create_model("dinat_s_tiny").eval()
    images = torch.randn(1, 3, 40, 40)
    assert [x.shape[1] for x in to_backbone(network).features(images)] == [96, 192, 384, 768]
