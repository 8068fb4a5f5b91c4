"""Which backend runs a call: what auto tries, the environment variable, and what is said of it."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

from ops.neighborhood import HeadGroup, backends, neighborhood_attention_2d
from ops.neighborhood.backends import auto_order, backend_names, choose
from ops.neighborhood.impl import natten, triton
from ops.neighborhood.problem import Problem, describe

Q = torch.zeros(1, 7, 8, 2, 8)
GROUPS = (HeadGroup(2, 3),)
ON_CPU = describe(Q, Q, Q, GROUPS, None)
ON_GPU = dataclasses.replace(ON_CPU, device_type="cuda", device_index=0)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STYLENAT_ATTENTION", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backends._cached_warning.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of compute capability 9.0, on which everything can be had."""
    monkeypatch.setattr(triton, "missing", lambda: None)
    monkeypatch.setattr(natten, "missing", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))


def chosen(problem: Problem = ON_GPU, **changes) -> str:
    return choose(dataclasses.replace(problem, **changes), "auto").name


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_auto_takes_the_first_that_takes_the_dtype_and_the_head_dim():
    assert chosen() == "triton"
    assert chosen(dtype=torch.float16) == "triton"
    assert chosen(head_dim=160) == "natten"
    assert chosen(groups=(HeadGroup(2, 31),)) == "natten"
    assert chosen(dtype=torch.float64) == "reference"


@pytest.mark.usefixtures("gpu")
def test_without_triton_auto_goes_on_and_says_so_once(monkeypatch):
    monkeypatch.setattr(triton, "missing", lambda: "there is no Python.h")
    with pytest.warns(UserWarning, match=r"triton attention backend is not .*: there is no Python"):
        assert chosen() == "natten"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen() == "natten"
        monkeypatch.setattr(natten, "missing", lambda: "no libnatten")
        assert chosen() == "reference"  # flex is compiled with Triton
    with pytest.raises(RuntimeError, match=r"'flex' can't run this call: there is no Python\.h"):
        choose(ON_GPU, "flex")


@pytest.mark.usefixtures("gpu")
def test_a_gpu_too_old_for_triton_is_said_to_be(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(natten, "missing", lambda: "no libnatten")
    with pytest.warns(
        UserWarning, match=r"needs a GPU of compute capability 8\.0, and .* has 7\.5"
    ):
        assert chosen() == "flex"
    assert chosen(dtype=torch.bfloat16) == "reference"


@pytest.mark.usefixtures("gpu")
def test_each_gpu_is_asked_for_its_own_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", [(9, 0), (7, 5)].__getitem__)
    assert choose(ON_GPU, "triton").name == "triton"
    second = dataclasses.replace(ON_GPU, device_index=1)
    with pytest.warns(match="triton"), pytest.raises(RuntimeError, match=r"this one has 7\.5"):
        choose(second, "triton")


@pytest.mark.parametrize("name", ["triton", "natten", "flex"])
def test_a_gpu_s_backend_refuses_the_cpu_and_float64_in_a_sentence(name):
    with pytest.raises(RuntimeError, match=f"'{name}' can't .* the tensors are on cpu"):
        choose(ON_CPU, name)
    with pytest.raises(RuntimeError, match=f"'{name}' can't .* not torch.float64"):
        choose(dataclasses.replace(ON_GPU, dtype=torch.float64), name)


def test_triton_s_interpreter_runs_on_the_cpu_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(triton, "missing", lambda: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose(ON_CPU, "triton").name == "triton"
    assert choose(ON_CPU, "auto").name in ("cpu", "reference")
    assert "triton" not in [row.name for row in auto_order(ON_CPU)]


@pytest.mark.parametrize(
    ("device", "order"),
    [
        ("cpu", ["cpu", "reference"]),
        ("cuda", ["triton", "natten", "flex", "reference"]),
        ("mps", ["reference"]),
    ],
)
def test_auto_tries_the_rows_of_the_tensors_device_and_the_reference_last(device, order):
    rows = auto_order(dataclasses.replace(ON_CPU, device_type=device))
    assert [row.name for row in rows] == order


def test_the_variable_stands_in_for_auto_and_for_nothing_else(monkeypatch):
    monkeypatch.setenv("STYLENAT_ATTENTION", "reference")
    assert choose(ON_CPU, "auto").name == "reference"
    monkeypatch.setenv("STYLENAT_ATTENTION", "flex")
    assert choose(ON_CPU, "reference").name == "reference"


@pytest.mark.parametrize("value", ["", "auto"])
def test_the_variable_may_be_empty_or_auto(monkeypatch, value):
    without = choose(ON_CPU, "auto")
    monkeypatch.setenv("STYLENAT_ATTENTION", value)
    assert choose(ON_CPU, "auto") is without


def test_an_unknown_name_is_refused_with_the_place_it_came_from(monkeypatch):
    monkeypatch.setenv("STYLENAT_ATTENTION", "fast")
    sentence = "unknown attention backend 'fast' (from STYLENAT_ATTENTION); choose one of auto, "
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        choose(ON_CPU, "auto")
    assert str(caught.value) == sentence + ", ".join(backend_names()[1:])
    with pytest.raises(ValueError, match="unknown attention backend 'slow'; choose"):
        choose(ON_CPU, "slow")


def test_a_backend_of_the_variable_never_falls_back(monkeypatch):
    monkeypatch.setenv("STYLENAT_ATTENTION", "flex")
    with pytest.raises(RuntimeError, match=r"'flex' \(from STYLENAT_ATTENTION\) can't run this"):
        neighborhood_attention_2d(Q, Q, Q, GROUPS)


def test_torch_compile_heeds_the_variable_for_any_batch(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setenv("STYLENAT_ATTENTION", "reference")
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    @torch.compile(fullgraph=True, backend=keep)
    def attend(q):
        return neighborhood_attention_2d(q, q, q, GROUPS)

    for batch in (2, 3, 4):
        q = torch.randn(batch, 7, 8, 2, 8)
        torch.testing.assert_close(attend(q), neighborhood_attention_2d(q, q, q, GROUPS))
    assert len(graphs) == 2
    assert not any("neighborhood_cpu" in graph.code for graph in graphs)


@pytest.mark.usefixtures("gpu")
def test_torch_compile_asks_the_gpu_without_a_graph_break():
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="eager")
    def scaled(x):
        return x * len(choose(ON_GPU, "auto").name)

    assert scaled(torch.ones(())) == len("triton")
