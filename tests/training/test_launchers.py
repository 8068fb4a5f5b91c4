"""The scripts that start many processes, with stand-ins for Slurm's programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from stylenat.training.checkpoint import newest_checkpoint
from tests.training.processes import Job, lines_of, thorough, wait_until
from tests.training.tiny import ROOT, environment, write_tiny

SRUN = '#!/bin/sh\nexec "$@"\n'
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$SCONTROL_LOG"; fi
"""


@pytest.mark.slow
@pytest.mark.parametrize("time_is_up", [True, pytest.param(False, marks=thorough)])
def test_a_slurm_job_whose_time_is_up_saves_and_goes_back_to_the_queue(tmp_path, time_is_up):
    for name, program in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / name
        path.write_text(program)
        path.chmod(0o755)
    run, calls = tmp_path / "run", tmp_path / "calls.txt"
    kimg = 1000 if time_is_up else 0.016
    line = ["bash", str(ROOT / "scripts" / "train_slurm.sh"), str(write_tiny(tmp_path))]
    job = Job(
        [*line, f"train.total_kimg={kimg}", "--run-dir", str(run)],
        env={
            **environment(),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SCONTROL_LOG": str(calls),
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_SUBMIT_DIR": str(ROOT),
        },
        start_new_session=True,
    )
    try:
        if time_is_up:
            wait_until(lambda: lines_of(run) > 3, seconds=600)
            job.send_signal(signal.SIGUSR1)
        _, errors = job.end(seconds=600)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None, errors
    if time_is_up:
        assert job.returncode != 0
        assert calls.read_text() == f"requeue {os.getpid()}\n"
        stopped = json.loads((run / "stopped").read_text())
        assert (stopped["reason"], stopped["nimg"]) == ("SIGUSR1", int(newest.stem))
    else:
        assert job.returncode == 0, errors
        assert not calls.exists()
        assert int(newest.stem) == 16


@pytest.mark.parametrize("script", ["train_slurm.sh", "train_multinode.sh"])
def test_a_launcher_shows_how_it_is_used(script):
    path: Path = ROOT / "scripts" / script
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run(["bash", path], capture_output=True, text=True, check=False, env=outside)
    assert done.returncode == 2
    assert f"scripts/{script}" in done.stderr
    assert "#" not in done.stderr
    assert "set -euo" not in done.stderr
