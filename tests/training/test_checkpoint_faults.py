"""What machines do to checkpoints: kills, damage, full disks, other formats. See reliability.md."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenat.data import open_images, training_batches
from stylenat.training import outputs
from stylenat.training.checkpoint import (
    FORMAT,
    checkpoints,
    clean_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from stylenat.training.loop import train
from stylenat.training.run_folder import RunFolder
from stylenat.training.start import newest_state
from stylenat.training.state import new_state
from tests.golden_values import golden_randn
from tests.training import fill_disk
from tests.training.test_checkpoint import flat, save, stepped_state
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import ROOT, environment, stylenat, tiny, write_tiny

CPU = torch.device("cpu")
LONG = {"total_kimg": 0.064}  # eight steps, a checkpoint every other one


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(tiny(train=LONG), run, CPU) is None
    return run


@pytest.fixture
def half_run(tmp_path: Path) -> Path:
    """Four of the eight steps, with checkpoints after two and four."""
    run = tmp_path / "run"
    assert train(tiny(train={"total_kimg": 0.032}), run, CPU) is None
    return run


# Kills


@pytest.mark.slow
def test_no_kill_in_a_save_loses_the_newest_complete_checkpoint(tmp_path):
    """STYLENAT_KILLS=100 by default: so many processes, each at another instant."""
    kills = os.environ.get("STYLENAT_KILLS", "100")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kill_saves", tmp_path / "run", kills, "0"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["lost"], result["inexact"]) == (0, 0), result
    assert result["half done"] > int(kills) / 10, f"too few kills hit a save: {result}"


class Killed(BaseException):
    """What no cleaning up survives."""


@pytest.mark.parametrize("renames", range(3))
@pytest.mark.parametrize("nimg", [16, 24])
def test_a_kill_before_each_rename_of_a_save_loses_nothing(tmp_path, monkeypatch, renames, nimg):
    """Of a state that is saved again (16), and of a new one (24): `keep` is one."""
    save(tmp_path, 16, keep=1)
    done = 0

    def replace(path: Path, target: Path, real=Path.replace) -> Path:
        nonlocal done
        done += 1
        if done > renames:
            raise Killed
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            save(tmp_path, nimg, keep=1)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.stem in ("000000016", f"{nimg:09d}")
    clean_checkpoints(tmp_path, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {newest.name, f"{newest.name}.sha256"}


def test_leftovers_are_gone_after_the_next_start(half_run, whole_run):
    folder = half_run / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    for leftover in (
        folder / ".000000048.pt.0123abcd.tmp",
        folder / "000000048.pt.sha256",
        half_run / "samples" / ".000000048.png.0123abcd.tmp",
        half_run / "snapshots" / ".best.safetensors.0123abcd.tmp",
        half_run / ".stats.jsonl.0123abcd.tmp",
    ):
        leftover.write_text("half of it")
    (folder / "000000056.pt").write_bytes(b"without a digest")
    (folder / "notes.tmp").write_text("not ours")
    assert train(tiny(train=LONG), half_run, CPU) is None
    left = {path.name for path in half_run.rglob("*") if "0123abcd" in path.name}
    assert not left
    kept = {path.name for path in folder.iterdir()} - names
    assert kept == {
        *("000000064.pt", "000000064.pt.sha256", "000000048.pt", "000000048.pt.sha256"),
        *("000000056.pt.damaged", "notes.tmp"),
    }
    assert final_state(half_run) == final_state(whole_run)


def test_damaged_checkpoints_are_set_aside_and_do_not_count_as_kept(tmp_path):
    for nimg in (8, 16, 24, 32):
        save(tmp_path, nimg)
    for nimg in (24, 32):
        (tmp_path / f"{nimg:09d}.pt").write_bytes(b"")
    clean_checkpoints(tmp_path, keep=1)
    names = {path.name for path in tmp_path.iterdir()}
    aside = {"000000024.pt.damaged", "000000032.pt.damaged"}
    assert names == {"000000016.pt", "000000016.pt.sha256", *aside}
    clean_checkpoints(tmp_path, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == names - aside


def test_a_folder_of_damaged_checkpoints_alone_is_left_as_it_is(tmp_path):
    path = save(tmp_path, 8)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        clean_checkpoints(tmp_path, keep=1)
    assert len(list(tmp_path.iterdir())) == 2


# Damage


def truncate(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(share * len(data))]


def flip(share: float) -> Callable[[bytes], bytes]:
    def flipped(data: bytes) -> bytes:
        place = int(share * (len(data) - 1))
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return flipped


@pytest.mark.parametrize(
    "damage",
    [*map(truncate, (0, 0.1, 0.5, 0.999)), *map(flip, (0, 0.01, 0.3, 0.5, 0.7, 0.99, 1))],
    ids=["0%", "10%", "50%", "99.9%", *(f"flip {place}" for place in range(7))],
)
def test_damage_is_one_sentence_and_the_one_before_is_used(half_run, damage, caplog):
    good, bad = reversed(checkpoints(half_run / "checkpoints"))
    content = flat(load_checkpoint(good))
    bad.write_bytes(damage(bad.read_bytes()))
    folder = RunFolder(half_run)
    state = newest_state(tiny(), folder, CPU).state
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{bad} is damaged or incomplete; trying the one before"]
    assert state.nimg == 16
    assert flat(load_checkpoint(good)) == content


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_it_were_not(half_run, whole_run):
    newest = checkpoints(half_run / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train(tiny(train=LONG), half_run, CPU) is None
    assert final_state(half_run) == final_state(whole_run)
    assert statistics(half_run) == statistics(whole_run)
    assert f"{newest} is damaged or incomplete" in (half_run / "log.txt").read_text()


# Full disks


@pytest.fixture
def small_files():
    """No file may grow over 20,000 bytes, as by `ulimit -f`; a write beyond fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_that_the_disk_does_not_take_names_the_file_and_leaves_no_part(
    tmp_path, small_files
):
    good = save(tmp_path, 8)
    content = {"nimg": 16, "x": torch.ones(100_000)}
    with pytest.raises(OSError, match="File too large") as raised:
        save_checkpoint(tmp_path, content, keep=2)
    assert raised.value.errno == errno.EFBIG
    assert raised.value.filename == str(tmp_path / "000000016.pt")
    assert {path.name for path in tmp_path.iterdir()} == {good.name, f"{good.name}.sha256"}
    assert newest_checkpoint(tmp_path) == good


