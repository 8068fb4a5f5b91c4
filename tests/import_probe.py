"""Imports the modules that its argument lists, and prints as JSON what that did beside it.

Run by test_imports.py in a process of its own, since most effects of an import cannot be undone.
"""

import importlib
import json
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.utils.cpp_extension as cpp_extension

PROCESS_EVENTS = {"subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"}


class Watch:
    """Collects effects, each with the line under `root` that caused it."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.effects: dict[str, list[str]] = {}

    def note(self, kind: str, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(self.root)]
        frames = [f for f in frames if f.filename != __file__]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "outside our code"
        self.effects.setdefault(kind, []).append(f"{what} (from {place})")

    def spy(self, owner: Any, name: str, kind: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.note(kind, name)
            return original(*args, **kwargs)

        setattr(owner, name, wrapper)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROCESS_EVENTS:
            self.note("starts a process", f"{event} {arguments[0] if arguments else ''}")
        elif event == "os.mkdir" or (event == "open" and opens_for_writing(arguments[2])):
            self.note("writes a file", str(arguments[0]))


def opens_for_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def settings() -> Iterator[tuple[str, object]]:
    """All that an import must leave as it was."""
    yield "default dtype", torch.get_default_dtype()
    yield "default device", torch.get_default_device()
    yield "number of threads", torch.get_num_threads()
    yield "number of interop threads", torch.get_num_interop_threads()
    yield "float32 matmul precision", torch.get_float32_matmul_precision()
    yield "cudnn.benchmark", torch.backends.cudnn.benchmark
    yield "cudnn.deterministic", torch.backends.cudnn.deterministic
    yield "deterministic algorithms", torch.are_deterministic_algorithms_enabled()
    yield "gradients", torch.is_grad_enabled()
    yield "random state of torch", hash(bytes(torch.get_rng_state().tolist()))
    yield "random state of numpy", hash(str(np.random.get_state()))
    yield "random state of Python", hash(random.getstate())
    yield "log handlers", list(logging.getLogger().handlers)
    yield "signal handlers", [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    yield from os.environ.items()


def main(modules: list[str], optional: list[str], home: str, root: str) -> None:
    watch = Watch(root)
    for name in ("load", "load_inline"):
        watch.spy(cpp_extension, name, "compiles")
    for name in ("_lazy_init", "is_available", "device_count", "get_device_capability"):
        watch.spy(torch.cuda, name, "queries a device")
    before = dict(settings())
    sys.addaudithook(watch.audit)

    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in optional:
                raise

    if torch.cuda.is_initialized():
        watch.note("queries a device", "CUDA is initialised")
    for path in Path(home).rglob("*"):
        watch.note("leaves a file", str(path))
    after = dict(settings())
    for key in before | after:
        if before.get(key) != after.get(key):
            watch.note("changes a global", f"{key}: {before.get(key)} -> {after.get(key)}")
    print(json.dumps(watch.effects))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
