"""The parts of the GPU check: which commands each runs, and what they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# Modules by what imports them, and the names that pip has for them where they differ.
COMMAND = ("click",)
PYTEST = ("pytest", *COMMAND)
TABLES = (*COMMAND, "rich")
NETWORKS = (*TABLES, "numpy", "yaml", "pydantic", "safetensors")
TRAINING = (*NETWORKS, "matplotlib", "PIL", "simplejpeg")
PIP_NAMES = {"PIL": "Pillow"}

HANG_SECONDS = 3600.0  # far more than any task takes: what runs longer hangs
TRAIN_SECONDS = 300.0  # of training, which is stopped then


@dataclass(frozen=True)
class Task:
    """One process, `python` and these arguments: `needs` must be importable.

    After `seconds` it is interrupted, as by Ctrl-C; with `may_stop` that is as good as its end.
    """

    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: float = HANG_SECONDS
    may_stop: bool = False

    def __str__(self) -> str:
        return " ".join(self.arguments).removeprefix("-m ")


def task(
    line: str,
    needs: tuple[str, ...],
    *,
    seconds: float = HANG_SECONDS,
    may_stop: bool = False,
) -> Task:
    """`python -m ` and the words of `line`."""
    return Task(("-m", *line.split()), needs, seconds, may_stop)


def parts(work: Path, reports: Path, *, on_cpu: bool) -> dict[str, tuple[Task, ...]]:
    """The tasks of each part, in order: temporary files go to `work`, tables to `reports`.

    With `on_cpu` the same commands at tiny sizes, to try the check itself.
    """
    return _tiny_parts(work, reports) if on_cpu else _gpu_parts(work, reports)


def _gpu_parts(work: Path, reports: Path) -> dict[str, tuple[Task, ...]]:
    bench = f"stylenat bench {{}} --device cuda --outdir {reports}"
    op, tokens = bench.format("op"), bench.format("tokens")
    sampling, training = bench.format("generator"), bench.format("training")
    profile = "stylenat bench {} --device cuda --profile --repeats 3"
    large = "--config configs/ffhq1024.yaml --dtype bfloat16"
    formats = "tools.memory_format configs/ffhq256.yaml --batch 32 --device cuda"
    faces = f"{work}/faces64.zip"
    return {
        "doctor": (task("stylenat doctor", COMMAND),),
        "correct": _gpu_tests(),
        "op": (
            task(f"{op} --batch 8 --repeats 5", TABLES),
            task(f"{tokens} --repeats 5", TABLES),
        ),
        "tune": (task("tools.tune_triton", ("triton",)),),
        "generator": (
            task(f"{sampling} --config configs/ffhq256.yaml --repeats 5", NETWORKS),
            task(f"{sampling} --config configs/styleswin256.yaml --batch 1,8,64", NETWORKS),
            task(f"{sampling} {large} --batch 1,4,16,32 --repeats 5", NETWORKS),
            task(
                f"{sampling} --config configs/ffhq256.yaml --dtype bfloat16 --batch 1,8,64 "
                "--compile",
                NETWORKS,
            ),
        ),
        "training": (
            task(f"{training} --dtype bfloat16 --batch 8,16,32,64 --repeats 5", NETWORKS),
            task(f"{training} --dtype bfloat16 --batch 8,32 --compile --repeats 5", NETWORKS),
            task(f"{training} --dtype bfloat16 --batch 8,32 --cuda-graphs --repeats 5", NETWORKS),
            task(f"{training} {large} --batch 4,8 --repeats 3", NETWORKS),
        ),
        "memory_format": (
            task(f"{formats} --precision bfloat16", NETWORKS),
            task(formats, NETWORKS),
        ),
        "backbones": (task(f"{bench.format('backbones')} --batch 1,8,64", NETWORKS),),
        "profile": (
            task(f"{profile.format('generator')} --batch 1,64", NETWORKS),
            task(f"{profile.format('training')} --dtype bfloat16 --batch 32", NETWORKS),
        ),
        "train": (
            task(f"stylenat prepare faces:20000 {faces} --resolution 64", TRAINING),
            task(
                f"stylenat train configs/faces64.yaml data.path={faces} metrics.every_kimg=12 "
                f"--run-dir {work}/run --device cuda",
                TRAINING,
                seconds=TRAIN_SECONDS,
                may_stop=True,
            ),
        ),
        "natten": (
            task("pytest -m gpu -q -rfE tests/ops -k natten", PYTEST),
            task(f"{op} --batch 8 --repeats 5", TABLES),
        ),
    }


def _gpu_tests() -> tuple[Task, ...]:
    """The tests marked gpu: the operations, augmentations, training, backbones and the drop-in."""
    needs = ("pytest", *TRAINING)
    return (
        task("pytest -m gpu -q -rfE --durations=5 tests/ops", PYTEST),
        task("pytest -m gpu -q -rfE tests/augment tests/training", needs),
        task("pytest -m gpu -q -rfE tests/backbones tests/compat", needs),
    )


def _tiny_parts(work: Path, reports: Path) -> dict[str, tuple[Task, ...]]:
    bench = f"stylenat bench {{}} --device cpu --repeats 1 --outdir {reports}"
    tiny = "--config configs/faces32.yaml"
    faces = f"{work}/faces32.zip"
    return {
        "doctor": (task("stylenat doctor", COMMAND),),
        "correct": (
            task("pytest -m gpu -q -rfE tests/ops/test_neighborhood_backends.py", ("pytest",)),
        ),
        "op": (
            task(f"{bench.format('op')} --max-side 16", TABLES),
            task(f"{bench.format('tokens')} --max-side 64", TABLES),
        ),
        "tune": (),
        "generator": (task(f"{bench.format('generator')} {tiny} --batch 1,2", NETWORKS),),
        "training": (
            task(f"{bench.format('training')} {tiny} --resolution 8 --batch 4", NETWORKS),
        ),
        "memory_format": (
            task(
                "tools.memory_format configs/faces32.yaml --side 8 --batch 4 --repeats 1", NETWORKS
            ),
        ),
        "backbones": (),  # its networks have no tiny size
        "profile": (
            task(
                f"stylenat bench training --device cpu --repeats 1 {tiny} --resolution 8 --batch 4 "
                "--profile",
                NETWORKS,
            ),
        ),
        "train": (
            task(f"stylenat prepare faces:64 {faces} --resolution 32", TRAINING),
            task(
                f"stylenat train configs/faces32.yaml data.path={faces} data.workers=0 "
                "train.total_kimg=0.032 train.decay_from_kimg=null train.batch=16 metrics.num=16 "
                f"metrics.every_kimg=0.016 --run-dir {work}/run --device cpu",
                TRAINING,
                may_stop=True,
            ),
        ),
        "natten": (),
    }