def test_a_run_on_a_full_disk_names_the_file_that_it_could_not_write(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*config\.yaml'"):
        train(tiny(), tmp_path / "run", CPU)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_save_that_fails_at_its_end_leaves_the_older_checkpoint(tmp_path, monkeypatch, call):
    good = save(tmp_path, 8)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
        with pytest.raises(OSError, match=r"No space left on device: '.*0016\.pt"):
            save(tmp_path, 16)
    assert newest_checkpoint(tmp_path) == good
    assert len(list(tmp_path.iterdir())) == 2


def failing_saves(monkeypatch: pytest.MonkeyPatch, which: set[int]) -> list[int]:
    """Saves fail where `nimg` is in `which`; the list grows by the `nimg` of each attempt."""
    attempts: list[int] = []

    def save_or_fail(folder: Path, content: dict[str, Any], *, keep: int) -> Path:
        attempts.append(content["nimg"])
        if content["nimg"] in which:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "new.pt"))
        return save_checkpoint(folder, content, keep=keep)

    monkeypatch.setattr(outputs, "save_checkpoint", save_or_fail)
    return attempts


def test_training_goes_on_over_failed_saves_and_saves_later(tmp_path, monkeypatch, whole_run):
    failing_saves(monkeypatch, {16, 32})
    run = tmp_path / "run"
    assert train(tiny(train=LONG), run, CPU) is None
    assert final_state(run) == final_state(whole_run)
    log = (run / "log.txt").read_text()
    assert log.count("new.pt: No space left on device; training goes on and tries again") == 2


def test_three_failed_saves_in_a_row_end_the_run_with_the_old_checkpoint(half_run, monkeypatch):
    attempts = failing_saves(monkeypatch, {48, 64, 80})
    with pytest.raises(OSError, match=r"No space left on device: '.*new\.pt'"):
        train(tiny(train={"total_kimg": 1}), half_run, CPU)
    assert attempts == [48, 64, 80]
    assert checkpoints(half_run / "checkpoints")[0].stem == "000000032"


