"""Pickles that would run something; what `torch.save` makes of them is to be refused."""

from __future__ import annotations

import functools
import io
import os
import pickle
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CANARY = "canary"  # in the working folder, which a test makes its own
TOUCH = f"touch {CANARY}"
NESTED = "nested.pt"  # beside it; see `save_nested`

# By the name that the refusal must hold.
HOSTILE = {
    "posix.system": Calls(os.system, TOUCH),
    "builtins.eval": Calls(eval, f"open({CANARY!r}, 'w')"),
    "builtins.exec": Calls(exec, f"open({CANARY!r}, 'w')"),
    "Popen": Calls(subprocess.Popen, ["touch", CANARY]),
    "torch.serialization.load": Calls(torch.load, NESTED),
    "torch.jit._serialization.load": Calls(torch.jit.load, NESTED),
    "pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, TOUCH))),
    "functools.partial": Calls(functools.partial, os.system, TOUCH),
    "torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
    "types.SimpleNamespace": types.SimpleNamespace(size=16),
    "pathlib": Path(CANARY),
    "numpy": np.float64(1),
}


def save_nested() -> None:
    """The file that a nested loader would open."""
    torch.save({"x": HOSTILE["posix.system"]}, NESTED)


def hostile_checkpoint(name: str) -> bytes:
    """A StyleNAT checkpoint in all but one of its args."""
    file = io.BytesIO()
    weights = {"const": torch.zeros(1)}
    torch.save({"state_dicts": {"g_ema": weights}, "args": {"size": HOSTILE[name]}}, file)
    return file.getvalue()
