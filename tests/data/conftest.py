"""What tests of data sets share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.writers import write_photos


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the user's cache."""
    monkeypatch.setenv("STYLENAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_photos(tmp_path / "photos")
