"""`natten` as Python sees it: modules, distribution, refusals, switches; programs and their
processes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from ops.neighborhood.impl import natten as backend
from stylenat import compat, doctor
from stylenat.compat import flops, levels, names, utils

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {"0.14.4": "0.14.4", "0.14": "0.14.6", "0.15": "0.15.1", "0.17": "0.17.5"}


@pytest.mark.parametrize("level", VERSIONS)
def test_natten_is_a_real_package_of_its_version(level, natten):
    package = natten(level)
    assert package.__version__ == VERSIONS[level]
    assert importlib.metadata.version("natten") == VERSIONS[level]
    assert importlib.metadata.distribution("NATTEN").metadata["Name"] == "natten"
    assert importlib.util.find_spec("natten") is package.__spec__
    assert hasattr(package, "context") == (level == "0.17")
    for name in names.modules(levels.LEVELS[level]):
        module = importlib.import_module(name)
        assert importlib.util.find_spec(name) is module.__spec__
        assert all(hasattr(module, word) for word in module.__all__)
    assert importlib.util.find_spec("natten.nowhere") is None
    with pytest.raises(ModuleNotFoundError, match=r"natten\.nowhere"):
        importlib.import_module("natten.nowhere")


def test_a_spec_is_there_before_the_import(no_natten):
    compat.install("0.15")
    spec = importlib.util.find_spec("natten")
    assert spec.submodule_search_locations == []
    assert "natten" not in sys.modules


def test_names_come_and_go_with_the_level(natten):
    for level in VERSIONS:
        functional = natten(level).functional
        for name, at in {
            "natten2dqkrpb": VERSIONS,
            "NATTEN2DAVFunction": ("0.14.4", "0.14"),
            "na2d_qk": ("0.15", "0.17"),
            "na2d_qk_with_bias": ("0.15",),
            "na2d": ("0.17",),
            "NeighborhoodAttention3DQKAutogradFunction": ("0.15", "0.17"),
            "FusedNeighborhoodAttention2D": ("0.17",),
        }.items():
            assert hasattr(functional, name) == (level in at), f"{name} at {level}"


def test_the_same_installation_again_does_nothing(natten):
    package = natten("0.15")
    compat.install("0.15")
    assert importlib.import_module("natten") is package
    for other in (lambda: compat.install("0.17"), lambda: compat.install("0.15", pad=False)):
        with pytest.raises(RuntimeError, match=r"installed already, at level 0\.15, with padding"):
            other()


def test_another_natten_that_is_imported_is_refused(no_natten, monkeypatch):
    other = types.ModuleType("natten")
    other.__version__ = "0.21.0"
    monkeypatch.setitem(sys.modules, "natten", other)
    with pytest.raises(RuntimeError, match=r"natten 0\.21\.0 is imported already"):
        compat.install()


def test_unknown_settings_are_refused(no_natten):
    with pytest.raises(ValueError, match=r"choose one of 0\.14\.4, 0\.14, 0\.15, 0\.17"):
        compat.install("0.20")
    with pytest.raises(ValueError, match="pad must be"):
        compat.install(pad=1)
    with pytest.raises(ValueError, match="deferred must be"):
        compat.install(deferred="no")


def test_our_own_natten_backend_does_not_take_the_drop_in(natten):
    natten()
    backend.missing.cache_clear()
    reason = backend.missing()
    backend.missing.cache_clear()
    assert "StyleNAT's own drop-in" in reason


def test_our_own_natten_backend_needs_a_new_one(no_natten, monkeypatch):
    old = types.ModuleType("natten")
    old.__version__ = "0.17.5"
    monkeypatch.setitem(sys.modules, "natten", old)
    backend.missing.cache_clear()
    reason = backend.missing()
    backend.missing.cache_clear()
    assert reason.startswith("NATTEN 0.17.5 is older than 0.20")


def test_doctor_says_what_stands_in_for_old_versions(natten):
    natten("0.15")
    facts = doctor._facts()["programs for NATTEN before 0.20"]
    assert facts.startswith("natten 0.15.1 is installed; python -m stylenat.compat")


# Switches.


def test_switches_are_kept_and_checked(natten, caplog):
    package = natten()
    assert package.has_fused_na()
    assert package.has_fna()
    assert package.has_cuda() == torch.cuda.is_available()
    assert not package.is_fused_na_enabled()
    package.use_fused_na()
    assert package.is_fna_enabled()
    assert package.is_kv_parallelism_in_fused_na_enabled()
    package.use_fused_na(False)
    assert not package.is_kv_parallelism_in_fused_na_enabled()
    package.set_memory_usage_preference("strict")
    assert package.is_memory_usage_strict()
    assert package.get_memory_usage_preference() is package.context.MemoryUsagePreference.Strict
    with pytest.raises(ValueError, match="strict"):
        package.set_memory_usage_preference(0)
    assert package.disable_tiled_na() is False
    assert package.enable_tiled_na() is package.is_tiled_na_enabled() is True
    with caplog.at_level(logging.WARNING):
        package.use_autotuner(False, True, thorough_mode_forward=True, steps_backward=17)
    assert package.is_autotuner_enabled_for_backward()
    assert not package.is_autotuner_enabled_for_forward()
    assert package.is_autotuner_thorough_for_forward()
    assert package.context.AutotunerContext.steps_backward == 17
    package.use_autotuner(False, False)
    assert not package.is_autotuner_enabled()
    for wrong in ({"steps_forward": "abc"}, {"forward_pass": 1}, {"steps_backward": (1,)}):
        with pytest.raises(ValueError, match="must be of type"):
            package.use_autotuner(**wrong)


def test_deterministic_mode_refuses_what_is_not(natten):
    package = natten()
    package.use_deterministic_algorithms()
    assert package.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="not deterministic"):
        package.use_autotuner(True)
    with pytest.raises(RuntimeError, match="not deterministic"):
        package.use_fused_na()
    package.use_fused_na(kv_parallel=False)
    package.context.NattenContext.reset()
    assert not package.is_fused_na_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        package.use_autotuner(True)
        assert not package.is_autotuner_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


# Helpers and counts.


def test_helpers_check_as_natten_does():
    assert utils.check_all_args(2, 3, (1, 2), [True, False]) == ((3, 3), (1, 2), (True, False))
    assert utils.check_all_args(1, [3], None, None) == ((3,), (1,), (False,))
    assert utils.get_num_na_weights((3, 5)) == 15
    with pytest.raises(ValueError, match="tuple"):
        utils.get_num_na_weights(3)
    with pytest.raises(ValueError, match="tiling"):
        utils.check_tiling_config(2, ((8, 8), (8,)))
    assert utils.check_backward_tiling_config(1, ((8,), (8,), (1,), False))
    x = torch.randn(2, 3, 5, 7, 4, requires_grad=True)
    assert utils.make_attn_tensor_from_input(x, 9).shape == (2, 3, 5, 7, 9)
    delta = torch.empty(2, 3, 5, 7)
    with torch.no_grad():
        utils.compute_delta(x, x, delta, delta.numel())
        torch.testing.assert_close(delta, x.square().sum(-1))


def test_flops_are_counted_by_hand():
    shape, window = (2, 3, 5, 7, 4), ((3, 5), (1, 1), (False, False))
    macs = 2 * 3 * 5 * 7 * 4 * 15
    assert flops.na_qk_flop_count(shape, shape, *window, False, return_macs=True) == macs
    assert flops.na_av_flop_count((0,), shape, *window, False) == 2 * macs
    assert flops.fna_flop_count(shape, shape, shape, *window, True) == 4 * macs
    with pytest.raises(ValueError, match="one shape"):
        flops.na_qk_flop_count(shape, shape[1:], *window, False)


def test_fvcore_counts_a_module(natten):
    pytest.importorskip("fvcore", reason="fvcore is not installed")
    package = natten()
    module = package.NeighborhoodAttention2D(8, 2, (5, 3), rel_pos_bias=True)
    count = flops.get_flops(module, torch.randn(1, 9, 7, 8), disable_warnings=True)
    assert count == 9 * 7 * 8 * (3 * 8 + 8 + 2 * 15)


# Programs.


def run(*words: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "stylenat.compat", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


PROGRAM = """
import sys, importlib.metadata, subprocess, multiprocessing
import helper

