"""The command, one call of which never returns, or fails.

    python -m tests.blocked HOW PLACE COUNT ARGUMENTS...

PLACE names a function, such as `stylenat.training.outputs:save_checkpoint`, or a method of a class.
Its call number COUNT in a process says BLOCKED and blocks, if HOW is `block`; otherwise it raises
HOW, a built-in exception.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from typing import Any


def patch(how: str, place: str, count: int) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < count:
            return real(*arguments, **named)
        if how != "block":
            raise getattr(builtins, how)(f"an injected {how}")
        os.write(2, b"BLOCKED\n")
        while True:  # what the signal handlers do does not end it
            os.read(os.pipe()[0], 1)

    setattr(owner, name, patched)


if __name__ == "__main__":
    how, place, count, *arguments = sys.argv[1:]
    patch(how, place, int(count))
    sys.argv = ["stylenat", *arguments]
    from stylenat.cli import run

    run()
