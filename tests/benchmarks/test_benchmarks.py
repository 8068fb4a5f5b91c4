"""The speed tables measure what they say."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat import machine
from stylenat.benchmarks import op, timing, tokens, training, work
from stylenat.benchmarks.calls import Call, time_call
from stylenat.benchmarks.ceilings import Ceilings
from stylenat.benchmarks.profiler import time_by_kernel
from stylenat.benchmarks.report import Report
from stylenat.benchmarks.rivals import compiled_flex, dense_attention
from stylenat.benchmarks.timing import measure
from stylenat.config import load_config
from stylenat.models import Discriminator, Generator, GeneratorConfig, LevelConfig
from stylenat.precision import without_tf32

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CEILINGS = Ceilings(1e9, 2e9, 3e9)
PAIR = (HeadGroup(1, 3, 1), HeadGroup(1, 3, 2))
LEVELS = (LevelConfig(4, 16, 2, "global"), LevelConfig(8, 16, 2, PAIR))
TINY = GeneratorConfig(LEVELS, z_dim=8, style_dim=8)


@pytest.fixture(autouse=True)
def given_ceilings(monkeypatch):
    for module in (op, tokens, training):
        monkeypatch.setattr(module, "measure_ceilings", lambda device: CEILINGS)


# Timing


def test_two_runs_do_not_count():
    runs: list[int] = []
    timing_ = measure(lambda: runs.append(0), repeats=3)
    assert len(runs) == 5
    assert 0 <= timing_.least <= timing_.median <= timing_.most


def test_slow_runs_are_repeated_three_times_at_least():
    runs: list[int] = []
    measure(lambda: runs.append(0), repeats=9, most_seconds=0)
    assert len(runs) == 2 + 3


class FakeGpu:
    """Events on a clock that each run moves by 4 ms, once the GPU is waited for."""

    def __init__(self) -> None:
        self.now, self.waited = 0.0, 0

    def run(self) -> None:
        self.now += 4.0

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu, self.time = gpu, 0.0

    def record(self) -> None:
        self.time = self.gpu.now

    def synchronize(self) -> None:
        self.gpu.waited += 1

    def elapsed_time(self, other: FakeEvent) -> float:
        assert self.gpu.waited
        return other.time - self.time


def test_a_gpu_is_timed_by_events_over_several_runs(monkeypatch):
    gpu, runs = FakeGpu(), []
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    seconds = measure(lambda: (runs.append(0), gpu.run()), repeats=4, device=torch.device("cuda"))
    assert seconds.median == pytest.approx(0.004)
    assert len(runs) == timing.WARM_UPS + 1 + 4 * 5  # 20 ms at a time


# Reports


def test_a_report_names_all_that_it_was_measured_on(tmp_path):
    report = Report("name", "title", ("what", "seconds"), CEILINGS)
    report.add(what="this", seconds=0.5)
    report.profile = "kernels"
    path = report.write(tmp_path / "new")
    assert path.name == "name-cpu.json"
    content = json.loads(path.read_text())
    assert content["rows"] == [{"what": "this", "seconds": 0.5}]
    assert content["ceilings"]["copied_bytes"] == 3e9
    environment = content["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert {"device", "gpu", "processor", "triton", "natten", "commit", "time"} <= set(environment)
    assert path.with_suffix(".profile.txt").read_text() == "kernels\n"


def test_an_interrupted_report_keeps_its_rows():
    report = Report("name", "title", ("what",), CEILINGS)
    with report.until_interrupted():
        report.add(what="this")
        raise KeyboardInterrupt
    assert report.rows == [{"what": "this"}]
    assert report.notes == ["Interrupted: rows are missing."]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("RTX 4090", "rtx-4090"),
    ],
)
def test_a_gpu_s_name_becomes_part_of_a_file_s(monkeypatch, name, label):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert machine.label(torch.device("cuda")) == label
    assert machine.label(CPU) == "cpu"


def test_the_commit_of_a_copy_without_git_is_given_by_hand(monkeypatch):
    monkeypatch.setattr(machine, "_output", lambda *_: None)
    monkeypatch.delenv("STYLENAT_COMMIT", raising=False)
    assert machine.environment(CPU)["commit"] is None
    monkeypatch.setenv("STYLENAT_COMMIT", "1234567")
    assert machine.environment(CPU)["commit"] == "1234567"


def test_tf32_is_off_while_float32_is_measured():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with without_tf32():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


# The operation


def heads_first(call: Call) -> list[torch.Tensor]:
    return [x.flatten(1, 2).transpose(1, 2).contiguous() for x in (call.q, call.k, call.v)]


def reference(call: Call) -> torch.Tensor:
    out = neighborhood_attention_2d(
        call.q, call.k, call.v, call.groups, call.rpb, backend="reference"
    )
    return out.detach()


@pytest.mark.slow
def test_flex_attention_computes_our_operation():
    call = Call.draw(7, (HeadGroup(2, 3, 2),), batch=1, dtype=torch.float32, device=CPU)
    with torch.no_grad():
        out = compiled_flex(7, call.groups[0], call.rpb[0])(*heads_first(call))
    torch.testing.assert_close(out.transpose(1, 2).view_as(call.q), reference(call))


def test_a_dense_mask_computes_our_operation():
    call = Call.draw(7, PAIR, batch=2, dtype=torch.float32, device=CPU)
    with torch.no_grad():
        out = dense_attention(7, PAIR, call.rpb, torch.float32)(*heads_first(call))
    torch.testing.assert_close(out.transpose(1, 2).reshape(call.q.shape), reference(call))


def test_a_call_s_work_is_counted_from_its_shapes():
    call = Call.draw(8, PAIR, batch=3, dtype=torch.bfloat16, device=CPU)
    assert str(call) == "8x8 1h k3 d1 + 1h k3 d2"
    pairs = 3 * 8 * 8 * 2 * 9
    assert call.flop == pairs * 32 * 2 * 2
    assert call.bytes == 4 * 3 * 8 * 8 * 2 * 32 * 2


def test_the_backward_pass_reaches_q_k_v_and_the_biases(monkeypatch):
    call = Call.draw(8, PAIR, batch=1, dtype=torch.float32, device=CPU)
    seen = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a: seen.append(len(a[1])) or grad(*a))
    attend = call.attend("reference")
    time_call(CPU, call, attend, call.rpb, repeats=1)
    time_call(CPU, call, attend, [], repeats=1, backward=False)
    assert seen == [3 + 2] * 3


def test_the_op_table_holds_every_backend_that_runs_and_the_dense_mask():
    report = op.bench_op(device=CPU, batches=(2,), repeats=1, max_side=16)
    found = {(row["backend"], row["dtype"]) for row in report.rows}
    assert ("reference", "float32") in found
    assert ("dense mask", "bfloat16") in found
    row = report.rows[0]
    assert row["batch"] == 2
    assert row["of_product_ceiling"] == pytest.approx(row["gflops"])  # ceilings of 1 GFLOP/s
    assert row["of_copy_ceiling"] == pytest.approx(row["gbytes"] / 3)


def test_a_backend_that_fails_leaves_a_note_and_the_others_rows():
    def fail(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of registers\nand more")

    call = Call.draw(8, PAIR, batch=1, dtype=torch.float32, device=CPU)
    report = Report("op", "title", op.COLUMNS, CEILINGS)
    op._bench(report, call, "broken", fail, 1)
    op._bench(report, call, "reference", call.attend("reference"), 1)
    assert report.notes == [f"broken failed at {call}, torch.float32: out of registers"]
    assert [row["backend"] for row in report.rows] == ["reference"]


def test_triton_with_bias_is_set_against_natten_without():
    def row(backend: str, bias: bool, ms: float) -> dict:
        key = {"shape": "s", "batch": 8, "dtype": "bfloat16"}
        return {
            **key,
            "backend": backend,
            "bias": bias,
            "forward_ms": ms,
            "with_backward_ms": 3 * ms,
        }

    rows = [row("triton", True, 6.0), row("natten", True, 100.0), row("natten", False, 4.0)]
    assert op.triton_over_natten(rows) == {
        ("s", 8, "bfloat16", "forward"): 1.5,
        ("s", 8, "bfloat16", "with_backward"): 1.5,
    }
    assert op.triton_over_natten(rows[:2]) == {}


def test_tokens_are_measured_alone_and_at_a_constant_number(monkeypatch):
    monkeypatch.setattr(tokens, "SIDES", (16, 32))
    monkeypatch.setattr(
        tokens, "HeadGroup", lambda heads, kernel_size, dilation: HeadGroup(heads, 3, dilation)
    )
    report = tokens.bench_tokens(device=CPU, repeats=1, max_side=32)
    sizes = [(row["side"], row["batch"]) for row in report.rows if row["dtype"] == "float32"]
    assert sizes == [(16, 1), (16, 4), (32, 1)]
    row = report.rows[1]
    assert row["forward_ns_per_token"] == pytest.approx(1e6 * row["forward_ms"] / 1024)
    assert len(report.notes) == 4


def test_flatness_is_the_dearest_token_over_the_cheapest():
    def row(side: int, batch: int, ns: float) -> dict:
        costs = {"forward_ns_per_token": ns, "with_backward_ns_per_token": 2 * ns}
        return {"side": side, "batch": batch, "dtype": "float32", **costs}

    first, second = tokens.flatness([row(64, 1, 12.0), row(64, 4, 10.5), row(128, 1, 10.0)])
    assert first.startswith(
        "float32, one image, 64 to 128: forward 10 to 12 ns a token (20% apart)"
    )
    assert "16,384 tokens, 64 to 128: forward 10 to 10.5 ns a token (5% apart)" in second


# Networks


def test_attention_is_out_only_while_it_is_taken_out():
    generator = Generator(TINY).requires_grad_(False)
    z = torch.randn(1, 8)
    whole = generator(z)
    with work.without_attention():
        assert not torch.allclose(generator(z), whole)
    assert torch.equal(generator(z), whole)


def test_the_work_of_a_generator_is_its_products_and_its_attention():
    small, large = (
        work.forward_flop(dataclasses.replace(TINY, levels=(LEVELS[0], level)))
        for level in (LEVELS[1], dataclasses.replace(LEVELS[1], blocks=3))
    )
    attention = 4 * 64 * 8 * 2 * 9
    assert work.attention_flop(TINY) == 2 * attention
    linear = 64 * 2 * 16 * (3 * 16 + 16 + 2 * 64)
    style = 2 * 2 * 8 * 2 * 16
    assert large - small == attention + linear + style


def test_published_work_of_ffhq256_is_found():
    config = load_config(ROOT / "configs/ffhq256.yaml").model.generator
    assert 180e9 < work.forward_flop(config) < 200e9


def test_a_network_is_cut_to_its_lower_levels():
    config = load_config(ROOT / "configs/ffhq256.yaml")
    model = training.cut(config, 32).model
    assert [level.resolution for level in model.generator.levels] == [4, 8, 16, 32]
    assert [level.resolution for level in model.discriminator.levels] == [4, 8, 16]
    assert model.generator.levels[-1] == config.model.generator.levels[3]
    assert training.cut(config, 256) == config
    with pytest.raises(ValueError, match="can be cut at 8, 16, 32, 64, 128, 256: not at 48"):
        training.cut(config, 48)


@pytest.fixture
def small_run():
    config = training.cut(load_config(ROOT / "configs/faces32.yaml"), 8)
    train = dataclasses.replace(config.train, precision="float32", r1_every=4)
    return dataclasses.replace(config, train=train)


def test_a_training_table_s_whole_step_is_the_sum_of_its_parts(small_run):
    report = training.bench_training(
        small_run, name="x", device=CPU, batches=(4,), repeats=2, profiled=True
    )
    seconds = {row["part"]: row["seconds"] for row in report.rows}
    parts = ("inputs", "D step", "G step", "average")
    assert seconds["whole step"] == pytest.approx(
        sum(seconds[part] for part in parts) + seconds["penalty step"] / 4
    )
    rate = {row["part"]: row["images_per_second"] for row in report.rows}["whole step"]
    assert rate == pytest.approx(4 / seconds["whole step"])
    assert "G step" in report.profile


def test_every_part_of_a_step_acts_on_its_own_network(small_run):
    step = training.Step(small_run, 4, CPU)
    before = {name: [p.clone() for p in network.parameters()] for name, network in networks(step)}
    moved = {}
    for part, run in step.parts().items():
        run()
        after = {
            name: [p.clone() for p in network.parameters()] for name, network in networks(step)
        }
        moved[part] = {
            name for name in after if not all(map(torch.equal, before[name], after[name]))
        }
        before = after
    assert moved["D step"] == moved["penalty step"] == {"D"}
    assert moved["G step"] == {"G"}
    assert moved["average"] == {"G_ema"}
    assert moved["inputs"] == moved["G forward"] == moved["G forward and backward"] == set()


def networks(step: training.Step) -> list[tuple[str, nn.Module]]:
    return [(name, getattr(step.state, name)) for name in ("G", "D", "G_ema")]


def test_the_work_of_a_step_counts_its_backward_passes(small_run):
    flop = training.Step(small_run, 4, CPU).flop()
    alone, both = flop["G forward"], flop["G forward and backward"]
    assert 2.8 * alone < both < 3.3 * alone  # a backward pass has twice the products
    assert flop["G step"] > both
    twice = training.Step(small_run, 8, CPU).flop()
    assert twice["G forward"] == pytest.approx(2 * alone, rel=0.01)


def test_a_profile_names_what_takes_time():
    a = torch.randn(64, 64)
    text = time_by_kernel(lambda: a @ a, "a product", device=CPU)
    assert text.splitlines()[0] == "a product"
    assert "aten::mm" in text


def test_channels_last_is_for_short_precisions_and_changes_no_state():
    D = Discriminator(load_config(ROOT / "configs/faces32.yaml").model.discriminator)
    image = torch.randn(4, 3, 32, 32)
    formats = []
    D.blocks[-1].conv2.register_forward_hook(
        lambda _, inputs, out: formats.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    D.eval()
    exact = D(image)
    with torch.autocast("cpu", torch.bfloat16):
        short = D(image)
    assert formats == [False, True]
    torch.testing.assert_close(short.float(), exact, rtol=0.05, atol=0.05)
    assert all(tensor.is_contiguous() for tensor in D.state_dict().values())


# Commands


def bench(folder: Path, *arguments: str) -> list[dict]:
    """Rows of the one table that a command writes; in a process of its own, since it keeps the
    memory that it frees."""
    command = [sys.executable, "-m", "stylenat", "bench", *arguments, "--repeats", "1"]
    result = subprocess.run(
        [*command, "--device", "cpu", "--outdir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())["rows"]


def test_the_command_measures_a_generator_and_writes_the_table(tmp_path):
    rows = bench(tmp_path, "generator", "--config", "configs/faces32.yaml", "--batch", "1,2")
    assert (tmp_path / "generator-faces32-cpu.json").exists()
    names = [(row["network"], row["dtype"], row["batch"]) for row in rows]
    assert names == [
        (network, dtype, batch)
        for network in ("whole", "attention taken out")
        for dtype in ("float32", "bfloat16")
        for batch in (1, 2)
    ]
    assert {row["mode"] for row in rows} == {"eager"}
    assert rows[0]["relative_error"] == 0
    assert 0 < rows[2]["relative_error"] < 0.1
    assert rows[1]["images_per_second"] == pytest.approx(2 / rows[1]["seconds"])


def test_one_dtype_can_be_measured_alone(tmp_path):
    only = ["--config", "configs/faces32.yaml", "--batch", "1", "--dtype", "bfloat16"]
    assert {row["dtype"] for row in bench(tmp_path, "generator", *only)} == {"bfloat16"}


@pytest.mark.slow
def test_a_compiled_generator_is_measured_beside_the_eager_one(tmp_path):
    only = ["--config", "configs/faces32.yaml", "--batch", "1", "--dtype", "float32", "--compile"]
    rows = bench(tmp_path, "generator", *only)
    assert (tmp_path / "generator-faces32-compiled-cpu.json").exists()
    assert [row["mode"] for row in rows] == ["eager", "eager", "compiled"]
    assert rows[2]["relative_error"] < 1e-4


def test_the_command_measures_training_at_another_side_and_precision(tmp_path):
    cut = ["--config", "configs/faces32.yaml", "--resolution", "8", "--batch", "4"]
    rows = bench(tmp_path, "training", *cut, "--dtype", "float32")
    assert (tmp_path / "training-faces32-cut8-float32-cpu.json").exists()
    assert {row["precision"] for row in rows} == {"float32"}