def natten_here(_):
    import natten
    return natten.__version__

if __name__ == "__main__":
    import natten
    print(natten.__version__, importlib.metadata.version("natten"), hasattr(natten, "context"))
    print(sys.argv[1:], helper.NAME)
    code = "import natten; print(natten.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(done.stdout, end="")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(natten_here, [0])[0])
"""


@pytest.mark.slow
def test_a_program_and_its_processes_find_natten(tmp_path):
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    (folder / "helper.py").write_text("NAME = 'beside the program'\n")
    lines = run("--level", "0.15", "program/main.py", "--level", "x", cwd=tmp_path).splitlines()
    assert lines == [
        "0.15.1 0.15.1 False",
        "['--level', 'x'] beside the program",
        "0.15.1",
        "0.15.1",
    ]


@pytest.mark.slow
def test_a_module_runs_too_and_settings_reach_it(tmp_path):
    (tmp_path / "tool.py").write_text(
        "import sys\nfrom stylenat.compat import package\n"
        "print(package.installed(), '|', *sys.argv[1:])\n"
    )
    words = ("--pad", "--no-deferred", "-m", "tool", "-m", "more")
    out = run(*words, cwd=tmp_path)
    assert out == "level 0.17, with padding, without deferred weights | -m more\n"


def test_a_missing_program_and_a_wrong_level_are_refused(tmp_path):
    assert "there is no program nowhere.py" in run("nowhere.py", cwd=tmp_path, code=1)
    assert "invalid choice: '0.20'" in run("--level", "0.20", "x.py", cwd=tmp_path, code=2)


def test_the_machine_s_own_sitecustomize_has_its_turn(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("OWN = True\n")
    code = "import sitecustomize, sys; print(sitecustomize.OWN, 'torch' in sys.modules)"
    (tmp_path / "main.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])\n"
    )
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    assert run("main.py", cwd=tmp_path, PYTHONPATH=path) == "True False\n"
