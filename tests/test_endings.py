"""Every process comes to its end, whatever it waits for: signals, errors, lost and silent helpers.

Bounds on seconds are far ones, against hangs; results/LOG.md has what was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylenat.training.checkpoint import checkpoints
from tests.data.writers import png, write_folder
from tests.training.processes import (
    Job,
    descendants,
    lines_of,
    rank_process,
    started,
    thorough,
    wait_until,
)
from tests.training.tiny import ROOT, environment, write_tiny

HANGS = 120  # seconds; none of these takes a third of it on a quiet machine
READ = "stylenat.data.source:FacesSource.read"
SOON = {"STYLENAT_STOP_TIMEOUT": "4"}
ENDLESS = ("train.total_kimg=1000", "train.snapshot_every_kimg=1000")


@contextlib.contextmanager
def blocked(
    how: str, place: str, count: int, *arguments: object, ranks: int = 1, **variables: str
) -> Iterator[Job]:
    """The command in a session of its own; at its end nothing of the session may be left."""
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    line = [*launcher, "tests.blocked", how, place, str(count), *map(str, arguments)]
    job = Job(line, cwd=ROOT, env={**environment(), **variables}, start_new_session=True)
    try:
        yield job
    finally:
        for pid in [job.pid, *descendants(job.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()
        job.log.close()


def shown(job: Job) -> str:
    return os.pread(job.log.fileno(), 1 << 20, 0).decode(errors="replace")


def wait_for(job: Job, text: str, count: int = 1) -> None:
    wait_until(lambda: shown(job).count(text) >= count, seconds=HANGS)


def session(leader: int) -> list[int]:
    """The processes of a session that are not yet over."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def assert_ended(job: Job, *, code: int | None = None) -> str:
    """The job ends, and so do all of its processes; what it has shown."""
    _, text = job.end(seconds=HANGS)
    wait_until(lambda: not session(job.pid), seconds=HANGS)
    if code is not None:
        assert job.returncode == code, text
    assert "Traceback" not in text, text
    return text


