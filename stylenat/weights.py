"""Published networks that judge images: their files, the folder they are kept in, the download."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from torch import nn

from stylenat.distributed import is_main, main_first
from stylenat.files import cache_folder, private_folder, replacing, sha256_of, user_path
from stylenat.progress import progress_bar
from stylenat.text import first_line
from stylenat.untrusted import load_untrusted

SILENT_SECONDS, ALL_SECONDS = 20, 1200  # for a silent server, and for a whole download
BLOCK = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A published file: its name, size in bytes, SHA-256 and address.

    `runs_own`: a file that a user names in its place is TorchScript too, a program. (CLIP's
    published file is a program as well, but a user's own is a state dict.) The hash of Inception's
    TorchScript is the one that k-diffusion checks too.
    """

    name: str
    size: int
    sha256: str
    url: str
    runs_own: bool = False


STATE_DICT = Weights(
    name="pt_inception-2015-12-05-6726825d.pth",
    size=95_628_359,
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
)
TORCHSCRIPT = Weights(
    name="inception-2015-12-05.pt",
    size=95_607_719,
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt",
    runs_own=True,
)
VGG16 = Weights(
    name="vgg16-397923af.pth",
    size=553_433_881,
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
)
DINOV2_L = Weights(
    name="dinov2_vitl14_pretrain.pth",
    size=1_217_586_395,
    sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
)
DINOV2_B = Weights(
    name="dinov2_vitb14_pretrain.pth",
    size=346_378_731,
    sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
)
CLIP = Weights(
    name="ViT-L-14-336px.pt",
    size=934_088_680,
    sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    url="https://openaipublic.azureedge.net/clip/models/"
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
)
WEIGHTS = {
    "clean": TORCHSCRIPT,
    "legacy_tensorflow": TORCHSCRIPT,
    "legacy_pytorch": STATE_DICT,
    "vgg": VGG16,
    "dinov2": DINOV2_L,
    "dinov2_b": DINOV2_B,
    "clip": CLIP,
}


@dataclass(frozen=True)
class VerifiedFile:
    """A file of weights and its SHA-256. `is_published`: it is the file that everybody uses."""

    path: Path
    sha256: str
    is_published: bool


def read_tensors(weights: VerifiedFile, what: str) -> Any:
    """The state dict that a file holds, read without running anything in it.

    Raises OSError for a file that cannot be read, and ValueError, naming it, for one that is none.
    """
    try:
        if weights.is_published:  # it may have PyTorch's older format, which is refused otherwise
            return torch.load(weights.path, map_location="cpu", weights_only=True)
        return load_untrusted(weights.path)
    except Exception as error:  # torch.load raises errors of many classes
        raise _no_state_dict(error, weights, what) from error


def load_program(weights: VerifiedFile) -> Any:
    """TorchScript, which `find_weights` has accepted: the only place that loads a program.

    Raises ValueError, naming the file, for one that holds none.
    """
    try:
        with warnings.catch_warnings():
            # The format is deprecated, but the published files have it.
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(weights.path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"{weights.path} is no TorchScript network: {reason}") from error


def fill(network: nn.Module, tensors: Any, weights: VerifiedFile, what: str) -> None:
    """Load tensors into a network. Raises ValueError, naming their file, if they do not fit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the error below says more than a warning
            network.load_state_dict(tensors)
    except Exception as error:  # load_state_dict raises errors of many classes
        raise _no_state_dict(error, weights, what) from error


def _no_state_dict(error: Exception, weights: VerifiedFile, what: str) -> Exception:
    if isinstance(error, OSError):
        return error
    reason = " ".join(str(error).split())[:400]
    return ValueError(f"{weights.path} is no state dict of {what}: {reason}")


def metrics_folder() -> Path:
    """The folder of feature networks and reference statistics, which only this user can read."""
    return private_folder(cache_folder() / "metrics")


def find_weights(name: str, file: str | Path | None = None, *, trust: bool = False) -> VerifiedFile:
    """The weights of a row of WEIGHTS: `file`, or the cached ones, downloaded once; called by all
    ranks.

    A file of one's own may hold other weights than the published ones; the result then says so. But
    TorchScript is a program, so an unknown one is refused unless `trust` is set. Raises OSError
    for a file that cannot be read or written, and ValueError, saying what to do, for other faults.
    """
    published = WEIGHTS[name]
    if file is not None:
        return _own_file(published, user_path(file), trust=trust)
    path = metrics_folder() / published.name
    with main_first():
        if not path.exists():
            _download(published, path)
        sha256 = sha256_of(path)
    if sha256 != published.sha256:
        raise ValueError(f"{path} is damaged; delete it. {_how_to_get(published, path)}")
    return VerifiedFile(path, sha256, is_published=True)


def _own_file(published: Weights, path: Path, *, trust: bool) -> VerifiedFile:
    sha256 = sha256_of(path)
    is_published = sha256 == published.sha256
    if published.runs_own and not is_published:
        if not trust:
            raise ValueError(
                f"{path} is not the published {published.name} ({published.size:,} bytes, SHA-256 "
                f"{published.sha256}) but has SHA-256 {sha256}; TorchScript is a program: to run "
                "it all the same, add --trust"
            )
        if is_main():
            log.warning("%s is run as a program, on trust: SHA-256 %s", path, sha256)
    return VerifiedFile(path, sha256, is_published)


def _download(published: Weights, path: Path) -> None:
    """Download the file. It gets its name only when its size and hash are right."""
    try:
        with replacing(path) as temporary:
            _fetch(published, temporary)
            found = sha256_of(temporary)
            if found != published.sha256:
                raise ValueError(f"{published.url} gave a file with SHA-256 {found}")
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{published.name} could not be downloaded ({reason}). {_how_to_get(published, path)}"
        ) from error


def _fetch(published: Weights, path: Path) -> None:
    request = Request(published.url, headers={"User-Agent": "stylenat"})
    with (
        urlopen(request, timeout=SILENT_SECONDS) as response,
        path.open("wb") as file,
        progress_bar(f"Downloading {published.name} (MB)", published.size // BLOCK) as advance,
    ):
        start = time.monotonic()
        while block := response.read1(BLOCK):
            if time.monotonic() - start > ALL_SECONDS:
                raise ValueError(f"{published.url} took longer than {ALL_SECONDS} s")
            if file.tell() + len(block) > published.size:
                raise ValueError(f"{published.url} gave more than {published.size:,} bytes")
            advance((file.tell() + len(block)) // BLOCK - file.tell() // BLOCK)
            file.write(block)


def _how_to_get(published: Weights, path: Path) -> str:
    return (
        f"Get it from {published.url} ({published.size:,} bytes, SHA-256 {published.sha256}), and "
        f"put it at {path} (`stylenat fid` also takes it with --weights)"
    )
