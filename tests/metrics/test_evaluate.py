"""Evaluator: the scores of published code, from folders and from a generator; its protocol."""

import json

import numpy as np
import pytest
import torch

from stylenat.choices import METRICS
from stylenat.metrics import Evaluator, Stopped, table
from stylenat.metrics import reference as reference_module
from stylenat.metrics.reference import subset
from stylenat.metrics.table import TABLE, Metric
from stylenat.sampling import write_samples
from tests.metrics.standin import evaluator, images, save_folder, their_inception
from tests.sampling.tiny import tiny_generator

CPU = torch.device("cpu")


# against published code


def theirs(folder, weights, mode):
    """Features of a folder by clean-fid's code, float64."""
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    inside = mode == "legacy_tensorflow"
    model = InceptionV3W(str(weights.parent), download=False, resize_inside=inside)
    settings = {"num_workers": 0, "device": CPU, "mode": mode, "verbose": False}
    return get_folder_features(str(folder), model, **settings).astype(np.float64)


def projected(features, others):
    """Both sets in an orthonormal basis of their span: distances stay, matrices shrink."""
    basis = np.linalg.qr(np.concatenate([features, others]).T)[0]
    return features @ basis, others @ basis


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_fid_and_kid_of_two_folders_are_clean_fid_s(torchscript, folders, mode):
    from cleanfid.fid import fid_from_feats, kernel_distance

    both = evaluator(["fid", "kid"], images(folders[1]), torchscript, mode=mode)
    scores = both.score_images(images(folders[0]))
    a, b = (theirs(folder, torchscript, mode) for folder in folders)
    # Every subset of 20 of 20 images is the whole set.
    expected = kernel_distance(a, b, num_subsets=1)
    assert scores["kid"] == pytest.approx(expected, rel=1e-4)
    try:
        expected = fid_from_feats(*projected(a, b))
    except TypeError as error:  # scipy 1.18 has no sqrtm(disp=)
        pytest.skip(f"clean-fid's distance does not run with this scipy: {error}")
    print(f"{mode}: FID {scores['fid']}, clean-fid's {expected}")
    assert abs(scores["fid"] - expected) < max(1e-3, 1e-6 * expected), (scores["fid"], expected)


@pytest.mark.slow  # their matrix square root of 2048 x 2048
@pytest.mark.filterwarnings("ignore")
def test_fid_of_two_folders_is_pytorch_fid_s_through_the_real_architecture(inception, tmp_path):
    from pytorch_fid.fid_score import calculate_fid_given_paths

    folders = [save_folder(tmp_path / f"{seed}", 8, seed=seed) for seed in (0, 1)]
    settings = {"mode": "legacy_pytorch", "trust_weights": False}
    both = evaluator(["fid"], images(folders[1]), inception, **settings)
    found = both.score_images(images(folders[0]))["fid"]
    with their_inception(inception):
        try:
            paths = [str(folder) for folder in folders]
            expected = calculate_fid_given_paths(paths, 8, CPU, 2048, num_workers=0)
        except TypeError as error:
            pytest.skip(f"pytorch-fid's distance does not run with this scipy: {error}")
    print(f"legacy_pytorch: FID {found}, pytorch-fid's {expected}")
    assert abs(found - expected) < max(1e-3, 1e-6 * expected), (found, expected)


def test_fid_streamed_from_a_generator_is_that_of_its_png_files(small, data, tmp_path):
    generator = tiny_generator()
    measure = evaluator(["fid", "kid", "pr"], data, small, num=40)
    streamed = measure(generator, truncation_psi=0.8)
    write_samples(generator, range(40), tmp_path / "png", sheet=None, truncation_psi=0.8)
    files = measure.score_images(images(tmp_path / "png"))
    assert streamed["fid"] == pytest.approx(files["fid"], abs=1e-3)
    assert streamed["fid"] > 1
    for name in ("precision", "recall"):
        assert streamed[name] == files[name]


# what a score depends on, and what not


