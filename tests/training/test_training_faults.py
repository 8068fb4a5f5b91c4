"""What happens to a run from outside: signals, lost ranks, services, terminals, networks, a second
process. See reliability.md."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch

from stylenat.distributed import step_timeout_seconds
from stylenat.files import FileLock
from stylenat.metrics import Evaluator
from stylenat.training import outputs
from stylenat.training.checkpoint import checkpoints, load_checkpoint, newest_checkpoint
from stylenat.training.loop import train
from stylenat.training.run_folder import MOST_POINTS, RunFolder
from tests.data.writers import png, write_folder
from tests.training.processes import (
    ENDLESS,
    lines_of,
    rank_process,
    started,
    thorough,
    wait_for_steps,
    wait_until,
)
from tests.training.test_loop import final_state, statistics
from tests.training.tiny import ROOT, command, environment, stylenat, tiny, write_tiny

CPU = torch.device("cpu")


def is_complete(run: Path) -> bool:
    """Whether stats.jsonl has every step of `tiny` once, whole."""
    lines = (run / "stats.jsonl").read_text().splitlines()
    found = [json.loads(line)["nimg"] for line in lines]
    return found == list(range(8, found[-1] + 8, 8))


# Signals (the ones to all processes at once: test_loop.py)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGUSR1,
        pytest.param(signal.SIGTERM, marks=thorough),
        pytest.param(signal.SIGHUP, marks=thorough),
    ],
)
def test_a_signal_stops_both_ranks_and_the_next_start_goes_on(tmp_path, number):
    """To torchrun, as Slurm sends it; a second one follows at once."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    handled = ("--signals-to-handle", "SIGINT,SIGTERM,SIGHUP,SIGUSR1")
    arguments = ("train", config, "train.total_kimg=1000", "--run-dir", run)
    with started(*arguments, ranks=2, launcher=handled) as process:
        wait_until(lambda: lines_of(run) > 3, seconds=300)
        process.send_signal(number)
        time.sleep(0.05)
        for rank in range(2):
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(rank_process(process.pid, rank), signal.SIGTERM)
        _, errors = process.end(seconds=300)
    assert "the same command continues" in errors
    stopped = json.loads((run / "stopped").read_text())
    assert stopped["reason"] in ("SIGTERM", number.name)
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    steps = lines_of(run)
    assert load_checkpoint(newest)["step"] == stopped["step"] == steps
    assert is_complete(run)
    done = stylenat("train", config, f"train.total_kimg={(steps + 2) * 0.008}", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert not (run / "stopped").exists()
    assert is_complete(run)
    assert lines_of(run) == steps + 2


class Slow:
    """A metric over so many images that it takes minutes; its reference is nothing."""

    def __init__(self, config: object, *_: object) -> None:
        self.real = Evaluator(["swd"], source_of(config), num=8)
        self.calls = 0

    def __call__(self, generator, **options: object):
        self.calls += 1
        if self.calls == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.real(generator, **options)


def source_of(config: object):
    from stylenat.training.start import open_training_images

    return open_training_images(config).all  # type: ignore[arg-type]


def test_a_signal_ends_an_evaluation_and_the_next_start_measures(tmp_path, monkeypatch):
    """The state before it was saved; the second start takes no step before it has the score."""
    config = tiny(train={"total_kimg": 0.016}, metrics={"names": ["swd"], "num": 8})
    evaluator = Slow(config)
    monkeypatch.setattr("stylenat.training.loop.make_evaluator", lambda *_: evaluator)
    run = tmp_path / "run"
    assert train(config, run, CPU) == signal.SIGTERM
    assert json.loads((run / "stopped").read_text())["nimg"] == 16
    assert checkpoints(run / "checkpoints")[0].stem == "000000016"
    assert not any("metrics" in line for line in statistics(run))
    saved = checkpoints(run / "checkpoints")[0].stat().st_mtime_ns
    assert train(config, run, CPU) is None
    assert [line["nimg"] for line in statistics(run) if "metrics" in line] == [16]
    assert checkpoints(run / "checkpoints")[0].stat().st_mtime_ns == saved
    assert (run / "snapshots" / "best.safetensors").exists()
    assert train(config, run, CPU) is None
    assert evaluator.calls == 2


@pytest.mark.slow
def test_a_signal_ends_an_evaluation_on_both_ranks_at_once(tmp_path):
    """Not by torchrun's patience, whose end is a SIGKILL; the evaluation takes minutes."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    many = ("train.total_kimg=0.008", "metrics.names=[swd]", "metrics.num=1000000")
    with started("train", config, *many, "--run-dir", run, ranks=2) as process:
        wait_until((run / "snapshots" / "000000008.safetensors").exists, seconds=300)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.end(seconds=300)
    assert "stopped by SIGTERM" in errors
    assert json.loads((run / "stopped").read_text())["nimg"] == 8


def test_a_process_killed_between_checkpoint_and_snapshot_gets_its_snapshot(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    config, run = tiny(train={"total_kimg": 0.016}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "save_snapshot", killed)
        with pytest.raises(Killed):
            train(config, run, CPU)
    assert not list((run / "snapshots").iterdir())
    assert train(config, run, CPU) is None
    assert [path.stem for path in (run / "snapshots").iterdir()] == ["000000016"]


# Ranks


@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=thorough), 1])
def test_a_killed_rank_ends_the_job(tmp_path, rank):
    run = tmp_path / "run"
    with started("train", write_tiny(tmp_path), *ENDLESS, "--run-dir", run, ranks=2) as process:
        wait_until(lambda: lines_of(run) > 3, seconds=300)
        os.kill(rank_process(process.pid, rank), signal.SIGKILL)
        process.end(seconds=300)
    assert process.returncode != 0
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert int(newest.stem) >= 16


@pytest.mark.slow
@pytest.mark.parametrize("killed", [[1], pytest.param([0, 1, 0], marks=thorough)])
def test_a_killed_rank_is_started_again_and_the_run_ends_whole(tmp_path, killed):
    """What scripts/train_multinode.sh sets: restarts, and a store of their own for each."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    settings = ("train.total_kimg=0.16", "train.snapshot_every_kimg=0.016", "data.workers=1")
    with started(
        "train",
        config,
        *settings,
        "--run-dir",
        run,
        ranks=2,
        launcher=("--max-restarts=3",),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    ) as process:
        for rank in killed:
            wait_for_steps(run, 4)
            os.kill(rank_process(process.pid, rank), signal.SIGKILL)
            time.sleep(0.5)
            wait_until(lambda: is_restarted(process.pid), seconds=300)
        _, errors = process.end(seconds=300)
    assert process.returncode == 0, errors
    assert "done: 0.16 kimg" in errors
    assert is_complete(run)
    assert lines_of(run) == 20


def is_restarted(launcher: int) -> bool:
    try:
        return bool(rank_process(launcher, 0) and rank_process(launcher, 1))
    except AssertionError:
        return False


@pytest.mark.slow
def test_a_stopped_rank_ends_the_job_after_its_timeout(tmp_path):
    """5 s of the others' patience, and the 30 s that torchrun gives the stopped one."""
    run = tmp_path / "run"
    arguments = ("train", write_tiny(tmp_path), "train.total_kimg=1000", "--run-dir", run)
    with started(
        *arguments, "train.snapshot_every_kimg=1000", ranks=2, STYLENAT_STEP_TIMEOUT="5"
    ) as process:
        wait_until(lambda: lines_of(run) > 3, seconds=300)
        os.kill(rank_process(process.pid, 1), signal.SIGSTOP)
        seconds, errors = process.end(seconds=600)
    assert seconds > 4
    assert process.returncode != 0
    assert "Error: rank 0 lost the others: one has ended, or kept them waiting too long" in errors


def test_a_step_timeout_is_a_positive_number(monkeypatch):
    monkeypatch.setenv("STYLENAT_STEP_TIMEOUT", "12.5")
    assert step_timeout_seconds() == 12.5
    for text in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("STYLENAT_STEP_TIMEOUT", text)
        with pytest.raises(ValueError, match="STYLENAT_STEP_TIMEOUT must be a positive number"):
            step_timeout_seconds()


# Services, logs, terminals


def broken_wandb(fault: str) -> types.ModuleType | None:
    def fail(*_: object, **__: object) -> None:
        raise {"unreachable": ConnectionError, "full": OSError}.get(fault, RuntimeError)(fault)

    def nothing(*_: object, **__: object) -> None:
        pass

    if fault == "absent":
        return None
    module = types.ModuleType("wandb")
    run = types.SimpleNamespace(
        log=fail if fault in ("throwing", "full") else nothing,
        finish=fail if fault == "throwing at its end" else nothing,
    )
    module.init = fail if fault == "unreachable" else lambda **_: run
    return module


@pytest.mark.parametrize(
    "fault", ["absent", "unreachable", "throwing", "throwing at its end", "full", None]
)
def test_training_goes_on_without_wandb(tmp_path, monkeypatch, fault):
    monkeypatch.setitem(sys.modules, "wandb", broken_wandb(fault or ""))
    run = tmp_path / "run"
    assert train(tiny(train={"wandb": "online"}), run, CPU) is None
    assert is_complete(run)
    assert lines_of(run) == 5
    log = (run / "log.txt").read_text()
    assert log.count("wandb is left out from here on") == (0 if fault is None else 1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", pytest.param("online", marks=thorough)])
def test_training_goes_on_with_the_real_wandb_and_no_network(tmp_path, mode):
    pytest.importorskip("wandb", reason="wandb is optional")
    run = tmp_path / "run"
    settings = (f"train.wandb={mode}", "--run-dir", run)
    with started(
        "train",
        write_tiny(tmp_path),
        *settings,
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY="0" * 40,
    ) as process:
        _, errors = process.end(seconds=600)
    assert process.returncode == 0, errors
    assert is_complete(run)
    assert ("wandb is left out" in errors) == (mode == "online")


def test_lines_that_the_disk_does_not_take_wait_in_order(tmp_path, monkeypatch, caplog):
    """And a part of a line that it does take is taken back."""
    folder = RunFolder(tmp_path / "run")
    folder.open(tiny())
    folder.append_stats({"nimg": 8})

    class HalfFull:
        """Takes five bytes, then none."""

        def __init__(self, file) -> None:
            self.file, self.room = file, 5

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            self.room -= (count := self.file.write(data[: self.room]))
            return count

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        real = Path.open
        patch.setattr(Path, "open", lambda path, *a, **k: HalfFull(real(path, *a, **k)))
        folder.append_stats({"nimg": 16})
        folder.append_stats({"nimg": 24})
    assert folder.stats.read_text() == '{"nimg": 8}\n'
    assert [entry["nimg"] for entry in folder.points()] == [8, 16, 24]
    assert len(caplog.records) == 1
    folder.append_stats({"nimg": 32})
    assert folder.stats.read_text().splitlines() == [f'{{"nimg": {n}}}' for n in (8, 16, 24, 32)]


def test_a_start_without_a_checkpoint_forgets_the_statistics_before(tmp_path, monkeypatch):
    """A process that was killed before its first save leaves lines, the last one in part."""
    run = tmp_path / "run"
    config = tiny(train={"total_kimg": 0.016})
    folder = RunFolder(run)
    with folder.lock:
        folder.open(config)
        folder.append_stats({"nimg": 8, "loss_d": 99.0})
    with folder.stats.open("a") as file:
        file.write('{"nimg": 16, "los')
    assert train(config, run, CPU) is None
    assert is_complete(run)
    assert statistics(run)[0]["loss_d"] != 99.0


@pytest.mark.parametrize("bad", ["00.png", "04.png", "15.png"])
def test_unreadable_images_are_replaced_up_to_the_configs_limit(tmp_path, bad):
    """A run of 40 images shows each of 16 at least twice; the first grid has two of these."""
    files = {f"{i:02d}.png": png(i, 16, 16) for i in range(16)} | {bad: b"no image"}
    path = write_folder(tmp_path / "images", files)
    config = tiny(data={"path": path})
    assert train(config, tmp_path / "run", CPU) is None
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    (line,) = (line for line in lines if line.endswith("another image is shown in its place"))
    assert f" warning: {path}/{bad}" in line
    with pytest.raises(ValueError, match=rf"^{path}/{bad} is no image"):
        train(tiny(data={"path": path, "max_bad": 0}), tmp_path / "strict", CPU)


@pytest.mark.slow
def test_a_closed_terminal_does_not_end_a_run(tmp_path):
    """The terminal hangs up: SIGHUP, and every write to it fails. A live bar is on it."""
    run = tmp_path / "run"
    master, slave = pty.openpty()
    line = command("train", write_tiny(tmp_path), "train.total_kimg=0.12", "--run-dir", run)
    # A session of its own, whose terminal this is: setsid -c.
    process = subprocess.Popen(
        ["setsid", "-c", "-w", *line],
        cwd=ROOT,
        env={**environment(), "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    wait_until(lambda: lines_of(run) > 3, seconds=300)
    shown = os.read(master, 100_000).decode(errors="replace")  # it may end in a character
    os.close(master)
    lines = lines_of(run)
    assert process.wait(timeout=300) == 0
    assert "kimg" in shown
    assert lines < 15
    assert lines_of(run) == 15
    assert is_complete(run)
    assert "done: 0.12 kimg" in (run / "log.txt").read_text()


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_a_run(tmp_path):
    """`stylenat train ... 2>&1 | head -n 1`."""
    run = tmp_path / "run"
    line = command("train", write_tiny(tmp_path), "--run-dir", run)
    process = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert lines_of(run) == 5
    assert is_complete(run)


# Networks


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing can be reached, and nothing was fetched before."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("names", [[], ["swd"]])
def test_a_run_needs_no_network(tmp_path, no_network, names):
    config = tiny(metrics={"names": names, "num": 8})
    assert train(config, tmp_path / "run", CPU) is None


@pytest.mark.parametrize("names", [["fid"], ["swd", "kid"], ["pr"]])
def test_a_metric_whose_network_is_missing_fails_before_any_training(tmp_path, no_network, names):
    config = tiny(metrics={"names": names, "num": 8})
    with pytest.raises((ValueError, OSError), match="pt_inception-2015-12-05"):
        train(config, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


# Two processes


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    """The first is killed outright; the processes that read its images live on for seconds."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    arguments = ("train", config, "train.total_kimg=1000", "--run-dir", run)
    with started(*arguments, "data.workers=2") as first:
        wait_until((run / "checkpoints" / "000000016.pt").exists, seconds=300)
        files = sorted(run.rglob("*.pt.sha256"))
        second = stylenat(*arguments)
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        expected = f"{run} is being trained by process {first.pid} on {socket.gethostname()}: stop"
        assert expected in second.stderr
        assert files
        first.kill()
        first.wait()
        newest = int(checkpoints(run / "checkpoints")[0].stem)
        third = stylenat(*arguments, f"train.total_kimg={(newest + 16) / 1000}")
        assert third.returncode == 0, third.stderr


def test_a_lock_ends_with_its_block(tmp_path):
    path = tmp_path / ".lock"
    for _ in range(2):
        with FileLock(path) as lock:
            lock.acquire()
            lock.acquire()
            assert held_elsewhere(path)
        assert not held_elsewhere(path)


def held_elsewhere(path: Path) -> bool:
    """Whether another process is refused the lock."""
    program = (
        "import sys, pathlib; from stylenat.files import FileLock\n"
        "FileLock(pathlib.Path(sys.argv[1])).acquire()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or f"is being trained by process {os.getpid()} on" in done.stderr
    return done.returncode != 0


def test_a_file_system_without_locks_is_mentioned(tmp_path, monkeypatch, caplog):
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with FileLock(tmp_path / ".lock") as lock:
        lock.acquire()
    assert f"{tmp_path / '.lock'} cannot be locked: No locks available; nothing else" in caplog.text


# What else a full disk meets


@pytest.mark.parametrize("name", ["save_grid", "save_snapshot", "draw_curves", "keep_if_best"])
def test_what_is_only_shown_may_fail(tmp_path, monkeypatch, name):
    real = getattr(outputs, name)

    def full_in_the_middle(*arguments: object, **named: object) -> object:
        if (tmp_path / "run" / "checkpoints" / "000000032.pt").exists():
            return real(*arguments, **named)
        raise OSError(28, "No space left on device")

    config = tiny(metrics={"names": ["swd"], "num": 8, "every_kimg": 0.016})
    assert train(tiny(train={"total_kimg": 0.008}), tmp_path / "run", CPU) is None
    shutil.rmtree(tmp_path / "run" / "snapshots")
    monkeypatch.setattr(outputs, name, full_in_the_middle)
    assert train(config, tmp_path / "run", CPU) is None
    assert (
        "could not be written: No space left on device; training goes on"
        in (tmp_path / "run" / "log.txt").read_text()
    )
    assert final_state(tmp_path / "run")


def test_curves_of_a_long_run_are_drawn_from_a_few_thousand_points(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open(tiny())
    with folder.stats.open("w") as file:
        for nimg in range(3 * MOST_POINTS):
            file.write(json.dumps({"nimg": nimg}) + "\n")
        file.write(json.dumps({"nimg": nimg, "metrics": {"fid": 1.0}}) + "\n")
    points = folder.points()
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS + 1
    assert points[0] == {"nimg": 0}
    assert points[-1] == {"nimg": nimg, "metrics": {"fid": 1.0}}
