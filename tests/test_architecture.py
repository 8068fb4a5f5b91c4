"""docs/architecture.md names every folder and module, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("stylenat", "ops", "tools")


def named(tree: str) -> set[str]:
    """Folders (with a slash) and modules of our packages that the tree names, as paths.

    A line names things up to the first word that is no folder and no module; after a gap of five
    blanks it may name things again, which lie in the folder that it began with, if it did.
    """
    found, folders = set(), {}
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = "".join(folders[level] for level in range(depth))
        first, *rest = re.split(r" {5,}", line.strip())
        if (word := first.split()[0]).endswith("/"):
            folders[depth] = word
            above += word
            found.add(above)
            first = ""
        for part in (first, *rest):
            for word in part.split():
                if not (ROOT / f"{above}{word}.py").is_file():
                    break
                found.add(f"{above}{word}.py")
    return {name for name in found if name.split("/")[0] in PACKAGES}


def there(root: Path = ROOT) -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            folder = path.parent.relative_to(root).as_posix() + "/"
            found |= {folder} if path.stem in ("__init__", "__main__") else {folder, name}
    return found


def test_the_tree_of_the_page_is_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    said, real = named(tree), there()
    assert sorted(real - said) == []
    assert sorted(said - real) == []


def test_a_missing_and_a_misplaced_module_are_found():
    tree = "stylenat/   it\n  config/   YAML\n    sections plain     keys     loop     no\n  files"
    assert named(tree) == {
        "stylenat/",
        "stylenat/config/",
        "stylenat/config/sections.py",
        "stylenat/config/plain.py",
        "stylenat/files.py",
    }