# Training


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=thorough)])
def test_a_run_whose_images_never_come_is_saved_at_the_first_signal(tmp_path, workers):
    run, config = tmp_path / "run", write_tiny(tmp_path)
    where = (READ, 40, "train", config, *ENDLESS, f"data.workers={workers}", "--run-dir", run)
    with blocked("block", *where) as job:
        wait_for(job, "BLOCKED")
        time.sleep(1)
        job.send_signal(signal.SIGTERM)
        text = assert_ended(job, code=143)
    assert "stopped by SIGTERM" in text
    newest = checkpoints(run / "checkpoints")[0]
    assert int(newest.stem) == json.loads((run / "stopped").read_text())["nimg"] >= 16


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_a_read_that_never_returns_does_not_keep_its_process(tmp_path, signals):
    """In the main process nothing can be saved; what was saved before is whole."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    where = (READ, 100, "train", config, *ENDLESS, "--run-dir", run)
    patience = "1000" if signals == 2 else "4"
    with blocked("block", *where, STYLENAT_STOP_TIMEOUT=patience) as job:
        wait_for(job, "BLOCKED")
        for _ in range(signals):
            job.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        text = assert_ended(job, code=143)
    assert "Error: ended in the middle of its work or of a wait: " in text
    assert ("a second signal" in text) == (signals == 2)


@pytest.mark.slow
def test_a_save_that_never_ends_does_not_keep_its_process(tmp_path):
    place = "stylenat.training.outputs:save_checkpoint"
    config = write_tiny(tmp_path)
    where = (place, 1, "train", config, "--run-dir", tmp_path / "run")
    with blocked("block", *where, **SOON) as job:
        wait_for(job, "BLOCKED")
        job.send_signal(signal.SIGINT)
        assert_ended(job, code=130)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param(0, marks=thorough), 1])
def test_two_ranks_whose_images_never_come_end_at_the_first_signal(tmp_path, workers):
    """With workers rank 0 saves what it has, alone; the other rank may be in the next step."""
    run, config = tmp_path / "run", write_tiny(tmp_path)
    where = (READ, 40, "train", config, *ENDLESS, f"data.workers={workers}", "--run-dir", run)
    with blocked("block", *where, ranks=2, **({} if workers else SOON)) as job:
        wait_for(job, "BLOCKED", 2 if workers else 1)
        job.send_signal(signal.SIGTERM)
        _, text = job.end(seconds=HANGS)
        wait_until(lambda: not session(job.pid), seconds=HANGS)
    assert job.returncode != 0
    if workers:
        assert "stopped by SIGTERM" in text
        assert "in the middle of its work" not in text
        assert int(checkpoints(run / "checkpoints")[0].stem) >= 16


@pytest.mark.slow
def test_a_rank_that_waits_for_a_stopped_one_ends_at_the_first_signal(tmp_path):
    run = tmp_path / "run"
    with started("train", write_tiny(tmp_path), *ENDLESS, "--run-dir", run, ranks=2, **SOON) as job:
        wait_until(lambda: lines_of(run) > 3, seconds=HANGS)
        waiting, stopped = (rank_process(job.pid, rank) for rank in range(2))
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(1)
        os.kill(waiting, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{waiting}").exists(), seconds=HANGS)


@pytest.mark.slow
def test_a_lost_worker_ends_a_run_and_its_steps_are_kept(tmp_path):
    run, config = tmp_path / "run", write_tiny(tmp_path)
    with started("train", config, *ENDLESS, "data.workers=1", "--run-dir", run) as job:
        wait_until(lambda: lines_of(run) > 3, seconds=HANGS)
        (worker,) = descendants(job.pid)
        os.kill(worker, signal.SIGKILL)
        text = assert_ended(job, code=1)
    assert "a process that reads images was lost (ended by signal 9)" in text
    assert int(checkpoints(run / "checkpoints")[0].stem) >= 16


@pytest.mark.slow
def test_a_silent_worker_ends_a_run_after_its_time(tmp_path):
    run, config = tmp_path / "run", write_tiny(tmp_path)
    options = ("data.workers=1", "--run-dir", run)
    with started("train", config, *ENDLESS, *options, STYLENAT_DATA_TIMEOUT="3") as job:
        wait_until(lambda: lines_of(run) > 3, seconds=HANGS)
        (worker,) = descendants(job.pid)
        os.kill(worker, signal.SIGSTOP)
        text = assert_ended(job, code=1)
    assert f"{worker}, has given none for 3 s" in text
    assert checkpoints(run / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "sentence"),
    [("MemoryError", "out of memory"), ("OSError", "an injected"), ("RuntimeError", None)],
)
def test_an_error_in_an_evaluation_ends_the_run(tmp_path, error, sentence):
    config = write_tiny(tmp_path)
    options = ("data.workers=1", "metrics.names=[swd]", "metrics.num=8", "--run-dir", "run")
    place = "stylenat.metrics.swd:sliced_wasserstein"
    with blocked(error, place, 1, "train", config, *options[:-1], tmp_path / "run") as job:
        _, text = job.end(seconds=HANGS)
        wait_until(lambda: not session(job.pid), seconds=HANGS)
    assert job.returncode == 1
    assert f"Error: {sentence}" in text if sentence else "Traceback" in text


# The other commands


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=thorough)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_prepare_ends_at_a_signal_while_an_image_never_comes(tmp_path, workers, number, code):
    place = "stylenat.data.prepare:scale_and_crop"
    options = ("--resolution", 16, "--workers", workers)
    where = (place, 9, "prepare", "faces:200", tmp_path / "x.zip", *options)
    with blocked("block", *where) as job:
        wait_for(job, "BLOCKED")
        job.send_signal(number)
        assert_ended(job, code=code)
    assert not (tmp_path / "x.zip").exists()


@pytest.fixture
def two_sizes(tmp_path) -> str:
    files = {f"{i}.png": png(i, 32, 32) for i in range(6)} | {"6.png": png(6, 48, 48)}
    return str(write_folder(tmp_path / "images", files))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=thorough)])
def test_an_error_of_fid_is_one_sentence_and_its_end(two_sizes, workers):
    options = ("--data", two_sizes, "--metrics", "swd", "--workers", workers, "--batch", 2)
    with started("fid", two_sizes, *options) as job:
        text = assert_ended(job, code=1)
    assert f"{two_sizes}/6.png is 48x48" in text
    assert text.count("\n") == 1


@pytest.mark.slow
def test_an_error_on_two_ranks_is_said_once(two_sizes):
    options = ("--data", two_sizes, "--metrics", "nonsense")
    with started("fid", two_sizes, *options, ranks=2) as job:
        _, text = job.end(seconds=HANGS)
    assert job.returncode != 0
    assert text.count("Error: unknown metric 'nonsense'") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_sample_ends_at_a_signal(tmp_path, number, code):
    from stylenat.export import save_generator
    from tests.sampling.tiny import tiny_generator

    save_generator(tiny_generator(), tmp_path / "g.safetensors")
    arguments = ("sample", tmp_path / "g.safetensors", "--seeds", "0-9", "--outdir", tmp_path / "o")
    with blocked("block", "stylenat.sampling.files:save_png", 2, *arguments) as job:
        wait_for(job, "BLOCKED")
        job.send_signal(number)
        assert_ended(job, code=code)


# Processes that read


def read_in_a_program(tmp_path: Path, program: str, **variables: str) -> Job:
    """Start a Python program with a folder of 64 images."""
    folder = write_folder(tmp_path / "few", {f"{i}.png": png(i) for i in range(64)})
    return Job(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        env={**environment(), **variables},
        start_new_session=True,
    )


OPEN = """
import sys, os, signal, time
from stylenat.data import open_images, read_batches, training_batches
batches = training_batches(open_images(sys.argv[1]), seed=0, batch=8, workers={workers})
next(batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    ["", "1 / 0", "sys.exit(3)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGKILL)"],
    ids=["normally", "error", "exit", "os._exit", "SIGKILL"],
)
@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=thorough)])
def test_workers_end_with_their_program_however_it_ends(tmp_path, end, workers):
    job = read_in_a_program(tmp_path, OPEN.format(workers=workers) + end)
    job.end(seconds=HANGS)
    wait_until(lambda: not session(job.pid), seconds=HANGS)
    job.log.close()


