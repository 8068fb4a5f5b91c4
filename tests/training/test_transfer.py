"""`train.init_from`: which tensors a new run takes from a model, and what it says of the others."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from stylenat import cli
from stylenat.config import RunConfig, from_dict, load_config, save_config, to_dict
from stylenat.export import load_generator, save_discriminator, save_generator
from stylenat.legacy import convert_checkpoint
from stylenat.models import Discriminator, Generator
from stylenat.training.checkpoint import checkpoints, load_checkpoint
from stylenat.training.loop import train
from stylenat.training.run_folder import RunFolder
from stylenat.training.start import newest_state, read_init_from
from stylenat.training.state import TrainingState, new_state
from stylenat.training.transfer import plan_transfer
from tests.legacy.test_convert import TINY as OFFICIAL
from tests.legacy.test_convert import TINY_ARGS, TINY_D, official_weights
from tests.official_checkpoints import first_format, new_format
from tests.training.test_checkpoint import flat
from tests.training.tiny import DILATED, TINY, stylenat, tiny

CPU = torch.device("cpu")
G_LEVELS, D_LEVELS = TINY["model"]["generator"]["levels"], TINY["model"]["discriminator"]["levels"]


@pytest.fixture(scope="module")
def old_run(tmp_path_factory) -> Path:
    """A finished run of two steps, with other first weights than the new ones."""
    run = tmp_path_factory.mktemp("old") / "run"
    assert train(tiny(train={"total_kimg": 0.016, "seed": 7}), run, CPU) is None
    return run


def started(config: RunConfig, folder: Path) -> TrainingState:
    """The state that a new run has before its first step."""
    run = RunFolder(folder)
    return newest_state(config, run, CPU, read_init_from(config, run)).state


def sized(resolution: int, channels: int = 8, **train: object) -> RunConfig:
    """The tiny run for images of another size; all levels have the same channels."""
    sides = [4 * 2**i for i in range(10) if 4 * 2**i <= resolution]
    levels = [
        {**(G_LEVELS[0] if side == 4 else G_LEVELS[2]), "resolution": side, "channels": channels}
        for side in sides
    ]
    if len(levels) > 1:
        levels[1]["attention"] = DILATED
    data = to_dict(tiny(train=train))
    data["model"]["generator"]["levels"] = levels
    data["model"]["discriminator"]["levels"] = [
        {"resolution": side, "channels": channels} for side in sides[:-1]
    ]
    return from_dict(RunConfig, data)


def images(generator: torch.nn.Module, **settings: float) -> torch.Tensor:
    z = torch.randn(4, generator.z_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return copy.deepcopy(generator).eval()(z, **settings)


def differing(one: torch.nn.Module, other: torch.nn.Module) -> set[str]:
    pairs = one.state_dict(), other.state_dict()
    return {name for name in pairs[0] if not torch.equal(pairs[0][name], pairs[1][name])}


# From each kind of model


def test_first_images_are_the_snapshots_bit_for_bit(old_run, tmp_path):
    snapshot = old_run / "snapshots" / "000000016.safetensors"
    expected = load_generator(snapshot)
    for source in (snapshot, old_run):
        state = started(tiny(train={"init_from": str(source)}), tmp_path / "new")
        assert torch.equal(images(state.G_ema), images(expected))
        assert torch.equal(
            images(state.G_ema, truncation_psi=0.5), images(expected, truncation_psi=0.5)
        )
    assert not differing(new_state(tiny(), CPU).D, started_from(snapshot, tmp_path).D)
    assert torch.equal(images(started_from(snapshot, tmp_path).G), images(expected))


def started_from(source: Path, folder: Path) -> TrainingState:
    return started(tiny(train={"init_from": str(source)}), folder / "new")


def test_a_run_gives_all_three_networks_and_neither_steps_nor_moments(old_run, tmp_path):
    newest = checkpoints(old_run / "checkpoints")[0]
    saved = load_checkpoint(newest)
    for source in (old_run, newest):
        state = started_from(source, tmp_path)
        for name in ("G", "D", "G_ema"):
            assert flat(getattr(state, name).state_dict()) == flat(saved[name]), name
        assert (state.step, state.nimg) == (0, 0)
        assert not state.optimizer_g.state
        assert not state.optimizer_d.state


def test_the_mean_of_w_is_not_taken_since_training_moves_it(old_run, tmp_path):
    snapshot = old_run / "snapshots" / "000000016.safetensors"
    assert int(load_generator(snapshot).w_avg_samples) > 0
    state = started_from(snapshot, tmp_path)
    assert int(state.G_ema.w_avg_samples) == 0
    assert not state.G_ema.w_avg.any()


def published(**train: object) -> RunConfig:
    """A run of the networks that tests write in the published format."""
    model = {"generator": to_dict(OFFICIAL), "discriminator": to_dict(TINY_D)}
    return from_dict(RunConfig, {**to_dict(tiny(train=train)), "model": model})


def official_file(folder: Path, *, first: bool) -> Path:
    g_ema, d = official_weights(), official_weights(TINY_D)
    g = {name: tensor + 1 for name, tensor in g_ema.items()}
    for name in g:
        if name.endswith("kernel"):
            g[name] = g_ema[name]
    if first:
        content = first_format(g_ema=g_ema, d=d, size=16)
    else:
        content = new_format(
            g_ema=g_ema, d=d, size=16,
            generator_args={**TINY_ARGS, "channel_multiplier": None, "min_heads": None,
                            "style_dim": 16, "n_mlp": 3, "mlp_ratio": 2},
            discriminator_args={"channel_multiplier": None},
        )  # fmt: skip
    (content if first else content["state_dicts"])["g"] = g
    path = folder / "official.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("first", [False, True], ids=["new format", "first format"])
def test_a_published_checkpoint_gives_g_d_and_the_average(tmp_path, first):
    path = official_file(tmp_path, first=first)
    config = published(init_from=str(path))
    state = started(config, tmp_path / "new")
    for name, which in (("G", "g"), ("D", "d"), ("G_ema", "g_ema")):
        network = convert_checkpoint(path, which=which, config=config)
        assert not differing(getattr(state, name), network), name
        if name != "D":
            assert torch.equal(images(getattr(state, name)), images(network))
    assert differing(state.G, state.G_ema)


def test_a_published_average_alone_becomes_g_too(tmp_path):
    path = tmp_path / "official.pt"
    torch.save({"state_dicts": {"g_ema": official_weights()}, "args": TINY_ARGS}, path)
    config = published(init_from=str(path))
    state = started(config, tmp_path / "new")
    assert not differing(state.G, state.G_ema)
    assert not differing(state.G, convert_checkpoint(path))
    assert not differing(state.D, new_state(config, CPU).D)
    assert "it holds no D, which starts anew" in plan_transfer(config).report[0]


def model_folder(folder: Path, **networks: torch.nn.Module) -> Path:
    folder.mkdir()
    if "G" in networks:
        save_generator(networks["G"], folder / "model.safetensors")
    if "D" in networks:
        save_discriminator(networks["D"], folder / "discriminator.safetensors")
    return folder


def test_a_folder_gives_its_generator_and_its_discriminator(tmp_path):
    old = new_state(tiny(train={"seed": 7}), CPU)
    folder = model_folder(tmp_path / "model", G=old.G, D=old.D)
    state = started_from(folder, tmp_path)
    for name in ("G", "D", "G_ema"):
        wanted = old.D if name == "D" else old.G
        assert flat(getattr(state, name).state_dict()) == flat(wanted.state_dict()), name
    (line,) = plan_transfer(tiny(train={"init_from": str(folder)})).report
    count = len(plan_transfer(tiny(train={"init_from": str(folder)})).matches["D"].copied)
    assert line.startswith(f"{folder}/model.safetensors: ")
    assert f", {count} of {count} tensors of D, " in line
    assert line.endswith(f"; D is from {folder}/discriminator.safetensors")


def test_a_folder_without_a_discriminator_and_a_file_beside_one_give_none(tmp_path):
    old = new_state(tiny(train={"seed": 7}), CPU)
    alone = model_folder(tmp_path / "alone", G=old.G)
    both = model_folder(tmp_path / "both", G=old.G, D=old.D)
    fresh = new_state(tiny(), CPU).D
    for source in (alone, both / "model.safetensors"):
        assert not differing(started_from(source, tmp_path).D, fresh)
        (line,) = plan_transfer(tiny(train={"init_from": str(source)})).report
        assert line.endswith("; it holds no D, which starts anew")


def test_a_run_folder_means_its_training_state_even_with_a_model_in_it(old_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(old_run, run)
    other = new_state(tiny(train={"seed": 9}), CPU)
    save_generator(other.G, run / "model.safetensors")
    save_discriminator(other.D, run / "discriminator.safetensors")
    saved = load_checkpoint(checkpoints(run / "checkpoints")[0])
    state = started_from(run, tmp_path)
    for name in ("G", "D", "G_ema"):
        assert flat(getattr(state, name).state_dict()) == flat(saved[name]), name
    (line,) = plan_transfer(tiny(train={"init_from": str(run)})).report
    assert "discriminator.safetensors" not in line


# What fits in part


def test_what_was_copied_left_over_and_new_is_listed_to_the_last_tensor(tmp_path):
    """A wider level at 16x16, and a mapping layer less."""
    old = new_state(tiny(train={"seed": 7}), CPU)
    save_generator(old.G, tmp_path / "old.safetensors")
    data = to_dict(tiny(train={"init_from": str(tmp_path / "old.safetensors")}))
    data["model"]["generator"]["levels"][2]["channels"] = 16
    data["model"]["generator"]["mapping_layers"] = 1
    config = from_dict(RunConfig, data)
    found = plan_transfer(config).matches["G"]
    state, fresh = started(config, tmp_path / "new"), new_state(config, CPU)
    named = {entry.partition(" ")[0] for entry in found.of_another_shape}
    assert found.new == ()
    assert set(found.left_over) == {f"mapping_network.layers.1.{n}" for n in ("weight", "bias")}
    assert "levels.1.upsample.linear.weight [8, 8] there, [16, 8] here" in found.of_another_shape
    assert found.count == len(found.copied) + len(named) == len(state.G.state_dict()) - 2
    own, before, given = (n.state_dict() for n in (state.G, fresh.G, old.G))
    for name, tensor in own.items():
        if name.startswith("w_avg"):
            continue
        assert (name in found.copied) != (name in named), name
        assert torch.equal(tensor, (given if name in found.copied else before)[name]), name
    assert flat(state.G_ema.state_dict()) == flat(state.G.state_dict())


def test_whole_modules_are_one_entry_of_the_report(tmp_path):
    save_generator(new_state(sized(16), CPU).G, tmp_path / "old.safetensors")
    config = sized(32, init_from=str(tmp_path / "old.safetensors"))
    head, new, left_over = plan_transfer(config).report
    levels = Generator(config.model.generator).levels
    count, on_top = (len(levels[i].state_dict()) for i in (2, 3))
    up, rgb = (len(m.state_dict()) for m in (levels[2].upsample, levels[2].to_rgb))
    total = len(Generator(config.model.generator).state_dict()) - 2
    assert f": {total - on_top - up - rgb} of {total} tensors of G" in head
    assert new == (
        f"G and G_ema, new, as drawn from train.seed: levels.2.upsample ({up} tensors), "
        f"levels.2.to_rgb ({rgb} tensors), levels.3 ({on_top} tensors)"
    )
    assert left_over == f"G and G_ema, left over in the model: levels.2.to_rgb ({rgb} tensors)"
    assert count > up + rgb


@pytest.mark.parametrize(("there", "here"), [(16, 32), (32, 16), (8, 32)])
def test_levels_of_other_resolutions_find_their_own(tmp_path, there, here):
    """D's names count from the top: the same level has another number in a larger network."""
    old = tmp_path / "old"
    assert train(sized_data(there, total_kimg=0.008, seed=7), old, CPU) is None
    config = sized(here, init_from=str(old))
    saved = load_checkpoint(checkpoints(old / "checkpoints")[0])
    state = started(config, tmp_path / "new")
    G, D = state.G.state_dict(), state.D.state_dict()
    common, shift = min(there, here).bit_length() - 3, here.bit_length() - there.bit_length()
    for level in range(common + 1):
        for part in ("blocks", *(["upsample", "to_rgb"] if level < common else [])):
            names = [n for n in G if n.startswith(f"levels.{level}.{part}")]
            assert names
            assert all(torch.equal(G[n], saved["G"][n]) for n in names)
    assert not torch.equal(
        G[f"levels.{common}.to_rgb.linear.weight"],
        saved["G"].get(f"levels.{common}.to_rgb.linear.weight"),
    )
    levels = [int(n.split(".")[1]) for n in D if n.startswith("from_rgbs.")]
    pairs = [(i, i - shift) for i in range(max(levels) + 1) if i - shift >= 0 and i >= 0]
    assert len(pairs) == common
    for own, given in pairs:
        for part in ("from_rgbs", "blocks"):
            for name in (n for n in D if n.startswith(f"{part}.{own}.")):
                source = name.replace(f".{own}.", f".{given}.", 1)
                assert torch.equal(D[name], saved["D"][source]), name
    for name in (n for n in D if not n.startswith(("from_rgbs", "blocks"))):
        assert torch.equal(D[name], saved["D"][name]), name
    state.D(state.G(torch.randn(4, 8)))


