"""`stylenat doctor`: what it finds, and when it is a fault."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result

from ops.files import cache_folder
from ops.neighborhood import BACKENDS
from ops.neighborhood.impl import cpu, reference
from stylenat import doctor
from stylenat.cli import main


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STYLENAT_ATTENTION", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def ask() -> Result:
    return CliRunner().invoke(main, ["doctor"])


def instead_of_cpu(monkeypatch: pytest.MonkeyPatch, attention) -> None:
    """Puts `attention` in the place of the backend that auto takes on the CPU."""
    monkeypatch.setattr(cpu, "missing", lambda: None)
    monkeypatch.setattr(cpu, "attention", attention)


def verdicts(backend: str) -> set[tuple[str, str]]:
    trials = doctor.examine().trials
    return {(t.verdict, t.reason) for t in trials if t.backend == backend}


def test_it_names_every_backend_the_caches_and_what_auto_takes(monkeypatch):
    instead_of_cpu(monkeypatch, reference.attention)
    result = ask()
    assert result.exit_code == 0, result.output
    for backend in BACKENDS:
        assert f" {backend.name} " in result.output
    for part in ("Python", "Triton", "NATTEN", "C++ compiler", "auto on cpu", str(cache_folder())):
        assert part in result.output
    assert result.output.count("yes, auto") == 2
    assert "it runs on CUDA only" in result.output


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *call: reference.attention(*call) * 1.1,
        lambda *call: reference.attention(*call) * torch.nan,
    ],
)
def test_wrong_values_of_what_auto_takes_end_in_one_sentence(monkeypatch, wrong):
    instead_of_cpu(monkeypatch, wrong)
    result = ask()
    assert result.exit_code == 1
    assert "wrong, auto" in result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: attention backend 'cpu', which auto takes on cpu in float32,")
    assert line.endswith("STYLENAT_ATTENTION=reference is slow and safe")


def test_a_wrong_gradient_alone_is_found(monkeypatch):
    def attention(q, k, v, groups, rpb, scale):
        return reference.attention(
            q, k, v, groups, [1.001 * t - 0.001 * t.detach() for t in rpb], scale
        )

    instead_of_cpu(monkeypatch, attention)
    ((verdict, reason),) = {v for v in verdicts("cpu") if v[0] != "yes"}
    assert verdict == "wrong"
    assert reason.startswith("the gradient of the bias is off by")


def test_a_wrong_backend_that_auto_does_not_take_is_no_fault(monkeypatch):
    instead_of_cpu(monkeypatch, lambda *call: reference.attention(*call) * 1.1)
    monkeypatch.setenv("STYLENAT_ATTENTION", "reference")
    result = ask()
    assert result.exit_code == 0
    assert "wrong" in result.output


def test_what_fails_says_how(monkeypatch):
    def no_gradient(q, k, v, groups, rpb, scale):
        return reference.attention(q, k, v, groups, rpb, scale).detach()

    def nothing(*call):
        raise OSError("[no] driver\nmore lines")

    instead_of_cpu(monkeypatch, no_gradient)
    assert {verdict for verdict, _ in verdicts("cpu")} == {"forward only"}
    instead_of_cpu(monkeypatch, nothing)
    assert verdicts("cpu") == {("fails", "OSError: [no] driver")}
    assert "OSError: [no] driver" in ask().stdout


def test_the_variable_is_shown_and_heeded(monkeypatch):
    monkeypatch.setenv("STYLENAT_ATTENTION", "flex")
    examination = doctor.examine()
    assert examination.facts["STYLENAT_ATTENTION"] == "flex"
    assert "'flex' (from STYLENAT_ATTENTION) can't run" in examination.facts["auto on cpu"]
    monkeypatch.setenv("STYLENAT_ATTENTION", "fast")
    result = ask()
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unknown attention backend 'fast' (from STYLENAT_ATT")


def test_gpus_are_described(monkeypatch):
    gpu = SimpleNamespace(name="GPU X", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    assert doctor._gpus() == {"GPU 0": "GPU X, 80.0 GiB, compute capability 9.0"}


@pytest.mark.gpu
def test_auto_works_on_every_gpu_here(monkeypatch):
    monkeypatch.undo()
    examination = doctor.examine()
    assert examination.fault is None
    assert {trial.device for trial in examination.trials if trial.is_auto} >= {"cpu", "cuda:0"}
