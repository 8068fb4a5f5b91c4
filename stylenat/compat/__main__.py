"""`python -m stylenat.compat SCRIPT [ARGS]`: a program whose `import natten` gets the drop-in.

Its Python processes find it too: a folder on PYTHONPATH holds a sitecustomize.py that reads the
settings from an environment variable.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from stylenat.compat.levels import DEFAULT, LEVELS, VARIABLE, settings
from stylenat.compat.package import put

SITE = Path(__file__).resolve().parent / "site"


def parser() -> argparse.ArgumentParser:
    this = argparse.ArgumentParser(
        prog="python -m stylenat.compat",
        description="Run a program that was written for NATTEN before 0.20, unmodified.",
        usage="python -m stylenat.compat [OPTIONS] SCRIPT [ARGS...]\n"
        "       python -m stylenat.compat [OPTIONS] -m MODULE [ARGS...]",
        allow_abbrev=False,
    )
    this.add_argument(
        "--level",
        default=DEFAULT,
        choices=list(LEVELS),
        help="which NATTEN the program was written for (default: %(default)s)",
    )
    this.add_argument(
        "--pad",
        default=None,
        action=argparse.BooleanOptionalAction,
        help="pad maps smaller than the window, or refuse them (default: as the level has it)",
    )
    this.add_argument(
        "--deferred",
        default=True,
        action=argparse.BooleanOptionalAction,
        help="fuse qk, softmax and av where nothing looks at the weights (default: yes)",
    )
    this.add_argument(
        "--patch-transformers",
        action="store_true",
        help="mend Dinat of transformers 4.54 and later",
    )
    this.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module's name")
    this.add_argument(
        "program", metavar="SCRIPT", help="the program, or the module's name after -m"
    )
    this.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS", help="its arguments")
    return this


def run(words: Sequence[str]) -> None:
    """Install the drop-in and run the program as `python SCRIPT` would."""
    asked = parser().parse_args(words)
    chosen = settings(asked.level, asked.pad, asked.deferred)
    put(chosen)
    os.environ[VARIABLE] = chosen.encode()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(SITE) if not before else f"{SITE}{os.pathsep}{before}"
    if asked.patch_transformers:
        from stylenat.compat.dinat import patch

        patch()
    sys.argv = [asked.program, *asked.arguments]
    if asked.module:
        runpy.run_module(asked.program, run_name="__main__", alter_sys=True)
        return
    if not Path(asked.program).exists():
        raise SystemExit(f"Error: there is no program {asked.program}")
    # As `python SCRIPT` has it: the program's folder is first on the path, not the current one.
    folder = str(Path(asked.program).resolve().parent)
    if sys.path and os.path.realpath(sys.path[0] or os.curdir) == os.path.realpath(os.curdir):
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)
    runpy.run_path(asked.program, run_name="__main__")


if __name__ == "__main__":
    run(sys.argv[1:])
