"""Writes constraints.txt: the versions, in this environment, of all that StyleNAT needs.

`make constraints` runs it. Names and versions alone, sorted: the same environment gives the same
file, on every machine.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
HEADER = """\
# The versions that the tests passed with, of all that requirements.txt and requirements-dev.txt
# bring. scripts/setup.sh installs them unless STYLENAT_CONSTRAINTS says otherwise; `make
# constraints` renews them.
"""


def roots(root: Path = ROOT) -> list[Requirement]:
    """What the requirement files ask for."""
    lines = [line for name in REQUIREMENTS for line in (root / name).read_text().splitlines()]
    wanted = [line.partition("#")[0].strip() for line in lines]
    return [Requirement(text) for text in wanted if text]


def versions(requirements: list[Requirement]) -> dict[str, str]:
    """Name and version of what is required, and of what that requires in turn.

    Raises PackageNotFoundError for what is not installed.
    """
    found: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        package = distribution(requirement.name)
        # 2.14.1+cpu is one build of 2.14.1; which one, the machine decides.
        found[name] = Version(package.version).public
        for extra in {"", *requirement.extras}:
            if (name, extra) in done:
                continue
            done.add((name, extra))
            for text in package.requires or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return found


def main() -> None:
    try:
        found = versions(roots())
    except PackageNotFoundError as error:
        sys.exit(f"constraints: {error.name} is not installed here; run scripts/setup.sh first")
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items())]
    (ROOT / "constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
