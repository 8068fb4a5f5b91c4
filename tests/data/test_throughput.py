"""`stylenat bench data` measures what it says."""

from __future__ import annotations

import json

from click.testing import CliRunner

from stylenat.benchmarks import data as data_bench
from stylenat.benchmarks.report import Ceilings
from stylenat.cli import main


def test_the_command_measures_preparing_and_reading_and_writes_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(data_bench, "SHAPES", ((16, 40, 2),))
    monkeypatch.setattr(data_bench, "measure_ceilings", lambda: Ceilings(1, 1, 1))
    result = CliRunner().invoke(
        main, ["bench", "data", "--repeats", "1", "--outdir", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "images a minute" in result.output
    rows = json.loads((tmp_path / "data-cpu.json").read_text())["rows"]
    assert [(row["what"], row["resolution"]) for row in rows] == [
        ("prepare", 16),
        ("read", 16),
        ("read", 16),
    ]
    assert [row["workers"] for row in rows[1:]] == [0, 2]
    assert all(0 < row["least"] <= row["images_per_second"] <= row["most"] for row in rows)
