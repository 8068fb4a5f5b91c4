"""What a run shows of itself, and services that fail without ending it."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image

from stylenat.training.outputs import draw_curves
from stylenat.training.report import Averages, Clock, duration, line_of
from stylenat.training.run_folder import RunFolder
from stylenat.training.services import Services
from tests.training.tiny import tiny


def test_averages_are_means_since_the_last_time():
    averages = Averages()
    averages.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    averages.add({"a": torch.tensor(2.0)})
    assert averages.take().read() == {"a": 1.5, "b": 5.0}
    averages.add({"a": torch.tensor(4.0)})
    assert averages.take().read() == {"a": 4.0}
    assert averages.take().read() == {}


def test_clock_leaves_out_what_was_no_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(seconds=100)
    clock.restart(0)
    now[0] = 2.0
    assert clock.lap(40) == 20
    now[0] = 10.0
    clock.restart(40)
    now[0] = 11.0
    assert clock.lap(70) == 30
    assert clock.seconds == 103


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03")]
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_a_line_holds_progress_losses_speed_memory_and_time_left():
    entry = {"nimg": 12_000, "loss_d": 1.25, "loss_g": 0.75, "images_per_second": 100.0}
    line = line_of({**entry, "memory_gb": 2.5}, 48_000)
    assert line == "12.0/48 kimg  D 1.250 G 0.750  100.0 images/s  2.5 GB  6:00 left"


def test_curves_show_losses_and_metrics(tmp_path):
    entries = [{"nimg": n, "loss_d": 1.0, "loss_g": 2.0, "r1": 0.1, "lr_g": 0.1} for n in (1, 2)]
    draw_curves(entries, tmp_path / "a.png")
    draw_curves([*entries, {"nimg": 2, "metrics": {"fid": 7.0}}], tmp_path / "b.png")
    first, second = (Image.open(tmp_path / f"{name}.png") for name in "ab")
    assert second.size[1] > first.size[1] or second.size[0] > first.size[0]
    draw_curves([], tmp_path / "empty.png")


# Services


def fake_wandb(log=None, init=None) -> types.ModuleType:
    module = types.ModuleType("wandb")
    module.init = init or (lambda **_: types.SimpleNamespace(log=log, finish=lambda: None))
    return module


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_services_get_the_numbers(folder, monkeypatch):
    seen = []
    monkeypatch.setitem(
        sys.modules, "wandb", fake_wandb(log=lambda numbers, step: seen.append((numbers, step)))
    )
    services = Services(tiny(train={"wandb": "offline"}), folder)
    services.add({"nimg": 8, "loss_d": 1.0, "protocol": {"num": 5}})
    assert seen == [({"nimg": 8, "loss_d": 1.0}, 8)]


def test_a_service_that_cannot_start_is_left_out(folder, monkeypatch, caplog):
    def unreachable(**_: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(init=unreachable))
    services = Services(tiny(train={"wandb": "online"}), folder)
    assert "wandb is left out from here on: ConnectionError: no route" in caplog.text
    services.add({"nimg": 8})


def test_an_absent_service_is_left_out(folder, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Services(tiny(train={"tensorboard": True}), folder).add({"nimg": 8})
    assert "tensorboard is left out" in caplog.text


def test_a_service_that_fails_later_is_left_out_once(folder, monkeypatch, caplog):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("gone")

    monkeypatch.setitem(sys.modules, "wandb", fake_wandb(log=broken))
    services = Services(tiny(train={"wandb": "online"}), folder)
    services.add({"nimg": 8})
    services.add({"nimg": 16})
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_tensorboard_writes_a_file(folder):
    Services(tiny(train={"tensorboard": True}), folder).add({"nimg": 8, "loss_d": 1.0})
    assert list((folder.path / "tensorboard").iterdir())
