"""Whole runs: what they write, and that they continue exactly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import stylenat as package
from stylenat.training import loop
from stylenat.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from stylenat.training.loop import train
from tests.data.writers import png, write_folder
from tests.training.test_checkpoint import flat
from tests.training.tiny import command, environment, stylenat, tiny, train_to, write_tiny

CPU = torch.device("cpu")
TIMES = ("images_per_second", "seconds", "memory_gb")


def statistics(run: Path) -> list[dict[str, float]]:
    """What does not depend on the clock."""
    lines = map(json.loads, (run / "stats.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def final_state(run: Path) -> list[object]:
    content = load_checkpoint(checkpoints(run / "checkpoints")[0])
    del content["seconds"]
    return flat(content)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve steps in one go, over the borders of an epoch of eight."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(tiny(train={"total_kimg": 0.096}), run, CPU) is None
    return run


def test_a_run_shows_itself(whole_run):
    names = {str(path.relative_to(whole_run)) for path in whole_run.rglob("*") if path.is_file()}
    assert {"config.yaml", "stats.jsonl", "log.txt", "progress.png"} <= names
    assert {"samples/reals.png", "samples/000000000.png", "samples/000000096.png"} <= names
    assert {f"snapshots/{nimg:09d}.safetensors" for nimg in (32, 48, 64, 80, 96)} <= names
    assert "snapshots/000000016.safetensors" not in names  # five are kept
    assert [p.stem for p in checkpoints(whole_run / "checkpoints")] == ["000000096", "000000080"]
    assert not [name for name in names if name.endswith(".tmp")]
    log = (whole_run / "log.txt").read_text()
    assert "data: faces:64: 64 images, 16x16" in log
    assert len(re.findall(r"/0\.096 kimg  D \d", log)) == 12


def test_every_start_is_written_down_with_its_data_and_machine(tmp_path):
    for total_kimg in (0.016, 0.024):
        assert train(tiny(train={"total_kimg": total_kimg}), tmp_path, CPU) is None
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["nimg"], second["nimg"]) == (0, 16)
    assert (first["data"]["title"], first["data"]["images"]) == ("faces:64", 64)
    assert (first["data"]["held_out"], second["data"]) == (0, first["data"])
    assert (first["ranks"], first["device"], first["torch"]) == (1, "cpu", torch.__version__)


def test_statistics_hold_every_step_that_was_asked_for(whole_run):
    lines = statistics(whole_run)
    assert [line["nimg"] for line in lines] == list(range(8, 104, 8))
    assert [("r1" in line) for line in lines] == [True, False] * 6
    assert lines[-1]["lr_g"] == pytest.approx(1e-3 * 8 / 32)
    for name in ("loss_d", "loss_g", "loss_consistency", "grad_norm_d", "lr_d"):
        assert all(name in line for line in lines), name


def test_snapshots_are_models_that_know_their_mean_w(whole_run):
    generator = package.load_generator(whole_run / "snapshots" / "000000096.safetensors")
    assert int(generator.w_avg_samples) > 0
    content = load_checkpoint(checkpoints(whole_run / "checkpoints")[0])
    assert torch.equal(generator.const, content["G_ema"]["const"])


@pytest.mark.slow
def test_stopped_twice_in_an_epoch_a_run_continues_bit_for_bit(tmp_path):
    """Each part in a new process, with other readers; the data's epoch ends in the last."""
    config, parts, whole = write_tiny(tmp_path), tmp_path / "parts", tmp_path / "whole"
    starts = ((parts, 0.016, 0), (parts, 0.032, 2), (parts, 0.096, 0), (whole, 0.096, 2))
    for run, kimg, workers in starts:
        settings = (f"train.total_kimg={kimg}", f"data.workers={workers}")
        done = stylenat("train", config, *settings, "--run-dir", run, "--device", "cpu")
        assert done.returncode == 0, done.stderr
    assert statistics(parts) == statistics(whole)
    assert final_state(parts) == final_state(whole)


@pytest.mark.slow
def test_two_ranks_continue_bit_for_bit_and_have_one_ranks_losses(tmp_path):
    """A batch of 8 on one rank against 4 each on two."""
    config = tiny(data={"workers": 2})
    parts = train_to(config, tmp_path / "parts", 0.032, 0.096, ranks=2)
    whole = train_to(config, tmp_path / "whole", 0.096, ranks=2)
    assert statistics(parts) == statistics(whole)
    assert final_state(parts) == final_state(whole)
    one = train_to(config, tmp_path / "one", 0.04)
    assert len(statistics(one)) == 5
    for line, other in zip(statistics(one), statistics(whole)[:5], strict=True):
        for name, value in line.items():
            assert other[name] == pytest.approx(value, abs=1e-5, rel=1e-5), (name, line["nimg"])


