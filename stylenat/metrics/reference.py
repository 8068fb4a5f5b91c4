"""Reference statistics: those of a data set, kept in the user's cache, or those in a file.

Legend: N images, D features.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylenat.data import ImageSource
from stylenat.distributed import all_reduce_sum_, is_main, world_size
from stylenat.files import replacing, sha256_of, user_path
from stylenat.metrics import swd
from stylenat.metrics.collect import FeatureCollector, Features, collect, read
from stylenat.metrics.features import FeatureNetwork
from stylenat.metrics.frechet import Gaussian
from stylenat.metrics.swd import PatchCollector
from stylenat.metrics.table import Collected, Metric, keeps_all
from stylenat.weights import metrics_folder

# Part of every key of the cache: raise it when the features of an image change.
PROTOCOL_VERSION = 1
SUBSET_SEED = 0


def subset(length: int, num: int) -> list[int]:
    """Which images stand for a data set: all, or `num` at random, the same ones every time.

    A smaller subset is the beginning of a larger one.
    """
    return np.random.default_rng(SUBSET_SEED).permutation(length)[:num].tolist()


def about(images: ImageSource, indices: Sequence[int]) -> dict[str, Any]:
    """Which images these are, for the protocol."""
    return {
        "num": len(indices),
        "of": len(images),
        "fingerprint": images.fingerprint(),
        "subset_seed": SUBSET_SEED,
    }


def places(images: ImageSource, indices: Sequence[int]) -> Callable[[int], str]:
    """A function: where the image at a position of `indices` is, for messages."""
    return lambda position: images.place(indices[position])


def collect_reference(
    rows: Sequence[Metric],
    networks: Mapping[str, FeatureNetwork],
    data: ImageSource | None,
    file: str | Path | None,
    *,
    num: int,
    batch: int,
    workers: int,
    device: torch.device,
    bar: Callable[[str], str | None],
) -> tuple[Collected, dict[str, Any] | None]:
    """What the metrics need of `num` images of a data set, or of a file of statistics; and which
    images these are, for the protocol. `bar` gives the description of a progress bar.

    Called by all ranks. Raises OSError and ValueError for what cannot be read, and ValueError for
    images that a metric does not take.
    """
    spaces = {row.space for row in rows if row.compares}
    if data is None:
        if file is None:
            return Collected(), None
        path = user_path(file)
        (space,) = spaces
        assert space is not None
        gaussian = load_reference(path, networks[space])
        features = {space: Features(0, gaussian, None)}
        return Collected(features), {"file": path.name, "sha256": sha256_of(path)}
    indices = subset(len(data), num)
    patches = None
    # Patches come first, since SWD may refuse the images.
    if any(row.needs == "patches" for row in rows):
        chosen = indices[: swd.MOST_IMAGES]
        place, side = places(data, chosen), swd.side_of(data)
        patches = PatchCollector(side, len(chosen), seed=0, device=device, place=place)
        batches = read(data, chosen, batch=batch, workers=workers)
        collect(batches, len(chosen), [patches], description=bar("Data, patches"))
    features = {
        space: reference_features(
            data,
            indices,
            network,
            keep=keeps_all(rows, space),
            batch=batch,
            workers=workers,
            description=bar("Data, features"),
        )
        for space, network in networks.items()
        if space in spaces
    }
    return Collected(features, patches), {**about(data, indices), "mirror": False}


def reference_features(
    source: ImageSource,
    indices: Sequence[int],
    network: FeatureNetwork,
    *,
    keep: bool,
    batch: int,
    workers: int,
    description: str | None,
) -> Features:
    """The features of a data set's images, all of them with `keep`; called by all ranks.

    They are computed once and then read from the cache, for the same images, mode and weights. A
    file with all features also serves if only their Gaussian is needed. Raises OSError if the cache
    folder cannot be used.
    """
    key = {
        "protocol": PROTOCOL_VERSION,
        "images": source.fingerprint(),
        "indices": hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest(),
        "mode": network.kind,
        "weights": network.weights.sha256,
    }
    features = _load_features(_path(key, keep=True), len(indices), network, keep=keep)
    if features is None and not keep:
        features = _load_features(_path(key, keep=False), len(indices), network, keep=False)
    holders = torch.tensor(int(features is not None), device=network.device)
    # Nodes have caches of their own, so either all ranks read or all compute.
    if int(all_reduce_sum_(holders)) == world_size() and features is not None:
        return features
    collector = FeatureCollector(network, keep=keep)
    batches = read(source, indices, batch=batch, workers=workers)
    collect(batches, len(indices), [collector], description=description)
    features = collector.finish()
    if is_main():
        _save_features(features, _path(key, keep=keep))
    return features


def _path(key: Mapping[str, Any], *, keep: bool) -> Path:
    """The cache's file for these images, mode and weights, with all features or without."""
    text = json.dumps({**key, "keep": keep}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return metrics_folder() / f"reference-{digest[:32]}.npz"


def _save_features(features: Features, path: Path) -> None:
    """Write mu and sigma, the keys of pytorch-fid and clean-fid, and keys of our own."""
    arrays = {
        "mu": features.gaussian.mean_D,
        "sigma": features.gaussian.covariance_DD,
        "count": torch.tensor(features.count),
    }
    if features.all_ND is not None:
        arrays["features"] = features.all_ND
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: tensor.cpu().numpy() for name, tensor in arrays.items()})  # type: ignore[arg-type]


def _load_features(
    path: Path, count: int, network: FeatureNetwork, *, keep: bool
) -> Features | None:
    """What `_save_features` wrote; None if it is absent or damaged, to be computed again."""
    try:
        names = {"mu", "sigma", "count"} | ({"features"} if keep else set())
        arrays = _read_npz(path, names)
        gaussian = _gaussian(arrays, network)
    except (OSError, ValueError):
        return None
    all_ND = arrays.get("features")
    if arrays.get("count") != count or (keep and (all_ND is None or len(all_ND) != count)):
        return None
    return Features(count, gaussian, None if all_ND is None else all_ND.to(network.device))


def load_reference(path: str | Path, network: FeatureNetwork) -> Gaussian:
    """The Gaussian in an .npz file with the keys mu [D] and sigma [D, D], as pytorch-fid writes it.

    Raises OSError if it cannot be read, and ValueError if it holds anything else.
    """
    try:
        return _gaussian(_read_npz(path, {"mu", "sigma"}), network)
    except ValueError as error:
        raise ValueError(f"{path} must be an .npz file with mu and sigma: {error}") from error


def _read_npz(path: str | Path, names: set[str]) -> dict[str, Tensor]:
    """The arrays of these names that are there; no others are read, since features can be large.

    Raises OSError for a file that cannot be read, ValueError for one that is no .npz file.
    """
    damage = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in names & set(file.files)}
    except (*damage, zlib.error) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _gaussian(arrays: Mapping[str, Tensor], network: FeatureNetwork) -> Gaussian:
    """Raises ValueError unless mu is [D], sigma [D, D], both finite, D the network's."""
    for name, shape in {"mu": (network.dim,), "sigma": (network.dim, network.dim)}.items():
        array = arrays.get(name)
        if array is None or tuple(array.shape) != shape:
            found = "absent" if array is None else str(list(array.shape))
            raise ValueError(f"{name} must be {list(shape)}: {found}")
        if not array.is_floating_point() or not array.isfinite().all():
            raise ValueError(f"{name} must hold finite floating-point numbers")
    mean_D, covariance_DD = (arrays[name].double().to(network.device) for name in ("mu", "sigma"))
    return Gaussian(mean_D, covariance_DD)
