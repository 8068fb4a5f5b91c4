"""Two processes score as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.metrics.standin import evaluator
from tests.sampling.tiny import tiny_generator

ROOT = Path(__file__).resolve().parents[2]

RANKS = """
import json, sys
from pathlib import Path
from stylenat.data import open_images
from stylenat.distributed import pick_device, process_group, rank
from stylenat import weights as module
from stylenat.metrics import Evaluator
from tests.sampling.tiny import tiny_generator

data, weights, out, cache = sys.argv[1:]
module.cache_folder = lambda: Path(cache)
with process_group(pick_device("cpu")):
    settings = {"mode": "clean", "weights": weights, "trust_weights": True, "workers": 0}
    settings |= {"num": 27, "batch": 4}
    evaluator = Evaluator(["fid", "kid", "pr", "swd"], open_images(data), **settings)
    scores = evaluator(tiny_generator())
    with open(f"{out}{rank()}.json", "w") as file:
        json.dump(dict(scores.values), file)
"""


def test_two_ranks_score_as_one_does(small, data, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    arguments = [data.path, small, tmp_path / "rank", tmp_path / "ranks"]
    done = subprocess.run(
        [sys.executable, *map(str, [*launch, *arguments])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    one = evaluator(["fid", "kid", "pr", "swd"], data, small, num=27, batch=4)(tiny_generator())
    for name, value in one.values.items():
        assert ranks[0][name] == pytest.approx(value, rel=1e-6), name
