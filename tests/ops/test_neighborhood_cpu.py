"""The C++ backend: deterministic, built safely, and absent with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.impl import cpu
from tests.ops.problems import Case, draw, run

ROOT = Path(__file__).parents[2]
needs_build = pytest.mark.skipif(cpu.missing() is not None, reason=str(cpu.missing()))
ATTEND = """
import torch, warnings
from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from ops.neighborhood.impl import cpu
q = torch.ones(1, 5, 6, 2, 8)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=BACKEND)
    again = neighborhood_attention_2d(q, q, q, [HeadGroup(2, 3)], backend=BACKEND)
assert torch.allclose(out, q)
print(cpu.missing(), [str(warning.message) for warning in caught])
"""


def attend_elsewhere(backend: str, **environment: str) -> subprocess.Popen[str]:
    """A fresh process that calls the operation; it prints `missing()` and the warnings."""
    return subprocess.Popen(
        [sys.executable, "-c", ATTEND.replace("BACKEND", repr(backend))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@needs_build
@pytest.mark.parametrize(
    "case",
    [Case((2, 70, 75), 8, ((2, 7, 1), (3, 5, 2), (1, 7, 8))), Case((1, 9, 9), 4, ((2, 3, 1),))],
)
def test_the_number_of_threads_changes_no_bit(case):
    inputs, results = draw(case, torch.float32), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(run(inputs, "cpu", torch.float32))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for name, value in result.items():
            assert torch.equal(value, results[0][name]), name


@needs_build
def test_bfloat16_is_float32_arithmetic_rounded_once_to_nearest():
    inputs = draw(Case((1, 17, 20), 8, ((2, 5, 1), (2, 3, 4))), torch.bfloat16)
    narrow, wide = (run(inputs, "cpu", dtype) for dtype in (torch.bfloat16, torch.float32))
    for name in ("out", "dq", "dk", "dv"):
        assert torch.equal(narrow[name], wide[name].float().bfloat16().double()), name
    assert torch.equal(narrow["drpb"], wide["drpb"])


@needs_build
def test_images_of_a_batch_do_not_touch_each_other():
    inputs = draw(Case((3, 20, 17), 8, ((2, 5, 1), (2, 3, 4))), torch.float32)
    together = neighborhood_attention_2d(
        inputs.q, inputs.k, inputs.v, inputs.groups, inputs.rpb, backend="cpu"
    )
    for i in range(3):
        alone = neighborhood_attention_2d(
            *(x[i : i + 1] for x in (inputs.q, inputs.k, inputs.v)),
            inputs.groups,
            inputs.rpb,
            backend="cpu",
        )
        assert torch.equal(together[i : i + 1], alone)


@needs_build
def test_large_scores_neither_overflow_nor_vanish():
    q = torch.full((1, 5, 6, 1, 8), 60.0)
    v = torch.randn(1, 5, 6, 1, 8)
    out = neighborhood_attention_2d(q, q, v, [HeadGroup(1, 3)], backend="cpu")
    plain = neighborhood_attention_2d(q, q, v, [HeadGroup(1, 3)], backend="reference")
    torch.testing.assert_close(out, plain)


@needs_build
def test_a_second_derivative_is_refused_not_wrong():
    q = torch.randn(1, 5, 6, 1, 8, requires_grad=True)
    out = neighborhood_attention_2d(q, q, q, [HeadGroup(1, 3)], backend="cpu")
    (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match=r'first order only; backend="reference"'):
        torch.autograd.grad(first.sum(), q)


@needs_build
def test_processes_that_build_at_once_end_with_one_library(tmp_path):
    processes = [attend_elsewhere("cpu", STYLENAT_CACHE=str(tmp_path / "a b")) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.strip() == "None []"
    assert len(list((tmp_path / "a b").glob("*.so"))) == 1


def test_without_a_compiler_auto_says_so_once_and_carries_on(tmp_path):
    environment = {"STYLENAT_CACHE": str(tmp_path), "PATH": str(tmp_path), "CXX": ""}
    out, err = (process := attend_elsewhere("auto", **environment)).communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("there is no C++ compiler") == 2  # the reason, and one warning
    _, err = (process := attend_elsewhere("cpu", **environment)).communicate(timeout=120)
    assert process.returncode == 1
    assert "RuntimeError: attention backend 'cpu' can't run this call: there is no C++" in err


def test_a_failed_build_names_the_compilers_last_lines(tmp_path):
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || { echo bad news; exit 1; }\n")
    compiler.chmod(0o755)
    environment = {"STYLENAT_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    _, err = (process := attend_elsewhere("cpu", **environment)).communicate(timeout=120)
    assert process.returncode == 1
    assert "compiling neighborhood.cpp with" in err
    assert "bad news" in err
    assert not list((tmp_path / "cache").glob("*.so"))


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    occupied = tmp_path / "file"
    occupied.touch()
    _, err = (
        process := attend_elsewhere("cpu", STYLENAT_CACHE=str(occupied / "cache"))
    ).communicate(timeout=120)
    assert process.returncode == 1
    assert "can't use the cache folder" in err
