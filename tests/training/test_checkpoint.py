"""Checkpoints: whole or not there, the newest whole one wins."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from stylenat.data.plan import BatchPlan
from stylenat.training import checkpoint
from stylenat.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from stylenat.training.inputs import step_inputs
from stylenat.training.state import new_state
from stylenat.training.steps import d_step, g_step
from tests.training.tiny import tiny

CPU = torch.device("cpu")


def save(folder: Path, nimg: int, keep: int = 10) -> Path:
    return save_checkpoint(folder, {"nimg": nimg, "x": torch.ones(1000) * nimg}, keep=keep)


def test_the_newest_checkpoint_gives_back_what_was_saved(tmp_path):
    save(tmp_path, 8)
    newest = save(tmp_path, 16)
    assert newest_checkpoint(tmp_path) == newest
    assert torch.equal(load_checkpoint(newest)["x"], torch.ones(1000) * 16)


def test_only_the_newest_are_kept_with_their_digests(tmp_path):
    for nimg in (8, 16, 24):
        save(tmp_path, nimg, keep=2)
    assert [path.stem for path in checkpoints(tmp_path)] == ["000000024", "000000016"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("fault", ["flipped byte", "cut", "no digest", "empty digest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, fault, caplog):
    good, bad = save(tmp_path, 8), save(tmp_path, 16)
    digest = bad.with_name(f"{bad.name}.sha256")
    if fault == "flipped byte":
        data = bytearray(bad.read_bytes())
        data[len(data) // 2] ^= 1
        bad.write_bytes(data)
    elif fault == "cut":
        bad.write_bytes(bad.read_bytes()[:-1])
    elif fault == "no digest":
        digest.unlink()
    else:
        digest.write_text("")
    assert newest_checkpoint(tmp_path) == good
    assert str(bad) in caplog.text


def test_a_folder_of_damaged_checkpoints_is_refused(tmp_path):
    save(tmp_path, 8).write_bytes(b"")
    with pytest.raises(ValueError, match="all 1 checkpoints are damaged"):
        newest_checkpoint(tmp_path)


def test_a_failed_save_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    good = save(tmp_path, 8)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 16)
    assert newest_checkpoint(tmp_path) == good
    assert len(list(tmp_path.iterdir())) == 2


# The state in it


def stepped_state(steps: int = 2):
    config = tiny()
    state = new_state(config, CPU)
    for step in range(steps):
        real = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        batch = step_inputs(real, BatchPlan(8), seed=0, step=step, z_dim=8)
        d_step(state, batch, config.train)
        g_step(state, batch, config.train)
        state.step, state.nimg = state.step + 1, state.nimg + 8
    return state


def flat(value: object) -> list[object]:
    """All tensors and numbers in a nested state, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in [key, *flat(value[key])]]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    return [value.tolist()] if isinstance(value, torch.Tensor) else [value]


def test_a_loaded_state_is_the_saved_one(tmp_path):
    state = stepped_state()
    path = save_checkpoint(tmp_path, state.state_dict(), keep=1)
    fresh = new_state(tiny(), CPU)
    fresh.load_state_dict(load_checkpoint(path))
    assert flat(fresh.state_dict()) == flat(state.state_dict())
    assert (fresh.step, fresh.nimg) == (2, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda G: G.pop("const"), r"G is another network: 1 missing \(const\)"),
        (lambda G: G.update(extra=torch.ones(1)), r"1 left over \(extra\)"),
        (lambda G: G.update(const=torch.ones(2)), r"const \[2\] instead of \[4, 4, 8\]"),
    ],
)
def test_another_networks_state_is_refused_by_name_and_changes_nothing(change, message):
    saved = copy.deepcopy(stepped_state().state_dict())
    change(saved["G"])
    fresh = new_state(tiny(), CPU)
    before = flat(copy.deepcopy(fresh.state_dict()))
    with pytest.raises(ValueError, match=message):
        fresh.load_state_dict(saved)
    assert flat(fresh.state_dict()) == before
