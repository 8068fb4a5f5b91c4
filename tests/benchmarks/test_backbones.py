"""`stylenat bench backbones`."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from ops.neighborhood import HeadGroup, neighborhood_attention_2d
from stylenat.backbones import ImageConfig
from stylenat.benchmarks import backbones
from stylenat.cli import main
from tests.backbones.test_network import tiny_config


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(images=ImageConfig(size=48))
    monkeypatch.setattr(backbones, "variant", lambda name: config)


@pytest.mark.parametrize("attention", [backbones.gather_and_einsum, backbones.through_old_natten])
@pytest.mark.parametrize("group", [HeadGroup(2, 3, 2), HeadGroup(2, 5, 1)])
def test_other_ways_to_attend_compute_our_operation(attention, group):
    q, k, v = torch.randn(3, 2, 9, 7, 2, 4).unbind(0)
    rpb = [torch.randn(group.rpb_shape)]
    expected = neighborhood_attention_2d(q, k, v, (group,), rpb, backend="reference")
    torch.testing.assert_close(attention(q, k, v, (group,), rpb), expected)


def test_each_attention_is_timed_in_both_passes(tiny):
    report = backbones.bench_backbones(
        device=torch.device("cpu"), batches=[2, 1], repeats=3, names=["dinat_mini"]
    )
    rows = [(row["batch"], row["pass"], row["attention"]) for row in report.rows]
    attentions = ["ours", "taken out", "stylenat.compat", "gather and einsum"]
    passes = ["inference", "training step"]
    assert rows == [(b, p, a) for b in (1, 2) for p in passes for a in attentions]
    for row in report.rows:
        assert row["images_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert (row["of_no_attention"] == 1) == (row["attention"] == "taken out")
    assert backbones.blocks.neighborhood_attention_2d is neighborhood_attention_2d


def test_the_command_writes_the_table(tiny, tmp_path):
    arguments = ["bench", "backbones", "--batch", "1", "--repeats", "1", "--device", "cpu"]
    done = CliRunner().invoke(main, [*arguments, "--outdir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert {row["network"] for row in rows} == {"dinat_mini", "nat_tiny"}