def sized_data(resolution: int, **train: object) -> RunConfig:
    return sized(resolution, **train)


def test_a_weight_of_another_shape_leaves_its_spectral_vectors_as_drawn(old_run, tmp_path):
    """One of the two vectors has the same shape, but belongs to another matrix."""
    data = to_dict(tiny(train={"init_from": str(old_run)}))
    data["model"]["discriminator"]["levels"][1]["channels"] = 16
    config = from_dict(RunConfig, data)
    state, fresh = started(config, tmp_path / "new"), new_state(config, CPU)
    odd = "blocks.0.conv2.conv.parametrizations.weight"
    for name in (f"{odd}.original", f"{odd}.0._u", f"{odd}.0._v"):
        assert torch.equal(state.D.state_dict()[name], fresh.D.state_dict()[name]), name
    kept = "from_rgbs.1.conv.parametrizations.weight.0._u"
    saved = load_checkpoint(checkpoints(old_run / "checkpoints")[0])
    assert torch.equal(state.D.state_dict()[kept], saved["D"][kept])


def test_settings_that_no_tensor_tells_are_named(old_run, tmp_path):
    data = to_dict(tiny(train={"init_from": str(old_run)}))
    data["model"]["generator"] |= {"pixel_space": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    data["model"]["generator"]["levels"][2]["attention"][1]["dilation"] = 4
    line = plan_transfer(from_dict(RunConfig, data)).report[-1]
    assert "that the model was not trained with: pixel_space (" in line
    assert "levels[2].attention (" in line
    same = tiny(train={"init_from": str(old_run)})
    assert len(plan_transfer(same).report) == 1


# Runs


def run_command(*arguments: object) -> str:
    done = CliRunner().invoke(cli.main, ["train", *map(str, arguments), "--device", "cpu"])
    return done.output if done.exit_code == 0 else done.stderr


@pytest.fixture(autouse=True)
def _no_allocator_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylenat.memory.keep_freed_memory", lambda: False)


def test_the_report_is_in_the_log_and_in_a_dry_run(tmp_path):
    save_generator(new_state(sized(16), CPU).G, tmp_path / "old.safetensors")
    config = sized(32, init_from=str(tmp_path / "old.safetensors"), total_kimg=0.008)
    save_config(config, tmp_path / "c.yaml")
    report = plan_transfer(config).report
    assert len(report) == 3
    printed = run_command(tmp_path / "c.yaml", "--dry-run")
    assert printed.endswith("".join(f"init     {line}\n" for line in report))
    assert train(config, tmp_path / "run", CPU) is None
    log = (tmp_path / "run" / "log.txt").read_text()
    assert all(f"init_from: {line}" in log for line in report)


def test_a_run_that_continues_does_not_read_its_beginning_again(old_run, tmp_path):
    """In two parts, the model being gone before the second, as in one."""
    model = tmp_path / "model.safetensors"
    finals = []
    for name, lengths in (("parts", (0.016, 0.032)), ("whole", (0.032,))):
        model.write_bytes((old_run / "snapshots" / "000000016.safetensors").read_bytes())
        run = tmp_path / name
        for kimg in lengths:
            config = tiny(train={"init_from": str(model), "total_kimg": kimg})
            assert train(config, run, CPU) is None
            model.unlink(missing_ok=True)
        assert (run / "log.txt").read_text().count("init_from: ") == 1
        assert load_config(run / "config.yaml").train.init_from == str(model)
        content = load_checkpoint(checkpoints(run / "checkpoints")[0])
        del content["seconds"]
        finals.append(flat(content))
    assert finals[0] == finals[1]


def test_a_run_cannot_be_given_another_beginning(old_run, tmp_path):
    config = tiny(train={"init_from": str(old_run), "total_kimg": 0.008})
    assert train(config, tmp_path / "run", CPU) is None
    with pytest.raises(ValueError, match=r"train\.init_from \(.*run there, None here\); choose"):
        train(tiny(train={"total_kimg": 0.008}), tmp_path / "run", CPU)


@pytest.mark.slow
def test_two_ranks_begin_with_one_model_and_stay_equal(old_run, tmp_path):
    save_config(tiny(train={"init_from": str(old_run), "total_kimg": 0.016}), tmp_path / "c.yaml")
    states = []
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        done = stylenat(
            "train", tmp_path / "c.yaml", "--run-dir", run, "--device", "cpu", ranks=ranks
        )
        assert done.returncode == 0, done.stderr
        states.append(load_checkpoint(checkpoints(run / "checkpoints")[0]))
    for name, tensor in states[0]["G_ema"].items():
        torch.testing.assert_close(states[1]["G_ema"][name], tensor, rtol=1e-4, atol=1e-5)


# What is refused


def refusal(init_from: Path, tmp_path: Path, config: RunConfig | None = None) -> str:
    data = to_dict(config or tiny())
    data["train"] |= {"init_from": str(init_from)}
    with pytest.raises((ValueError, OSError)) as caught:
        train(from_dict(RunConfig, data), tmp_path / "refused", CPU)
    assert not (tmp_path / "refused").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_generator_without_one_weight_in_common_is_refused(tmp_path):
    save_generator(new_state(sized(16, channels=8), CPU).G, tmp_path / "old.safetensors")
    data = to_dict(sized(16, channels=16))
    data["model"]["generator"] |= {"style_dim": 12, "z_dim": 12}
    said = refusal(tmp_path / "old.safetensors", tmp_path, from_dict(RunConfig, data))
    assert said.startswith(f"{tmp_path}/old.safetensors: no weight of its generator has the name")


def test_what_is_no_model_is_refused_by_one_sentence(tmp_path):
    assert "nowhere.pt" in refusal(tmp_path / "nowhere.pt", tmp_path)
    (tmp_path / "text.txt").write_text("nothing")
    assert "is no model" in refusal(tmp_path / "text.txt", tmp_path)
    (tmp_path / "c.yaml").write_text("a: 1")
    assert "is a configuration, not a model" in refusal(tmp_path / "c.yaml", tmp_path)
    said = refusal(tmp_path, tmp_path)
    assert "is a folder, but no run and no model: it holds neither config.yaml nor" in said
    only_d = model_folder(tmp_path / "only_d", D=Discriminator(TINY_D))
    assert "neither config.yaml nor model.safetensors" in refusal(only_d, tmp_path)
    swapped = model_folder(tmp_path / "swapped", G=new_state(tiny(), CPU).G)
    (swapped / "discriminator.safetensors").write_bytes(
        (swapped / "model.safetensors").read_bytes()
    )
    said = refusal(swapped, tmp_path)
    assert said.startswith(f"{swapped}/discriminator.safetensors: ")
    assert "the file holds a generator, not a discriminator" in said
    torch.save({"state_dicts": {"d": official_weights(TINY_D)}}, tmp_path / "d.pt")
    assert refusal(tmp_path / "d.pt", tmp_path).endswith("d.pt holds no generator: only d")
    save_discriminator(Discriminator(TINY_D), tmp_path / "d.safetensors")
    said = refusal(tmp_path / "d.safetensors", tmp_path)
    assert "the file holds a discriminator, not a generator" in said
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    (empty / "config.yaml").write_text("")
    assert "is a run without a training state" in refusal(empty, tmp_path)


class Attack:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"g_ema": {}, "x": Attack()}, tmp_path / "bad.pt")
    said = refusal(tmp_path / "bad.pt", tmp_path)
    assert "is refused: loading it would call" in said
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": ""}, r"train\.init_from must not be empty"),
        (
            {"init_from": "a.pt", "ema_rampup": 0.05},
            r"train\.ema_rampup must be null",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(train=settings)
