"""Compile a C++ file into a shared library on first use, and keep it in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ops.files import cache_folder

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
SHOWN_LINES = 5


class BuildError(RuntimeError):
    """The library can't be built here; the message says why in one sentence and how to help it."""


def build_library(source: Path) -> Path:
    """The shared library made from `source`, built unless the cache holds it.

    The file's name carries a hash of the source and the headers beside it, the compiler, the flags
    and the processor, so that a stale library is never loaded. Of processes that build at once,
    the others wait for the first.

    Raises BuildError where there is no compiler, where the cache folder can't be written, or with
    the last lines of a compiler that failed.
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
            with _lock(library.with_suffix(".lock")):
                if not library.exists():
                    _compile(compiler, flags, source, library)
        except OSError as error:
            message = f"can't use the cache folder {library.parent}: {error}; set STYLENAT_CACHE"
            raise BuildError(message) from error
    return library


def _compile(compiler: str, flags: tuple[str, ...], source: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        Path(folder, "build.ninja").write_text(
            f"rule compile\n  command = {compiler} {' '.join(flags)} -shared $in -o $out\n"
            f"build library.so: compile {_ninja_escape(source)}\n"
        )
        result = subprocess.run(
            [sys.executable, "-m", "ninja", "-C", folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode != 0:
            last = " | ".join(result.stdout.strip().splitlines()[-SHOWN_LINES:])
            raise BuildError(f"compiling {source.name} with {compiler} failed: {last}")
        Path(folder, "library.so").replace(library)


def find_compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise BuildError("there is no C++ compiler (c++, g++, clang++ or $CXX); install one, e.g. g++")


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.partition("\n")[0]


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
def _lock(path: Path) -> Iterator[None]:
    """Held by one process at a time, and let go when that process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # not POSIX: two processes may build the same file, and the last one wins
        yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