def test_scores_do_not_depend_on_the_batch_but_on_seed_and_truncation(small, data):
    generator = tiny_generator()
    metrics = ["fid", "kid", "pr", "swd"]
    measure = evaluator(metrics, data, small, num=24)
    scores = measure(generator)
    again = evaluator(metrics, data, small, num=24, batch=5)(generator, batch=7)
    assert list(scores.values) == ["fid", "kid", "precision", "recall", "swd", "swd_16"]
    for name, value in scores.values.items():
        assert again[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (
            name
        )  # pixels may differ by 1
    assert evaluator(["fid"], data, small, num=24, seed=1)(generator)["fid"] != scores["fid"]
    assert measure(generator, truncation_psi=0.2)["fid"] != scores["fid"]


def test_scores_are_zero_at_equality_and_grow_with_the_difference(small, data, tmp_path):
    near = images(save_folder(tmp_path / "near", 30, seed=2, side=16))
    measure = evaluator(["fid", "kid", "pr"], data, small)
    same, other, generated = (
        measure.score_images(data),
        measure.score_images(near),
        measure(tiny_generator()),
    )
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert same["precision"] == same["recall"] == 1
    assert same["fid"] < other["fid"] < generated["fid"]
    for metric in ("fid", "kid", "pr"):
        assert same.rank_by(metric) < generated.rank_by(metric)


def test_protocol_holds_all_that_a_score_depends_on(small, data):
    scores = evaluator(["fid", "kid", "pr", "swd"], data, small, num=20, seed=3)(tiny_generator())
    protocol = json.loads(json.dumps(scores.to_dict()))["protocol"]
    assert protocol["images"]["seeds"] == "60-79"
    assert protocol["images"]["num"] == 20
    assert (protocol["reference"]["num"], protocol["reference"]["of"]) == (20, 30)
    assert protocol["reference"]["fingerprint"] == data.fingerprint()
    (features,) = protocol["features"].values()
    assert features["mode"] == "clean"
    assert len(features["network_sha256"]) == 64
    assert not features["network_is_published"]
    assert {"kid", "pr", "swd", "device", "stylenat_version"} <= set(protocol)
    assert "20 images (seeds 60-79) against 20 of 30; clean" in scores.summary()


def test_subset_is_random_seeded_and_nested():
    assert subset(100, 10) == subset(100, 10)
    assert subset(100, 20)[:10] == subset(100, 10)
    assert sorted(subset(7, 100)) == list(range(7))
    assert max(subset(1000, 50)) > 500


def test_swd_needs_no_network_and_no_cache(data, cache):
    scores = Evaluator(["swd"], data, num=8, workers=0)(tiny_generator())
    assert scores["swd"] == scores["swd_16"] > 0
    assert "features" not in scores.protocol
    assert not cache.exists()


def test_an_evaluation_can_be_stopped_after_any_batch(data):
    asked = []
    measure = Evaluator(["swd"], data, num=8, workers=0)
    with pytest.raises(Stopped):
        measure(tiny_generator(), batch=2, stopped=lambda: asked.append(0) or len(asked) == 3)
    assert len(asked) == 3


def test_swd_of_the_images_themselves_is_the_noise_of_its_patches(data):
    measure = Evaluator(["swd"], data, num=30, workers=0)
    same = measure.score_images(data)["swd"]
    assert 0 < same < measure(tiny_generator())["swd"] / 5


# reference statistics


def test_reference_is_computed_once_and_kept_without_pickles(small, data, cache, monkeypatch):
    first = evaluator(["fid", "pr"], data, small)(tiny_generator())
    (kept,) = cache.glob("reference-*.npz")
    with np.load(kept, allow_pickle=False) as file:
        assert file["features"].shape == (30, 32)
        assert file["sigma"].dtype == np.float64

    def refuse(*_, **__):
        raise AssertionError("the reference was computed again")

    with monkeypatch.context() as patched:
        patched.setattr(reference_module, "collect", refuse)
        assert evaluator(["fid", "pr"], data, small)(tiny_generator()).values == first.values
        for other in ({"num": 20}, {"mode": "legacy_tensorflow"}):
            with pytest.raises(AssertionError, match="computed again"):
                evaluator(["fid", "pr"], data, small, **other)
    kept.write_bytes(kept.read_bytes()[:-100])
    assert evaluator(["fid", "pr"], data, small)(tiny_generator()).values == first.values


def test_statistics_in_a_file_stand_in_for_the_data(small, data, cache, tmp_path):
    expected = evaluator(["fid"], data, small)(tiny_generator())["fid"]
    (kept,) = cache.glob("reference-*.npz")
    scores = evaluator(["fid"], None, small, reference=kept)(tiny_generator())
    assert scores["fid"] == pytest.approx(expected, rel=1e-12)
    assert scores.protocol["reference"]["file"] == kept.name


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"mu": np.zeros(32)}, "sigma must be [32, 32]: absent"),
        ({"mu": np.zeros(9), "sigma": np.eye(9)}, "mu must be [32]: [9]"),
        ({"mu": np.full(32, np.nan), "sigma": np.eye(32)}, "mu must hold finite"),
        ({"mu": np.array([None]), "sigma": np.eye(32)}, ""),
        (None, "must be an .npz file with mu and sigma"),
    ],
)
def test_statistics_of_another_kind_are_refused(small, tmp_path, arrays, sentence):
    path = tmp_path / "stats.npz"
    path.write_bytes(b"none") if arrays is None else np.savez(path, **arrays)
    with pytest.raises(ValueError, match=str(path)) as refusal:
        evaluator(["fid"], None, small, reference=path)
    assert sentence in str(refusal.value)


