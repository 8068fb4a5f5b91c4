"""The three files of ONNX Runtime Web that a static page needs; none of them is in our repository.

They come from npm's package, are known by their SHA-256, and are kept in the cache.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from stylenat.files import cache_folder, naming, private_folder, replacing, user_path

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
NOTICE = f"""\
These files are ONNX Runtime Web {VERSION}, unchanged, by Microsoft, under the MIT licence:
https://github.com/microsoft/onnxruntime/blob/v{VERSION}/LICENSE
"""
PLACES = (".", "dist", "package/dist")
NPM_SECONDS = 600


def runtime_files(source: Path | None) -> dict[str, bytes]:
    """The files by name, from npm's tarball or a folder, or else from the cache or npm itself.

    Raises OSError for a source that cannot be read, and ValueError, one sentence, for one that
    lacks a file or holds another version's, and if npm is needed and absent or fails.
    """
    if source is not None:
        source = user_path(source)
        return _checked(_read(source), str(source))
    cache = cached()
    if not all((cache / name).is_file() for name in FILES):
        with tempfile.TemporaryDirectory() as folder:
            held = _checked(_read(_pack(Path(folder))), PACKAGE)
        private_folder(cache)
        for name, data in held.items():
            with replacing(cache / name) as temporary:
                temporary.write_bytes(data)
    return _checked(_read(cache), str(cache))


def cached() -> Path:
    """Where the files are kept after they were fetched once."""
    return cache_folder() / f"onnxruntime-web-{VERSION}"


def _read(source: Path) -> dict[str, bytes]:
    """Those of FILES that a tarball or a folder holds."""
    if source.is_dir():
        found = {
            name: path
            for place in PLACES
            for name in FILES
            if (path := source / place / name).is_file()
        }
        return {name: path.read_bytes() for name, path in found.items()}
    try:
        with naming(source), tarfile.open(source, "r:gz") as archive:
            held = {}
            for name in FILES:
                try:
                    member = archive.extractfile(f"package/dist/{name}")
                except KeyError:
                    continue
                if member is not None:
                    held[name] = member.read()
            return held
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{source} is no tarball of npm: {error}") from error


def _checked(held: dict[str, bytes], source: str) -> dict[str, bytes]:
    for name, sha256 in FILES.items():
        if name not in held:
            raise ValueError(f"{source} lacks {name} of {PACKAGE}: give the tarball of `{_line()}`")
        found = hashlib.sha256(held[name]).hexdigest()
        if found != sha256:
            raise ValueError(
                f"{name} of {source} is not that of {PACKAGE}: its SHA-256 is {found[:12]}..., "
                f"not {sha256[:12]}...; give the tarball of `{_line()}`"
            )
    return held


def _pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"a static page needs ONNX Runtime Web, which npm would fetch, and npm is not "
            f"installed: run `{_line()}` where it is, and give the tarball with --ort"
        )
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)],
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"`{_line()}` took more than {NPM_SECONDS} s: try again") from error
    tarballs = list(folder.glob("*.tgz"))
    if done.returncode or len(tarballs) != 1:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"`{_line()}` failed: {last}; give its tarball with --ort")
    return tarballs[0]


def _line() -> str:
    return f"npm pack {PACKAGE}"
