"""The speed tables measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.benchmarks import generator as generator_bench
from stylenat.benchmarks.flex import compiled_flex
from stylenat.benchmarks.report import Ceilings, Report, measure
from stylenat.models import Generator, GeneratorConfig, LevelConfig

ROOT = Path(__file__).parents[2]


def test_two_runs_do_not_count():
    runs: list[int] = []
    timing = measure(lambda: runs.append(0), repeats=3)
    assert len(runs) == 5
    assert 0 <= timing.least <= timing.median <= timing.most


def test_a_report_names_all_that_it_was_measured_on(tmp_path):
    report = Report("name", "title", ("what", "seconds"), Ceilings(1.0, 2.0, 3.0))
    report.add(what="this", seconds=0.5)
    content = json.loads(report.write(tmp_path / "new").read_text())
    assert content["rows"] == [{"what": "this", "seconds": 0.5}]
    assert content["ceilings"]["copied_bytes"] == 3.0
    environment = content["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert {"processor", "commit", "time", "freed_memory_is_kept"} <= set(environment)


@pytest.mark.slow
def test_flex_attention_computes_our_operation():
    group, side = HeadGroup(2, 3, 2), 7
    q, k, v = (torch.randn(1, side, side, 2, 16) for _ in range(3))
    rpb = torch.randn(group.rpb_shape)
    call = compiled_flex(side, group, rpb)
    with torch.no_grad():
        out = call(*(x.flatten(1, 2).transpose(1, 2).contiguous() for x in (q, k, v)))
    expected = neighborhood_attention_2d(q, k, v, [group], [rpb], backend="reference")
    torch.testing.assert_close(out.transpose(1, 2).view_as(q), expected)


def test_attention_is_out_only_while_it_is_taken_out():
    levels = (LevelConfig(4, 16, 2, "global"), LevelConfig(8, 16, 2, (HeadGroup(2, 7),)))
    generator = Generator(GeneratorConfig(levels, z_dim=8, style_dim=8)).requires_grad_(False)
    z = torch.randn(1, 8)
    whole = generator(z)
    with generator_bench._without_attention():
        assert not torch.allclose(generator(z), whole)
    assert torch.equal(generator(z), whole)


def test_the_command_measures_a_generator_and_writes_the_table(tmp_path):
    # In a process of its own, since it keeps the memory that it frees.
    arguments = ["bench", "generator", "--config", "configs/faces32.yaml", "--repeats", "1"]
    command = [sys.executable, "-m", "stylenat", *arguments, "--outdir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "generator-faces32-cpu.json").read_text())["rows"]
    assert [(row["network"], row["dtype"]) for row in rows] == [
        ("whole", "float32"),
        ("whole", "bfloat16"),
        ("attention taken out", "float32"),
        ("attention taken out", "bfloat16"),
    ]
    assert rows[0]["relative_error"] == 0
    assert 0 < rows[1]["relative_error"] < 0.1