# bad input, at once


@pytest.mark.parametrize(
    ("metrics", "settings", "sentence"),
    [
        ([], {}, "name at least one metric: fid, kid, pr, dc, mind; fd, kd, pr"),
        (["fdi"], {}, "unknown metric 'fdi'; choose from fid, kid, pr, dc, mind; fd"),
        (["fid"], {"num": 1}, "fid takes at least 2 images generated (num): 1"),
        (["pr"], {"num": 3}, "pr takes at least 4 images generated (num): 3"),
        (["fid"], {"mode": "torch"}, "the mode must be one of clean, legacy_pytorch, legacy_t"),
        (["fid"], {"seed": -1}, "the seed must be at least 0: -1"),
        (["fid"], {"reference": "x.npz"}, "either a data set or a file of reference statistics"),
    ],
)
def test_bad_settings_are_refused_when_the_evaluator_is_built(data, metrics, settings, sentence):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011, the sentence is compared below
        evaluator(metrics, data, None, **settings)
    assert sentence in str(refusal.value)


def test_data_that_are_too_few_or_too_small_are_refused(tmp_path, data):
    one = images(save_folder(tmp_path / "one", 1, seed=0))
    with pytest.raises(ValueError, match="fid takes at least 2 images of the data set: 1"):
        evaluator(["fid"], one, None)
    tiny = images(save_folder(tmp_path / "tiny", 4, seed=0, side=8))
    with pytest.raises(ValueError, match="at least 16x16 pixels: 8x8"):
        evaluator(["swd"], tiny, None)
    large = images(save_folder(tmp_path / "large", 4, seed=0, side=32))
    with pytest.raises(ValueError, match="one size: 32x32 against the data's 16x16"):
        evaluator(["swd"], data, None).score_images(large)
    with pytest.raises(ValueError, match="spaces, alone; the others need a data set: kid"):
        evaluator(["fid", "kid"], None, None, reference="x.npz")


# the table of metrics


def test_the_table_has_the_rows_in_the_order_of_the_names():
    assert tuple(TABLE) == METRICS
    assert all(name == row.name for name, row in TABLE.items())


def test_a_new_metric_is_one_row(small, data, monkeypatch):
    """Measured, with its settings in the protocol, and refused where it lacks images or data."""
    shift = Metric(
        "shift",
        needs="all_ND",
        space="inception",
        fewest=5,
        values=lambda ours, theirs: {"shift": float((ours.mean(0) - theirs.mean(0)).norm())},
        rank=lambda values: values["shift"],
        settings={"norm": 2},
    )
    monkeypatch.setitem(TABLE, "shift", shift)
    monkeypatch.setattr(table, "METRICS", (*METRICS, "shift"))
    scores = evaluator(["shift"], data, small)(tiny_generator())
    assert list(scores.values) == ["shift"]
    assert scores.rank_by("shift") == scores["shift"] > 0
    assert scores.protocol["shift"] == {"norm": 2}
    with pytest.raises(ValueError, match=r"shift takes at least 5 images generated \(num\): 4"):
        evaluator(["shift"], data, small, num=4)
    with pytest.raises(ValueError, match="the others need a data set: shift"):
        evaluator(["shift"], None, small, reference="x.npz")


def test_features_kept_for_another_metric_serve_fid_alone(small, data, cache, monkeypatch):
    with_kid = evaluator(["fid", "kid"], data, small)(tiny_generator())
    (kept,) = cache.glob("reference-*.npz")
    with monkeypatch.context() as patched:
        patched.setattr(reference_module, "collect", None)  # to compute them again would call it
        assert evaluator(["fid"], data, small)(tiny_generator())["fid"] == with_kid["fid"]
    assert list(cache.glob("reference-*.npz")) == [kept]
    kept.unlink()
    evaluator(["fid"], data, small)
    (moments,) = cache.glob("reference-*.npz")
    evaluator(["kid"], data, small)
    assert set(cache.glob("reference-*.npz")) == {kept, moments}
