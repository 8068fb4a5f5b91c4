"""scripts/gpu_check.sh: its parts, its summary, and what it does where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stylenat.benchmarks.calls import shape_name
from stylenat.benchmarks.op import LEVELS
from tools import gpu_check
from tools.gpu_check import Check
from tools.gpu_parts import HANG_SECONDS, Task, parts
from tools.natten_build import NattenBuild
from tools.targets import verdicts

ROOT = Path(__file__).parents[2]


def python(code: str, **settings: Any) -> Task:
    return Task(("-c", code), **{"needs": (), **settings})


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.delenv("NATTEN_SDIST", raising=False)
    (tmp_path / "work").mkdir()
    return Check(tmp_path / "work", tmp_path / "out", on_cpu=True)


# Parts


def test_without_a_gpu_it_says_so_and_fails(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
    assert "needs an NVIDIA GPU, and PyTorch sees none here; --cpu" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--cpu", "speed"])
    assert "unknown part 'speed'; choose from bench, doctor" in capsys.readouterr().err


def test_the_rehearsal_has_the_parts_of_the_check_and_its_commands_exist():
    real, tiny = (parts(Path("work"), Path("out"), on_cpu=on_cpu) for on_cpu in (False, True))
    assert list(real) == list(tiny)
    for tasks in (*real.values(), *tiny.values()):
        for task in tasks:
            command = " ".join(task.arguments)
            assert command.startswith(("-m stylenat ", "-m pytest ", "-m tools."))
            for word in task.arguments:
                if word.startswith("configs/"):
                    assert (ROOT / word).is_file()


@pytest.mark.parametrize("part", ["op", "generator", "training", "backbones", "profile"])
def test_every_bench_command_of_the_gpu_s_parts_parses(part, monkeypatch):
    from stylenat.cli.bench import bench

    for task in parts(Path("work"), Path("out"), on_cpu=False)[part]:
        name, *arguments = task.arguments[3:]
        bench.commands[name].make_context(name, arguments)


def test_output_of_a_part_and_its_outcome_are_written(check):
    check.parts = {"doctor": (python("print('well')"), python("raise SystemExit(3)"))}
    check.run("doctor")
    assert "well" in (check.out / "doctor.txt").read_text()
    assert check.lines[0].startswith("doctor: done in ")
    assert check.lines[1].startswith("doctor: FAILED (exit code 3")
    assert check.failed
    check.summarise()
    assert "gpu_check on the CPU, a rehearsal" in (check.out / "summary.txt").read_text()


def test_what_is_missing_is_named_and_what_needs_it_skipped(check):
    check.parts = {"op": (python("print(1)", needs=("PIL_not_here", "json")), python("print(2)"))}
    check.run("op")
    assert "skipped: -c print(1): missing here: PIL_not_here (pip install" in check.lines[0]
    assert check.lines[1].startswith("op: done")
    assert not check.failed


def test_a_task_is_interrupted_at_its_limit_and_may_still_write(check):
    code = (
        "import time\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('so far', flush=True)"
    )
    check.parts = {"op": (python(code, seconds=3.0),)}
    check.run("op")
    assert "so far" in (check.out / "op.txt").read_text()
    assert "too slow" in check.lines[0]
    assert check.failed


def test_training_may_be_stopped_at_its_limit(check):
    check.parts = {"train": (python("import time; time.sleep(600)", seconds=0.5, may_stop=True),)}
    check.run("train")
    assert check.lines[0].startswith("train: stopped after")
    assert not check.failed


def test_a_task_that_ignores_the_interrupt_is_killed(check, monkeypatch):
    monkeypatch.setattr(gpu_check, "GRACE_SECONDS", 0.5)
    code = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"
    start = time.monotonic()
    assert gpu_check._call(python(code), 1.0, subprocess.DEVNULL, {}) == (-9, False)
    assert time.monotonic() - start < 300  # seconds: it was killed, and did not come to its end


def test_a_part_ends_at_the_limit_that_was_asked_for(tmp_path):
    check = Check(tmp_path, tmp_path / "out", on_cpu=True, part_seconds=1.0)
    check.parts = {"op": (python("import time; time.sleep(600)"), python("print(2)"))}
    check.run("op")
    assert "too slow" in check.lines[0]
    assert check.lines[1] == "op: skipped: -c print(2): the part's time is over"


@pytest.mark.parametrize("seconds", ["0", "nan"])
def test_a_limit_that_is_none_is_refused(capsys, seconds):
    with pytest.raises(SystemExit):
        gpu_check.main(["--cpu", "--seconds", seconds])
    assert f"--seconds must be positive: {seconds}" in capsys.readouterr().err


def test_the_training_run_is_kept_without_its_checkpoints(check):
    for name in ("stats.jsonl", "checkpoints/state.pt", "samples/1.png"):
        (check.work / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (check.work / "run" / name).write_text(name)
    (check.out / "train").mkdir()
    (check.out / "train" / "of_an_earlier_run.txt").write_text("")
    check.parts = {"train": ()}
    check.run("train")
    kept = {path.name for path in (check.out / "train").rglob("*") if path.is_file()}
    assert kept == {"stats.jsonl", "1.png"}


def test_tables_of_earlier_runs_count_too(check):
    check.reports.mkdir()
    for name in ("op", "tokens"):
        (check.reports / f"{name}-h200.json").write_text(json.dumps({"name": f"{name}-h200"}))
    assert [table["name"] for table in check._tables()] == ["op-h200", "tokens-h200"]


# Targets


def table(name: str, **row: Any) -> dict[str, Any]:
    return {"name": name, "rows": [row]}


def sampling(name: str, speed: float, **changes: Any) -> dict[str, Any]:
    row = {"network": "whole", "mode": "compiled", "dtype": "bfloat16", "batch": 64}
    return table(f"generator-{name}-h200", **{**row, "images_per_second": speed, **changes})


def test_targets_are_met_missed_or_not_measured():
    training = {"part": "whole step", "precision": "bfloat16", "batch": 32}
    lines = verdicts(
        [
            sampling("ffhq256", 1200.0),
            sampling("styleswin256", 600.0),
            table("training-ffhq256-bfloat16-h200", images_per_second=149.0, **training),
        ]
    )
    assert lines[0].startswith("met: 256x256: images/s sampling, bfloat16: 1200 (asked: 1000; comp")
    assert lines[1].startswith("not measured: 1024x1024")
    assert lines[2].startswith("missed: 256x256: images/s training with consistency, bfloat16: 149")
    assert lines[3].startswith("not measured: triton")
    assert lines[4].endswith("2.00 times")


def test_neither_float32_nor_a_network_without_attention_meets_a_target():
    for changes in ({"dtype": "float32"}, {"network": "attention taken out"}):
        assert verdicts([sampling("ffhq256", 5000.0, **changes)])[0].startswith("not measured")


@pytest.mark.parametrize(
    ("worst", "levels", "verdict"), [(1.3, 5, "met"), (1.31, 5, "missed"), (1.0, 4, "missed")]
)
def test_triton_must_hold_its_target_at_every_level(worst, levels, verdict):
    rows = []
    for place, level in enumerate(LEVELS[:levels]):
        key = {"shape": shape_name(*level), "batch": 8, "dtype": "bfloat16"}
        for backend, bias, ms in (("natten", False, 10.0), ("triton", True, 8.0)):
            slow = worst * 10 if backend == "triton" and place == 2 else ms
            rows.append(
                {
                    **key,
                    "backend": backend,
                    "bias": bias,
                    "forward_ms": ms,
                    "with_backward_ms": slow,
                }
            )
    line = verdicts([{"name": "op-h200", "rows": rows}])[3]
    assert line.startswith(f"{verdict}: triton")
    assert f"{worst:.2f} at worst (64x64" in line or levels == 4


# NATTEN


@pytest.fixture
def sdist(tmp_path):
    path = tmp_path / "natten.tar.gz"
    path.write_bytes(b"")
    return path


def building(sdist: Path, folder: Path, code: str) -> NattenBuild:
    class Instant(NattenBuild):
        def command(self) -> list[str]:
            return [sys.executable, "-c", code]

    build = Instant(sdist, folder)
    build.start()
    return build


def test_natten_is_built_in_the_background_with_its_settings(sdist, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.delenv("NATTEN_CUDA_ARCH", raising=False)
    code = "import os; print(os.environ['NATTEN_CUDA_ARCH'], os.environ['NATTEN_N_WORKERS'])"
    build = building(sdist, tmp_path / "build", code)
    assert build.wait(time.monotonic() + 60) is None
    assert (build.folder / "log.txt").read_text() == f"9.0 {os.cpu_count()}\n"
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert build.environment() == {"PYTHONPATH": f"{build.site}{os.pathsep}elsewhere"}


def test_a_build_s_end_is_one_sentence(sdist, tmp_path):
    failed = building(sdist, tmp_path / "failed", "print('ninja stopped'); raise SystemExit(1)")
    assert failed.wait(time.monotonic() + 60) == "NATTEN could not be built: ninja stopped"
    slow = building(sdist, tmp_path / "slow", "import time; time.sleep(20)")
    assert "still being built" in (slow.wait(time.monotonic() + 0.3) or "")
    assert slow.environment() == {}
    absent = NattenBuild(tmp_path / "absent.tar.gz", tmp_path / "none")
    absent.start()
    assert "names no file" in (absent.wait(0) or "")
    assert "NATTEN_SDIST is not set" in (NattenBuild(None, tmp_path).wait(0) or "")


def test_a_build_that_has_begun_is_not_begun_again(sdist, tmp_path):
    building(sdist, tmp_path / "build", "print('first')").wait(time.monotonic() + 60)
    again = building(sdist, tmp_path / "build", "print('second')")
    assert again.wait(time.monotonic() + 60) is None
    assert (again.folder / "log.txt").read_text() == "first\n"


def test_natten_s_commands_run_once_it_is_built(check, sdist, tmp_path):
    check.natten = building(sdist, tmp_path / "build", "pass")
    check.parts = {"natten": (python("import sys; print(sys.path[1])"),)}
    check.run("natten")
    assert str(check.natten.site) in (check.out / "natten.txt").read_text()
    check.natten = NattenBuild(None, tmp_path)
    check.run("natten")
    assert check.lines[-1].startswith("natten: skipped: NATTEN_SDIST is not set")


# The script


@pytest.mark.slow
def test_the_rehearsal_goes_through_every_part(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STYLENAT_ENV": sys.prefix}
    environment.pop("NATTEN_SDIST", None)
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_check.sh", "--cpu", "--out", tmp_path / "out"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.txt").read_text()
    for part in ("doctor", "correct", "op", "generator", "training", "profile", "train"):
        assert f"\n{part}: done in " in summary, summary
    assert "natten: skipped: NATTEN_SDIST is not set" in summary
    assert "skipped" not in summary.replace("natten: skipped", "")
    tables = {path.name.split("-")[0] for path in (tmp_path / "out" / "reports").glob("*.json")}
    assert tables == {"op", "tokens", "generator", "training"}
    assert "swd" in (tmp_path / "out" / "train" / "stats.jsonl").read_text()
    assert not (tmp_path / "out" / "train" / "checkpoints").exists()
