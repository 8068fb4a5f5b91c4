"""A running explorer, and a browser to look at it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from ops.neighborhood import HeadGroup
from stylenat import save_generator
from stylenat.models import Generator, GeneratorConfig, LevelConfig, PixelSpace
from stylenat.sampling import load_model
from tests.sampling.tiny import tiny_generator

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# As the tiny generator, but its latents are long enough for PyTorch's other way to draw them.
LONG = GeneratorConfig(
    levels=(
        LevelConfig(4, 8, heads=2, attention="global", blocks=2),
        LevelConfig(8, 8, heads=2, attention=(HeadGroup(1, 3, 1), HeadGroup(1, 3, 2)), blocks=2),
        LevelConfig(16, 8, heads=2, attention=(HeadGroup(2, 3, 1),), blocks=2),
    ),
    z_dim=20,
    style_dim=8,
    mapping_layers=2,
    pixel_space=PixelSpace((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)


def long_generator(**classes: object) -> Generator:
    G = Generator(replace(LONG, **classes)).eval().requires_grad_(False)
    for name, parameter in G.named_parameters():
        if "to_rgb" in name and parameter.ndim > 1:
            parameter.mul_(150)
    G.store_w_avg()
    return G


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[Path]:
    """Two models of the same shape but for z."""
    import torch

    folder = tmp_path_factory.mktemp("models")
    paths = [folder / "one.safetensors", folder / "two.safetensors"]
    save_generator(tiny_generator(), paths[0])
    torch.manual_seed(3)
    save_generator(long_generator(), paths[1])
    return paths


@pytest.fixture(scope="session")
def with_classes(tmp_path_factory) -> Path:
    """A model with three classes, which have names."""
    import torch

    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("classes") / "classes.safetensors"
    save_generator(long_generator(classes=3, class_names=("cat", "a dog", "owl")), path)
    return path


@pytest.fixture(scope="session")
def generators(models) -> list[Generator]:
    return [load_model(path) for path in models]


def start(*arguments: object) -> tuple[subprocess.Popen[str], str]:
    """The command `stylenat explore`, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stylenat", "explore", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), address + process.stdout.read()
    return process, address


@pytest.fixture(scope="session")
def address(models) -> Iterator[str]:
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (the extra `explore`)")
    process, address = start(*models)
    yield address
    assert process.poll() is None, process.communicate()[0]
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)} is on the path")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not work for root.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


PIXELS = """pane => {
  const canvas = document.getElementById(`image${pane}`);
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from(data);
}"""


class Page:
    """The page in a browser, with what its tests ask of it."""

    def __init__(self, browser, address: str, **options) -> None:
        self.page = browser.new_page(**options)
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda m: m.type == "error" and self.faults.append(m.text))
        self.page.goto(address)
        self.page.wait_for_selector("#image0[data-drawn]", timeout=120_000)

    def pixels(self, pane: int = 0) -> Tensor:
        """uint8 [R, R, 3] of what the canvas shows."""
        import torch

        values = torch.tensor(self.page.evaluate(PIXELS, pane), dtype=torch.uint8)
        side = int((values.numel() // 4) ** 0.5)
        return values.view(side, side, 4)[..., :3]

    def shows(self, expected: Tensor, pane: int = 0, *, within: int = 1) -> None:
        """Waits until the canvas shows these pixels up to rounding; fails if it never does."""
        off = 255
        for _ in range(300):
            pixels = self.pixels(pane)
            if pixels.shape == expected.shape:
                off = (pixels.int() - expected.int()).abs().max().item()
            if off <= within:
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"the image is off by {off} of 255, allowed {within}")

    def set(self, control: str, value: object) -> None:
        """Give a control a value as a user does: it fires `input`."""
        self.page.eval_on_selector(
            f"#{control}",
            "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }",
            str(value),
        )

    def until(self, expression: str) -> None:
        """Waits until a JavaScript expression is true. (The page's policy forbids eval.)"""
        for _ in range(600):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"never true: {expression}")

    def close(self) -> None:
        self.page.close()
        assert self.faults == []


@pytest.fixture
def open_page(browser) -> Iterator[object]:
    pages: list[Page] = []

    def opening(address: str, **options) -> Page:
        pages.append(Page(browser, address, **options))
        return pages[-1]

    yield opening
    for page in pages:
        page.close()
