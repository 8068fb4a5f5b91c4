"""A Hub on this machine in place of the real one, and models on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stylenat.cli import main
from stylenat.export import save_generator
from tests.hub.fake_hub import FakeHub, serving
from tests.sampling.tiny import tiny_generator

Run = Callable[..., Result]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The Hub that huggingface_hub asks in this process; nobody is logged in.

    Its modules read their constants when they are imported, and again at every call.
    """
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home of huggingface"
    for name in ("HF_HOME", "HF_XET_CACHE"):  # hf_xet is no Python, and writes a log
        monkeypatch.setenv(name, str(home))
    with serving() as fake:
        template = f"{fake.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": fake.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield fake


@pytest.fixture
def log_in(hub: FakeHub) -> Callable[[str], None]:
    """Logs in with a token, as `hf auth login` does."""
    from huggingface_hub import constants

    def write(token: str) -> None:
        path = Path(constants.HF_TOKEN_PATH)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(token)

    return write


def exported(folder: Path, seed: int = 0) -> Path:
    """A file with a small generator."""
    path = folder / f"generator{seed}.safetensors"
    save_generator(tiny_generator(seed), path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return exported(tmp_path)


@pytest.fixture
def run() -> Run:
    def command(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return command


def environment(hub: FakeHub, home: Path) -> dict[str, str]:
    """What makes another process ask this Hub."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PATH": str(Path(sys.executable).parent),
        "OMP_NUM_THREADS": "1",
    }
