"""NATTEN's kernels (libnatten), built from its source package in the background."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class NattenBuild:
    """A build of `sdist` into `folder`; it goes on when this process ends, and is found again."""

    sdist: Path | None
    folder: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> NattenBuild:
        """NATTEN_SDIST names the source package."""
        sdist = environment.get("NATTEN_SDIST")
        folder = Path(tempfile.gettempdir(), f"stylenat-natten-{os.getuid()}")
        return cls(None if sdist is None else Path(sdist), folder)

    def start(self) -> None:
        """Begin, unless there is nothing to build, or it has begun before."""
        if self.sdist is None or not self.sdist.exists() or self.folder.exists():
            return
        self.folder.mkdir(parents=True)
        log, code = (shlex.quote(str(self.folder / name)) for name in ("log.txt", "code"))
        line = (
            f"{shlex.join(self.command())} >{log} 2>&1; echo $? >{code}.part; mv {code}.part {code}"
        )
        subprocess.Popen(
            ["bash", "-c", line],
            env={**os.environ, **self.settings()},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def command(self) -> list[str]:
        pip = [sys.executable, "-P", "-m", "pip", "install", "--no-deps", "--no-index", "--verbose"]
        return [*pip, "--no-build-isolation", "--target", str(self.site), str(self.sdist)]

    def settings(self) -> dict[str, str]:
        """The GPU's architecture and all processors; what is set by hand stays."""
        settings = {"NATTEN_N_WORKERS": str(os.cpu_count())}
        if torch.cuda.is_available():
            settings["NATTEN_CUDA_ARCH"] = "{}.{}".format(*torch.cuda.get_device_capability())
        return {name: os.environ.get(name, value) for name, value in settings.items()}

    @property
    def site(self) -> Path:
        return self.folder / "site"

    def wait(self, deadline: float) -> str | None:
        """Wait for the end of the build, until `deadline` (of `time.monotonic`).

        None if its kernels are there, otherwise one sentence that says why they are not.
        """
        if self.sdist is None:
            return "NATTEN_SDIST is not set: the path of NATTEN's source package"
        if not self.sdist.exists():
            return f"NATTEN_SDIST names no file: {self.sdist}"
        code = self.folder / "code"
        while not code.exists():
            if time.monotonic() > deadline:
                return "NATTEN is still being built: run the part natten again later"
            time.sleep(0.2)
        if code.read_text().strip() != "0":
            lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"NATTEN could not be built: {lines[-1] if lines else 'it printed nothing'}"
        return None

    def environment(self) -> dict[str, str]:
        """What a process needs to import it, once it is built."""
        if not (self.folder / "code").exists() or self.sdist is None:
            return {}
        paths = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(paths)}