def test_a_failed_last_save_is_an_error(tmp_path, monkeypatch):
    failing_saves(monkeypatch, {64})
    with pytest.raises(OSError, match=r"No space left on device: '.*new\.pt'"):
        train(tiny(train=LONG), tmp_path / "run", CPU)


@pytest.mark.slow
def test_a_disk_that_fills_up_and_is_freed_costs_nothing_but_samples(tmp_path):
    """A file system of 3 MB, filled to the last byte between two steps, freed later."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["sh", "-c", 'mount -t tmpfs -o size=3m none "$0"', str(tmp_path)]
    if subprocess.run([*enter, *mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs user namespaces; there are none here")
    mount[2] += ' && exec "$@"'
    whole_run = tmp_path.with_name("whole")
    assert train(tiny(train=fill_disk.SETTINGS), whole_run, CPU) is None
    script = [sys.executable, "-m", "tests.training.fill_disk", tmp_path, whole_run]
    done = subprocess.run(
        [*enter, *mount, *map(str, script)],
        cwd=ROOT,
        # As many threads as the whole run's: sums depend on them.
        env={**environment(), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for output in ("samples", "curves", "snapshot"):
        assert f"the {output} could not be written: No space left on device" in done.stderr
    assert "no checkpoint at 0.1 kimg" in done.stderr
    assert "its lines wait until they can be written" in done.stderr


# Resuming


@pytest.mark.slow
def test_a_run_that_changes_its_ranks_sees_the_same_images(tmp_path):
    """One rank, then two, then one again, against one throughout: the same but for rounding."""
    config, parts, whole = write_tiny(tmp_path), tmp_path / "parts", tmp_path / "whole"
    for run, starts in ((parts, ((0.024, 1), (0.048, 2), (0.072, 1))), (whole, ((0.072, 1),))):
        for kimg, ranks in starts:
            settings = (f"train.total_kimg={kimg}", "train.decay_from_kimg=0.048")
            done = stylenat("train", config, *settings, "--run-dir", run, ranks=ranks)
            assert done.returncode == 0, done.stderr
    assert len(statistics(parts)) == 9
    for ours, theirs in zip(statistics(parts), statistics(whole), strict=True):
        for name in ("step", "nimg", "lr_g", "lr_d"):
            assert ours[name] == theirs[name]
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-5), (name, ours["nimg"])


@pytest.mark.parametrize("ranks", [2, 4])
def test_data_order_goes_on_whatever_the_ranks(ranks):
    """From the middle of an epoch of 12: the ranks' images, put together, are the one rank's."""
    source = open_images("faces:12", resolution=16)
    settings = {"seed": 3, "batch": 8, "workers": 0}
    alone = training_batches(source, **settings)
    whole = [next(alone) for _ in range(5)][2:]
    shares = [
        training_batches(source, **settings, start_nimg=16, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    for batch in whole:
        together = torch.empty_like(batch)
        for rank, share in enumerate(shares):
            together[rank::ranks] = next(share)
        assert torch.equal(together, batch)


# Formats


FIXTURES = sorted(Path(__file__).parent.glob("checkpoint_format_*.json"))


def test_every_format_has_a_fixture():
    assert [path.stem for path in FIXTURES] == [f"checkpoint_format_{i + 1}" for i in range(FORMAT)]


def checkpoint_of(fixture: Path) -> dict[str, Any]:
    """A checkpoint of a run of `tiny()` as that format had it, with formulas for values."""
    listing = json.loads(fixture.read_text())
    networks = {name: dict(tensors) for name, tensors in listing["networks"].items()}
    networks["G_ema"] = networks["G"]
    content: dict[str, Any] = {"format": listing["format"], "step": 3, "nimg": 24, "seconds": 1.5}
    for name, tensors in networks.items():
        content[name] = {
            key: torch.tensor(x) if isinstance(x, int) else golden_randn(x, f"{name}/{key}")
            for key, x in tensors.items()
        }
    for name, optimizer in listing["optimizers"].items():
        network = networks["G" if name == "optimizer_g" else "D"]
        shapes = [network[key] for key in optimizer["parameters"]]
        state = {
            i: {
                "step": torch.tensor(3.0),
                "exp_avg": golden_randn(shape, f"{name}/{i}"),
                "exp_avg_sq": golden_randn(shape, f"{name}/{i}/sq").square(),
            }
            for i, shape in enumerate(shapes)
        }
        group = {**optimizer["group"], "params": list(range(len(shapes)))}
        content[name] = {"state": state, "param_groups": [group]}
    return content


def written(folder: RunFolder, content: dict[str, Any]) -> RunFolder:
    """A run folder with that checkpoint, in whatever format it says it has."""
    folder.open(tiny())
    save_checkpoint(folder.checkpoints, content, keep=1)
    return folder


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_a_checkpoint_of_every_format_loads_and_trains_on(tmp_path, fixture):
    content = checkpoint_of(fixture)
    state, seconds, _ = newest_state(tiny(), written(RunFolder(tmp_path / "run"), content), CPU)
    assert (state.step, state.nimg, seconds) == (3, 24, 1.5)
    loaded = state.state_dict()
    for name in ("G", "D", "G_ema", "optimizer_g", "optimizer_d"):
        assert flat(loaded[name]) == flat(content[name]), name
    assert train(tiny(), tmp_path / "run", CPU) is None


def test_a_newer_format_is_refused_with_both_versions(tmp_path):
    content = {"format": 2, "stylenat_version": "7.8", "nimg": 8}
    folder = written(RunFolder(tmp_path / "run"), content)
    with pytest.raises(ValueError, match=r"format 2, of StyleNAT 7\.8, and this StyleNAT") as e:
        newest_state(tiny(), folder, CPU)
    assert str(e.value).endswith("reads 1")
    assert "000000008.pt" in str(e.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["D"].pop("logit.bias"), r"D is another network: 1 missing \(logit.bias"),
        (lambda c: c["G_ema"].update(extra=torch.ones(1)), r"G_ema is .* 1 left over \(extra\)"),
        (lambda c: c["G"].update(const=torch.ones(2)), r"1 of another shape \(const \[2\] inst"),
        (lambda c: c.pop("G_ema"), "the checkpoint has no G_ema"),
        (lambda c: c.pop("optimizer_d"), "the checkpoint has no optimizer_d"),
        (lambda c: c.pop("seconds"), "the checkpoint has no seconds"),
        (
            lambda c: c["optimizer_g"]["state"].pop(0),
            r"optimizer_g is another optimizer: 3 missing \(const.step, const.exp_avg, const.exp_a",
        ),
        (
            lambda c: c["optimizer_g"]["state"][0].update(exp_avg=torch.ones(3)),
            r"optimizer_g .*const.exp_avg \[3\] instead of \[4, 4, 8\]",
        ),
        (
            lambda c: c["optimizer_d"]["param_groups"][0]["params"].pop(),
            "optimizer_d has other parameters",
        ),
    ],
)
def test_another_state_is_refused_by_name_and_nothing_is_loaded(tmp_path, change, message):
    content = copy.deepcopy(stepped_state().state_dict())
    content["seconds"] = 0.0
    change(content)
    state = new_state(tiny(), CPU)
    before = flat(copy.deepcopy(state.state_dict()))
    if "seconds" in content:
        with pytest.raises(ValueError, match=message):
            state.load_state_dict(content)
    assert flat(state.state_dict()) == before
    folder = written(RunFolder(tmp_path / "run"), content)
    with pytest.raises(ValueError, match=rf"000000016\.pt: .*{message}"):
        newest_state(tiny(), folder, CPU)


def test_another_architectures_run_is_refused_by_config_and_by_checkpoint(half_run, tmp_path):
    levels = [{"resolution": 4, "channels": 8}, {"resolution": 8, "channels": 16}]
    wider = tiny(model={"discriminator": {"levels": levels}})
    with pytest.raises(ValueError, match=r"levels\[1\]\.channels \(8 there, 16 here"):
        train(wider, half_run, CPU)
    other = RunFolder(tmp_path / "other")
    other.open(wider)
    for path in (half_run / "checkpoints").iterdir():
        path.rename(other.checkpoints / path.name)
    with pytest.raises(ValueError, match=r"000000032\.pt: the checkpoint's D is another network"):
        train(wider, other.path, CPU)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path, content):
    path = tmp_path / "000000008.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is (empty|not a|truncated).*$") as raised:
        load_checkpoint(path)
    assert "\n" not in str(raised.value)
