"""Python reads this when it starts, in the processes of a `python -m stylenat.compat` program.

Puts the drop-in for NATTEN into them, as into the program itself; then the machine's own
sitecustomize, which this one stands before, has its turn.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _install() -> None:
    word = os.environ.get("STYLENAT_COMPAT")
    if not word:
        return
    try:
        from stylenat.compat.levels import decode
    except ModuleNotFoundError:  # a program that runs in a checkout, seen from another folder
        sys.path.append(str(HERE.parents[2]))
        from stylenat.compat.levels import decode
    from stylenat.compat.package import put

    put(decode(word))


def _next() -> None:
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)  # Python looks for what it has imported


if __name__ == "sitecustomize":  # not when a test imports it under another name
    _install()
    _next()