def test_a_program_whose_worker_was_stopped_for_good_ends(tmp_path):
    stop = "import multiprocessing as m\nos.kill(m.active_children()[0].pid, signal.SIGSTOP)\n"
    job = read_in_a_program(tmp_path, OPEN.format(workers=2) + stop)
    job.end(seconds=HANGS)
    assert job.returncode == 0
    wait_until(lambda: not session(job.pid), seconds=HANGS)
    job.log.close()


def in_a_small_shm(size: str, *line: str) -> subprocess.CompletedProcess[str]:
    """Run the command where /dev/shm holds so little."""
    mounting = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    if not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("only root can mount another /dev/shm")
    wrapped = ["unshare", "-m", "sh", "-c", mounting, "sh"]
    if subprocess.run([*wrapped, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let a test mount another /dev/shm")
    return subprocess.run(
        [*wrapped, *line],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("size", "workers"), [("64k", 2), ("4k", 1), ("64k", 4)])
def test_a_small_shm_keeps_nobody_waiting(tmp_path, size, workers):
    """Batches of 800 kB go from process to process without it."""
    program = (
        "import sys; from stylenat.data import open_images, training_batches\n"
        "source = open_images('faces:300', resolution=64)\n"
        f"batches = training_batches(source, seed=0, batch=64, workers={workers})\n"
        "print(sum(next(batches).double().sum() for _ in range(3)).item())"
    )
    done = in_a_small_shm(size, sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    exec_here = subprocess.run(
        [sys.executable, "-c", program.replace(f"workers={workers}", "workers=0")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == exec_here.stdout


# The end of the process itself


KEPT = """
import sys, threading, time
from stylenat.cli import run
threading.Thread(target=time.sleep, args=(10_000,)).start()
sys.argv = ["stylenat", *sys.argv[1:]]
run()
"""


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("nonsense", 2)])
def test_what_keeps_a_process_after_its_work_does_so_for_a_while_only(argument, code):
    done = subprocess.run(
        [sys.executable, "-c", KEPT, argument],
        cwd=ROOT,
        env={**environment(), "STYLENAT_STOP_TIMEOUT": "2"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert done.returncode == code
    assert "its work was over, and something kept it" in done.stderr


def test_a_signal_that_is_ignored_is_no_request():
    """As nohup has it."""
    program = (
        "import os, signal, time; from stylenat.ending import ending_in_time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with ending_in_time():\n"
        "    os.kill(os.getpid(), signal.SIGHUP); time.sleep(2)\n"
        "print('here')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**environment(), "STYLENAT_STOP_TIMEOUT": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr


def test_a_wrong_patience_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "stylenat", "--version"],
        cwd=ROOT,
        env={**environment(), "STYLENAT_STOP_TIMEOUT": "soon"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: STYLENAT_STOP_TIMEOUT must be a positive number")
    assert done.stderr.count("\n") == 1
