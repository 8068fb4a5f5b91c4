"""Pictures that the commands for trained models write."""

from __future__ import annotations

from pathlib import Path


def check_png(path: Path) -> None:
    """Raises ValueError unless the name ends in .png."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"the picture is a PNG, and its name must end in .png: {path}")
