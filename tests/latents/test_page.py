"""docs/after-training.md: every command and every snippet on the page runs, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from stylenat.cli import main
from stylenat.latents import jacobian

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "after-training.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """The commands of the page, each with the first line of the output that follows it."""
    found = []
    for _, block in BLOCKS:
        lines = block.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), after))
    return found


def without_numbers(text: str) -> str:
    """Sizes and shares may differ between machines."""
    return re.sub(r"[0-9][0-9.,]*", "N", text)


@pytest.mark.slow
def test_every_command_of_the_page_runs_and_says_what_the_page_shows(tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jacobian, "IMAGES", 1)  # seconds instead of a minute
    assert len(commands()) >= 10
    for command, expected in commands():
        program, *arguments = shlex.split(command)
        assert program == "stylenat"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, (command, result.output)
        first = result.stdout.splitlines()[0]
        assert without_numbers(first) == without_numbers(expected), command
    for _, snippet in (block for block in BLOCKS if block[0] == "python"):
        exec(compile(snippet, "docs/after-training.md", "exec"), {})


def test_pictures_of_the_page_are_there_and_small():
    names = re.findall(r"\]\((images/[^)]+)\)", PAGE)
    sizes = {name: (ROOT / "docs" / name).stat().st_size for name in names}
    assert len(sizes) >= 8
    assert sum(sizes.values()) < 600_000, sizes
    held = {f"images/{path.name}" for path in (ROOT / "docs" / "images").iterdir()}
    assert set(sizes) <= held
