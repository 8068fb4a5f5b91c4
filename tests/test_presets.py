"""`base` in a YAML file: what is taken from below, and which file an error names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from stylenat.config import load_config, save_config, shipped_configs


def write(folder: Path, **texts: str) -> list[Path]:
    paths = []
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
        paths.append(folder / f"{name}.yaml")
    return paths


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the callers look at all of it)
        load_config(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_with_a_base_alone_is_its_base(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32")
    assert load_config(path) == load_config("faces32")


def test_sections_are_merged_and_other_values_replaced(tmp_path):
    (path,) = write(
        tmp_path,
        mine="base: ffhq256\n"
        "train: {batch: 8, consistency: {real_weight: 1}}\n"
        "metrics: {names: [swd]}\n"
        "model: {discriminator: {stddev_group: 8}}",
    )
    base, config = load_config("ffhq256"), load_config(path)
    consistency = dataclasses.replace(base.train.consistency, real_weight=1)
    assert config.train == dataclasses.replace(base.train, batch=8, consistency=consistency)
    assert config.metrics.names == ("swd",)
    assert config.model.generator == base.model.generator
    assert config.model.discriminator.levels == base.model.discriminator.levels
    assert config.model.discriminator.stddev_group == 8


def test_null_in_the_file_goes_before_the_base(tmp_path):
    (path,) = write(tmp_path, mine="base: ffhq256\ntrain: {consistency: null}")
    assert load_config("ffhq256").train.consistency is not None
    assert load_config(path).train.consistency is None


def test_a_list_replaces_the_list_of_the_base(tmp_path):
    path, _ = write(
        tmp_path, mine="base: low.yaml\nmetrics: {names: [kid]}",
        low="base: faces32\nmetrics: {names: [swd, fid]}",
    )  # fmt: skip
    assert load_config(path).metrics.names == ("kid",)


def test_a_base_beside_the_file_goes_before_a_shipped_one_wherever_the_process_is(
    tmp_path, monkeypatch
):
    path, _ = write(tmp_path, mine="base: middle.yaml", middle="base: faces32\ndata: {seed: 3}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "faces32").write_text("nonsense")
    assert load_config(path).data.seed == 3
    (tmp_path / "faces32").write_text(shipped_configs()["faces64"].read_text())
    assert load_config(path).model.generator.resolution == 64


def test_overrides_go_before_the_file_and_its_base(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32\ntrain: {batch: 8}")
    assert load_config(path, ["train.batch=4"]).train.batch == 4


def test_a_saved_config_is_complete(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32\ntrain: {batch: 8}")
    config = load_config(path)
    save_config(config, tmp_path / "saved.yaml")
    assert "base" not in (tmp_path / "saved.yaml").read_text()
    path.unlink()
    assert load_config(tmp_path / "saved.yaml") == config


def test_the_preset_for_fine_tuning_is_ffhq256_with_its_own_training():
    base, config = load_config("ffhq256"), load_config("finetune256")
    assert config.model == base.model
    assert (config.train.freeze_d, config.train.decay_from_kimg) == (3, None)
    assert config.train.init_from is not None
    assert len(shipped_configs()["finetune256"].read_text().splitlines()) <= 14


# Which file an error names


def test_a_fault_of_the_base_names_the_base(tmp_path):
    path, low = write(
        tmp_path, mine="base: low.yaml\ntrain: {batch: 8}",
        low="base: faces32\ntrain: {lr_g: -1.5}",
    )  # fmt: skip
    rule = "train.lr_g must be positive: -1.5"
    assert refusal(path) == f"low.yaml, the base of {path}: {rule}"
    assert refusal(path, "train.seed=1") == f"low.yaml, the base of {path}: {rule}"
    assert refusal(low) == f"{low}: {rule}"
    path.write_text("base: low.yaml\ntrain: {lr_g: 0.1}")
    assert load_config(path).train.lr_g == 0.1


def test_a_fault_of_the_file_names_the_file(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32\ntrain: {lr_g: -1.5}")
    assert refusal(path) == f"{path}: train.lr_g must be positive: -1.5"
    (path,) = write(tmp_path, mine="base: faces32\ntrain: {lrg: 1}")
    assert refusal(path) == f"{path}: unknown key train.lrg; did you mean train.lr_g?"


def test_a_fault_of_the_file_with_its_base_names_the_file(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32\ntrain: {freeze_d: 4}")
    assert refusal(path).startswith(f"{path}: train.freeze_d must be 0 to 3")


def test_an_override_s_fault_names_the_override(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32")
    assert refusal(path, "train.batch=0").startswith("train.batch=0: train.batch must be 1 to")


def test_a_base_that_is_no_yaml_is_named(tmp_path):
    path, _ = write(tmp_path, mine="base: low.yaml", low="[1, 2]")
    said = f"low.yaml, the base of {path}: the file must hold keys and values, not list"
    assert refusal(path) == said


@pytest.mark.parametrize(
    ("base", "rule"),
    [
        ("ffhq255", "base must be a file beside this one, or one of church256, .*: 'ffhq255'"),
        ('""', "base must be a file beside this one, or one of church256, .*: ''"),
        (".", r"base must be a file beside this one, or one of .*: '\.'"),
        ("3", "base must be a string: 3"),
        ("null", "base must be a string: None"),
        ("[faces32]", r"base must be a string: \['faces32'\]"),
        ("mine.yaml", r"base leads back to .*mine\.yaml: mine\.yaml"),
    ],
)
def test_what_is_no_base_is_refused(tmp_path, base, rule):
    (path,) = write(tmp_path, mine=f"base: {base}")
    assert re.fullmatch(f"{re.escape(str(path))}: {rule}", refusal(path))


def test_bases_that_lead_back_are_refused(tmp_path):
    path, _ = write(tmp_path, mine="base: low.yaml", low="base: mine.yaml")
    assert refusal(path).startswith(f"low.yaml, the base of {path}: base leads back to")


def test_five_files_may_be_on_top_of_each_other_and_no_more(tmp_path):
    texts = {f"f{i}": f"base: f{i + 1}.yaml" for i in range(5)}
    paths = write(tmp_path, **texts, f5="base: faces32")
    assert load_config(paths[2]) == load_config("faces32")
    assert "at most 5 files may be on top of each other: faces32" in refusal(paths[1])


def test_base_is_no_key_of_an_override(tmp_path):
    (path,) = write(tmp_path, mine="base: faces32")
    assert refusal(path, "base=faces64").startswith("base=faces64: unknown key base")
