"""Classes in the networks: how labels enter, and what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from stylenat.config import from_dict, to_dict
from stylenat.models import Discriminator, Generator
from stylenat.models.classes import class_index, classes_in_words
from stylenat.models.discriminator import DiscriminatorConfig, DiscriminatorLevel
from stylenat.models.layers import pixel_norm
from stylenat.models.mapping import ClassEmbedding, ClassMapping
from tests.sampling.tiny import CONFIG

LABELS = torch.tensor([0, 2, 1, 2])
CONFIG_G = replace(CONFIG, classes=3)
CONFIG_D = DiscriminatorConfig(
    levels=(DiscriminatorLevel(4, 8), DiscriminatorLevel(8, 8)), classes=3, class_mapping_layers=2
)


def latents(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 8)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16)


@pytest.mark.parametrize("spectral", [False, True])
def test_embedding_has_a_mean_square_of_1(spectral):
    vectors = ClassEmbedding(3, 16, spectral=spectral)(LABELS)
    torch.testing.assert_close(vectors.square().mean(1), torch.ones(4), rtol=0, atol=1e-4)
    assert torch.equal(vectors[1], vectors[3])
    assert not torch.equal(vectors[0], vectors[1])


def test_embedding_is_a_linear_layer_of_the_one_hot_label():
    embedding = ClassEmbedding(3, 16)
    column = embedding.linear.weight[:, 2] / math.sqrt(3)
    torch.testing.assert_close(embedding(torch.tensor([2])), pixel_norm(column[None]))


def test_spectral_norm_bounds_the_embedding_of_a_discriminator_that_has_it():
    for spectral in (True, False):
        D = Discriminator(replace(CONFIG_D, spectral_norm=spectral))
        names = [name for name, _ in D.named_modules() if name.endswith("parametrizations.weight")]
        of_class = "class_mapping.embedding.linear.parametrizations.weight"
        assert (of_class in names) == spectral


def test_w_follows_from_z_and_the_class_side_by_side():
    G, z = Generator(CONFIG_G), latents()
    y = G.mapping_network.class_embedding(LABELS)
    w = torch.cat([pixel_norm(z), y], dim=1)
    for layer in G.mapping_network.layers:
        w = layer(w)
    torch.testing.assert_close(G.mapping(z, LABELS), w)
    assert G.mapping_network.layers[0].in_features == 8 + 8


def test_logit_is_the_projection_on_the_direction_of_the_class():
    D = Discriminator(CONFIG_D).eval()
    kept = {}
    D.class_features.register_forward_hook(lambda _, __, out: kept.update(features=out))
    D.class_mapping.register_forward_hook(lambda _, __, out: kept.update(cmap=out))
    logits = D(images(), LABELS)
    expected = (kept["features"] * kept["cmap"]).sum(1, keepdim=True) / math.sqrt(8)
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (4, 1)


def test_the_class_decides_on_image_and_logit():
    G, D, z, x = Generator(CONFIG_G), Discriminator(CONFIG_D).eval(), latents(), images()
    other = (LABELS + 1) % 3
    assert not torch.allclose(G(z, LABELS), G(z, other))
    assert not torch.allclose(D(x, LABELS), D(x, other))


def test_without_classes_the_networks_are_those_of_before():
    """The same parameters in the same order, and the same random draws."""
    for kind, plain in ((Generator, CONFIG), (Discriminator, replace(CONFIG_D, classes=0))):
        network = kind(plain)
        assert not [name for name in network.state_dict() if "class" in name]
    torch.manual_seed(0)
    D = Discriminator(replace(CONFIG_D, classes=0))
    after = torch.rand(1)
    torch.manual_seed(0)
    Discriminator(DiscriminatorConfig(levels=CONFIG_D.levels))
    assert torch.equal(after, torch.rand(1))
    assert D.logit.weight.shape == (1, 8)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_weight_of_classes_scales_the_embedding_and_the_logit(weight):
    G, D, z, x = Generator(CONFIG_G), Discriminator(CONFIG_D).eval(), latents(), images()
    whole = D(x, LABELS)
    G.mapping_network.class_weight.fill_(weight)
    D.class_weight.fill_(weight)
    torch.testing.assert_close(D(x, LABELS), weight * whole)
    y = weight * G.mapping_network.class_embedding(LABELS)
    w = torch.cat([pixel_norm(z), y], dim=1)
    for layer in G.mapping_network.layers:
        w = layer(w)
    torch.testing.assert_close(G.mapping(z, LABELS), w)


def test_unconditional_logit_is_added():
    D = Discriminator(replace(CONFIG_D, unconditional_logit=True)).eval()
    x = images()
    both = D(x, LABELS)
    D.class_weight.fill_(0)
    alone = D(x, LABELS)
    torch.testing.assert_close(alone, D(x, (LABELS + 1) % 3))
    D.class_weight.fill_(1)
    D.logit.parametrizations.weight.original.data.zero_()
    D.logit.bias.data.zero_()
    assert not torch.allclose(both, D(x, LABELS))


def test_truncation_pulls_towards_the_mean_of_the_class():
    G, z = Generator(CONFIG_G).eval(), latents()
    G.store_w_avg()
    assert G.w_avg.shape == (3, 8)
    many = torch.randn(4000, 8)
    for label in range(3):
        w = G.mapping(many, torch.full((4000,), label))
        error = 5 * w.std() / math.sqrt(4000)
        assert (w.mean(0) - G.w_avg[label]).abs().max() < error
    assert (G.w_avg[0] - G.w_avg[1]).abs().max() > error
    w = G.w_avg[LABELS] + 0.5 * (G.mapping(z, LABELS) - G.w_avg[LABELS])
    expected = G.synthesis(w[:, None].repeat(1, G.num_ws, 1))
    torch.testing.assert_close(G(z, LABELS, truncation_psi=0.5), expected)


def test_mean_of_w_is_of_10000_latents_that_the_classes_share():
    for classes, latents_each in ((2, 5000), (30, 1000)):
        G = Generator(replace(CONFIG, classes=classes))
        G.store_w_avg()
        assert int(G.w_avg_samples) == latents_each


def test_gradient_reaches_the_embeddings_twice():
    """R1 differentiates D's logit twice, through the label's direction too."""
    D, x = Discriminator(CONFIG_D), images().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x, LABELS).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weight = D.class_mapping.embedding.linear.parametrizations.weight.original
    assert weight.grad.abs().max() > 0


def test_compiled_networks_give_the_same():
    G, D, z, x = Generator(CONFIG_G).eval(), Discriminator(CONFIG_D).eval(), latents(), images()
    kinds = {"backend": "aot_eager", "fullgraph": True}
    torch.testing.assert_close(torch.compile(G.mapping, **kinds)(z, LABELS), G.mapping(z, LABELS))
    torch.testing.assert_close(torch.compile(D, **kinds)(x, LABELS), D(x, LABELS))


def test_class_mapping_has_the_layers_asked_for():
    mapping = ClassMapping(3, 8, layers=5, spectral=True)
    cmap = functional.normalize(mapping(LABELS))
    assert len(mapping.layers) == 5
    assert torch.equal(cmap[1], cmap[3])


# What is refused

REFUSED = {
    "none": (None, "this NETWORK has 3 classes: give labels, a whole number from 0 to 2"),
    "floats": (LABELS.float(), r"labels must be int64 [B] = [4]: torch.float32 [4]"),
    "too few": (LABELS[:3], r"labels must be int64 [B] = [4]: torch.int64 [3]"),
    "too large": (LABELS + 1, "labels must be from 0 to 2, the NETWORK's classes: 3"),
    "negative": (LABELS - 1, "labels must be from 0 to 2, the NETWORK's classes: -1"),
    "a list": ([0, 1, 2, 0], "labels must be a torch.Tensor, not list"),
    "device": (LABELS.to("meta"), "labels and the NETWORK must be on one device: meta and cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_fit_are_refused(case):
    labels, sentence = REFUSED[case]
    for network, call in (
        ("generator", lambda: Generator(CONFIG_G)(latents(), labels)),
        ("generator", lambda: Generator(CONFIG_G).mapping(latents(), labels)),
        ("discriminator", lambda: Discriminator(CONFIG_D)(images(), labels)),
    ):
        with pytest.raises(ValueError, match=re.escape(sentence.replace("NETWORK", network))):
            call()


def test_networks_without_classes_take_no_labels():
    D = Discriminator(replace(CONFIG_D, classes=0))
    with pytest.raises(ValueError, match="this discriminator has no classes: call it without"):
        D(images(), LABELS)
    with pytest.raises(ValueError, match="this generator has no classes: call it without labels"):
        Generator(CONFIG)(latents(), LABELS)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"classes": 1}, "classes must be 0 for no classes, or at least 2: 1"),
        ({"classes": -2}, "classes must be 0 for no classes, or at least 2: -2"),
        ({"classes": 2.0}, "classes must be a whole number: 2.0"),
        ({"class_names": ("a",)}, "class_names must hold a name for each of 3 classes, or none: 1"),
        ({"class_names": "abc"}, "class_names must be a list of names, not str"),
        ({"class_names": ("a", "", "c")}, "class_names must hold only names that are not empty"),
        ({"class_names": ("a", "b", "a")}, "class_names must differ from each other: a"),
        ({"classes": 0, "class_names": ("a",)}, "class_names must be empty without classes: a"),
    ],
)
def test_a_generator_refuses_classes_that_make_no_sense(fields, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        replace(CONFIG_G, **fields)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"class_mapping_layers": 0}, "class_mapping_layers must be at least 1: 0"),
        ({"classes": 0, "unconditional_logit": True}, "must be false without classes: true"),
    ],
)
def test_a_discriminator_refuses_classes_that_make_no_sense(fields, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        replace(CONFIG_D, **fields)


def test_configs_with_classes_come_back_from_plain_data():
    named = replace(CONFIG_G, class_names=("a", "b", "ç d"))
    assert from_dict(type(named), to_dict(named)) == named
    assert from_dict(type(CONFIG_D), to_dict(CONFIG_D)) == CONFIG_D


def test_a_class_is_found_by_name_first_then_by_number():
    names = ("cat", "10", "0")
    assert class_index("cat", classes=3, names=names) == 0
    assert class_index("10", classes=3, names=names) == 1
    assert class_index("0", classes=3, names=names) == 2
    assert class_index("1", classes=3, names=names) == 1
    assert class_index("1", classes=3, names=()) == 1
    for wrong in ("3", "dog", "-1", "1.0", "", "²"):
        with pytest.raises(
            ValueError, match=r"^there is no class '.*': this model has the classes"
        ):
            class_index(wrong, classes=3, names=names)


def test_classes_are_listed_with_their_names():
    assert (
        classes_in_words(3, ("a", "b", "c")) == "this model has the classes 0 to 2: 0 a, 1 b, 2 c"
    )
    assert classes_in_words(3, ()) == "this model has the classes 0 to 2"
