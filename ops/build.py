"""Compile a C++ file into a shared library on first use, and keep it in the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ops.files import cache_folder, take_lock

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
SHOWN_LINES = 5
# Far above what compilers take, ten seconds and less than one: if one hangs, the wait still ends.
COMPILE_SECONDS = 30 * 60
VERSION_SECONDS = 60
END_SECONDS = 10
LOCK_SECONDS = 10 * 60  # to wait for another process that compiles
UNLOCKED = "if another process compiles for the same folder now, it compiles everything once more"

_threads = threading.Lock()


class BuildError(RuntimeError):
    """The library can't be built here; the message is one sentence on why, and what to do."""


def build_library(source: Path) -> Path:
    """The shared library made from `source`, built unless the cache holds it.

    The file's name carries a hash of the source and the headers beside it, the compiler, the flags
    and the processor, so that a stale library is never loaded. If several processes build at the
    same time, the others wait for the first, for LOCK_SECONDS at most.

    Raises BuildError if there is no compiler, if the cache folder can't be written, if the compiler
    fails (with its last lines), and if the compiler or another process takes far too long. Raises
    OSError if there is no cache folder.
    """
    compiler = find_compiler()
    flags = FLAGS + (() if sys.platform == "darwin" else ("-fopenmp",))
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    key = "\n".join((*texts, *flags, _first_line([compiler, "--version"]), _processor()))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    library = cache_folder() / f"{source.stem}-{digest}.so"
    if not library.exists():
        try:
            library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _building(library):
                if not library.exists():
                    _compile(compiler, flags, source, library)
        except OSError as error:
            message = f"can't use the cache folder {library.parent}: {error}; set STYLENAT_CACHE"
            raise BuildError(message) from error
    return library


def load_library(source: Path, **arguments: Sequence[Any]) -> ctypes.CDLL:
    """The library made from `source`, whose functions of these names take these types from ctypes
    and return nothing. Raises BuildError as `build_library`, and OSError."""
    library = ctypes.CDLL(str(build_library(source)))
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes, function.restype = tuple(types), None
    return library


def why_not(load: Callable[[], object]) -> str | None:
    """None, or one sentence on why `load` can't have its library here. Builds it if need be."""
    try:
        load()
    except (BuildError, OSError) as error:
        return str(error)
    return None


def _compile(compiler: str, flags: tuple[str, ...], source: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        Path(folder, "build.ninja").write_text(
            f"rule compile\n  command = {compiler} {' '.join(flags)} -shared $in -o $out\n"
            f"build library.so: compile {_ninja_escape(source)}\n"
        )
        # -P: run ninja itself, and not a ninja.py in the user's folder.
        ninja = [sys.executable, "-P", "-m", "ninja", "-C", folder]
        code, output = run_within(ninja, seconds=COMPILE_SECONDS)
        if code != 0:
            last = " | ".join(output.strip().splitlines()[-SHOWN_LINES:])
            raise BuildError(f"compiling {source.name} with {compiler} failed: {last}")
        Path(folder, "library.so").replace(library)


def find_compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError("there is no C++ compiler (c++, g++, clang++ or $CXX); install one, e.g. g++")


def run_within(command: list[str], *, seconds: float) -> tuple[int, str]:
    """Exit code and output of a command. If it takes longer than `seconds`, it and all that it has
    started are ended, and BuildError is raised; OSError if it can't be started."""
    # A session of its own, to end a compiler's children with it.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"`{' '.join(command)}` has not ended after {seconds:g} seconds, and was ended"
        ) from error
    finally:  # if this process is interrupted, it ends what it has started too
        if process.poll() is None:
            _end(process)
    return process.returncode, output


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and its children: at first so that ninja ends the compiler, whose group is not
    its own, then by force."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(process.pid, number)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=END_SECONDS)
            return


def _first_line(command: list[str]) -> str:
    return run_within(command, seconds=VERSION_SECONDS)[1].partition("\n")[0]


def _processor() -> str:
    """What `-march=native` depends on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _ninja_escape(path: Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


@contextlib.contextmanager
def _building(library: Path) -> Iterator[None]:
    """A lock that one thread of one process holds at a time; it is free when that process ends."""
    end = time.monotonic() + LOCK_SECONDS
    sentence = (
        f"another process has been compiling {library.name} for over {LOCK_SECONDS // 60} minutes: "
        f"end it, or set STYLENAT_CACHE to another folder than {library.parent}"
    )
    # The threads of a process share its locks on files.
    if not _threads.acquire(timeout=LOCK_SECONDS):
        raise BuildError(sentence)
    try:
        with library.with_suffix(".lock").open("w") as file:
            left = max(0.0, end - time.monotonic())
            if not take_lock(file, seconds=left, unlocked=UNLOCKED):
                raise BuildError(sentence)
            yield
    finally:
        _threads.release()