def test_a_finished_run_is_left_as_it_is(whole_run):
    before = {path: path.stat().st_mtime_ns for path in (whole_run / "checkpoints").iterdir()}
    assert train(tiny(train={"total_kimg": 0.096}), whole_run, CPU) is None
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_signal_ends_the_run_after_a_whole_step_and_it_continues(tmp_path, whole_run):
    config = tiny(train={"total_kimg": 0.096})

    def interrupted(*arguments: object, d_step=loop.d_step, **named: object):
        losses = d_step(*arguments, **named)
        if arguments[0].step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "d_step", interrupted)
        assert train(config, tmp_path / "run", CPU) == signal.SIGTERM
    assert checkpoints(tmp_path / "run" / "checkpoints")[0].stem == "000000040"
    assert train(config, tmp_path / "run", CPU) is None
    assert final_state(tmp_path / "run") == final_state(whole_run)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_ends_the_run_in_order(tmp_path, number):
    """As Ctrl-C and a scheduler send it: to the processes that read images too."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        command(
            "train",
            write_tiny(tmp_path),
            "train.total_kimg=1000",
            "train.snapshot_every_kimg=1000",
            "data.workers=2",
            "--run-dir",
            run,
        ),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until((run / "stats.jsonl").exists, seconds=300)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + number, errors
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    assert len(checkpoints(run / "checkpoints")) == 1


def wait_until(condition: Callable[[], bool], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_training_works_outside_the_main_thread(tmp_path):
    results = []
    config = tiny(train={"total_kimg": 0.008})
    thread = threading.Thread(target=lambda: results.append(train(config, tmp_path / "run", CPU)))
    thread.start()
    thread.join()
    assert results == [None]


def test_metrics_are_logged_with_their_protocol_and_choose_the_best(tmp_path):
    config = tiny(
        train={"total_kimg": 0.016},
        metrics={"names": ["swd"], "num": 8, "every_kimg": 0.008},
    )
    run = tmp_path / "run"
    assert train(config, run, CPU) is None
    measured = [line for line in statistics(run) if "metrics" in line]
    assert [line["nimg"] for line in measured] == [8, 16]
    assert measured[0]["protocol"]["images"]["num"] == 8
    best = min(measured, key=lambda line: line["metrics"]["swd"])["nimg"]
    snapshots = run / "snapshots"
    expected = (snapshots / f"{best:09d}.safetensors").read_bytes()
    assert (snapshots / "best.safetensors").read_bytes() == expected


def test_relativistic_loss_with_both_penalties_trains(tmp_path):
    settings = {
        "loss": "relativistic",
        "consistency": None,
        "r1_every": 1,
        "r2_gamma": 1.0,
        "precision": "bfloat16",
        "ema_rampup": 0.05,
        "sample_truncation_psi": 0.7,
        "total_kimg": 0.016,
    }
    assert train(tiny(train=settings), tmp_path / "run", CPU) is None
    assert {"r1", "r2"} <= statistics(tmp_path / "run")[-1].keys()


# The data of a run that is continued


def continued_after(tmp_path, change, **data) -> str:
    """The log of a run's second start, before which `change` was made to its folder of images."""
    files = {f"{i:02d}.png": png(i, 16, 16) for i in range(16)}
    folder = tmp_path / "images"
    path = write_folder(folder, files)
    run = tmp_path / "run"
    assert train(tiny(data={"path": path}, train={"total_kimg": 0.016}), run, CPU) is None
    change(folder)
    assert train(tiny(data={"path": path, **data}, train={"total_kimg": 0.032}), run, CPU) is None
    return (run / "log.txt").read_text().split("done: 0.016 kimg", 1)[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "16.png").write_bytes(png(16, 16, 16)),
        lambda folder: (folder / "07.png").unlink(),
        lambda folder: (folder / "07.png").write_bytes(png(99, 16, 16)),
        lambda folder: (folder / "07.png").rename(folder / "17.png"),
    ],
    ids=["added", "removed", "replaced", "renamed"],
)
def test_data_that_changed_under_a_run_are_a_warning(tmp_path, change):
    log = continued_after(tmp_path, change)
    assert "the data have changed since the last checkpoint: images, 16 images, fingerprint" in log
    assert log.count("training goes on with what is there now") == 1


def test_another_data_set_is_a_warning(tmp_path):
    log = continued_after(tmp_path, lambda _: None, path="faces:64")
    assert "images, 16 images" in log
    assert "faces:64, 64 images" in log


def test_data_that_are_the_same_are_no_warning(tmp_path):
    assert "have changed" not in continued_after(tmp_path, lambda _: None)


def test_a_checkpoint_that_names_no_data_set_is_continued(tmp_path):
    """As those of earlier versions."""
    run = tmp_path / "run"
    assert train(tiny(train={"total_kimg": 0.016}), run, CPU) is None
    path = checkpoints(run / "checkpoints")[0]
    content = load_checkpoint(path)
    del content["data"]
    save_checkpoint(path.parent, content, keep=2)
    assert train(tiny(train={"total_kimg": 0.032}), run, CPU) is None
    assert "have changed" not in (run / "log.txt").read_text()
